"""Examples that a cache lacks, embedded by the cache's model while training runs."""

from dataclasses import replace
from math import isclose
from pathlib import Path

import torch
from torch import nn

from jest_loader.batch import Batch
from jest_loader.embeddings import Embeddings
from jest_loader.protocols import Embedder
from jest_loader.reference_cache.identity import is_fingerprint, model_fingerprint
from jest_loader.skipped import use


def filled(cached: Embeddings, batch: Batch, embedder: Embedder) -> Embeddings:
    """The embeddings, with the skipped rows embedded; what the embedder skips too stays NaN."""
    used = use(embedder.embed, batch, rows=list(cached.skipped))
    live = used.output
    skipped = used.with_reasons({} if live is None else live.skipped)
    if live is None:
        return replace(cached, skipped=skipped)
    _check_same_model(live, cached)
    index = torch.tensor(used.rows, device=cached.image.device)
    image, text = (
        side.index_copy(0, index, fresh.to(side))
        for side, fresh in ((cached.image, live.image), (cached.text, live.text))
    )
    return replace(cached, image=image, text=text, skipped=skipped)


def check_same_weights(path: str | Path, fingerprint: str, live: object) -> None:
    """Raise ``ValueError`` if what embeds missing examples runs another model than the cache's."""
    model = getattr(live, "model", None)
    # A builder may have named the model in words of its own, which tell nothing of weights.
    if not isinstance(model, nn.Module) or not is_fingerprint(fingerprint):
        return
    found = model_fingerprint(model)
    if found != fingerprint:
        raise ValueError(
            f"the embedder for missing examples must be the cache's model, but it runs {found} and "
            f"{path} was built with {fingerprint}; load the weights that the cache was built with, "
            "or build it again"
        )


def _check_same_model(live: Embeddings, cached: Embeddings) -> None:
    """Raise ``ValueError`` unless the embedder for what is missing can be the cache's model."""
    for name in ("logit_scale", "logit_bias"):
        fresh, stored = getattr(live, name), getattr(cached, name)
        if (fresh is None) != (stored is None) or (
            fresh is not None and not isclose(float(fresh), float(stored), rel_tol=1e-3)
        ):
            raise ValueError(
                f"the embedder for missing examples must be the cache's model, but its {name} is "
                f"{fresh if fresh is None else float(fresh)} and the cache's {stored}"
            )
    if live.image.shape[1] != cached.image.shape[1]:
        raise ValueError(
            "the embedder for missing examples must be the cache's model, but its embeddings have "
            f"width {live.image.shape[1]} and the cache's {cached.image.shape[1]}"
        )
