"""What a cache is made from: text by name, to be compared."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jest_loader.checks import shown
from jest_loader.protocols import Fingerprinted
from jest_loader.reference_cache.chunk_records import BATCH_SIZE
from jest_loader.scoring.models import ModelEmbedder
from jest_loader.scoring.wrappers import unwrapped, without_compiler

PUBLISHED = "published"
"""What an identity calls the digest of embeddings that somebody else computed."""


def model_fingerprint(model: nn.Module) -> str:
    """The model's class, and a BLAKE2b digest of its architecture and its weights by name.

    Compiled or in DDP it is the same model.
    """
    model = without_compiler(unwrapped(model))
    digest = hashlib.blake2b(str(model).encode(), digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return f"{type(model).__name__} {digest.hexdigest()}"


def is_fingerprint(text: str) -> bool:
    """Whether ``model_fingerprint`` may have returned the text."""
    return re.fullmatch(r"\w+ [0-9a-f]{32}", text) is not None


def recorded_batch_size(identity: Mapping[str, str]) -> int | None:
    """The batch size that a cache's model was trained at, if the cache records it.

    Raises:
        ValueError: if what it records is no whole number of at least 1.
    """
    text = identity.get(BATCH_SIZE)
    if text is None:
        return None
    if re.fullmatch(r"[1-9][0-9]{0,17}", text) is None:
        raise ValueError(
            f"a cache's {BATCH_SIZE} must be a whole number of at least 1, got {shown(text)}; "
            "build the cache again"
        )
    return int(text)


def identity_of(source: object, reference: Any, named: Mapping[Any, Any] | None) -> dict[str, str]:
    """The source's fingerprint and the model's, if they have one, and what the caller names.

    Also the precision, where the model is run in another one than its weights are in, and the batch
    size that it was trained at, where it is known.

    Raises:
        ValueError: if a name or value of the caller's is no text.
    """
    known: dict[str, str] = {}
    if isinstance(source, Fingerprinted):
        known["data"] = source.fingerprint()
    if isinstance(getattr(reference, "model", None), nn.Module):
        known["model"] = model_fingerprint(reference.model)
    if isinstance(reference, ModelEmbedder):
        if reference.dtype is not None:
            known["precision"] = str(reference.dtype).removeprefix("torch.")
        if reference.trained_batch_size is not None:
            known[BATCH_SIZE] = str(reference.trained_batch_size)
    for name, value in (named or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ValueError(
                f"identity must give text for each name, got {value!r} for {name!r}; convert it"
            )
    return known | dict(named or {})


def check_identity(path: str | Path, found: Mapping[str, str], expect: Mapping[str, str]) -> None:
    """Raise ``ValueError`` unless a cache was made from all that ``expect`` names."""
    for name, value in expect.items():
        if found.get(name) != value:
            has = shown(repr(found[name])) if name in found else "none that it knows of"
            raise ValueError(
                f"a reference cache must belong to what it is used with, but the {name} of "
                f"{path} is {has} and here it is {value!r}; build the cache again from this"
            )
