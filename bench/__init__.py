"""Benchmarks: one module or sub-package per question, run as ``python -m bench.NAME``.

They run from the root of the repository, on a machine with nothing else to do. Each docstring names
the regime measured and the command; the last line of the output is one JSON document with the
hardware, versions and commit. Figures are committed as that output, unedited, in ``bench/results``;
timings of different forms are compared as ratios within one run, by minimum, median and maximum.
``bench.harness`` has what several of them need. README.md lists questions, modules and results.
"""
