"""JestDataset over MDS and Zarr: each super-batch is the source's, and resume is exact."""

from pathlib import Path

import numpy as np
import pytest
import torch

from jest_loader import (
    CachedReference,
    EasyReference,
    ExampleScores,
    JestDataset,
    JointSelector,
    Options,
)
from jest_loader.adapters.mds import MdsSource
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.pack import write_mds, write_zarr
from jest_loader.testing import assert_resumes_exactly

COLUMNS = {"pixels": "ndarray:uint8:2,2", "caption": "str", "value": "float32"}
NUM_ROWS = 203


def rows():
    for row in range(NUM_ROWS):
        pixels = np.full((2, 2), row % 256, dtype=np.uint8)
        yield {"pixels": pixels, "caption": f"row {row}", "value": np.float32(row % 17)}


@pytest.fixture(scope="module", params=["mds", "zarr"])
def open_source(request, tmp_path_factory):
    path: Path = tmp_path_factory.mktemp("shards") / request.param
    if request.param == "mds":
        write_mds(path, COLUMNS, rows(), shard_bytes=1 << 10)
        return lambda **options: MdsSource(path, **options)
    write_zarr(path, COLUMNS, rows(), chunk_rows=16)
    return lambda **options: ZarrSource(path, **options)


class ByValue:
    def score(self, super_batch):
        return ExampleScores(torch.from_numpy(super_batch["value"]))


def test_rows_stay_together_and_none_comes_twice_in_an_epoch(open_source):
    source = open_source(batch_size=8, seed=3)
    data = JestDataset(source, ByValue(), super_batch_size=40, sub_batch_size=40)
    batches = list(data)
    assert len(batches) == len(data) == 5
    for batch in batches:
        ids = batch["sample_id"]
        assert batch["caption"] == [f"row {row}" for row in ids]
        assert np.array_equal(batch["pixels"][:, 0, 0], ids % 256)
    seen = np.concatenate([batch["sample_id"] for batch in batches])
    assert len(set(seen.tolist())) == len(seen) == 200
    assert data.counts.loaded == 200


@pytest.mark.parametrize("shuffle", [True, False])
def test_resume_is_exact_from_every_position(open_source, shuffle):
    def make():
        source = open_source(batch_size=8, shuffle=shuffle, seed=3, window_rows=24)
        return JestDataset(
            source,
            ByValue(),
            JointSelector(3),
            super_batch_size=40,
            sub_batch_size=7,
            options=Options(seed=1),
        )

    assert_resumes_exactly(make, num_epochs=3)


def test_a_state_of_other_shards_is_refused(open_source, tmp_path):
    def wrap(source):
        return JestDataset(source, ByValue(), super_batch_size=40, sub_batch_size=7)

    data = wrap(open_source(batch_size=8))
    next(iter(data))
    state = data.state_dict()
    resumed = wrap(open_source(batch_size=8, seed=9))
    resumed.load_state_dict(state)
    with pytest.raises(ValueError, match="seed"):
        next(iter(resumed))


def test_a_cached_reference_finds_the_rows_of_shuffled_shards(open_source):
    """The reference makes one caption easy: the row that has it must be drawn."""
    angle = np.linspace(0, 1, NUM_ROWS)
    image = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float16)
    text = -image
    text[77] = image[77]
    scorer = EasyReference(CachedReference(image, text, 50.0, -10.0))
    data = JestDataset(
        open_source(batch_size=20), scorer, JointSelector(1), super_batch_size=200, sub_batch_size=1
    )
    drawn = {int(batch["sample_id"][0]) for _ in range(4) for batch in data}
    assert 77 in drawn
    assert len(drawn) <= 2, "only an epoch that leaves row 77 out draws another"
