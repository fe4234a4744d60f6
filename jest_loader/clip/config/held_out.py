"""Which held-out sets there are, and what is measured on each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jest_loader.checks import shown
from jest_loader.files import read_regular

_MOST_BYTES = 1 << 24


@dataclass(frozen=True)
class HeldOutOptions:
    """What a held-out set holds. Nothing set: its distinct captions are the classes."""

    label_column: str | None = None
    """Column of class numbers or class names; None takes the captions as names."""

    classes: Path | None = None
    """File of class names, one a line, or a JSON list in a .json file; None takes the distinct
    labels.
    """

    templates: Path | None = None
    """File of templates such as "a photo of a {}.", one a line, or a JSON list in a .json file; a
    class is the mean over all of them. None takes the bare names.
    """

    caption_list_column: str | None = None
    """Column of JSON lists, each with all captions of its image: measures retrieval both ways."""

    image_id_column: str | None = None
    """Column whose value is the same in all rows of an image, one row for each of its captions:
    measures retrieval both ways. In what `jest-loader pack` writes it is key.
    """


@dataclass(frozen=True)
class EvaluationConfig(HeldOutOptions):
    """What is measured on held-out data. Nothing set: their distinct captions are the classes."""

    sets: Path | None = None
    """JSON file of further held-out sets by name, each with the options of this group and data,
    image_column and caption_column; see docs/evaluation.md.
    """


@dataclass(frozen=True, kw_only=True)
class HeldOutSet(HeldOutOptions):
    """A held-out set: data, their columns, and what is measured on them.

    Args:
        data: Folder of MDS shards, a Zarr group, WebDataset tars, or Parquet files.
        image_column: Column of images.
        caption_column: Column of captions.
    """

    data: Path
    image_column: str = "image"
    caption_column: str = "caption"

    @property
    def text_column(self) -> str | None:
        """The column of captions that belong to one image each; None if retrieval is not asked."""
        if self.caption_list_column is None and self.image_id_column is None:
            return None
        return self.caption_list_column or self.caption_column

    @property
    def class_column(self) -> str | None:
        """The column of labels; None if captions belong to images, and no classes were named."""
        of_classes = (self.label_column, self.classes, self.templates)
        if self.text_column is not None and all(option is None for option in of_classes):
            return None
        return self.label_column or self.caption_column


def held_out_sets(
    data: Path | None, image_column: str, caption_column: str, config: EvaluationConfig
) -> dict[str, HeldOutSet]:
    """All held-out sets by name; that of ``data`` has the empty name.

    Raises:
        ValueError: if there are options for data that are not there, or the file of sets is wrong.
    """
    options: dict[str, Any] = {
        field.name: getattr(config, field.name) for field in fields(HeldOutOptions)
    }
    sets: dict[str, HeldOutSet] = {}
    if data is not None:
        sets[""] = HeldOutSet(
            data=data, image_column=image_column, caption_column=caption_column, **options
        )
    elif given := [name for name, value in options.items() if value is not None]:
        raise ValueError(
            f"{given[0]} says what held-out data hold, but there are none; set data.test (train) "
            "or data (evaluate)"
        )
    return sets if config.sets is None else {**sets, **_read_sets(config.sets)}


def _read_sets(path: Path) -> dict[str, HeldOutSet]:
    try:
        contents = json.loads(read_regular(path, _MOST_BYTES).decode("utf-8-sig"))
    except OSError:
        raise
    except Exception as error:  # nested too deeply is no ValueError
        raise ValueError(
            f"{path} must be a JSON file in UTF-8, but is not: {shown(error)}"
        ) from error
    if not isinstance(contents, Mapping) or not contents:
        raise ValueError(
            f'{path} must be a JSON object of held-out sets by name, such as {{"flowers": '
            '{"data": "data/flowers"}}'
        )
    return {name: _read_set(path, name, options) for name, options in contents.items()}


def _read_set(path: Path, name: str, options: Any) -> HeldOutSet:
    if not name or "/" in name:
        raise ValueError(
            f"a held-out set must have a name without slashes, got {shown(name)!r} in {path}"
        )
    known = {field.name: "Path" in str(field.type) for field in fields(HeldOutSet)}
    if not isinstance(options, Mapping) or not isinstance(options.get("data"), str):
        raise ValueError(f"the set {shown(name)!r} of {path} must have data, a folder; give it")
    for option, value in options.items():
        if option not in known or not isinstance(value, str):
            raise ValueError(
                f"a set's options must be text and among {sorted(known)}, got {shown(option)!r} = "
                f"{shown(repr(value))} for {shown(name)!r} in {path}"
            )
    # Files are named from where the file that names them lies.
    return HeldOutSet(
        **{key: path.parent / value if known[key] else value for key, value in options.items()}
    )
