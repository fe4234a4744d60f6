"""What a cache is made from: text by name, to be compared."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from jest_loader.protocols import Fingerprinted
from jest_loader.scoring.models import ModelEmbedder
from jest_loader.scoring.wrappers import unwrapped, without_compiler


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


def identity_of(source: object, reference: Any, named: Mapping[Any, Any] | None) -> dict[str, str]:
    """The source's fingerprint and the model's, if they have one, and what the caller names.

    Also the precision, where the model is run in another one than its weights are in.

    Raises:
        ValueError: if a name or value of the caller's is no text.
    """
    known: dict[str, str] = {}
    if isinstance(source, Fingerprinted):
        known["data"] = source.fingerprint()
    if isinstance(getattr(reference, "model", None), nn.Module):
        known["model"] = model_fingerprint(reference.model)
    if isinstance(reference, ModelEmbedder) and reference.dtype is not None:
        known["precision"] = str(reference.dtype).removeprefix("torch.")
    for name, value in (named or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ValueError(
                f"identity must give text for each name, got {value!r} for {name!r}; convert it"
            )
    return known | dict(named or {})
