"""Held-out data: images, and the classes or captions that belong to them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jest_loader.batch import take
from jest_loader.checks import shown
from jest_loader.clip.config.held_out import HeldOutSet
from jest_loader.clip.config.train import DataConfig
from jest_loader.clip.evaluation.class_names import read_class_names, read_templates
from jest_loader.clip.loading.columns import ShardSource, open_shards, tokenize_and_decode
from jest_loader.clip.models.inputs import ModelInputs
from jest_loader.skipped import SkipRowsError, listed, named, without_reasons

_BLOCK_IMAGES, _BLOCK_BYTES = 1024, 1 << 24  # The most that is decoded at once.
_KEPT_BYTES = 1 << 30  # The most pixels of a set that stay in memory between evaluations.


@dataclass(frozen=True)
class Classes:
    """The classes of zero-shot classification.

    Args:
        names: The class names, at least two.
        label: Int64 [N], each image's class, as a row of ``names``.
        templates: Captions to average for a class, with ``{}`` for its name; without templates the
            name itself is the caption.
    """

    names: tuple[str, ...]
    label: Tensor
    templates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Captions:
    """Captions, each of one image.

    Args:
        texts: The captions, at least one for each image.
        image: Int64 [captions], the row of each caption's image.
    """

    texts: tuple[str, ...]
    image: Tensor


@dataclass(frozen=True)
class HeldOut:
    """A held-out set.

    Args:
        images: The N images in blocks, uint8 [B, C, H, W], the same in each pass.
        classes: Their classes, for zero-shot classification; None if it is not measured.
        captions: Their captions, for retrieval both ways; None if it is not measured.
    """

    images: Iterable[Tensor]
    classes: Classes | None = None
    captions: Captions | None = None


def read_held_out(held_out: HeldOutSet, model: ModelInputs) -> HeldOut:
    """Read a held-out set for a model with these inputs.

    Decoded images stay in memory if they take up to 1 GiB. Images of larger sets are decoded again
    in each evaluation.

    Raises:
        ValueError: if the data do not hold what ``held_out`` says, or images cannot be decoded.
    """
    image_bytes = model.channels * model.image_size**2
    block = max(1, min(_BLOCK_IMAGES, _BLOCK_BYTES // image_bytes))
    source = open_shards(
        held_out.data, _wanted(held_out), batch_size=block, shuffle=False, drop_last=False
    )
    columns = _read_columns(source, held_out)
    num_rows = source.num_examples
    ids = columns.get(held_out.image_id_column or "", range(num_rows))
    numbers = {value: number for number, value in enumerate(dict.fromkeys(ids))}
    image = [numbers[value] for value in ids]
    first = torch.tensor(np.unique(image, return_index=True)[1])  # Rows, in the order of images.
    pictures = _Pictures(source, held_out, model, first)
    return HeldOut(
        tuple(pictures) if len(first) * image_bytes <= _KEPT_BYTES else pictures,
        None if held_out.class_column is None else _classes(columns, held_out, first),
        None if held_out.text_column is None else _captions(columns, held_out, image),
    )


class _Pictures:
    """The decoded images of a source, block by block.

    Args:
        source: Shards in stored order.
        held_out: Names their image column.
        model: Image size and channels.
        rows: Int64 [N], the rows to decode, ascending.
    """

    def __init__(
        self, source: ShardSource, held_out: HeldOutSet, model: ModelInputs, rows: Tensor
    ) -> None:
        self._source = source
        self._held_out = held_out
        # Texts are tokenized when they are embedded, so captions pass through here empty.
        data = DataConfig(held_out.data, image_column=held_out.image_column, caption_column="")
        self._prepare = tokenize_and_decode(data, model)
        self._rows = rows

    def __iter__(self) -> Iterator[Tensor]:
        for number, batch in enumerate(self._source):
            size, start = len(batch["sample_id"]), number * self._source.batch_size
            rows = self._rows[(self._rows >= start) & (self._rows < start + size)] - start
            if len(rows):
                yield self._decode(batch, rows)

    def _decode(self, batch: dict[str, Any], rows: Tensor) -> Tensor:
        names = (self._held_out.image_column, "sample_id")
        wanted = take({name: batch[name] for name in names}, rows)
        try:
            pixels: Tensor = self._prepare({**wanted, "": [""] * len(rows)})["image"]
        except SkipRowsError as error:
            skipped = listed(named(error.reasons, wanted))
            raise ValueError(
                f"all images of {self._held_out.data} must be readable to evaluate on them, but "
                f"not {skipped}; mend them, or leave them out of it"
            ) from error
        return pixels


def _wanted(held_out: HeldOutSet) -> list[str]:
    """The columns of images, labels, captions and ids, as far as there are any."""
    columns = (
        held_out.image_column,
        held_out.class_column,
        held_out.text_column,
        held_out.image_id_column,
    )
    return list(dict.fromkeys(name for name in columns if name is not None))


def _read_columns(source: ShardSource, held_out: HeldOutSet) -> dict[str, list[Any]]:
    """The columns of labels, captions and ids, of all rows."""
    columns: dict[str, list[Any]] = {name: [] for name in _wanted(held_out)[1:]}
    for batch in source:
        if reasons := without_reasons(batch)[1]:
            raise ValueError(
                f"all examples of {held_out.data} must be readable to evaluate on them, but not "
                f"{listed(named(reasons, batch))}; mend them, or leave them out of it"
            )
        for name in (held_out.image_column, *columns):
            if name not in batch:
                raise ValueError(
                    f"{held_out.data} has no column {name!r}, it has {', '.join(sorted(batch))}; "
                    "set the options that name its columns"
                )
        for name, column in columns.items():
            values = batch[name]
            column.extend(values.tolist() if isinstance(values, np.ndarray) else values)
    return columns


def _classes(columns: dict[str, list[Any]], held_out: HeldOutSet, first: Tensor) -> Classes:
    column = held_out.class_column
    assert column is not None
    labels = [columns[column][row] for row in first.tolist()]
    is_text, is_whole = (
        all(isinstance(value, kind) and not isinstance(value, bool) for value in labels)
        for kind in (str, int)
    )
    if not is_text and not (is_whole and held_out.classes is not None):
        raise ValueError(
            f"labels must be class names, or class numbers with a file of classes, but column "
            f"{column!r} of {held_out.data} holds {shown(repr(labels[0]))}; set label_column or "
            "classes"
        )
    templates = () if held_out.templates is None else read_templates(held_out.templates)
    if held_out.classes is not None:
        names = read_class_names(held_out.classes)
        return Classes(names, _label(labels, names, held_out), templates)
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        what = "distinct captions" if held_out.label_column is None else "distinct labels"
        raise ValueError(
            f"held-out data must have at least 2 {what}, but column {column!r} of {held_out.data} "
            f"has {len(names)}"
        )
    row = {name: number for number, name in enumerate(names)}
    return Classes(names, torch.tensor([row[name] for name in labels]), templates)


def _label(labels: list[Any], names: tuple[str, ...], held_out: HeldOutSet) -> Tensor:
    """Int64 [labels]: the row of ``names`` of each class name or class number."""
    row: dict[str | int, int] = {name: number for number, name in enumerate(names)}
    if all(label in row for label in labels) and len(row) == len(names):
        return torch.tensor([row[label] for label in labels])
    if all(isinstance(label, int) or _is_number(label) for label in labels):
        labels = [int(label) for label in labels]  # `jest-loader pack` keeps columns as text.
        row = {number: number for number in range(len(names))}
    for place, label in enumerate(labels):
        if label not in row:
            raise ValueError(
                f"labels must be among the {len(names)} classes of {held_out.classes}, numbered "
                f"from 0, but image {place} of {held_out.data} has {shown(repr(label))}"
            )
    if len(row) < len(names):
        raise ValueError(
            f"class names must differ where labels are names, but some of {held_out.classes} are "
            "equal; use class numbers"
        )
    return torch.tensor(labels)


def _is_number(label: str) -> bool:
    return label.isdecimal() and len(label) < 10  # Python reads no number of 5,000 digits.


def _captions(columns: dict[str, list[Any]], held_out: HeldOutSet, image: list[int]) -> Captions:
    lists = _caption_lists(columns, held_out)
    if len(set(image)) < 2:
        raise ValueError(f"retrieval must be among at least 2 images, {held_out.data} has 1")
    texts = tuple(caption for captions in lists for caption in captions)
    rows = [number for number, captions in zip(image, lists, strict=True) for _ in captions]
    return Captions(texts, torch.tensor(rows))


def _caption_lists(columns: dict[str, list[Any]], held_out: HeldOutSet) -> list[list[str]]:
    """The captions of each row."""
    assert held_out.text_column is not None
    values = columns[held_out.text_column]
    are_lists = held_out.caption_list_column is not None
    lists = [_parsed(value) if are_lists else [value] for value in values]
    for place, captions in enumerate(lists):
        if (
            not isinstance(captions, list)
            or not captions
            or not all(isinstance(caption, str) for caption in captions)
        ):
            raise ValueError(
                "each image must have at least one caption, as text or in a JSON list of texts, "
                f"but sample {place} of {held_out.data} has {shown(repr(captions))}; set "
                "caption_column or caption_list_column"
            )
    return lists


def _parsed(value: Any) -> Any:
    """The value of JSON text; anything else is returned as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except Exception:  # nested too deeply is no ValueError
        return value
