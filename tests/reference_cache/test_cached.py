"""Cached references: found by id, refused where they belong elsewhere, and what is missing."""

import json

import numpy as np
import pytest
import torch

from jest_loader import (
    CachedLosses,
    CachedReference,
    ColumnReference,
    EasyReference,
    Embeddings,
    FactoredScores,
    FrozenReference,
    JestDataset,
    JointSelector,
    Learnability,
    Options,
    PerExample,
    SkipRowsError,
)
from jest_loader.adapters.mds import MdsSource
from jest_loader.pack import write_mds
from jest_loader.reference_cache import build, verify
from jest_loader.reference_cache.format import ArrayForm
from jest_loader.reference_cache.mapped_rows import MappedRows
from tests.helpers import random_embeddings

KNOWN = random_embeddings(40, 6, seed=3, dtype=torch.float32)
IDS = np.random.default_rng(1).choice(10**15, 40, replace=False) - 5 * 10**14


class Reference:
    """Looks rows up in what a test knows; some of them are bad."""

    def __init__(self, bad=(), logit_scale=10.0, width=6) -> None:
        self.bad, self.logit_scale, self.width = bad, logit_scale, width
        self.seen = []

    def embed(self, batch):
        ids = np.asarray(batch["sample_id"])
        bad = dict.fromkeys(np.flatnonzero(np.isin(ids, self.bad)).tolist(), "bad")
        if bad:
            raise SkipRowsError(bad)
        self.seen += ids.tolist()
        rows = np.array([np.flatnonzero(i == IDS)[0] for i in ids])
        image, text = (side[rows, : self.width] for side in (KNOWN.image, KNOWN.text))
        return Embeddings(image, text, self.logit_scale, -5.0)


def batches(ids, size=8):
    return [{"sample_id": ids[i : i + size]} for i in range(0, len(ids), size)]


@pytest.fixture
def cache(tmp_path):
    """Rows 0 to 29, of which 4 and 20 are missing."""
    path = tmp_path / "cache"
    identity = {"tokenizer": "words of 64 ids", "data": "abc"}
    reference = Reference(bad=IDS[[4, 20]])
    build(path, batches(IDS[:30]), reference, identity=identity, chunk_rows=7)
    return path


@pytest.mark.parametrize("row_shape", [(), (5,)])
@pytest.mark.parametrize("chunk_rows", [1, 3, 64])
def test_mapped_rows_are_those_of_one_array(tmp_path, row_shape, chunk_rows):
    stored = np.random.default_rng(0).normal(size=(50, *row_shape)).astype(np.float16)
    form = ArrayForm(stored.dtype, row_shape, 50, chunk_rows)
    padded = np.concatenate([stored, np.zeros((chunk_rows, *row_shape), np.float16)])
    files = []
    for number in range(form.num_chunks):
        files.append(tmp_path / str(number))
        padded[number * chunk_rows : (number + 1) * chunk_rows].tofile(files[-1])
    rows = MappedRows(files, form, lambda number, content: None)
    for file in files:
        file.unlink()
    for index in (np.arange(50), np.array([49, 0, 17, 17]), np.arange(0)):
        np.testing.assert_array_equal(rows[index], stored[index])
    assert rows.shape == stored.shape


def test_a_sample_without_a_row_is_an_error(cache):
    cached = CachedReference.open(cache)
    fine = cached.embed({"sample_id": IDS[[3, 5]]})
    assert torch.equal(fine.image, KNOWN.image[[3, 5]].half())
    for rows, message in (
        (
            [3, 20],
            rf"1 of this batch have none \(sample {IDS[20]}: the reference could not use it\)",
        ),
        ([33, 3], rf"have none \(sample {IDS[33]}: it is not in the reference cache\); build the"),
        (
            [4, 33],
            f"2 of this .*sample {IDS[4]}: the reference .*; sample {IDS[33]}: it is not in",
        ),
        (range(29, 40), r"10 of this .*; sample .* cache\); build the cache from this data"),
    ):
        with pytest.raises(ValueError, match=message):
            cached.embed({"sample_id": IDS[list(rows)]})


