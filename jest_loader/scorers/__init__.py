"""Scorers, and the embedders that they are built from."""
