"""The trainer's reference cache: built by a command, and refused where it belongs elsewhere."""

import io
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jest_loader.cli import main
from jest_loader.clip.commands.cache import (
    CacheConfig,
    VerifyConfig,
    cache_command,
    verify_command,
)
from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.config.optimizer import OptimizerConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.train import DataConfig, TrainConfig
from jest_loader.clip.train import train
from jest_loader.pack import write_mds, write_zarr
from jest_loader.reference_cache.format import read_manifest
from jest_loader.scoring.models import FrozenReference

MODEL = ModelConfig(
    image_size=8, channels=1, patch_size=4, vision_width=16, vision_depth=1,
    text_width=16, text_depth=0, heads=2, embed_dim=8, vocab_size=64, context_length=3,
)  # fmt: skip
COLUMNS = {"image": "bytes", "caption": "str"}
ROWS = 48


def rows(first, last, bad=()):
    for row in range(first, last):
        pixels = np.zeros((8, 8), dtype=np.uint8)
        pixels[row % 8] = 255
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        image = buffer.getvalue()
        yield {"image": image[:40] if row in bad else image, "caption": f"bar {row % 8}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards of 48 rows, the same with others after them, and a cache of the first."""
    folder = tmp_path_factory.mktemp("cached")
    write_mds(folder / "data", COLUMNS, rows(0, ROWS), shard_bytes=1000)
    write_mds(folder / "other", COLUMNS, rows(1, ROWS + 1), shard_bytes=1000)
    train(config_for(folder, "reference", SelectionConfig(), steps=2))
    found = cache_command(command(folder))
    assert "cache: 48 examples, 0 of them missing, embeddings of width 8; the ref" in found
    return folder


def command(folder, **changes):
    settings = {
        "data": folder / "data",
        "checkpoint": folder / "reference" / "checkpoint.pt",
        "out": folder / "cache",
        "batch_size": 8,
        "chunk_rows": 16,
        "device": "cpu",
    }
    return CacheConfig(**{**settings, **changes})


def config_for(folder, out, selection, *, data="data", model=MODEL, **changes):
    return TrainConfig(
        DataConfig(folder / data, batch_size=8, augment=False),
        out=folder / out,
        model=model,
        selection=selection,
        optimizer=OptimizerConfig(warmup_steps=1),
        **{"steps": 1, "device": "cpu", **changes},
    )


def joint(folder, **changes):
    settings = {"filter_ratio": 0.5, "num_chunks": 2, "reference_cache": folder / "cache"}
    return SelectionConfig("joint", **{**settings, **changes})


def test_a_cache_is_verified_against_data_and_model(folder, tmp_path):
    checkpoint = folder / "reference" / "checkpoint.pt"
    assert "whole; 48 examples" in verify_command(
        VerifyConfig(cache=folder / "cache", data=folder / "data", checkpoint=checkpoint)
    )
    with pytest.raises(ValueError, match=r"the data of .* is '.*' and here it is '"):
        verify_command(VerifyConfig(cache=folder / "cache", data=folder / "other"))
    train(config_for(folder, tmp_path / "run", SelectionConfig()))
    other = tmp_path / "run" / "checkpoint.pt"
    with pytest.raises(
        ValueError, match=r"the model of .* is 'TwoTower .*' and here it is 'TwoTow"
    ):
        verify_command(VerifyConfig(cache=folder / "cache", checkpoint=other))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "other"}, "the data of .* is '.*' and here it is '"),
        (
            {"model": replace(MODEL, vocab_size=63)},
            "tokenizer of .* of 64 ids' and here it is .* of 63 ids'",
        ),
        (
            {"model": replace(MODEL, context_length=2)},
            "context_length of .* '3' and here it is '2'",
        ),
        (
            {"model": replace(MODEL, image_size=16)},
            "preprocessing of .* 1 x 8 x 8' and .* to 1 x 16 x 16'",
        ),
        ({"loss": "softmax"}, "the loss of .* is 'sigmoid' and here it is 'softmax'"),
    ],
    ids=["data", "tokenizer", "context", "preprocessing", "loss"],
)
def test_a_run_refuses_a_cache_that_belongs_elsewhere(folder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(config_for(folder, tmp_path / "run", joint(folder), **changes))


@pytest.mark.parametrize("kind", ["reference_cache", "reference_checkpoint"])
def test_a_run_does_not_go_on_with_another_reference(folder, tmp_path, kind):
    reference = folder / "reference" / "checkpoint.pt"
    named = shutil.copy(reference, tmp_path / "reference.pt")
    if kind == "reference_cache":
        named = tmp_path / "cache"
        cache_command(command(folder, out=named))
    selection = joint(folder, **{"reference_cache": None, kind: named})
    config = config_for(folder, tmp_path / "run", selection)
    train(config)
    assert train(config).step == 1
    train(config_for(folder, tmp_path / "other", SelectionConfig(), seed=1))
    other = tmp_path / "other" / "checkpoint.pt"
    if kind == "reference_cache":
        cache_command(command(folder, out=named, checkpoint=other, overwrite=True))
    else:
        shutil.copy(other, named)
    with pytest.raises(ValueError, match=r"whose reference was TwoTower .* go on with TwoTower"):
        train(config)


def test_a_run_does_not_go_on_with_another_model_for_what_the_cache_lacks(folder, tmp_path):
    named = shutil.copy(folder / "reference" / "checkpoint.pt", tmp_path / "reference.pt")
    config = config_for(folder, tmp_path / "run", joint(folder, reference_checkpoint=named))
    train(config)
    assert train(config).step == 1
    train(config_for(folder, tmp_path / "other", SelectionConfig(), seed=1))
    shutil.copy(tmp_path / "other" / "checkpoint.pt", named)
    with pytest.raises(ValueError, match=r"must be the cache.s model, but it runs TwoTower"):
        train(config)


def test_an_average_is_a_checkpoints(folder):
    with pytest.raises(ValueError, match="ema has no effect without a checkpoint"):
        VerifyConfig(cache=folder / "cache", ema=True)


def test_the_same_command_changes_nothing_and_another_is_refused(folder):
    before = read_manifest(folder / "cache")
    cache_command(command(folder))
    assert read_manifest(folder / "cache") == before
    with pytest.raises(ValueError, match=r"tokenizer .* which cannot go on with"):
        cache_command(command(folder, caption_column="title"))
    with pytest.raises(ValueError, match=r"with precision None, which cannot go on with 'bfloat"):
        cache_command(command(folder, precision="bf16"))


def test_a_cache_in_another_precision_serves_as_well(folder, tmp_path):
    half = command(folder, out=tmp_path / "cache", precision="bf16")
    cache_command(half)
    assert read_manifest(half.out).identity["precision"] == "bfloat16"
    train(config_for(folder, tmp_path / "run", joint(folder, reference_cache=half.out)))


@pytest.mark.parametrize("write", [write_mds, write_zarr])
def test_images_that_cannot_be_decoded_are_missing(folder, tmp_path, write):
    write(tmp_path / "data", COLUMNS, rows(0, ROWS, bad=(3, 17, 47)))
    cache_command(command(folder, data=tmp_path / "data", out=tmp_path / "cache"))
    assert read_manifest(tmp_path / "cache").num_missing == 3


def test_data_that_grew_still_find_their_rows(folder, tmp_path):
    """Those that were added are embedded by the checkpoint, where it is given."""
    index = json.loads((folder / "data" / "index.json").read_text())
    grown = tmp_path / "grown"
    write_mds(grown, COLUMNS, rows(ROWS, 2 * ROWS), shard_bytes=1000)
    more = json.loads((grown / "index.json").read_text())["shards"]
    for shard in more:
        old = shard["raw_data"]["basename"]
        shard["raw_data"]["basename"] = f"added.{old}"
        (grown / old).rename(grown / f"added.{old}")
    for path in (folder / "data").glob("*.mds"):
        (grown / path.name).write_bytes(path.read_bytes())
    (grown / "index.json").write_text(json.dumps({**index, "shards": index["shards"] + more}))

    with pytest.raises(
        ValueError, match=r"holds 48 examples where that has 96; build it again, or"
    ):
        train(config_for(folder, tmp_path / "run", joint(folder), data=grown))
    both = joint(folder, reference_checkpoint=folder / "reference" / "checkpoint.pt")
    run = train(config_for(folder, tmp_path / "run", both, data=grown))
    reference = run.loader.scorer.reference
    assert len(reference) == ROWS
    assert isinstance(reference.missing, FrozenReference)
    assert run.loader.counts.skipped == 0


def test_a_damaged_cache_is_not_called_whole_and_can_be_overwritten(folder, tmp_path):
    made = command(folder, out=tmp_path / "cache")
    cache_command(made)
    chunk = tmp_path / "cache" / "image" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"is damaged .* build it again, with overwrite"):
        cache_command(made)
    assert "48 examples" in cache_command(replace(made, overwrite=True))


def test_a_reference_that_uniform_selection_would_not_look_at_is_refused(folder):
    with pytest.raises(ValueError, match=r"reference_cache has no effect while .* is uniform"):
        config_for(folder, "unused", SelectionConfig(reference_cache=folder / "cache"))


def test_a_process_without_its_peers_ends_with_a_sentence(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    typed = ["--data", folder / "data", "--out", tmp_path / "new", "--device", "cpu"]
    typed += ["--checkpoint", folder / "reference/checkpoint.pt", "--chunk-rows", 16]
    typed += ["--peers-timeout-s", 0.1]
    monkeypatch.setattr(sys, "argv", ["jest-loader", "cache", *map(str, typed)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "jest-loader: all processes must build their chunks" in capsys.readouterr().err
