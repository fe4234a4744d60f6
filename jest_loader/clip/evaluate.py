"""Zero-shot classification and retrieval on held-out data, in fp32."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jest_loader.batch import to_device
from jest_loader.clip.model import ClipModel

_BLOCK = 1024


@dataclass(frozen=True)
class HeldOut:
    """Images and what they show. Its distinct captions are the classes.

    Args:
        image: Uint8 [N, C, H, W].
        label: Int64 [N], the row of ``classes`` that is the image's caption.
        classes: The distinct captions, sorted.
    """

    image: Tensor
    label: Tensor
    classes: tuple[str, ...]

    @classmethod
    def read(cls, batches: Iterable[dict[str, Any]]) -> "HeldOut":
        """All images and captions of prepared batches.

        Raises:
            ValueError: if there are fewer than two distinct captions to tell apart.
        """
        images: list[Tensor] = []
        captions: list[str] = []
        for batch in batches:
            images.append(batch["image"])
            captions.extend(batch["caption"])
        classes = tuple(sorted(set(captions)))
        if len(classes) < 2:
            raise ValueError(
                f"held-out data must have at least 2 distinct captions, got {len(classes)}"
            )
        row = {name: index for index, name in enumerate(classes)}
        label = torch.tensor([row[caption] for caption in captions])
        return cls(torch.cat(images), label, classes)


@torch.no_grad()
def evaluate(model: ClipModel, held_out: HeldOut) -> dict[str, float]:
    """Ratios in [0, 1].

    ``zero_shot_top1`` and ``zero_shot_top5``: images whose own caption is the first, or among the
    first five, of all classes. ``retrieval_r1``, ``retrieval_r5`` and ``retrieval_r10``: captions
    for which one of their own images is among the first k of all images. Ties count as often as a
    random order of what ties would put the right one within the first k.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    text = embed_captions(model, held_out.classes)
    image = torch.cat(
        [model.embed_image(b.to(device)) for b in torch.split(held_out.image, _BLOCK)]
    )
    model.train(was_training)
    label = held_out.label.to(device)
    by_image = [
        _class_rank(block @ text.T, own)
        for block, own in zip(torch.split(image, _BLOCK), torch.split(label, _BLOCK), strict=True)
    ]
    classes = torch.arange(len(text), device=device)
    by_text = [
        _best_rank(block @ image.T, names[:, None] == label)
        for block, names in zip(
            torch.split(text, _BLOCK), torch.split(classes, _BLOCK), strict=True
        )
    ]
    return {
        "zero_shot_top1": _share_within(by_image, 1),
        "zero_shot_top5": _share_within(by_image, 5),
        "retrieval_r1": _share_within(by_text, 1),
        "retrieval_r5": _share_within(by_text, 5),
        "retrieval_r10": _share_within(by_text, 10),
    }


def embed_captions(model: ClipModel, captions: Iterable[str]) -> Tensor:
    """Unit-norm [captions, embed_dim] on the model's device."""
    device = next(model.parameters()).device
    tokenize = model.config.tokenizer()
    tokens: Tensor = to_device(tokenize(list(captions)), device)
    return torch.cat([model.embed_text(block) for block in torch.split(tokens, _BLOCK)])


class _Rank(NamedTuple):
    """For each row, how many wrong ones come before the right one, and how many tie with it."""

    ahead: Tensor
    tied: Tensor


def _class_rank(similarity: Tensor, label: Tensor) -> _Rank:
    right = similarity.gather(1, label[:, None])
    return _Rank((similarity > right).sum(dim=1), (similarity == right).sum(dim=1) - 1)


def _best_rank(similarity: Tensor, own: Tensor) -> _Rank:
    """Of the best of a caption's own images, among the images of other captions."""
    best = similarity.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
    return _Rank(((similarity > best) & ~own).sum(dim=1), ((similarity == best) & ~own).sum(dim=1))


def _share_within(ranks: list[_Rank], k: int) -> float:
    ahead, tied = (torch.cat(parts).double() for parts in zip(*ranks, strict=True))
    return ((k - ahead) / (tied + 1)).clamp(0, 1).mean().item()
