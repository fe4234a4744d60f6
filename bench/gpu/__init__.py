"""All that wants a GPU to be known, in one command: ``make gpu``, or ``python -m bench.gpu``.

In the order of use: ``__main__`` has the options, ``running`` runs one part after the other, each
in a process of its own, within a budget of time; ``document`` is what they found, on disk after
each figure; ``part`` is such a process, and ``parts`` lists them. They are ``kernels`` (the tests),
``selection``, ``steps``, ``tiles``, ``scoring`` and ``dictionary`` (``bench.joint`` at batches that
are too large for a CPU). ``predictions`` has what the cost model says and the goals, ``report`` the
table. What only a GPU can do stands in ``bench.device``, with what a CPU does in its place.
docs/gpu.md says what is measured and why.
"""
