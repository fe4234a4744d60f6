"""What a source, a scorer or a training loop of yours must hold: run these in your own tests.

Each check raises an ``AssertionError`` that says where yours parts from what it promises and what
to do about it.
"""

from jest_loader.testing.scorer_checks import check_scorer
from jest_loader.testing.source_checks import check_source
from jest_loader.testing.training_checks import Trained, check_training

__all__ = ["Trained", "check_scorer", "check_source", "check_training"]
