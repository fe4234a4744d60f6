"""A cache holds what the reference said of every sample, whole or not at all."""

import logging
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr
from torchdata.stateful_dataloader import StatefulDataLoader

from jest_loader import CachedLosses, CachedReference, Embeddings, FrozenReference, SkipRowsError
from jest_loader.adapters.mds import MdsSource
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.pack import write_mds, write_zarr
from jest_loader.reference_cache import build, model_fingerprint, verify
from jest_loader.reference_cache.builder import Builder
from jest_loader.reference_cache.chunk_records import Settings
from jest_loader.reference_cache.folder import CacheFolder


def angles(ids):
    angle = torch.as_tensor(np.asarray(ids)) / 10
    return torch.stack([angle.cos(), angle.sin()], dim=1)


class Reference:
    """Embeds a row by its id, so that a row in the wrong place shows."""

    def __init__(self, logit_scale=7.5, logit_bias=-2.0, bad=()) -> None:
        self.logit_scale, self.logit_bias, self.bad = logit_scale, logit_bias, set(bad)
        self.seen = []

    def embed(self, batch):
        ids = np.asarray(batch["sample_id"])
        bad = {row: f"bad {i}" for row, i in enumerate(ids.tolist()) if i in self.bad}
        if bad:
            raise SkipRowsError(bad)
        self.seen += ids.tolist()
        bias = None if self.logit_bias is None else torch.tensor(self.logit_bias)
        return Embeddings(angles(ids), -angles(ids), torch.tensor(self.logit_scale), bias)


class NanReference:
    """One that diverged."""

    def embed(self, batch):
        nan = torch.full((len(batch["sample_id"]), 2), torch.nan)
        return Embeddings(nan, nan, torch.tensor(7.5), torch.tensor(-2.0))


def batches(ids, size=4):
    return [{"sample_id": np.array(ids[i : i + size])} for i in range(0, len(ids), size)]


