"""How a model is run on candidates: prepared, within a memory budget, without the bad rows."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import normalize

from jest_loader import (
    Embeddings,
    FrozenReference,
    HardLearner,
    JestDataset,
    LiveLearner,
    OnlineProxy,
    Options,
    PerExample,
    Shrink,
    SkipRowsError,
)
from jest_loader.adapters.images import DecodeImages
from jest_loader.scoring import memory
from jest_loader.scoring.memory import largest_that_fits


class Pooled(nn.Module):
    """Embeds images of any size, and records how many came at once and how large they were."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 6)
        self.seen: list[tuple[int, ...]] = []

    def embed(self, batch):
        self.seen.append(tuple(batch["image"].shape))
        rows = normalize(self.layer(batch["image"].float().mean(dim=(2, 3)) / 255), dim=1)
        return Embeddings(rows, rows, 10.0, -5.0)


def pictures(size: int, side: int = 32):
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(256, (size, 3, side, side), dtype=torch.uint8, generator=generator)
    }


def jpegs(count: int, bad: tuple[int, ...] = ()):
    encoded = []
    for row in range(count):
        buffer = io.BytesIO()
        shade = Image.new("RGB", (64, 48), (10 * row % 256, 0, 255 - row))
        shade.save(buffer, "JPEG")
        encoded.append(b"torn" if row in bad else buffer.getvalue())
    return {"image": encoded, "number": torch.arange(count)}


def test_candidates_are_prepared_by_micro_batches_before_the_model():
    model = Pooled()
    found = LiveLearner(model, prepare=Shrink("image", 8), micro_batch_size=4).embed(pictures(10))
    assert model.seen == [(4, 3, 8, 8), (4, 3, 8, 8), (2, 3, 8, 8)]
    whole = LiveLearner(model).embed(pictures(10))
    torch.testing.assert_close(found.image, whole.image, atol=1e-2, rtol=0)


def test_a_proxy_trains_on_what_it_scored():
    model = Pooled()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    proxy = OnlineProxy(model, optimizer, prepare=Shrink("image", 8))
    proxy.embed(pictures(4))
    proxy.update(pictures(2))
    assert model.seen == [(4, 3, 8, 8), (2, 3, 8, 8)]


@pytest.mark.parametrize("micro_batch_size", [None, 1, 3])
def test_undecoded_records_are_decoded_for_scoring(micro_batch_size):
    model = Pooled()
    decode = DecodeImages("image", 16, fast_scaling=True, num_threads=1)
    learner = LiveLearner(model, prepare=decode, micro_batch_size=micro_batch_size)
    found = learner.embed(jpegs(8, bad=(1, 6)))
    expected = LiveLearner(model).embed(decode(jpegs(8)))
    good = [0, 2, 3, 4, 5, 7]
    torch.testing.assert_close(found.image[good], expected.image[good])
    assert torch.isnan(found.image[[1, 6]]).all()
    assert list(found.skipped) == [1, 6]
    assert all("image" in reason for reason in found.skipped.values())


def test_bad_images_cost_their_candidates_only():
    decode = DecodeImages("image", 16, fast_scaling=True, num_threads=1)
    scorer = HardLearner(LiveLearner(Pooled(), prepare=decode))
    dataset = JestDataset(
        [jpegs(20, bad=(3,))], scorer, super_batch_size=20, sub_batch_size=19,
        options=Options(max_skipped_fraction=0.1),
    )  # fmt: skip
    (sub_batch,) = dataset
    assert 3 not in sub_batch["number"]
    assert dataset.counts.skipped == 1


