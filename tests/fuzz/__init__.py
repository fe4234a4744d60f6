"""Damage at random: ``python -m tests.fuzz``."""
