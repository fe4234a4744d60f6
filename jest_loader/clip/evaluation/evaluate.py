"""Zero-shot classification and retrieval on held-out data, in fp32.

Metrics are defined as in clip_benchmark, except for ties: a tie counts as the probability that a
random order of the tied candidates puts a right one among the first k.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from jest_loader.batch import to_device
from jest_loader.clip.evaluation.class_names import fill_template
from jest_loader.clip.evaluation.held_out import HeldOut
from jest_loader.clip.models.model import ClipModel

_BLOCK = 1024  # Captions embedded at once, and rows of similarities at once,
_BLOCK_PAIRS = 1 << 24  # if these are not more similarities than 64 MiB hold.
_SHOWN = {
    "zero_shot_top1": "zero-shot",
    "zero_shot_top5": "top-5",
    "retrieval_r10": "retrieval R@10",
    "text_retrieval_r1": "text of image R@1",
    "image_retrieval_r1": "image of text R@1",
}


def evaluate_all(
    model: ClipModel, sets: Mapping[str, HeldOut], *, prefix: str = ""
) -> dict[str, float]:
    """The metrics of each set by ``name/metric``, or by ``metric`` if the set's name is empty.

    Args:
        model: The model.
        sets: Held-out sets by name.
        prefix: Put before the name of each metric.
    """
    return {
        f"{name}/{prefix}{metric}" if name else prefix + metric: value
        for name, held_out in sets.items()
        for metric, value in evaluate(model, held_out).items()
    }


@torch.no_grad()
def evaluate(model: ClipModel, held_out: HeldOut) -> dict[str, float]:
    """The metrics of a model on a held-out set, as ratios in [0, 1].

    With classes: ``zero_shot_top1`` and ``zero_shot_top5``, the share of images whose class is the
    first, or among the first five, of all classes; ``zero_shot_mean_per_class_recall``, top-1 of
    each class and then the mean over classes; ``retrieval_r1``, ``_r5`` and ``_r10``, the share of
    classes with one of their images among the first k of all images.

    With captions: ``text_retrieval_r1``, ``_r5`` and ``_r10``, the share of images with one of
    their captions among the first k of all captions; ``image_retrieval_r1``, ``_r5`` and ``_r10``,
    the share of captions whose image is among the first k of all images.
    """
    was_training = model.training
    model.eval()
    try:
        device = next(model.parameters()).device
        image = torch.cat([model.embed_image(block.to(device)) for block in held_out.images])
        _check_finite("images", image)
        metrics: dict[str, float] = {}
        if (classes := held_out.classes) is not None:
            text = embed_classes(model, classes.names, classes.templates)
            _check_finite("class names", text)
            metrics |= _class_metrics(image, text, classes.label.to(device))
        if (captions := held_out.captions) is not None:
            text = embed_captions(model, captions.texts)
            _check_finite("captions", text)
            metrics |= _caption_metrics(image, text, captions.image.to(device))
    finally:
        model.train(was_training)
    return metrics


def headline(metrics: Mapping[str, float]) -> str:
    """The most telling metrics, in one line."""
    parts = []
    for name, value in metrics.items():
        held_out, _, metric = name.rpartition("/")
        if metric in _SHOWN:
            parts.append(f"{held_out} {_SHOWN[metric]} {value:.1%}".strip())
    return ", ".join(parts)


def embed_classes(model: ClipModel, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Unit-norm [names, embed_dim]: each name, or the mean direction of the templates with it."""
    if not templates:
        return embed_captions(model, names)
    at_once = max(1, _BLOCK // len(templates))
    means = []
    for start in range(0, len(names), at_once):
        block = names[start : start + at_once]
        each = embed_captions(
            model, [fill_template(one, name) for name in block for one in templates]
        )
        means.append(each.view(len(block), len(templates), -1).mean(dim=1))
    return normalize(torch.cat(means), dim=1)


def embed_captions(model: ClipModel, captions: Iterable[str]) -> Tensor:
    """Unit-norm [captions, embed_dim] on the model's device."""
    device = next(model.parameters()).device
    tokenize = model.config.tokenizer()
    tokens: Tensor = to_device(tokenize(list(captions)), device)
    return torch.cat([model.embed_text(block) for block in torch.split(tokens, _BLOCK)])


def _class_metrics(image: Tensor, text: Tensor, label: Tensor) -> dict[str, float]:
    classes = torch.arange(len(text), device=label.device)
    by_image = _rank(image, label, text, classes)
    first = by_image.within(1)
    counts = label.bincount(minlength=len(text))
    shown = counts.nonzero()[:, 0]
    recall = torch.zeros_like(counts, dtype=first.dtype).index_add(0, label, first) / counts
    by_class = _rank(text[shown], shown, image, label)
    return {
        "zero_shot_top1": first.mean().item(),
        "zero_shot_top5": by_image.within(5).mean().item(),
        "zero_shot_mean_per_class_recall": recall[shown].mean().item(),
        **{f"retrieval_r{k}": by_class.within(k).mean().item() for k in (1, 5, 10)},
    }


def _caption_metrics(image: Tensor, text: Tensor, own_image: Tensor) -> dict[str, float]:
    images = torch.arange(len(image), device=own_image.device)
    by_image = _rank(image, images, text, own_image)
    by_text = _rank(text, own_image, image, images)
    return {
        **{f"text_retrieval_r{k}": by_image.within(k).mean().item() for k in (1, 5, 10)},
        **{f"image_retrieval_r{k}": by_text.within(k).mean().item() for k in (1, 5, 10)},
    }


def _check_finite(what: str, embeddings: Tensor) -> None:
    """Refuse NaN: no similarity is larger than NaN, so each query would count as answered right.

    Raises:
        FloatingPointError: if an embedding is not finite.
    """
    bad = int((~torch.isfinite(embeddings).all(dim=1)).sum())
    if bad:
        raise FloatingPointError(
            f"embeddings must be finite to be evaluated, but {bad} of {len(embeddings)} {what} "
            "have NaN or infinite ones; evaluate a checkpoint from before the model diverged"
        )


class _Rank(NamedTuple):
    """For each query, the wrong candidates that come before the best right one or tie with it."""

    ahead: Tensor
    tied: Tensor

    def within(self, k: int) -> Tensor:
        """Fp64 [queries]: the probability that a right candidate is among the first k."""
        return ((k - self.ahead.double()) / (self.tied.double() + 1)).clamp(0, 1)


def _rank(query: Tensor, own: Tensor, candidates: Tensor, group: Tensor) -> _Rank:
    """The rank of each query's best right candidate among the wrong ones.

    Args:
        query: [Q, embed_dim].
        own: Int64 [Q], the group of each query's right candidates.
        candidates: [F, embed_dim].
        group: Int64 [F], the candidates' groups.
    """
    rows = max(1, min(_BLOCK, _BLOCK_PAIRS // len(candidates)))
    ranks = [
        _block_rank(block @ candidates.T, right[:, None] != group)
        for block, right in zip(torch.split(query, rows), torch.split(own, rows), strict=True)
    ]
    return _Rank(*(torch.cat(parts) for parts in zip(*ranks, strict=True)))


def _block_rank(similarity: Tensor, wrong: Tensor) -> _Rank:
    best = similarity.masked_fill(wrong, -torch.inf).amax(dim=1, keepdim=True)
    ahead = ((similarity > best) & wrong).sum(dim=1)
    return _Rank(ahead, ((similarity == best) & wrong).sum(dim=1))
