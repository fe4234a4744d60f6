"""Run a reference once and keep what it says; ``CachedReference`` and ``CachedScores`` read it."""

from jest_loader.cache.build import build
from jest_loader.cache.identity import model_fingerprint
from jest_loader.cache.verify import verify
from jest_loader.scorers.cache_format import Manifest

__all__ = ["Manifest", "build", "model_fingerprint", "verify"]
