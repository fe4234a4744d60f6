"""A cache says on which of its rows the reference was trained."""

import json

import numpy as np
import pytest
import torch

from jest_loader import (
    CachedLosses,
    CachedReference,
    EasyReference,
    Embeddings,
    FrozenReference,
    IndependentSelector,
    PerExample,
    SeenRows,
)
from jest_loader.reference_cache import build, build_part, verify
from jest_loader.reference_cache.format import read_manifest
from tests.helpers import jest_dataset

pytestmark = pytest.mark.filterwarnings("ignore:the reference:UserWarning")
SIZES = {"super_batch_size": 8, "sub_batch_size": 4}
SEEN = [3, 5, 8, 9, 23]
"""Sample ids, of 0 to 23."""


class Towers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def embed(self, batch):
        rows = torch.eye(8)[torch.as_tensor(batch["sample_id"]) % 8] * self.weight
        return Embeddings(rows, rows, 10.0, -4.0)


class Seekable:
    """The same batches, from any on."""

    batch_size, num_examples, first = 4, 24, 0

    def __len__(self):
        return 6

    def seek(self, batch):
        self.first = batch

    def __iter__(self):
        return iter(batches()[self.first :])


def batches(first=0, size=24, each=4):
    return [{"sample_id": np.arange(n, n + each)} for n in range(first, first + size, each)]


def marks(reference, ids):
    return np.asarray(reference.has_seen({"sample_id": np.array(ids)})).tolist()


def test_rows_that_the_reference_was_trained_on_are_kept(tmp_path):
    manifest = build(
        tmp_path / "cache", batches(), FrozenReference(Towers()), seen=SeenRows(SEEN), chunk_rows=10
    )
    assert (manifest.num_seen, manifest.num_known) == (5, 24)
    assert verify(tmp_path / "cache") == manifest
    cached = CachedReference.open(tmp_path / "cache")
    assert marks(cached, range(24)) == [int(row in SEEN) for row in range(24)]
    dataset = jest_dataset(
        batches(), EasyReference(cached), IndependentSelector(), exclude_seen=True, **SIZES
    )
    chosen = [row for batch in dataset for row in batch["sample_id"].tolist()]
    assert dataset.counts.seen == 5
    assert not set(chosen) & set(SEEN)


def test_a_reference_that_knows_need_not_be_told_of(tmp_path):
    reference = FrozenReference(Towers(), seen=lambda batch: batch["sample_id"] % 2 == 0)
    build(tmp_path / "own", batches(), reference)
    assert marks(CachedReference.open(tmp_path / "own"), [4, 5]) == [1, 0]
    build(tmp_path / "told", batches(), reference, seen=SeenRows(SEEN))
    assert marks(CachedReference.open(tmp_path / "told"), [4, 5]) == [0, 1]


def test_without_a_word_nothing_is_known(tmp_path):
    manifest = build(tmp_path / "cache", batches(), FrozenReference(Towers()))
    assert (manifest.num_seen, manifest.num_known) == (None, None)
    assert CachedReference.open(tmp_path / "cache").has_seen is None
    assert not (tmp_path / "cache" / "seen").exists()


def test_what_is_known_of_some_rows_only_is_counted_so(tmp_path):
    rows = SeenRows([2, 5], most_known=11)
    manifest = build(tmp_path / "cache", batches(), FrozenReference(Towers()), seen=rows)
    assert (manifest.num_seen, manifest.num_known) == (2, 12)
    assert marks(CachedReference.open(tmp_path / "cache"), [2, 11, 12]) == [1, 0, -1]


def test_losses_know_it_too(tmp_path):
    def loss(batch):
        return torch.zeros(len(batch["sample_id"]))

    build(tmp_path / "cache", batches(), loss, seen=SeenRows(SEEN))
    cached = CachedLosses.open(tmp_path / "cache")
    assert marks(cached, SEEN) == [1] * 5
    scorer = PerExample(torch.nn.Linear(1, 1), lambda model, batch: loss(batch), cached)
    dataset = jest_dataset(batches(), scorer, IndependentSelector(), **SIZES)
    list(dataset)
    assert dataset.counts.seen == 5


