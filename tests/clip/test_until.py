"""The trainer ends selection where its learner has passed the reference."""

import json
from dataclasses import replace

import pytest

from jest_loader.clip.config.log import LogConfig
from jest_loader.clip.config.schedule import ScheduleConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.train import train
from tests.clip_runs import MODEL, config_for

UNTIL = ScheduleConfig(until="reference_passed")


@pytest.mark.filterwarnings("ignore:.*looks like the logarithm")
def test_a_run_ends_selection_past_its_reference(shards, tmp_path, capsys):
    train(config_for(shards, tmp_path / "reference", steps=1))
    selection = SelectionConfig(
        "joint", filter_ratio=0.5, schedule=UNTIL,
        reference_checkpoint=tmp_path / "reference" / "checkpoint.pt",
    )  # fmt: skip
    log = LogConfig(every=20)
    config = config_for(shards, tmp_path / "run", selection=selection, steps=140, log=log)
    train(replace(config, eval_every=140, checkpoint_every=140))
    lines = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    past = [
        (line["score"] is None, line["steps_past_reference"]) for line in lines if "loss" in line
    ]
    assert past == [
        (False, 20), (False, 40), (False, 60), (False, 80), (False, 100), (True, 100), (True, 100),
    ]  # fmt: skip
    assert "past the reference for 100 steps" in capsys.readouterr().err


def test_a_score_of_one_model_alone_is_refused(shards, tmp_path):
    selection = SelectionConfig("joint", "hard_learner", 0.5, 2, schedule=UNTIL)
    with pytest.raises(ValueError, match=r"until has no effect while selection.score is hard_lea"):
        config_for(shards, tmp_path, selection=selection, model=MODEL)
