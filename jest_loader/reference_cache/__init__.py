"""Run a reference once and keep what it says; ``CachedReference`` and ``CachedLosses`` read it."""

from jest_loader.reference_cache.build import build
from jest_loader.reference_cache.format import Manifest
from jest_loader.reference_cache.identity import model_fingerprint
from jest_loader.reference_cache.verify import verify

__all__ = ["Manifest", "build", "model_fingerprint", "verify"]
