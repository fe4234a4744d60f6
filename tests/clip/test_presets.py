"""Presets, and the command line that takes them."""

import io
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
import tyro
from PIL import Image

from jest_loader.clip.commands.train import train_command
from jest_loader.clip.config.presets import Preset, preset
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.loading.build import super_batch_size
from jest_loader.clip.train import train
from jest_loader.demo.icons import ICON_SIZE
from jest_loader.pack import write_mds

PLACES = ["--data.train", "data", "--out", "run"]


def parsed(*arguments: str) -> TrainConfig:
    return tyro.cli(train_command(arguments), args=arguments)


@pytest.mark.parametrize("name", get_args(Preset))
def test_a_preset_is_what_other_options_override(name):
    expected = preset(name, Path("data"), Path("run"))
    assert parsed("--preset", name, *PLACES) == expected
    assert super_batch_size(expected) >= expected.data.batch_size
    changed = parsed(f"--preset={name}", "--optimizer.lr", "0.5", *PLACES)
    assert changed.optimizer.lr == 0.5
    assert changed.data == expected.data


def test_an_option_can_be_typed_as_messages_name_it():
    assert parsed("--data.batch_size", "7", *PLACES).data.batch_size == 7


def test_without_a_preset_nothing_changes():
    assert parsed(*PLACES) == TrainConfig(parsed(*PLACES).data, Path("run"))


def test_the_finetuning_preset_is_that_of_siglip_2():
    config = preset("siglip2_finetune", Path("data"), Path("run"))
    assert (config.selection.selector, config.selection.filter_ratio) == ("joint", 0.5)
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (1e-5, 0.0)
    assert config.open_clip.name == "ViT-B-16-SigLIP2"


def test_the_demo_preset_takes_the_demos_images():
    model = preset("demo", Path("data"), Path("run")).model
    assert (model.image_size, model.channels) == (ICON_SIZE, 1)


def test_help_says_what_each_preset_is_for_and_a_wrong_one_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parsed("--help")
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name in get_args(Preset):
        assert f"{name}: " in said
    with pytest.raises(SystemExit) as stopped:
        parsed("--preset", "smok", *PLACES)
    assert stopped.value.code == 2


def test_smoke_runs_on_packed_pictures(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40), "red").save(buffer, "PNG")
    rows = ({"image": buffer.getvalue(), "caption": f"thing {row}"} for row in range(40))
    write_mds(tmp_path / "data", {"image": "bytes", "caption": "str"}, rows)
    run = train(preset("smoke", tmp_path / "data", tmp_path / "run"))
    assert run.step == 20
    assert run.counts.scored == 20 * 32
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


def test_the_module_is_a_program_with_the_same_options(tmp_path):
    command = [sys.executable, "-m", "jest_loader.cli", "train", "--data.train", str(tmp_path)]
    command += ["--out", str(tmp_path / "run"), "--preset", "smoke"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith(f"jest-loader: {tmp_path} must be a folder of MDS shards")
