"""A cache of embeddings that somebody else computed: each example gets its own."""

import logging

import numpy as np
import pytest
import torch

from jest_loader import CachedReference, Calibration, EasyReference, JestDataset, calibrate
from jest_loader.adapters.mds import MdsSource
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.embeddings import Embeddings
from jest_loader.pack import write_mds, write_zarr
from jest_loader.reference_cache import PublishedEmbeddings, adopt, verify
from jest_loader.reference_cache.folder import CacheFolder
from tests.reference_cache.published_files import (
    WIDTH,
    as_bf16,
    batches,
    pairs,
    uids,
    write_datacomp,
    write_retrieval,
)

ROWS = 300
EDGES = [0, 100, 110, ROWS]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as clip-retrieval writes it, of three parts."""
    folder = tmp_path_factory.mktemp("published")
    write_retrieval(folder, *pairs(ROWS), uids(ROWS), EDGES)
    return folder


def shuffled(seed=1):
    return np.random.default_rng(seed).permutation(ROWS)


def ids_at(places):
    ids = uids(ROWS)
    return [ids[place] for place in places]


def check_rows(path, places, sides, *, first=0, tolerance=1e-3):
    """Each example of the cache has the embeddings at its place, rounded to fp16."""
    ids = np.arange(first, first + len(places))
    found = CachedReference.open(path).embed({"sample_id": ids})
    for rows, side in zip((found.image, found.text), sides, strict=True):
        assert np.abs(rows.float().numpy() - side[places]).max() < tolerance


def test_examples_get_the_rows_with_their_ids(published, tmp_path):
    places = shuffled()
    source = batches(ids_at(places), first=1000)
    opened = PublishedEmbeddings.open(published)
    found = adopt(
        tmp_path / "cache", source, opened, join_by="uid", logit_scale=100.0, chunk_rows=64
    )
    assert (found.num_rows, found.num_missing, found.width) == (ROWS, 0, WIDTH)
    assert (found.logit_scale, found.logit_bias) == (100.0, None)
    assert found.identity["loss"] == "softmax"
    assert "trained_batch_size" not in found.identity
    assert verify(tmp_path / "cache") == found
    check_rows(tmp_path / "cache", places, pairs(ROWS), first=1000)


@pytest.mark.parametrize("stored", ["f2", "f8", ">f4", "bf16"])
def test_dtypes_are_read(tmp_path, stored):
    sides = pairs(ROWS)
    given = [as_bf16(side) if stored == "bf16" else side.astype(stored) for side in sides]
    write_retrieval(tmp_path / "in", *given, uids(ROWS), [0, ROWS], flat=True)
    opened = PublishedEmbeddings.open(tmp_path / "in")
    adopt(tmp_path / "cache", batches(uids(ROWS)), opened, join_by="uid", logit_scale=100.0)
    check_rows(tmp_path / "cache", np.arange(ROWS), sides, tolerance=5e-3)


def test_parts_come_in_the_order_of_their_numbers(tmp_path):
    edges = list(range(0, ROWS + 1, 25))  # 0 to 11, of which 10 and 11 sort before 2 by name.
    write_retrieval(tmp_path / "in", *pairs(ROWS), uids(ROWS), edges, flat=True)
    opened = PublishedEmbeddings.open(tmp_path / "in", id_column=None)
    adopt(tmp_path / "cache", batches(uids(ROWS)), opened, join_by="order", logit_scale=100.0)
    check_rows(tmp_path / "cache", np.arange(ROWS), pairs(ROWS))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
def test_arrays_of_datacomp_are_read_by_name(tmp_path, save):
    image, text = pairs(ROWS, width=2 * WIDTH)
    write_datacomp(
        tmp_path / "in", image.astype("f2"), text.astype("f2"), uids(ROWS), EDGES, save=save
    )
    opened = PublishedEmbeddings.open(tmp_path / "in", image="b32_img", text="b32_txt")
    assert (len(opened), opened.width) == (ROWS, WIDTH)
    places = shuffled()
    adopt(
        tmp_path / "cache",
        batches(ids_at(places)),
        opened,
        join_by="uid",
        logit_scale=100.0,
        normalize=True,
    )
    halves = [side[:, :WIDTH] for side in (image, text)]
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in halves]
    check_rows(tmp_path / "cache", places, unit)


@pytest.mark.parametrize("kind", ["mds", "zarr"])
def test_columns_of_other_shards_are_joined(tmp_path, kind):
    image, text = pairs(ROWS)
    columns = {
        "image": f"ndarray:float32:{WIDTH}",
        "text": f"ndarray:float32:{WIDTH}",
        "key": "int",
    }
    rows = [{"image": image[k], "text": text[k], "key": k * 3} for k in range(ROWS)]
    write, kind_of_source = (write_mds, MdsSource) if kind == "mds" else (write_zarr, ZarrSource)
    write(tmp_path / "in", columns, iter(rows))
    source = kind_of_source(tmp_path / "in", batch_size=17, shuffle=False, drop_last=False)
    opened = PublishedEmbeddings.of_source(source, id_column="key", image="image", text="text")
    places = shuffled()
    data = batches((places * 3).tolist(), column="key")
    for batch in data:
        batch["key"] = torch.tensor(batch["key"])
    adopt(tmp_path / "cache", data, opened, join_by="key", logit_scale=100.0)
    check_rows(tmp_path / "cache", places, pairs(ROWS))


def test_what_is_missing_is_counted_before_anything_is_written(published, tmp_path, caplog):
    ids = [*ids_at(range(40, ROWS)), *[f"nobody's {row}" for row in range(500)], ids_at([50])[0]]
    source = batches(ids)
    opened = PublishedEmbeddings.open(published)
    found = adopt(
        tmp_path / "cache", source, opened, join_by="uid", logit_scale=100.0, chunk_rows=100
    )
    first = caplog.records[0]
    assert first.levelno == logging.WARNING
    assert first.message == (
        "joined by uid: 261 of 761 examples have published embeddings, 500 have none; 40 "
        "published rows belong to no example; ids come again in 1 examples and 0 published rows"
    )
    assert (found.num_rows, found.num_missing) == (761, 500)  # Whole chunks among them.
    reference = CachedReference.open(tmp_path / "cache", missing="skip")
    embedded = reference.embed({"sample_id": np.array([0, 260, 759, 760])})
    assert list(embedded.skipped) == [1, 2]
    assert torch.equal(embedded.image[3], reference.embed({"sample_id": np.array([10])}).image[0])


def test_rows_that_are_not_finite_or_zero_are_missing(tmp_path, caplog):
    image, text = (side.copy() for side in pairs(ROWS))
    image[3], image[5], text[7, 0], text[9, 2] = np.nan, 0.0, np.nan, np.inf
    write_retrieval(tmp_path / "in", image, text, uids(ROWS), [0, ROWS])
    opened = PublishedEmbeddings.open(tmp_path / "in")
    found = adopt(tmp_path / "cache", batches(uids(ROWS)), opened, join_by="uid", logit_scale=100.0)
    assert found.num_missing == 4
    assert "sample 5: its published embedding is zero" in caplog.text
    assert "sample 9: its published embedding is not finite" in caplog.text
    reference = CachedReference.open(tmp_path / "cache", missing="skip")
    assert list(reference.embed({"sample_id": np.arange(10)}).skipped) == [3, 5, 7, 9]


def test_other_norms_are_refused_with_what_they_are_or_divided(tmp_path):
    image, text = pairs(ROWS)
    scaled = image * np.linspace(8, 12, ROWS, dtype="f4")[:, None]
    write_retrieval(tmp_path / "in", scaled, text, uids(ROWS), [0, ROWS])
    opened = PublishedEmbeddings.open(tmp_path / "in")
    source = batches(uids(ROWS))
    with pytest.raises(ValueError, match=r"norm 1, but those of images here have 8 to 12 .*normal"):
        adopt(tmp_path / "cache", source, opened, join_by="uid", logit_scale=100.0)
    assert not (tmp_path / "cache").exists()
    adopt(tmp_path / "cache", source, opened, join_by="uid", logit_scale=100.0, normalize=True)
    check_rows(tmp_path / "cache", np.arange(ROWS), (image, text))


def test_a_bias_is_fitted_as_calibrate_does_and_recorded(published, tmp_path):
    opened = PublishedEmbeddings.open(published)
    found = adopt(
        tmp_path / "cache",
        batches(uids(ROWS)),
        opened,
        join_by="uid",
        logit_scale=100.0,
        fit_batch_size=64,
    )
    image, text = map(torch.from_numpy, pairs(ROWS))
    expected = calibrate(Embeddings(image, text, 100.0), 64)
    assert Calibration(found.logit_scale, found.logit_bias, 64) == pytest.approx(expected)
    assert found.identity["trained_batch_size"] == "64"
    assert found.identity["loss"] == "sigmoid"
    reference = CachedReference.open(tmp_path / "cache").at_sub_batch_size(128)
    adapted = reference.embed({"sample_id": np.arange(4)}).logit_bias
    assert adapted == pytest.approx(expected.logit_bias - np.log(2))


def test_selection_runs_on_an_adopted_cache(published, tmp_path):
    source = batches(uids(ROWS), size=20)
    opened = PublishedEmbeddings.open(published)
    adopt(tmp_path / "cache", source, opened, join_by="uid", logit_scale=100.0)
    scorer = EasyReference(CachedReference.open(tmp_path / "cache"), loss="softmax")
    dataset = JestDataset(source, scorer, super_batch_size=100, sub_batch_size=20)
    assert [len(batch["sample_id"]) for batch in dataset] == [20, 20, 20]


def test_a_stopped_adoption_is_no_cache_and_goes_on(published, tmp_path, monkeypatch):
    places = shuffled()

    def run(**changes):
        source, opened = batches(ids_at(places)), PublishedEmbeddings.open(published)
        options = {"join_by": "uid", "logit_scale": 100.0, "chunk_rows": 64, **changes}
        return adopt(tmp_path / "cache", source, opened, **options)

    add, added = CacheFolder.add, []

    def interrupted(self, number, *rest):
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(number)
        add(self, number, *rest)

    monkeypatch.setattr(CacheFolder, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    with pytest.raises(ValueError, match=r"must be whole, but its building was stopped"):
        CachedReference.open(tmp_path / "cache")
    with pytest.raises(ValueError, match=r"logits '100.0, None', which cannot go on with '99.0"):
        run(logit_scale=99.0)
    monkeypatch.setattr(
        CacheFolder,
        "add",
        lambda self, number, *rest: added.append(number) or add(self, number, *rest),
    )
    run()
    assert added == [0, 1, 2, 3, 4]
    check_rows(tmp_path / "cache", places, pairs(ROWS))
    places = np.arange(ROWS)
    with pytest.raises(ValueError, match=r"published '.*', which cannot go on with"):
        run()


def test_the_cache_is_of_the_data_that_it_was_joined_with(published, tmp_path):
    write_mds(tmp_path / "data", {"uid": "str"}, ({"uid": one} for one in uids(ROWS)))
    source = MdsSource(tmp_path / "data", batch_size=16, shuffle=False, drop_last=False)
    opened = PublishedEmbeddings.open(published)
    adopt(tmp_path / "cache", source, opened, join_by="uid", logit_scale=100.0)
    CachedReference.open(tmp_path / "cache", expect={"data": source.fingerprint()})
    with pytest.raises(ValueError, match=r"the data of .* is"):
        CachedReference.open(tmp_path / "cache", expect={"data": "another"})
