"""Squares resized together against each resized alone."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from jest_loader.adapters.images.squares import Squares


def noise(height, width, channels, seed):
    size = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def alone(pixels, size):
    """One image, cut and resized by itself, planes first: another path through PyTorch."""
    height, width, _ = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = torch.from_numpy(pixels).permute(2, 0, 1)[:, top : top + side, left : left + side]
    return interpolate(square[None], (size, size), mode="bicubic", antialias=True)[0].numpy()


SHAPES = {
    "one size": [(37, 50)] * 9,
    "sides that come and go": [(37, 50), (50, 37), (24, 24), (24, 99), (37, 37), (60, 60)],
    "the right size already": [(24, 24), (24, 30), (30, 24)],
    "enlarged": [(5, 9), (5, 5), (1, 1)],
    "more than wait": [(900, 901)] * 4,
    "too large to wait": [(1300, 1250), (1250, 1250), (30, 30)],
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shapes", list(SHAPES))
def test_pixels_are_those_of_each_square_alone(shapes, channels):
    images = [noise(*shape, channels, seed) for seed, shape in enumerate(SHAPES[shapes])]
    rows = np.zeros((len(images), channels, 24, 24), np.uint8)
    squares = Squares(rows)
    for row, pixels in enumerate(images):
        scratch = pixels.copy()
        squares.add(row, scratch)
        scratch[:] = 0  # As the next decode does.
    squares.flush()
    for row, pixels in enumerate(images):
        np.testing.assert_array_equal(rows[row], alone(pixels, 24))


def test_rows_left_out_stay_and_threads_do_not_meet():
    images = [noise(40, 40, 3, seed) for seed in range(64)]
    rows = np.zeros((64, 3, 24, 24), np.uint8)

    def fill(start):
        squares = Squares(rows)
        for row in range(start, start + 8, 2):
            squares.add(row, images[row])
        squares.flush()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(fill, range(0, 64, 8)))
    assert not rows[1::2].any()
    for row in range(0, 64, 2):
        np.testing.assert_array_equal(rows[row], alone(images[row], 24))
