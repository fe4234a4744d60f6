"""JPEGs decoded at a fraction of their size."""

import pytest
import torch

from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.images.decoders import decode
from tests.adapters.pictures import DECODERS, file, photo


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("scale_to", "shape"),
    [
        (None, (240, 321)),
        (121, (240, 321)),
        (120, (120, 161)),
        (61, (120, 161)),
        (60, (60, 81)),
        (30, (30, 41)),
        (2, (30, 41)),
    ],
)
def test_scaled_to_the_smallest_that_is_large_enough(decoder, scale_to, shape):
    pixels = decode(file(photo(321, 240)), "RGB", decoder, scale_to=scale_to)
    assert pixels.shape == (*shape, 3)


@pytest.mark.parametrize("decoder", DECODERS)
def test_fast_scaling_changes_pixels_little(decoder):
    batch = {"jpg": [file(photo(640, 480, seed), quality=90) for seed in range(4)]}
    full, scaled = (
        DecodeImages("jpg", 112, decoder=decoder, fast_scaling=fast)(batch)["jpg"].float()
        for fast in (False, True)
    )
    assert 0 < (full - scaled).abs().mean() < 2


def test_png_is_not_scaled():
    assert decode(file(photo(321, 240), "PNG"), "RGB", "pillow", scale_to=10).shape[0] == 240


def test_transform_with_fast_scaling_gets_small_images():
    sizes = DecodeImages(
        "jpg",
        50,
        fast_scaling=True,
        transform=lambda image: torch.tensor(image.size),
    )
    assert sizes({"jpg": [file(photo(400, 300))]})["jpg"].tolist() == [[100, 75]]
