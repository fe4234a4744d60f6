"""From shards to the towers: what is decoded, when, and what becomes of pictures that cannot be."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from jest_loader.adapters.images import DecodeImages
from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.config.optimizer import OptimizerConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.train import DataConfig, TrainConfig
from jest_loader.clip.loading.build import build_loader
from jest_loader.clip.loading.cache import inputs_of
from jest_loader.clip.loading.columns import (
    Decode,
    Tokenize,
    open_shards,
    tokenize_and_decode,
)
from jest_loader.clip.models.towers import BundledArchitecture, TwoTower
from jest_loader.clip.train import train
from jest_loader.embeddings import Embeddings
from jest_loader.pack import PackConfig, pack, write_mds
from jest_loader.reference_cache import build
from jest_loader.skipped import SkipRowsError

MODEL = ModelConfig(
    image_size=8, channels=3, patch_size=4, vision_width=16, vision_depth=1,
    text_width=16, text_depth=0, heads=2, embed_dim=8, vocab_size=64, context_length=3,
)  # fmt: skip
ARCHITECTURE = BundledArchitecture(MODEL)
NUM_ROWS, BAD_ROW = 96, 37
SELECTIONS = {
    "uniform": SelectionConfig(),
    "live": SelectionConfig("joint", "hard_learner", filter_ratio=0.5, num_chunks=2),
    "cached": SelectionConfig("topk", "easy_reference", filter_ratio=0.5),
}


def jpeg(row: int) -> bytes:
    noise = np.random.default_rng(row).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize((20, 15)).save(stream, "JPEG")
    return stream.getvalue()


def packed(path: Path, bad_rows: tuple[int, ...] = ()) -> Path:
    rows = (
        {
            "image": jpeg(row)[:200] if row in bad_rows else jpeg(row),
            "caption": f"thing {row % 8}",
        }
        for row in range(NUM_ROWS)
    )
    write_mds(path, {"image": "bytes", "caption": "str"}, rows)
    return path


class FavoursBadRow:
    """Finds ``BAD_ROW`` the easiest of all."""

    def embed(self, batch):
        image = normalize(torch.rand(len(batch["sample_id"]), 8) + 0.1, dim=1)
        favoured = torch.from_numpy(batch["sample_id"] == BAD_ROW)
        text = torch.where(favoured[:, None], image, -image)
        return Embeddings(image, text, 10.0, -5.0)


def one_epoch(shards: Path, out: Path, name: str) -> TrainConfig:
    data, selection = DataConfig(train=shards, batch_size=8), SELECTIONS[name]
    if name == "cached":
        source = open_shards(shards, batch_size=8, shuffle=False, drop_last=False)
        cache = out.with_name("cache")
        build(cache, source, FavoursBadRow(), identity=inputs_of(data, ARCHITECTURE, "sigmoid"))
        selection = replace(selection, reference_cache=cache)
    return TrainConfig(
        data=data,
        out=out,
        model=MODEL,
        selection=selection,
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=2),
        steps=12 if name == "uniform" else 6,
        device="cpu",
    )


@pytest.fixture
def decoded(monkeypatch) -> list[object]:
    """Grows by one with each image that is decoded."""
    import jest_loader.adapters.images.decode_images as module

    calls: list[object] = []
    decode = module.decode  # type: ignore[attr-defined]
    monkeypatch.setattr(
        module, "decode", lambda *args, **options: (calls.append(args), decode(*args, **options))[1]
    )
    return calls


@pytest.mark.parametrize(("name", "expected"), [("uniform", 96), ("live", 96), ("cached", 48)])
def test_no_image_is_decoded_twice_or_for_nothing(name, expected, tmp_path, decoded):
    """A live learner looks at all candidates, a cache at none: then the chosen half is decoded."""
    train(one_epoch(packed(tmp_path / "shards"), tmp_path / "run", name))
    assert len(decoded) == expected


@pytest.mark.parametrize("name", list(SELECTIONS))
def test_a_run_survives_a_picture_that_cannot_be_decoded(name, tmp_path, caplog):
    shards = packed(tmp_path / "shards", (BAD_ROW,))
    run = train(one_epoch(shards, tmp_path / "run", name))
    assert run.counts.skipped == 1
    assert run.counts.trained == (95 if name == "uniform" else 48)
    assert "the image cannot be decoded" in caplog.text
    assert f"sample {BAD_ROW}: " in caplog.text
    assert run.summary()["counts"]["skipped"] == 1


def test_what_was_left_out_is_counted_on_after_a_resume(tmp_path):
    shards = packed(tmp_path / "shards", (BAD_ROW,))
    config = one_epoch(shards, tmp_path / "run", "uniform")
    import jest_loader.clip.train as module

    config = replace(config, steps=24, checkpoint_every=12)
    step, calls = module._train_step, iter(range(100))

    def until_the_second_epoch(run, batch):
        if next(calls) == 12:
            raise KeyboardInterrupt
        return step(run, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_train_step", until_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    run = train(config)
    assert (run.counts.loaded, run.counts.trained, run.counts.skipped) == (192, 190, 2)


@pytest.mark.parametrize("name", list(SELECTIONS))
def test_more_bad_pictures_than_the_budget_are_an_error_that_names_them(name, tmp_path):
    shards = packed(tmp_path / "shards", tuple(range(0, NUM_ROWS, 2)))
    with pytest.raises(ValueError, match=r"at most 1 of \d+ candidates may be skipped.* sample \d"):
        train(one_epoch(shards, tmp_path / "run", name))


def test_evaluation_names_the_pictures_it_cannot_read(tmp_path):
    bad = packed(tmp_path / "held_out", (3, 90))
    config = one_epoch(packed(tmp_path / "shards"), tmp_path / "run", "uniform")
    with pytest.raises(ValueError, match=r"held_out must be readable .* sample 3: .* sample 90: "):
        train(replace(config, data=replace(config.data, test=bad)))


def test_a_packed_folder_trains_and_its_pixels_are_those_of_decode_images(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for row in range(NUM_ROWS):
        (folder / f"{row:02d}.jpg").write_bytes(jpeg(row))
    lines = [f"{row:02d}.jpg,thing {row % 8}" for row in range(NUM_ROWS)]
    (tmp_path / "captions.csv").write_text("\n".join(["file,caption", *lines]))
    shards = tmp_path / "shards"
    pack(PackConfig((folder,), shards, captions=tmp_path / "captions.csv"))
    config = one_epoch(shards, tmp_path / "run", "live")
    assert train(config).counts.trained == 48
    (batch,) = open_shards(shards, batch_size=NUM_ROWS, shuffle=False)
    found = tokenize_and_decode(config.data, ARCHITECTURE)(batch)
    assert torch.equal(found["image"], DecodeImages("image", 8)(batch)["image"])
    assert found["caption"][9] == "thing 1"


def columns(image):
    return {"image": image, "caption": ["a"] * len(image), "sample_id": np.arange(len(image)) + 5}


def test_reading_and_decoding_are_apart():
    data = DataConfig(train=Path("unused"))
    encoded = [jpeg(0), jpeg(1)]
    read = Tokenize(data, ARCHITECTURE)(columns(encoded))
    assert read["image"] == encoded
    assert read["text"].shape == (2, 3)
    whole = tokenize_and_decode(data, ARCHITECTURE)(columns(encoded))
    assert torch.equal(Decode(ARCHITECTURE)(read)["image"], whole["image"])


def test_stored_pixels_are_delivered_as_they_are(decoded):
    stored = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    prepare = tokenize_and_decode(DataConfig(train=Path("unused")), ARCHITECTURE)
    found = prepare(columns(stored))["image"]
    assert torch.equal(found, torch.from_numpy(stored).permute(0, 3, 1, 2))
    assert decoded == []


def test_pictures_that_cannot_be_decoded_are_named_by_their_rows():
    prepare = tokenize_and_decode(DataConfig(train=Path("unused")), ARCHITECTURE)
    with pytest.raises(SkipRowsError) as caught:
        prepare(columns([jpeg(0), b"nothing"]))
    assert list(caught.value.reasons) == [1]


def test_towers_of_two_channels_cannot_take_encoded_pictures():
    prepare = tokenize_and_decode(
        DataConfig(train=Path("unused")), BundledArchitecture(replace(MODEL, channels=2))
    )
    with pytest.raises(ValueError, match="channels must be 1 or 3 for encoded images, got 2"):
        prepare(columns([jpeg(0)]))


def test_rows_are_shuffled_within_a_window_of_the_size_that_is_asked_for(tmp_path):
    rows = ({"image": jpeg(row), "caption": f"thing {row // 8}"} for row in range(NUM_ROWS))
    write_mds(tmp_path / "data", {"image": "bytes", "caption": "str"}, rows, shard_bytes=6000)
    config = one_epoch(tmp_path / "data", tmp_path / "run", "uniform")
    spread = {}
    for window_rows in (8, NUM_ROWS):
        data = replace(config.data, window_rows=window_rows)
        loader = build_loader(replace(config, data=data), TwoTower(MODEL), torch.device("cpu"))
        spread[window_rows] = len(set(next(iter(loader))["caption"]))
    assert spread[8] <= 3 < spread[NUM_ROWS]
    with pytest.raises(ValueError, match="window_rows must be a whole number of at least 1, got 0"):
        train(replace(config, data=replace(config.data, window_rows=0)))
