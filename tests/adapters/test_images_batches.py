"""Columns of images within batches, and the arguments of ``DecodeImages``."""

import numpy as np
import pytest
import torch

from jest_loader.adapters.images import DecodeImages
from tests.adapters.pictures import DECODERS, FILES, expected, file, furthest, photo


@pytest.mark.parametrize("decoder", DECODERS)
def test_rows_keep_their_order_and_other_columns(decoder):
    rows = [file(photo(40 + 30 * (n % 7), 64, n)) for n in range(61)]
    batch = {"jpg": rows, "caption": [str(n) for n in range(61)]}
    one, many = (
        DecodeImages("jpg", 32, decoder=decoder, num_threads=n, out_column="image") for n in (1, 5)
    )
    result = many(batch)
    assert torch.equal(one(batch)["image"], result["image"])
    for row in (0, 17, 60):
        assert furthest(result["image"][row], expected(rows[row], 32)) <= 1
    assert result["jpg"] is rows
    assert result["caption"] is batch["caption"]
    assert set(batch) == {"jpg", "caption"}


def test_a_batch_stays_as_it_was_when_the_next_is_decoded():
    decode_images = DecodeImages("jpg", 16, num_threads=2)
    first = decode_images({"jpg": [FILES["jpeg"]] * 4})["jpg"]
    kept = first.clone()
    decode_images({"jpg": [FILES["png"]] * 4})
    assert torch.equal(first, kept)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_all_kinds_of_bytes(kind):
    column = [kind(FILES["jpeg"]), kind(FILES["png"])]
    images = DecodeImages("jpg", 24)({"jpg": column})["jpg"]
    assert furthest(images[1], expected(FILES["png"], 24)) <= 1


def test_columns_may_be_tuples_object_arrays_or_empty():
    column = np.empty(2, dtype=object)
    column[:] = [FILES["jpeg"], FILES["png"]]
    for rows in (column, tuple(column)):
        assert DecodeImages("jpg", 24)({"jpg": rows})["jpg"].shape == (2, 3, 24, 24)
    assert DecodeImages("jpg", 24)({"jpg": []})["jpg"].shape == (0, 3, 24, 24)


@pytest.mark.parametrize(
    ("batch", "options", "words"),
    [
        ({"png": [], "text": []}, {}, "no column 'jpg', it has 'png', 'text'"),
        ([b""], {}, "must be a dict of columns, got list"),
        ({"jpg": torch.zeros(3, 8, 8)}, {}, "must be a list of encoded images, got Tensor"),
        ({"jpg": [], "image": []}, {"out_column": "image"}, "has a column 'image'"),
    ],
)
def test_refused_batches(batch, options, words):
    with pytest.raises(ValueError, match=words):
        DecodeImages("jpg", **options)(batch)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": 0}, "size must be a whole number of at least 1, got 0"),
        ({"size": 224.0}, "size must be a whole number"),
        ({"num_threads": 0}, "num_threads must be a whole number of at least 1, got 0"),
        ({"mode": "RGBA"}, "mode must be one of RGB, L, got 'RGBA'"),
        ({"decoder": "opencv"}, "must be one of auto, simplejpeg, pillow, got 'opencv'"),
        ({"transform": 3}, "transform must be a function"),
    ],
)
def test_refused_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        DecodeImages("jpg", **arguments)
