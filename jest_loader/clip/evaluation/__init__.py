"""Measuring a model on held-out data: zero-shot classification, and retrieval both ways.

``held_out`` reads the images with their classes or captions, ``class_names`` the files of names and
templates, ``evaluate`` computes the metrics. All of it may change, except the names of the metrics,
which logs and checkpoints hold.
"""
