"""A transform of the user's, in place of cutting and resizing."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from jest_loader import JestDataset, UniformSelector
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.images.decoders import decode
from tests.adapters.pictures import DECODERS, FILES, channel_means, file, photo


@pytest.mark.parametrize("decoder", DECODERS)
def test_transform_gets_upright_images(decoder):
    seen = []

    def transform(image):
        seen.append((image.mode, image.size))
        return channel_means(image)

    rows = [FILES["orientation 6"], FILES["png"]]
    images = DecodeImages("jpg", decoder=decoder, transform=transform, num_threads=1)
    means = images({"jpg": rows})["jpg"]
    assert seen == [("RGB", (90, 121)), ("RGB", (77, 120))]
    for row, mean in zip(rows, means, strict=True):
        torch.testing.assert_close(mean, channel_means(Image.open(io.BytesIO(row))))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_transform_may_keep_the_image(decoder, mode):
    rows, kept = [file(photo(64, 64, seed)) for seed in range(5)], []

    def keep(image):
        kept.append(image)
        return torch.zeros(1)

    DecodeImages("jpg", mode=mode, decoder=decoder, transform=keep, num_threads=1)({"jpg": rows})
    for row, image in zip(rows, kept, strict=True):
        np.testing.assert_array_equal(image, decode(row, mode, "pillow").squeeze())


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (lambda image: torch.zeros(image.size), r"one shape .* row 1 torch.float32 of \(77, 120\)"),
        (lambda image: np.zeros(3), "must return a tensor, got ndarray for row 0"),
    ],
)
def test_transforms_of_the_wrong_kind(transform, words):
    with pytest.raises(ValueError, match=words):
        DecodeImages("jpg", transform=transform)({"jpg": [FILES["jpeg"], FILES["png"]]})


@pytest.mark.parametrize("num_threads", [1, 2])
def test_an_exception_of_the_transform_reaches_the_caller(num_threads):
    def transform(image):
        raise ZeroDivisionError("the user's own")

    decode_images = DecodeImages("jpg", transform=transform, num_threads=num_threads)
    with pytest.raises(ZeroDivisionError, match="the user's own"):
        decode_images({"jpg": [FILES["jpeg"]] * 40})
    decode_images.transform = channel_means
    assert decode_images({"jpg": [FILES["jpeg"]]})["jpg"].shape == (1, 3)


def test_materialize_decodes_the_chosen_rows_only():
    rows = [file(photo(40, 30, n)) for n in range(40)]
    source = [{"jpg": rows[n : n + 10], "number": torch.arange(n, n + 10)} for n in (0, 10, 20, 30)]
    seen = []

    def transform(image):
        seen.append(image)
        return channel_means(image)

    with DecodeImages("jpg", transform=transform, num_threads=2) as decode_images:
        dataset = JestDataset(
            source,
            None,
            selector=UniformSelector(),
            super_batch_size=20,
            sub_batch_size=4,
            materialize=decode_images,
        )
        for batch in dataset:
            for number, mean in zip(batch["number"].tolist(), batch["jpg"], strict=True):
                torch.testing.assert_close(
                    mean, channel_means(Image.open(io.BytesIO(rows[number])))
                )
    assert len(seen) == 8
