"""Benchmarks of `jest-loader demo`: several seeds, and the sweep behind its settings."""
