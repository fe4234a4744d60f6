"""How well German texts find their English ones, among held-out families."""

import torch
from torch import Tensor

from bench.joint.dictionary import Dictionary
from bench.joint.learner import TwoTowers

_TIE = 1e-6
_ROWS_AT_ONCE = 1024


def evaluate(model: TwoTowers, dictionary: Dictionary, rows: Tensor) -> dict[str, float]:
    """Shares of texts whose own counterpart is the nearest, or among the nearest ten.

    Args:
        model: What is evaluated.
        dictionary: The texts.
        rows: Int64 [n], those that are held out: each is sought among all of them.

    Returns:
        ``r1`` and ``r10``: among all. ``fine``: the nearest of its own family, where that has
        several. Equal texts are as good as each other.
    """
    with torch.no_grad():
        found = model.embed(
            {"german": dictionary.german[rows], "english": dictionary.english[rows]}
        )
        own = (found.image * found.text).sum(1) + _TIE
        parts = [slice(at, at + _ROWS_AT_ONCE) for at in range(0, len(rows), _ROWS_AT_ONCE)]
        num_closer = torch.cat(
            [(found.image[part] @ found.text.T > own[part, None]).sum(1) for part in parts]
        ).cpu()
        texts, forms = _relatives(dictionary.family[rows])
        is_closer = ((found.image[texts] * found.text[forms]).sum(1) > own[texts]).cpu()
    has_others, confused = torch.zeros(2, len(rows), dtype=torch.bool)
    has_others[texts], confused[texts[is_closer]] = True, True
    return {
        "r1": _share(num_closer < 1),
        "r10": _share(num_closer < 10),
        "fine": _share(~confused[has_others]),
    }


def _relatives(family: Tensor) -> tuple[Tensor, Tensor]:
    """Int64 [n] twice: each text with each other of its family; families stand together."""
    pairs = []
    for distance in range(1, int(torch.bincount(family).max())):
        first = (family[:-distance] == family[distance:]).nonzero()[:, 0]
        pairs += [(first, first + distance), (first + distance, first)]
    texts, forms = (torch.cat(side) for side in zip(*pairs, strict=True))
    return texts, forms


def _share(hits: Tensor) -> float:
    return float(hits.float().mean())
