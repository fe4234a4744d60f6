"""The evidence: does joint example selection train faster than a tuned uniform baseline?

In the order of use: ``data`` renders the icons, ``sweep`` tunes the baseline, ``python -m
bench.training`` trains the ``arms`` (some on ``subsets``), ``times`` times their steps,
``resolution`` evaluates at half size, ``kept`` counts what a reference prefers, and ``report``
prints the ``measures`` of all runs. docs/evidence.md says what they showed.
"""
