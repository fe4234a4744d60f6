"""Selectors: joint example selection and the baselines that it is compared with.

``selectors`` holds them, ``drawing`` is Gumbel-top-k on one rank or many. A selector never sees a
model. Users import selectors from ``jest_loader``.
"""