def test_a_sample_without_a_row_is_skipped(cache):
    cached = CachedReference.open(cache, missing="skip")
    found = cached.embed({"sample_id": IDS[[3, 4, 35]]})
    assert found.image.isnan().all(1).tolist() == [False, True, True]
    assert found.text.isnan().all(1).tolist() == [False, True, True]
    assert found.skipped == {
        1: "the reference could not use it",
        2: "it is not in the reference cache",
    }
    source = [{"sample_id": IDS[:32]}]  # Rows 4, 20, 30 and 31 are missing.
    dataset = JestDataset(
        source,
        EasyReference(cached),
        super_batch_size=32,
        sub_batch_size=24,
        options=Options(max_skipped_fraction=0.2),
    )
    (chosen,) = dataset
    assert not np.isin(IDS[[4, 20, 30, 31]], chosen["sample_id"]).any()
    assert dataset.counts.skipped == 4
    assert dataset.stats.skipped == (
        f"sample {IDS[4]}: the reference could not use it",
        f"sample {IDS[20]}: the reference could not use it",
        f"sample {IDS[30]}: it is not in the reference cache",
        f"sample {IDS[31]}: it is not in the reference cache",
    )


def test_a_sample_without_a_row_is_scored_live(cache):
    live = Reference(bad=IDS[[4, 31]])

    class Leaving:
        """As LiveLearner: rows that it cannot use are NaN, with the reason."""

        def embed(self, batch):
            found = live.embed(
                {"sample_id": batch["sample_id"][~np.isin(batch["sample_id"], live.bad)]}
            )
            good = torch.from_numpy(~np.isin(batch["sample_id"], live.bad))
            image, text = (
                torch.full((len(good), 6), torch.nan).masked_scatter(good[:, None], side)
                for side in (found.image, found.text)
            )
            return Embeddings(image, text, 10.0, -5.0, {0: "torn", 3: "torn too"})

    cached = CachedReference.open(cache, missing=Leaving())
    found = cached.embed({"sample_id": IDS[[3, 4, 20, 35, 31]]})
    assert live.seen == IDS[[20, 35]].tolist(), "only those that the cache lacks"
    assert found.image.isnan().all(1).tolist() == [False, True, False, False, True]
    assert found.skipped == {1: "torn", 4: "torn too"}
    assert torch.equal(found.image[[0, 2, 3]], KNOWN.image[[3, 20, 35]].half())
    assert torch.equal(found.text[[0, 2, 3]], KNOWN.text[[3, 20, 35]].half())
    none_usable = CachedReference.open(cache, missing=Reference(bad=IDS))
    found = none_usable.embed({"sample_id": IDS[[3, 4]]})
    assert found.image.isnan().all(1).tolist() == [False, True]
    assert found.skipped == {1: "bad"}


def test_an_embedder_for_what_is_missing_may_refuse_some_of_it(cache):
    cached = CachedReference.open(cache, missing=Reference(bad=IDS[[35]]))
    found = cached.embed({"sample_id": IDS[[3, 35, 20]]})
    assert torch.equal(found.image[[0, 2]], KNOWN.image[[3, 20]].half())
    assert found.image.isnan().all(1).tolist() == [False, True, False]
    assert found.skipped == {1: "bad"}


@pytest.mark.parametrize(
    ("live", "message"),
    [
        (Reference(logit_scale=11.0), "but its logit_scale is 11.0 and the cache's 10.0"),
        (Reference(width=5), "have width 5 and the cache's 6"),
    ],
)
def test_another_model_for_what_is_missing_is_refused(cache, live, message):
    with pytest.raises(ValueError, match=message):
        CachedReference.open(cache, missing=live).embed({"sample_id": IDS[[33]]})


def test_other_weights_for_what_is_missing_are_refused(tmp_path):
    def embed(model, batch):
        sides = model(batch["x"])
        rows = torch.nn.functional.normalize(sides)
        return Embeddings(rows, rows, 10.0)

    def reference(seed):
        torch.manual_seed(seed)
        return FrozenReference(torch.nn.Linear(3, 4), embed)

    batch = {"sample_id": torch.arange(8), "x": torch.randn(8, 3)}
    some = {name: column[:4] for name, column in batch.items()}
    build(tmp_path / "cache", [some], reference(0))
    same = CachedReference.open(tmp_path / "cache", missing=reference(0)).embed(batch)
    torch.testing.assert_close(
        same.image[4:].float(), reference(0).embed(batch).image[4:], atol=1e-3, rtol=0
    )
    with pytest.raises(ValueError, match=r"must be the cache's model, but it runs Linear \w+ and"):
        CachedReference.open(tmp_path / "cache", missing=reference(1))


