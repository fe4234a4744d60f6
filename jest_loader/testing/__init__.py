"""Checks for what users plug in: run them in your own tests.

``jest_loader.testing.conformance`` has those of a whole source, scorer or training loop.
"""

from jest_loader.testing.equality import batches_equal
from jest_loader.testing.resuming import assert_resumes_exactly
from jest_loader.testing.scores import assert_scores_consistent
from jest_loader.testing.simulated_ranks import simulate_ranks

__all__ = [
    "assert_resumes_exactly",
    "assert_scores_consistent",
    "batches_equal",
    "simulate_ranks",
]
