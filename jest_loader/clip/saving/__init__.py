"""Checkpoints: what is in them, and where they are."""