def test_losses_have_the_same_policies(tmp_path):
    def loss(batch):
        return torch.as_tensor(batch["sample_id"] % 97).float()

    build(tmp_path / "cache", batches(IDS[:30]), loss, chunk_rows=7)
    batch = {"sample_id": IDS[[35, 3]]}
    expected = loss(batch)
    with pytest.raises(ValueError, match=rf"sample {IDS[35]}: it is not in .*or a function"):
        CachedLosses.open(tmp_path / "cache").values(batch)
    skipped = CachedLosses.open(tmp_path / "cache", missing="skip").values(batch)
    assert skipped.isnan().tolist() == [True, False]
    assert skipped[1] == expected[1]
    live = CachedLosses.open(tmp_path / "cache", missing=loss)
    assert torch.equal(live.values(batch), expected)
    assert len(live) == 30
    with pytest.raises(ValueError, match=r"one loss per example, shape \(1,\), got \(1, 2\)"):
        CachedLosses.open(tmp_path / "cache", missing=lambda batch: torch.ones(1, 2)).values(batch)
    given = CachedLosses(torch.tensor([5.0, torch.nan]), ids=[7, -3], missing="skip")
    found = given.values({"sample_id": torch.tensor([-3, 7, 9])})
    torch.testing.assert_close(found, torch.tensor([torch.nan, 5.0, torch.nan]), equal_nan=True)


def test_stored_losses_say_why_candidates_have_none():
    def live(batch):
        if 9 in batch["sample_id"]:
            row = batch["sample_id"].tolist().index(9)
            raise SkipRowsError({row: "torn"})
        return torch.full((len(batch["sample_id"]),), 3.0)

    def scores(missing):
        cached = CachedLosses(torch.tensor([5.0]), ids=[7], missing=missing)
        scorer = PerExample(
            torch.nn.Linear(1, 1), lambda model, batch: torch.ones(len(batch["sample_id"])), cached
        )
        return scorer.score({"sample_id": torch.tensor([4, 9, 7])})

    found = scores("skip")
    assert found.skipped == dict.fromkeys((0, 1), "it is not in the reference cache")
    found = scores(live)
    assert found.skipped == {1: "torn"}
    torch.testing.assert_close(found.logits, torch.tensor([-2.0, torch.nan, -4.0]), equal_nan=True)


def test_a_cache_that_belongs_elsewhere_is_refused_with_both_values(cache):
    CachedReference.open(cache, expect={"tokenizer": "words of 64 ids"})
    for expect, message in (
        ({"tokenizer": "words of 128 ids"}, "tokenizer of .* is 'words of 64 ids' and here it is "),
        ({"data": "abd"}, "the data of .* is 'abc' and here it is 'abd'; build the cache again"),
        ({"model": "x"}, "the model of .* is none that it knows of and here it is 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            CachedReference.open(cache, expect=expect)
        with pytest.raises(ValueError, match=message):
            verify(cache, expect=expect)
    with pytest.raises(
        ValueError, match=r"must hold loss, but .* holds embeddings; open it with C"
    ):
        CachedLosses.open(cache)


def damage(path, change):
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["image/c/2/0", "text/c/4/0", "sample_id/c/0", "index/row/c/0"])
def test_a_damaged_chunk_is_named(cache, name):
    verify(cache)
    damage(cache / name, lambda content: content.__setitem__(5, content[5] ^ 1))
    with pytest.raises(ValueError, match=rf"damaged \(.*{name} must have the BLAKE2b .*, got"):
        verify(cache)
    damage(cache / name, lambda content: content.pop())
    for read in (verify, CachedReference.open):
        with pytest.raises(ValueError, match=rf"damaged \(.*{name} must have \d+ bytes, but has"):
            read(cache)
    (cache / name).unlink()
    for read in (verify, CachedReference.open):
        with pytest.raises(ValueError, match=r"bytes, but is missing\); build it again"):
            read(cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(version=7), "must have version 5, got 7 at .*; build it"),
        (lambda manifest: manifest.pop("logit_scale"), "damaged .its manifest lacks logit_scale"),
    ],
)
def test_another_manifest_is_refused(cache, change, message):
    group = json.loads((cache / "zarr.json").read_text())
    change(group["attributes"]["jest_loader_cache"])
    (cache / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(ValueError, match=message):
        CachedReference.open(cache)
    (cache / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match=r"damaged \(zarr.json cannot be read"):
        CachedReference.open(cache)


def test_the_old_form_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"version": 1}')
    with pytest.raises(ValueError, match=r"must have version 5, got 1 at .*; build it again"):
        CachedReference.open(tmp_path)


