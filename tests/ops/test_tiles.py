"""Tiles: what was fastest on a device speaks for about such sizes there, a rule for all else."""

import pytest

from jest_loader.ops import tiles as ops_tiles
from jest_loader.ops.tiles import Tiles, Work, by_rule, tiles_for

SMALL, LARGE = Tiles(32, 32, 64, 2, 2), Tiles(256, 64, 64, 8, 4)
HOPPER = 227 << 10


@pytest.fixture
def measured(monkeypatch):
    table = {"A GPU": {Work(5120, 64, 2): SMALL, Work(40_960, 512, 2): LARGE}}
    monkeypatch.setattr(ops_tiles, "FASTEST", table)


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (Work(5120, 64, 2), SMALL),
        (Work(10_240, 128, 2), SMALL),
        (Work(20_480, 256, 2), LARGE),
        (Work(81_920, 1024, 2), LARGE),
    ],
)
def test_sizes_within_a_factor_of_two_take_what_was_fastest(work, expected):
    assert tiles_for(work, HOPPER, "A GPU") == expected


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("work", "device"),
    [
        (Work(10_241, 64, 2), "A GPU"),
        (Work(5120, 31, 2), "A GPU"),
        (Work(5120, 64, 4), "A GPU"),
        (Work(5120, 64, 2), "Another GPU"),
    ],
)
def test_other_sizes_dtypes_and_devices_take_the_rule(work, device):
    assert tiles_for(work, HOPPER, device) == by_rule(work, HOPPER)


@pytest.mark.parametrize("chunk_size", [1, 2, 16, 17, 64, 100, 128])
def test_a_tile_of_the_chunk_is_less_than_half_padding_or_the_smallest(chunk_size):
    chunk = by_rule(Work(5120, chunk_size, 2), HOPPER).chunk
    assert chunk == 16 or chunk_size <= chunk < 2 * chunk_size
