"""Build a cache of the reference's embeddings; ``CachedReference`` reads it."""

from jest_loader.cache.build import build_cache

__all__ = ["build_cache"]