def content(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


class Stopped(Exception):
    pass


class Stopping(Reference):
    """Stops the building after some batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def embed(self, batch):
        self.left -= 1
        if self.left < 0:
            raise Stopped
        return super().embed(batch)


PERMUTED = np.random.default_rng(0).permutation(18)
SPARSE = PERMUTED * 1_000_003 - 40


@pytest.mark.parametrize("chunk_rows", [1, 4, 7, 18, 100])
@pytest.mark.parametrize("ids", [np.arange(18), PERMUTED, SPARSE], ids=["dense", "mixed", "sparse"])
def test_what_was_embedded_is_read_back_by_id(tmp_path, ids, chunk_rows):
    manifest = build(tmp_path / "cache", batches(ids), Reference(), chunk_rows=chunk_rows)
    assert (manifest.num_rows, manifest.num_missing) == (18, 0)
    assert verify(tmp_path / "cache") == manifest
    cached = CachedReference.open(tmp_path / "cache")
    batch = {"sample_id": ids[[17, 0, 9, 9]]}
    found, expected = cached.embed(batch), Reference().embed(batch)
    assert found.image.dtype == torch.float16
    assert torch.equal(found.image, expected.image.half())
    assert torch.equal(found.text, expected.text.half())
    assert (found.logit_scale, found.logit_bias) == (7.5, -2.0)
    assert len(cached) == 18


@pytest.mark.parametrize("chunk_rows", [5, 100])
def test_any_zarr_reader_opens_it(tmp_path, chunk_rows):
    build(tmp_path / "cache", batches(SPARSE), Reference(), chunk_rows=chunk_rows)
    group = zarr.open_group(tmp_path / "cache", mode="r")
    assert sorted(name for name, _ in group.arrays()) == ["image", "sample_id", "text"]
    np.testing.assert_array_equal(group["sample_id"][:], SPARSE)
    np.testing.assert_array_equal(group["image"][:], angles(SPARSE).half().numpy())
    order = group["index/row"][:]
    np.testing.assert_array_equal(group["index/id"][:], SPARSE[order])
    source = ZarrSource(
        tmp_path / "cache", columns=["image"], batch_size=6, shuffle=False, id_column="row"
    )
    np.testing.assert_array_equal(next(iter(source))["image"], angles(SPARSE[:6]).half().numpy())


def test_scale_and_bias_are_exact(tmp_path):
    scale = torch.tensor(2.6592).exp()
    build(tmp_path / "cache", batches(range(4)), Reference(float(scale), -12.9327), chunk_rows=4)
    cached = CachedReference.open(tmp_path / "cache")
    assert cached.logit_scale == scale.item()
    assert cached.logit_bias == torch.tensor(-12.9327).item()


def test_a_softmax_reference_has_no_bias(tmp_path):
    build(tmp_path / "cache", batches(range(4)), Reference(logit_bias=None))
    assert CachedReference.open(tmp_path / "cache").embed({"sample_id": [0]}).logit_bias is None


def test_losses_are_kept_too(tmp_path):
    def loss(batch):
        ids = torch.as_tensor(batch["sample_id"])
        if (ids == 5).any():
            raise SkipRowsError({int((ids == 5).nonzero()): "no label"})
        return torch.where(ids == 6, torch.nan, ids / 3)

    manifest = build(tmp_path / "cache", batches(PERMUTED), loss, chunk_rows=7)
    assert (manifest.kind, manifest.num_missing, manifest.logit_scale) == ("loss", 2, None)
    found = CachedLosses.open(tmp_path / "cache", missing="skip").values(
        {"sample_id": np.array([17, 5, 0, 6])}
    )
    expected = torch.tensor([17 / 3, torch.nan, 0, torch.nan])
    torch.testing.assert_close(found, expected, equal_nan=True)
    stored = zarr.open_group(tmp_path / "cache", mode="r")["loss"]
    assert (stored.dtype, stored.shape) == (np.float32, (18,))
    verify(tmp_path / "cache")


@pytest.mark.parametrize("bad", [[3], [4, 5, 6, 7], [0, 17]])
def test_samples_that_cannot_be_used_are_missing_and_not_zero(tmp_path, caplog, bad):
    with caplog.at_level(logging.WARNING):
        manifest = build(tmp_path / "cache", batches(range(18)), Reference(bad=bad), chunk_rows=18)
    assert manifest.num_missing == len(bad)
    reasons = "; ".join(f"sample {row}: bad {row}" for row in bad)
    assert f"{len(bad)} examples are missing: {reasons}" in caplog.text
    stored = zarr.open_group(tmp_path / "cache", mode="r")
    for side in ("image", "text"):
        absent = np.isnan(stored[side][:]).all(axis=1)
        assert np.flatnonzero(absent).tolist() == bad
        assert np.isfinite(stored[side][:][~absent]).all()


def test_rows_that_a_live_model_leaves_out_are_missing(tmp_path, caplog):
    class Half(torch.nn.Linear):
        def embed(self, batch):
            found = Reference(bad=[2]).embed(batch)
            return Embeddings(found.image, found.text, 5.0, 0.0)

    manifest = build(tmp_path / "cache", batches(range(8)), FrozenReference(Half(1, 1)))
    assert manifest.num_missing == 1
    assert "1 examples are missing: sample 2: bad 2" in caplog.text
    assert manifest.identity["model"].startswith("Half ")


def test_a_row_that_lacks_one_side_is_missing(tmp_path):
    class NoText(Reference):
        def embed(self, batch):
            found = super().embed(batch)
            text = found.text.half()
            text[batch["sample_id"] == 5] = torch.nan
            self.image = found.image.half()
            return Embeddings(self.image, text, found.logit_scale, found.logit_bias)

    reference = NoText()
    assert build(tmp_path / "cache", batches(range(8)), reference).num_missing == 1
    assert np.isnan(zarr.open_group(tmp_path / "cache", mode="r")["image"][5]).all()
    assert reference.image.isfinite().all(), "what the reference returned stays as it was"


class Far(Reference):
    def embed(self, batch):
        found = super().embed(batch)
        return Embeddings(found.image * 1.1, found.text, 5.0)


class HalfNan(Reference):
    def embed(self, batch):
        found = super().embed(batch)
        found.text[1, 0] = torch.nan
        return found


class Drifting(Reference):
    def embed(self, batch):
        self.logit_scale += 1
        return super().embed(batch)


@pytest.mark.parametrize(
    ("ids", "reference", "message"),
    [
        ([*range(18), 3], Reference(), r"must come once, but 1 came again \(first 3\)"),
        (np.arange(18) / 2, Reference(), "one whole number per example, got float64"),
        (range(18), torch.nn.Linear(1, 1), "reference must be an embedder, got Linear"),
        ([], Reference(), "at least one example, but yielded none"),
        (range(18), Far(), "image embeddings must be .* of unit norm, but that of sample 0 has no"),
        (range(18), HalfNan(), "text embeddings must be finite .* that of sample 1 has norm nan"),
        (
            range(18),
            Drifting(),
            "one logit_scale throughout, but the reference's was 8.5 and is now 9.5",
        ),
        (
            range(18),
            Reference(logit_scale=-1.0),
            "logit_scale must be positive and finite .*, got -1.0",
        ),
        (range(18), Reference(bad=range(18)), "use some examples of the first batch, but of sam"),
        (range(18), Reference(bad=range(7, 14)), "of 7, from sample 7 on, it could use none"),
        (range(5), NanReference(), "of 5, from sample 0 on, it could use none"),
        (range(18), lambda batch: torch.zeros(3), r"shape \(4,\), .* got torch.float32 of \(3,\)"),
        (range(18), lambda batch: 1.0, "one number per example, got float; use reduction='none'"),
        (
            range(18),
            lambda batch: torch.tensor([0, 0, torch.inf, 0]),
            "losses must be finite.*infinite one for sample 2",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path, ids, reference, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "cache", batches(list(ids)), reference, chunk_rows=7)
    with pytest.raises(ValueError, match=r"must be whole, but its building|no reference cache"):
        CachedReference.open(tmp_path / "cache")


@pytest.mark.parametrize("stop", [0, 1, 3, 4])
@pytest.mark.parametrize("chunk_rows", [4, 7])
def test_a_stopped_building_goes_on(tmp_path, chunk_rows, stop):
    arguments = (tmp_path / "cache", batches(SPARSE))
    with pytest.raises(Stopped):
        build(*arguments, Stopping(stop), chunk_rows=chunk_rows)
    after = Reference()
    build(*arguments, after, chunk_rows=chunk_rows)
    build(tmp_path / "whole", batches(SPARSE), Reference(), chunk_rows=chunk_rows)
    assert content(tmp_path / "cache") == content(tmp_path / "whole")
    # A batch is under way while the one before it is kept.
    there = max(0, stop - 1) * 4 // chunk_rows * chunk_rows
    assert len(after.seen) == 18 - there // 4 * 4, "only whole batches are embedded"
    again = Reference()
    build(*arguments, again, chunk_rows=chunk_rows)
    assert again.seen == []


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_rows": 3}, "chunk_rows 4, which cannot go on with 3; choose another"),
        ({"identity": {"tokenizer": "b"}}, "tokenizer 'a', which cannot go on with 'b'"),
        ({"identity": {}}, "tokenizer 'a', which cannot go on with None"),
        ({"reference": lambda batch: torch.zeros(4)}, "kind 'embeddings', which .* with 'loss'"),
    ],
)
def test_other_settings_are_refused_with_both_values(tmp_path, finished, options, message):
    settings = {"chunk_rows": 4, "identity": {"tokenizer": "a"}}
    path, source = tmp_path / "cache", batches(range(16))
    if finished:
        build(path, source, Reference(), **settings)
    else:
        with pytest.raises(Stopped):
            build(path, source, Stopping(2), **settings)
    changed = {"reference": Reference(), **settings, **options}
    with pytest.raises(ValueError, match=message):
        build(path, source, **changed)
    build(path, source, **changed, overwrite=True)


def test_a_model_that_was_trained_on_is_another(tmp_path):
    class Model(torch.nn.Linear):
        def embed(self, batch):
            return Reference().embed(batch)

    model = Model(2, 2)
    build(tmp_path / "cache", batches(range(8)), FrozenReference(model))
    build(tmp_path / "cache", batches(range(8)), FrozenReference(model))
    with torch.no_grad():
        model.weight[0, 0] += 1e-3
    with pytest.raises(ValueError, match=r"model 'Model .*', which cannot go on with 'Model "):
        build(tmp_path / "cache", batches(range(8)), FrozenReference(model))


def test_another_scale_than_before_the_stop_is_refused(tmp_path):
    arguments = (tmp_path / "cache", batches(range(16)))
    with pytest.raises(Stopped):
        build(*arguments, Stopping(3), chunk_rows=4)
    with pytest.raises(ValueError, match=r"one logit_scale .* was 7.5 and is now 8.0; freeze it"):
        build(*arguments, Reference(8.0), chunk_rows=4)


def test_only_a_cache_is_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite, message in ((False, "must not exist yet"), (True, "only a reference cache")):
        with pytest.raises(ValueError, match=message):
            build(tmp_path, batches(range(4)), Reference(), overwrite=overwrite)
    zarr.open_group(tmp_path / "group", mode="w")
    for overwrite, message in ((False, "is another Zarr group"), (True, "only a reference cache")):
        with pytest.raises(ValueError, match=message):
            build(tmp_path / "group", batches(range(4)), Reference(), overwrite=overwrite)
    assert (tmp_path / "notes.txt").read_text() == "mine"


COLUMNS = {"caption": "str"}


@pytest.fixture(params=["mds", "zarr"])
def stored(request, tmp_path):
    """A function that opens 50 rows in several blocks."""
    rows = ({"caption": f"row {row}"} for row in range(50))
    if request.param == "mds":
        write_mds(tmp_path / "data", COLUMNS, rows, shard_bytes=300)
    else:
        write_zarr(tmp_path / "data", COLUMNS, rows, chunk_rows=8)
    kind = MdsSource if request.param == "mds" else ZarrSource
    return lambda **options: kind(
        tmp_path / "data", **{"batch_size": 6, "shuffle": False, "drop_last": False, **options}
    )


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_source_that_seeks_is_not_read_again(stored, tmp_path, shuffle, monkeypatch):
    with pytest.raises(Stopped):
        build(tmp_path / "cache", stored(shuffle=shuffle), Stopping(7), chunk_rows=20)
    source = stored(shuffle=shuffle)
    next(iter(source))  # Where it stands does not matter.
    seeks = []
    seek = source.seek
    monkeypatch.setattr(source, "seek", lambda batch: (seeks.append(batch), seek(batch)))
    after = Reference()
    build(tmp_path / "cache", source, after, chunk_rows=20)
    assert seeks == [3]
    assert len(after.seen) == 50 - 18
    build(tmp_path / "whole", stored(shuffle=shuffle), Reference(), chunk_rows=20)
    assert content(tmp_path / "cache") == content(tmp_path / "whole")
    assert verify(tmp_path / "cache", expect={"data": source.fingerprint()}).num_rows == 50


@pytest.mark.parametrize(
    ("chunk_rows", "message"),
    [(20, "yielded 48; use drop_last=False"), (16, "ended before row 49; use drop_last=False")],
)
def test_rows_that_drop_last_leaves_out_are_missed(stored, tmp_path, chunk_rows, message):
    for _ in range(2):
        with pytest.raises(ValueError, match="yield the 50 examples that .* but " + message):
            build(tmp_path / "cache", stored(drop_last=True), Reference(), chunk_rows=chunk_rows)


class Rows(torch.utils.data.Dataset):
    """Says which of its rows are read."""

    def __init__(self) -> None:
        self.read = []

    def __len__(self) -> int:
        return 24

    def __getitem__(self, row: int) -> dict[str, int]:
        self.read.append(row)
        return {"sample_id": row}


def test_a_stateful_loader_goes_on_from_its_state(tmp_path):
    def loader(rows):
        return StatefulDataLoader(rows, batch_size=4)

    with pytest.raises(Stopped):
        build(tmp_path / "cache", loader(Rows()), Stopping(4), chunk_rows=8)
    rows = Rows()
    build(tmp_path / "cache", loader(rows), Reference(), chunk_rows=8)
    assert sorted(set(rows.read)) == list(range(8, 24))
    build(tmp_path / "whole", loader(Rows()), Reference(), chunk_rows=8)
    assert content(tmp_path / "cache") == content(tmp_path / "whole")


def test_progress_shows_what_is_done(tmp_path, capsys):
    with pytest.raises(Stopped):
        build(tmp_path / "cache", batches(range(16)), Stopping(3), chunk_rows=8)
    build(tmp_path / "cache", batches(range(16)), Reference(), chunk_rows=8, progress=True)
    assert "cache: 16 rows" in capsys.readouterr().err


class Promising(list):
    num_examples = 40


@pytest.mark.parametrize("source", [batches(range(40)), Promising(batches(range(40)))])
@pytest.mark.parametrize("num_calls", [1, 9])
def test_a_call_goes_home_with_the_cache_that_another_has_finished(tmp_path, source, num_calls):
    class Interrupted(Reference):
        """Before one of its batches, the same call is made by another process, and ends."""

        def embed(self, batch):
            nonlocal num_calls
            num_calls -= 1
            if num_calls == 0:
                build(tmp_path / "cache", source, Reference(), chunk_rows=8)
            return super().embed(batch)

    manifest = build(tmp_path / "cache", source, Interrupted(), chunk_rows=8)
    assert manifest == verify(tmp_path / "cache")
    assert num_calls <= 0
    assert not (tmp_path / "cache" / "building").exists()


def test_a_call_that_finds_a_finished_cache_does_not_wait_for_records(tmp_path, monkeypatch):
    def finish_first(builder, rank):
        built(builder, rank)
        monkeypatch.undo()
        build(tmp_path / "cache", source, Reference(), chunk_rows=8)

    built = Builder.build
    monkeypatch.setattr(Builder, "build", finish_first)
    source = Promising(batches(range(40)))
    manifest = build(tmp_path / "cache", source, Reference(), chunk_rows=8)
    assert manifest == verify(tmp_path / "cache")


def test_processes_of_one_number_on_two_machines_do_not_share_a_file(tmp_path, monkeypatch):
    settings = Settings("loss", 8, None, {})
    real = os.fsync

    def write_too(file):
        monkeypatch.undo()
        CacheFolder(tmp_path / "cache", settings)
        real(file)

    (tmp_path / "cache" / "building").mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", write_too)
    CacheFolder(tmp_path / "cache", settings)
    assert [file.name for file in (tmp_path / "cache" / "building").iterdir()] == ["settings.json"]


def test_a_compiled_model_is_the_same_model():
    model = torch.nn.Linear(3, 2)
    assert model_fingerprint(torch.compile(model)) == model_fingerprint(model)
    assert model_fingerprint(torch.nn.Linear(3, 2)) != model_fingerprint(model)


def test_a_damaged_cache_can_be_overwritten(tmp_path):
    path = tmp_path / "cache"
    build(path, batches(range(8)), Reference())
    group = path / "zarr.json"
    group.write_text(group.read_text()[:100])
    with pytest.raises(ValueError, match=r"is damaged .* build it again"):
        build(path, batches(range(8)), Reference())
    manifest = build(path, batches(range(8)), Reference(), overwrite=True)
    assert verify(path) == manifest


def test_a_process_killed_while_it_overwrites_leaves_room_for_the_next(tmp_path, monkeypatch):
    def killed(path, **_):
        shutil.rmtree(path / "text")
        raise Stopped

    path = tmp_path / "cache"
    build(path, batches(range(8)), Reference())
    monkeypatch.setattr("jest_loader.reference_cache.folder.shutil", SimpleNamespace(rmtree=killed))
    with pytest.raises(Stopped):
        build(path, batches(range(12)), Reference(), overwrite=True)
    monkeypatch.undo()
    assert build(path, batches(range(12)), Reference()).num_rows == 12
