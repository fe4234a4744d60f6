"""Run a reference once over a data set and keep what it says; then look it up by sample id.

    build           runs the reference and writes a cache; or a part of one, in a task of its own
      builder         the chunks that one process builds
      measure         what the reference says of a batch, checked, as arrays
      folder          the folder while it is built: chunks that appear whole, then the manifest
      chunk_records   what is kept about a building so that it can go on
      processes       several processes that build one cache
    adopt           writes a cache of embeddings that somebody else computed
      published       those, as they are stored, joined with the data by id
      group           the zarr.json that holds the manifest
      identity        what a cache is made from
    verify          compares a cache with its checksums
    cached          CachedReference, which looks up what was kept; cached_losses, CachedLosses
      stored_rows     arrays whose rows belong to examples, in memory or mapped
      sample_index    the row of each sample id
      mapped_rows     an array in many files, gathered by one index
      held_files      mapped files, compared with their checksums before they are used
      missing         examples that the cache lacks, embedded while training runs
    folds           several caches side by side, of cross-fitted references
    format          what is in the folder; all of the above agree on it

Users touch what is named here, and nothing else: ``build``, ``build_part``, ``adopt``,
``PublishedEmbeddings``, ``verify``, ``Manifest``, ``model_fingerprint``, ``CachedReference``,
``CachedLosses``, ``open_folds``.
"""

from jest_loader.reference_cache.adopt import adopt
from jest_loader.reference_cache.build import build, build_part
from jest_loader.reference_cache.cached import CachedReference
from jest_loader.reference_cache.cached_losses import CachedLosses
from jest_loader.reference_cache.folds import open_folds
from jest_loader.reference_cache.format import Manifest
from jest_loader.reference_cache.identity import model_fingerprint
from jest_loader.reference_cache.published.published import PublishedEmbeddings
from jest_loader.reference_cache.verify import verify

__all__ = [
    "CachedLosses",
    "CachedReference",
    "Manifest",
    "PublishedEmbeddings",
    "adopt",
    "build",
    "build_part",
    "model_fingerprint",
    "open_folds",
    "verify",
]
