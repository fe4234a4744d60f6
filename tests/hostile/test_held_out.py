"""Held-out data of strangers: what is in them is said in a sentence, short and without codes."""

import os

import numpy as np
import pytest

from jest_loader.clip.config.held_out import EvaluationConfig, HeldOutSet, held_out_sets
from jest_loader.clip.evaluation.held_out import read_held_out
from jest_loader.pack import write_zarr
from tests.clip_runs import ARCHITECTURE

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (DEEP, {"caption_list_column": "text"}, r"in a JSON list of texts, .* has '\[\[\["),
        ("[1, " * 9, {"caption_list_column": "text"}, "in a JSON list of texts"),
        ("\x1b[31m" + "c" * 9999, {"label_column": "text"}, r"image 0 of .* has '\\x1b\[31mc"),
        ("9" * 9999, {"label_column": "text"}, "among the 2 classes of .* has '999"),
        ("7", {"label_column": "text"}, "among the 2 classes of .* has 7"),
    ],
    ids=["deep", "cut", "codes", "a long number", "a number"],
)
def test_texts_that_are_no_captions_or_labels(tmp_path, text, options, message):
    rows = [{"image": np.zeros((8, 8), np.uint8), "text": text} for _ in range(2)]
    write_zarr(tmp_path / "data", {"image": "ndarray:uint8:8,8", "text": "str"}, rows)
    if "label_column" in options:
        options = {**options, "classes": tmp_path / "classes.txt"}
        (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=message) as raised:
        read_held_out(HeldOutSet(data=tmp_path / "data", **options), ARCHITECTURE)
    assert len(str(raised.value)) < 800


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (DEEP.encode(), "must be a JSON file in UTF-8, but is not"),
        (b"\xff\xfe{", "must be a JSON file in UTF-8, but is not"),
        (b'{"\\u001b[31m": 3}', r"the set '.*x1b\[31m' of .* must have data"),
        (
            b'{"a": {"data": "b", "classes": [' + b"1," * 999 + b"1]}}",
            "got 'classes' = .*\\.\\.\\.",
        ),
        (None, "no regular file"),
    ],
    ids=["deep", "UTF-16", "codes", "long", "a pipe"],
)
def test_files_of_sets(tmp_path, content, message):
    path = tmp_path / "sets.json"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    with pytest.raises((ValueError, OSError), match=message) as raised:
        held_out_sets(None, "image", "caption", EvaluationConfig(sets=path))
    assert "\x1b" not in str(raised.value)
