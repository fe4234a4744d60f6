"""The examples run as they stand, on icons, with small models."""

import io
import json
import runpy
import sys
from itertools import islice
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from jest_loader.demo.icons import render
from jest_loader.pack import write_mds

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {
        "context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Icons as PNGs with their names."""
    rows = []
    for icon in islice(render(["elusive"]), 96):
        file = io.BytesIO()
        Image.fromarray(icon.pixels).convert("RGB").save(file, "PNG")
        rows.append({"image": file.getvalue(), "caption": icon.caption})
    folder = tmp_path_factory.mktemp("icons") / "shards"
    write_mds(folder, {"image": "png", "caption": "str"}, rows)
    return folder


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_open_clip_loop(shards, tmp_path, monkeypatch, capsys):
    config = tmp_path / "tiny-clip.json"
    config.write_text(json.dumps(TINY))
    open_clip.add_model_config(config)
    words = [shards, "--model=tiny-clip", "--batch-size=8", f"--out={tmp_path / 'run.pt'}"]
    run(monkeypatch, "open_clip_loop.py", *words, "--steps=3")
    assert "step 3: loss" in capsys.readouterr().out
    run(monkeypatch, "open_clip_loop.py", *words, "--steps=5")
    assert torch.load(tmp_path / "run.pt", weights_only=True)["dataset"]["num_steps"] == 5
