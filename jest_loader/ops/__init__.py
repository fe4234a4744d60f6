"""Arithmetic without objects or state; ``reference`` is the plain form, read it first."""
