"""`jest-loader cache --from`: published embeddings, and runs that select by them."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from jest_loader.cli import main
from jest_loader.clip.commands.cache import CacheConfig, VerifyConfig, cache_command, verify_command
from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.config.optimizer import OptimizerConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.train import DataConfig, TrainConfig
from jest_loader.clip.train import train
from jest_loader.pack import write_mds
from tests.reference_cache.published_files import pairs, uids, write_datacomp

ROWS = 64
MODEL = ModelConfig(
    image_size=8, channels=1, patch_size=4, vision_width=16, vision_depth=1,
    text_width=16, text_depth=0, heads=2, embed_dim=8, vocab_size=64, context_length=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards whose rows have uids, and embeddings of them in another order."""
    folder = tmp_path_factory.mktemp("adopted")
    columns = {"image": "bytes", "caption": "str", "uid": "str"}
    write_mds(folder / "data", columns, rows(), shard_bytes=2000)
    order = np.random.default_rng(2).permutation(ROWS)
    ids = uids(ROWS)
    image, text = (side[order] for side in pairs(ROWS))
    write_datacomp(folder / "in", image, text, [ids[place] for place in order], [0, 30, ROWS])
    return folder


def rows():
    for row, uid in enumerate(uids(ROWS)):
        pixels = np.zeros((8, 8), dtype=np.uint8)
        pixels[row % 8] = 255
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        yield {"image": buffer.getvalue(), "caption": f"bar {row % 8}", "uid": uid}


def command(folder, out, **changes):
    settings = {"data": folder / "data", "from_": folder / "in", "scale": 100.0, "out": out}
    return CacheConfig(**{**settings, **changes})


def run(folder, out, cache, **changes):
    selection = SelectionConfig(
        "joint", filter_ratio=0.5, num_chunks=2, reference_cache=cache, **changes
    )
    data = DataConfig(folder / "data", batch_size=8, augment=False)
    return train(
        TrainConfig(
            data, out=out, model=MODEL, selection=selection, steps=2, device="cpu",
            optimizer=OptimizerConfig(warmup_steps=1),
        )
    )  # fmt: skip


@pytest.mark.parametrize("score", ["learnability", "easy_reference"])
def test_the_trainer_selects_by_published_embeddings(folder, tmp_path, score):
    cache = tmp_path / "cache"
    found = cache_command(command(folder, cache, fit_bias=8))
    assert found == f"{cache}: 64 examples, 0 of them missing, embeddings of width 16"
    run(folder, tmp_path / "run", cache, score=score)
    assert "whole; 64 examples" in verify_command(VerifyConfig(cache=cache, data=folder / "data"))


def test_a_softmax_cache_is_refused_for_the_sigmoid_loss(folder, tmp_path):
    cache_command(command(folder, tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"the loss of .* is 'softmax' and here it is 'sigmoid'"):
        run(folder, tmp_path / "run", tmp_path / "cache")


def test_json_says_what_the_cache_holds(folder, tmp_path, monkeypatch, capsys):
    words = f"cache --data {folder}/data --from {folder}/in --scale 100 --out {tmp_path}/c --json"
    monkeypatch.setattr("sys.argv", ["jest-loader", *words.split()])
    main()
    found = json.loads(capsys.readouterr().out)
    assert (found["num_rows"], found["num_missing"], found["width"]) == (ROWS, 0, 16)
    assert (found["logit_scale"], found["identity"]["joined_by"]) == (100.0, "uid")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": None}, r"set --scale, which is 100 for CLIP"),
        ({"from_": None}, r"--scale has no effect without --from"),
        ({"from_": None, "scale": None}, r"set one of checkpoint, open_clip.name, folds and from"),
        ({"checkpoint": "a.pt"}, r"set one of checkpoint, open_clip.name, folds and from"),
        ({"bias": -1.0, "fit_bias": 8}, r"--fit-bias finds a bias, in place of --bias and --ref"),
        ({"id_column": "key"}, r"must have the column 'key', .* name another as --id-column"),
        ({"join_by": "caption", "id_column": "uid"}, r"none of 64 has; .* is bar 0, and of"),
        ({"join_by": "order", "image_array": "x"}, r"must have an array 'x', but has l14_img, l14"),
    ],
    ids=["scale", "no from", "nothing", "two", "biases", "no column", "none found", "no array"],
)
def test_mistakes_are_named_by_their_options(folder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        cache_command(command(folder, tmp_path / "cache", **changes))
    assert not (tmp_path / "cache").exists()
