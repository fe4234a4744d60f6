"""Training loops of others, run with the real libraries."""