def test_rows_may_have_any_ids(cache):
    image, text = KNOWN.image.half().numpy(), KNOWN.text.half().numpy()
    cached = CachedReference(image, text, 10.0, -5.0, ids=IDS)
    batch = {"sample_id": IDS[[5, 29, 3]]}
    opened = CachedReference.open(cache)
    assert torch.equal(cached.embed(batch).image, opened.embed(batch).image)
    with pytest.raises(ValueError, match=r"must come once, but 1 came again \(first 4\)"):
        CachedReference(image[:3], text[:3], 1.0, ids=[4, 2, 4])
    with pytest.raises(ValueError, match=r"shape \(3,\), one for each row, got int64 of \(2,\)"):
        CachedReference(image[:3], text[:3], 1.0, ids=[4, 2])
    with pytest.raises(ValueError, match=r"missing, where it is not 'error' or 'skip', must be an"):
        CachedReference(image, text, 1.0, missing="live")
    with pytest.raises(ValueError, match=r"'error', 'skip' or a function .* got 'live'"):
        CachedLosses(image[:, 0], missing="live")
    with pytest.raises(ValueError, match=r"losses must have shape \[examples\], got \(40, 6\)"):
        CachedLosses(image)


def test_embeddings_may_travel_in_the_shards(cache, tmp_path):
    """From a cache into columns of new shards, and from there to the same selection."""
    missing = CachedReference.open(cache, missing="skip")
    columns = {"sample_id": "int64", **dict.fromkeys(("image", "text"), "ndarray:float16:6")}

    def rows():
        for row in range(30):
            found = missing.embed({"sample_id": IDS[[row]]})
            sides = {"image": found.image[0].numpy(), "text": found.text[0].numpy()}
            yield {"sample_id": int(IDS[row]), **sides}

    write_mds(tmp_path / "data", columns, rows())
    source = MdsSource(tmp_path / "data", batch_size=30, shuffle=False, id_column=None)
    reference = ColumnReference(
        "image", "text", logit_scale=missing.logit_scale, logit_bias=missing.logit_bias
    )
    chosen = [
        next(
            iter(
                JestDataset(
                    source,
                    EasyReference(one),
                    super_batch_size=30,
                    sub_batch_size=10,
                    options=Options(max_skipped_fraction=0.1),
                )
            )
        )["sample_id"].tolist()
        for one in (missing, reference)
    ]
    assert chosen[0] == chosen[1]
    (batch,) = source
    assert reference.embed(batch).skipped == dict.fromkeys(
        [4, 20], "its reference embedding is NaN"
    )
    with pytest.raises(ValueError, match=r"its column 'x' is not there or holds something else"):
        ColumnReference("x", logit_scale=1.0).embed({"image": [b"a"]})


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_half_precision_hardly_changes_the_selection(tmp_path, loss):
    """5,120 candidates whose captions agree with their images more or less, as trained models see
    them: at least 99 % of the picks are those of the live fp32 reference under the same noise.
    """
    size, width = 5120, 256
    bias = -12.9 if loss == "sigmoid" else None

    def model(seed, noise):
        generator = torch.Generator().manual_seed(seed)
        topic = torch.randn(200, width, generator=torch.Generator().manual_seed(0))
        topic = topic[torch.arange(size) % 200]
        own = torch.randn(size, width, generator=torch.Generator().manual_seed(1))
        agreement = torch.rand(size, 1, generator=torch.Generator().manual_seed(2))
        sides = [
            topic + own + share * torch.randn(size, width, generator=generator)
            for share in (noise * torch.ones(1), noise + 2 * (1 - agreement))
        ]
        unit = torch.nn.functional.normalize
        return Embeddings(unit(sides[0]), unit(sides[1]), 100.0 if bias is None else 40.0, bias)

    learner, reference = model(3, 1.0), model(4, 0.5)

    class Live:
        def embed(self, batch):
            rows = torch.as_tensor(batch["sample_id"])
            return Embeddings(
                reference.image[rows],
                reference.text[rows],
                reference.logit_scale,
                reference.logit_bias,
            )

    class Learner:
        def embed(self, batch):
            return learner

    source = [{"sample_id": np.arange(size)}]
    build(tmp_path / "cache", source, Live(), chunk_rows=1000)
    cached = CachedReference.open(tmp_path / "cache")
    picks = [
        JointSelector().select(Learnability(Learner(), side, loss).score(source[0]), 1024, key=0)
        for side in (Live(), cached)
    ]
    agreed = len(set(picks[0].tolist()) & set(picks[1].tolist())) / 1024
    assert agreed >= 0.99
    assert isinstance(Learnability(Learner(), cached, loss).score(source[0]), FactoredScores)


def test_tensors_may_be_trained_or_in_bf16():
    rows = torch.nn.functional.normalize(torch.randn(4, 8), dim=1).bfloat16().requires_grad_()
    found = CachedReference(rows, rows, 10.0, -5.0).embed({"sample_id": np.array([2, 0])})
    assert torch.equal(found.image, rows.detach()[[2, 0]].float())
    loss = torch.arange(4.0, requires_grad=True)
    assert CachedLosses(loss).values({"sample_id": np.array([3])}).tolist() == [3]