@pytest.mark.parametrize("micro_batch_size", [None, 3, 7])
def test_reasons_are_those_of_the_rows_of_the_whole_batch(micro_batch_size):
    """Some rows are refused by ``prepare``, and of some the model returns NaN and a reason."""

    def prepare(batch):
        bad = {row: f"odd {n}" for row, n in enumerate(batch["n"].tolist()) if n in (1, 4)}
        if bad:
            raise SkipRowsError(bad)
        return batch

    def embed(model, batch):
        rows = torch.eye(8)[batch["n"]]
        nan = {row: f"nan {n}" for row, n in enumerate(batch["n"].tolist()) if n in (2, 7)}
        rows[list(nan)] = torch.nan
        return Embeddings(rows, rows, 10.0, -5.0, nan)

    learner = LiveLearner(
        nn.Linear(1, 1), embed, prepare=prepare, micro_batch_size=micro_batch_size
    )
    found = learner.embed({"n": torch.arange(8)})
    assert found.skipped == {1: "odd 1", 2: "nan 2", 4: "odd 4", 7: "nan 7"}
    assert found.image.isnan().all(dim=1).nonzero()[:, 0].tolist() == [1, 2, 4, 7]


def test_rows_that_turn_out_bad_one_after_the_other_are_all_left_out():
    """``prepare`` refuses some, and the model others of those that are left."""

    def prepare(batch):
        bad = {row: "odd" for row, n in enumerate(batch["number"].tolist()) if n % 2}
        if bad:
            raise SkipRowsError(bad)
        return batch

    def loss(model, batch):
        bad = {row: "four" for row, n in enumerate(batch["number"].tolist()) if n == 4}
        if bad:
            raise SkipRowsError(bad)
        return batch["number"].float()

    found = PerExample(nn.Linear(1, 1), loss, prepare=prepare).values({"number": torch.arange(7)})
    nan = float("nan")
    expected = torch.tensor([0, nan, 2, nan, nan, nan, 6])
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_rows_to_skip_must_be_the_batchs():
    def loss(model, batch):
        raise SkipRowsError({5: "torn"})

    with pytest.raises(ValueError, match=r"name rows of the batch .* from 0 to 4, got 5"):
        PerExample(nn.Linear(1, 1), loss).values({"number": torch.arange(5)})


def proxy_of(model, **options):
    return OnlineProxy(model, torch.optim.SGD(model.parameters(), lr=0.1), **options)


def losses_of(model, **options):
    return PerExample(model, lambda model, batch: None, **options)


@pytest.mark.parametrize("make", [LiveLearner, FrozenReference, proxy_of, losses_of])
def test_all_that_run_a_model_take_the_same_options(make):
    make(Pooled(), prepare=Shrink("image", 8), micro_batch_size=4)
    with pytest.raises(
        TypeError, match=r"'microbatch'; .* prepare, micro_batch_size, max_memory_b"
    ):
        make(Pooled(), microbatch=4)
    with pytest.raises(ValueError, match="prepare must be a function of a batch or None, got 'x'"):
        make(Pooled(), prepare="x")
    with pytest.raises(ValueError, match="micro_batch_size or max_memory_bytes, not both, got 4 a"):
        make(Pooled(), micro_batch_size=4, max_memory_bytes=100)


def test_a_reference_and_a_proxy_are_no_live_learners():
    assert not isinstance(FrozenReference(Pooled()), LiveLearner)
    assert not isinstance(proxy_of(Pooled()), LiveLearner)


def linear(fixed: int, per_row: int, tried: list[int]):
    def peak(rows: int) -> int:
        tried.append(rows)
        return fixed + per_row * rows

    return peak


@pytest.mark.parametrize(
    ("fixed", "per_row", "max_bytes", "most", "expected"),
    [
        (0, 10, 10, 100, 1),
        (0, 10, 19, 100, 1),
        (0, 10, 20, 100, 2),
        (0, 10, 639, 100, 32),
        (500, 10, 820, 100, 32),
        (500, 10, 819, 100, 16),
        (0, 10, 10**6, 100, 100),
        (0, 10, 10**6, 1, 1),
        (500, 0, 500, 48, 48),
    ],
)
def test_the_largest_micro_batch_that_fits(fixed, per_row, max_bytes, most, expected):
    tried = []
    assert largest_that_fits(linear(fixed, per_row, tried), max_bytes, most) == expected
    beyond = [rows for rows in tried if fixed + per_row * rows > max_bytes]
    assert all(rows == 2 for rows in beyond), "growth is known from two rows on"


def test_one_candidate_must_fit():
    with pytest.raises(ValueError, match="enough for one candidate, which takes 30, got 20"):
        largest_that_fits(linear(20, 10, []), 20, 8)