def test_a_stopped_building_goes_on_with_the_same_rows_only(tmp_path):
    def failing(after):
        for number, batch in enumerate(batches()):
            if number == after:
                raise KeyboardInterrupt
            yield batch

    class Source:
        def __init__(self, after):
            self.after = after

        def __iter__(self):
            return failing(self.after)

    path, settings = tmp_path / "cache", {"chunk_rows": 6}
    with pytest.raises(KeyboardInterrupt):
        build(path, Source(4), FrozenReference(Towers()), seen=SeenRows(SEEN), **settings)
    for other, message in (
        (SeenRows([1]), r"with seen '5 keys \w+', which cannot go on with '1 keys \w+'"),
        (None, r"with knows_seen True, which cannot go on with False"),
        (lambda batch: [False] * 4, r"with seen '5 keys \w+', which cannot go on with None"),
    ):
        with pytest.raises(ValueError, match=message):
            build(path, Source(None), FrozenReference(Towers()), seen=other, **settings)
    build(path, Source(None), FrozenReference(Towers()), seen=SeenRows(SEEN), **settings)
    assert marks(CachedReference.open(path), SEEN) == [1] * 5
    with pytest.raises(ValueError, match=r"with seen '5 keys \w+', which cannot go on with '1"):
        build(path, Source(None), FrozenReference(Towers()), seen=SeenRows([1]), **settings)


def test_a_function_and_nothing_are_other_settings(tmp_path):
    def odd(batch):
        return batch["sample_id"] % 2 == 1

    build(tmp_path / "cache", batches(), FrozenReference(Towers()), seen=odd)
    with pytest.raises(ValueError, match=r"with knows_seen True, which cannot go on with False"):
        build(tmp_path / "cache", batches(), FrozenReference(Towers()))


def test_parts_keep_it(tmp_path):
    arguments = (Seekable(), FrozenReference(Towers()))
    for part in range(3):
        build_part(tmp_path / "cache", *arguments, part, 3, seen=SeenRows(SEEN), chunk_rows=4)
    build(tmp_path / "cache", *arguments, seen=SeenRows(SEEN), chunk_rows=4)
    assert read_manifest(tmp_path / "cache").num_seen == 5


@pytest.mark.parametrize(
    "given",
    [lambda batch: [1], lambda batch: [2, 0, 0, 0], [1, 2]],
    ids=["too short", "no marks", "no function"],
)
def test_what_says_no_such_thing_is_refused(tmp_path, given):
    with pytest.raises(ValueError, match=r"must return bool|must be a function\(batch\)"):
        build(tmp_path / "cache", batches(), FrozenReference(Towers()), seen=given)


def test_rows_that_the_cache_lacks_are_asked_of_the_live_reference(tmp_path):
    model, ids = Towers(), [3, 4, 100, 101]
    build(tmp_path / "cache", batches(), FrozenReference(model), seen=SeenRows(SEEN))
    knowing = FrozenReference(model, seen=SeenRows([100]))
    for missing, expected in (
        ("skip", [1, 0, 0, 0]),
        (knowing, [1, 0, 1, 0]),
        (FrozenReference(model), [1, 0, -1, -1]),
    ):
        assert marks(CachedReference.open(tmp_path / "cache", missing=missing), ids) == expected


def test_arrays_in_memory_may_come_with_it():
    rows = torch.eye(8)
    known = CachedReference(rows, rows, 10.0, -4.0, seen=rows[0] > 0, ids=[10, 2, 3, 4, 5, 6, 7, 8])
    assert marks(known, [2, 10]) == [0, 1]
    assert CachedReference(rows, rows, 10.0, -4.0).has_seen is None
    with pytest.raises(ValueError, match=r"seen must be bool of shape \(8,\), one for each row"):
        CachedReference(rows, rows, 10.0, -4.0, seen=rows)


def test_a_damaged_file_and_a_manifest_that_cannot_be_are_refused(tmp_path):
    build(tmp_path / "cache", batches(), FrozenReference(Towers()), seen=SeenRows(SEEN))
    file = tmp_path / "cache" / "seen" / "c" / "0"
    content = bytearray(file.read_bytes())
    content[4] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"seen/c/0 must have the BLAKE2b"):
        marks(CachedReference.open(tmp_path / "cache"), [4])
    group = json.loads((tmp_path / "cache" / "zarr.json").read_text())
    found = group["attributes"]["jest_loader_cache"]
    assert found["num_seen"] == 5
    assert found["version"] == 5
