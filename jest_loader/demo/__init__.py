"""``jest-loader demo``: joint example selection on real data, end to end, in minutes."""