def test_memory_is_measured_on_the_first_super_batch_only(monkeypatch):
    """On a CPU, with a measure that says 10 bytes a row."""
    model = Pooled()

    def peak(run, device):
        run()
        return 10 * model.seen[-1][0]

    monkeypatch.setattr(memory, "peak_bytes", peak)
    monkeypatch.setattr(memory, "_check_device", lambda device: None)
    learner = LiveLearner(model, max_memory_bytes=85)
    expected = LiveLearner(Pooled(), lambda _, batch: model.embed(batch)).embed(pictures(20))
    model.seen.clear()
    found = learner.embed(pictures(20))
    assert [shape[0] for shape in model.seen] == [1, 1, 2, 4, 8, 8, 8, 4]
    torch.testing.assert_close(found.image, expected.image)
    model.seen.clear()
    learner.embed(pictures(24))
    assert [shape[0] for shape in model.seen] == [8, 8, 8]


def test_a_larger_super_batch_is_measured_again_if_the_first_one_fitted(monkeypatch):
    model = Pooled()

    def peak(run, device):
        run()
        return 10 * model.seen[-1][0]

    monkeypatch.setattr(memory, "peak_bytes", peak)
    monkeypatch.setattr(memory, "_check_device", lambda device: None)
    learner = LiveLearner(model, max_memory_bytes=85)
    learner.embed(pictures(3))
    assert model.seen[-1][0] == 3
    learner.embed(pictures(20))
    assert [shape[0] for shape in model.seen[-3:]] == [8, 8, 4]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_shrinking_by_whole_factors_stays_near_the_average_over_areas(dtype):
    """Of smooth images: there the antialiased filter and the plain average agree."""
    ramp = torch.linspace(0, 200, 32)
    image = (ramp[:, None] + 0.2 * ramp).expand(2, 3, 32, 32).to(dtype)
    batch: dict[str, Any] = {"image": image, "number": [1, 2]}
    small = Shrink("image", 8)(batch)
    assert small["image"].dtype == dtype
    assert small["number"] == [1, 2]
    assert batch["image"].shape == (2, 3, 32, 32)
    expected = torch.nn.functional.avg_pool2d(image.float(), 4)
    inner = (..., slice(1, -1), slice(1, -1))  # The filter is cut at the border.
    torch.testing.assert_close(small["image"].float()[inner], expected[inner], atol=1.0, rtol=0)


def test_shrinking_looks_at_every_pixel():
    """Every fourth column is white; a filter that skips pixels would see black only."""
    stripes = torch.zeros(1, 1, 32, 32)
    stripes[..., ::4] = 255
    small = Shrink("image", 8)({"image": stripes})["image"][..., 1:-1]  # The filter is cut outside.
    torch.testing.assert_close(small, torch.full_like(small, 64), atol=12, rtol=0)


def test_shrinking_keeps_proportions():
    assert Shrink("x", 16)({"x": torch.zeros(1, 3, 48, 64)})["x"].shape == (1, 3, 16, 21)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shrink("image", 0), "size must be a whole number of at least 1, got 0"),
        (lambda: Shrink("pixels", 8)(pictures(2)), "the column 'pixels' to shrink, got 'image'"),
        (lambda: Shrink("image", 8)([1, 2]), "the column 'image' to shrink, got list"),
        (lambda: Shrink("image", 33)(pictures(2)), "of 32 x 32 have a shorter side of less than"),
        (lambda: Shrink("image", 8)(jpegs(2)), "a tensor of images, got list; DecodeImages makes"),
        (
            lambda: Shrink("image", 8)({"image": np.zeros((2, 3, 9, 9))}),
            "a tensor of images, got ndarray",
        ),
        (
            lambda: Shrink("image", 8)({"image": torch.zeros(2, 9, 9)}),
            r"uint8 or floating \[B, C, H, W\], got torch.float32 of \(2, 9, 9\)",
        ),
        (
            lambda: Shrink("image", 8)({"image": torch.zeros(2, 3, 9, 9, dtype=torch.int64)}),
            "got torch.int64 of",
        ),
    ],
)
def test_what_cannot_be_shrunk_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
