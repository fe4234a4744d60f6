"""``jest-loader evaluate`` says of a checkpoint what the run said of it."""

import json
from dataclasses import replace

import pytest

from jest_loader.clip.commands.cache import (
    CacheConfig,
    VerifyConfig,
    cache_command,
    verify_command,
)
from jest_loader.clip.commands.evaluate import EvaluateConfig, evaluate_command
from jest_loader.clip.commands.export import ExportConfig, export_command
from jest_loader.clip.config.held_out import EvaluationConfig
from jest_loader.clip.train import train
from jest_loader.pack import write_mds
from tests.clip_runs import COLUMNS, config_for, rows


@pytest.fixture(scope="module")
def sets(shards, tmp_path_factory):
    """A labelled set, and one with two captions for each picture."""
    folder = tmp_path_factory.mktemp("sets")
    twice = (
        {**row, "caption": f"{prefix}{row['caption']}", "key": f"{number}.png"}
        for number, row in enumerate(rows(8))
        for prefix in ("", "a ")
    )
    write_mds(folder / "captioned", {**COLUMNS, "key": "str"}, twice)
    labelled = ({**row, "label": number % 8} for number, row in enumerate(rows(16)))
    write_mds(folder / "labelled", {**COLUMNS, "label": "int"}, labelled)
    (folder / "names.txt").write_text("".join(f"bar {number}\n" for number in range(8)))
    (folder / "templates.txt").write_text("{}\na {}\n")
    described = {
        "bars": {"data": "labelled", "label_column": "label", "classes": "names.txt"},
        "pairs": {"data": "captioned", "image_id_column": "key"},
    }
    (folder / "sets.json").write_text(json.dumps(described))
    return folder


def test_a_run_measures_all_sets_and_the_command_finds_the_same(shards, sets, tmp_path, capsys):
    evaluation = EvaluationConfig(templates=sets / "templates.txt", sets=sets / "sets.json")
    config = config_for(shards, tmp_path / "run", steps=60, eval_every=30, evaluation=evaluation)
    run = train(config)
    metrics = run.evaluations[-1].metrics
    assert metrics["zero_shot_top1"] > 1 / 8
    assert metrics["bars/zero_shot_top1"] > 1 / 8
    assert metrics["pairs/image_retrieval_r5"] > 5 / 8
    assert "bars zero-shot" in run.describe()
    line = evaluate_command(
        EvaluateConfig(
            checkpoint=tmp_path / "run" / "checkpoint.pt",
            data=shards / "test",
            templates=sets / "templates.txt",
            sets=sets / "sets.json",
            device="cpu",
        )
    )
    found = json.loads(line)
    assert (found["step"], found["metrics"]) == (60, metrics)
    table = capsys.readouterr().err
    assert f"{shards / 'test'}: 16 images of 8 classes, 2 templates\n" in table
    assert "bars: 16 images of 8 classes, bare names\n" in table
    assert "pairs: 16 captions of 8 images\n" in table
    top1 = f"{100 * metrics['bars/zero_shot_top1']:.2f} %"
    assert any(line.split(None, 1) == ["bars/zero_shot_top1", top1] for line in table.splitlines())


def test_the_average_of_a_run_is_measured_and_cached_like_its_weights(shards, tmp_path):
    config = config_for(shards, tmp_path / "run", steps=8, eval_every=8)
    config = replace(config, optimizer=replace(config.optimizer, ema_decay=0.9))
    metrics = train(config).evaluations[-1].metrics
    found = {}
    for ema in (False, True):
        line = evaluate_command(
            EvaluateConfig(checkpoint=config.out, ema=ema, data=shards / "test", device="cpu")
        )
        found |= {
            f"{'ema_' * ema}{name}": value for name, value in json.loads(line)["metrics"].items()
        }
    assert found == metrics
    assert metrics["ema_zero_shot_top1"] != metrics["zero_shot_top1"]
    cached = CacheConfig(
        data=shards / "train", out=tmp_path / "c", checkpoint=config.out, ema=True, device="cpu"
    )
    cache_command(cached)
    verify_command(VerifyConfig(cache=tmp_path / "c", checkpoint=config.out, ema=True))
    with pytest.raises(ValueError, match=r"the model of .* and here it is"):
        verify_command(VerifyConfig(cache=tmp_path / "c", checkpoint=config.out))
    train(config_for(shards, tmp_path / "plain", steps=1))
    with pytest.raises(ValueError, match=r"this run kept none; train with optimizer\.ema_decay"):
        export_command(ExportConfig(tmp_path / "plain", tmp_path / "exported", ema=True))


def test_a_run_may_have_named_sets_only(shards, sets, tmp_path):
    config = config_for(shards, tmp_path / "run", steps=10, eval_every=10)
    data = replace(config.data, test=None)
    evaluation = EvaluationConfig(sets=sets / "sets.json")
    run = train(replace(config, data=data, evaluation=evaluation))
    (last,) = run.evaluations
    assert {name.split("/")[0] for name in last.metrics} == {"bars", "pairs"}


def test_evaluating_on_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="something to evaluate on; give data or sets"):
        evaluate_command(EvaluateConfig(checkpoint=tmp_path / "checkpoint.pt"))
