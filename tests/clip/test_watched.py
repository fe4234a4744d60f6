"""Means of columns over what was trained on."""

import json
from dataclasses import replace

import numpy as np
import pytest

from jest_loader.clip import train as training
from jest_loader.clip.step.watched import WatchedColumns
from jest_loader.clip.train import train
from jest_loader.pack import write_mds
from jest_loader.ranks.ranks import Ranks
from tests.clip_runs import COLUMNS, config_for, rows


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """96 rows, the last 72 of which are marked with 1."""
    folder = tmp_path_factory.mktemp("marked")
    columns = {**COLUMNS, "mark": "int"}
    marks = ({**row, "mark": int(place >= 24)} for place, row in enumerate(rows(96)))
    write_mds(folder / "train", columns, marks)
    return folder / "train"


def watching(shards, out, marked, **changes):
    config = config_for(shards, out, eval_every=12, **changes)
    return replace(config, data=replace(config.data, train=marked, watch_columns=("mark",)))


def test_an_epoch_has_the_mean_of_the_data(shards, marked, tmp_path):
    train(watching(shards, tmp_path / "run", marked))
    evaluations = json.loads((tmp_path / "run" / "metrics.json").read_text())["evaluations"]
    assert [evaluation["watched"] for evaluation in evaluations] == [{"mark": 0.75}]


def test_a_run_that_was_stopped_has_counted_all(shards, marked, tmp_path, monkeypatch):
    config = watching(shards, tmp_path / "run", marked)
    step = training._train_step

    def until_the_eighth(run, batch):
        if run.step == 7:
            raise KeyboardInterrupt
        return step(run, batch)

    monkeypatch.setattr(training, "_train_step", until_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.undo()
    assert train(config).evaluations[-1].watched == {"mark": 0.75}


def test_means_start_anew_when_they_were_asked_for():
    watched = WatchedColumns(["mark"])
    watched.add({"caption": ["a", "b"], "mark": [1, 2]}, Ranks())
    assert watched.means() == {"mark": 1.5}
    watched.add({"caption": ["a"], "mark": np.array([4.0])}, Ranks())
    assert watched.means() == {"mark": 4.0}
    assert watched.means() == {}
    watched.add({"caption": ["a", "b"], "mark": ["1", "-0.5"]}, Ranks())  # As packed.
    assert watched.means() == {"mark": 0.25}
    for mark in ("good", "nan", None, {"a": 1}):
        with pytest.raises(ValueError, match=rf"one finite number .* 'mark' .* such as {mark!r}"):
            watched.add({"caption": ["a"], "mark": [mark]}, Ranks())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"watch_columns": ("mark",), "test": None}, "no effect without held-out data"),
        ({"watch_columns": ("text",)}, "must not have the name of a prepared column, got 'text'"),
    ],
)
def test_columns_that_cannot_be_watched_are_refused(shards, tmp_path, data, message):
    config = config_for(shards, tmp_path)
    with pytest.raises(ValueError, match=message):
        replace(config, data=replace(config.data, **data))


@pytest.mark.parametrize("column", [["a", "b"], np.zeros((2, 3))])
def test_other_columns_are_refused_by_name(column):
    with pytest.raises(ValueError, match=r"one finite number per example, but column 'mark' holds"):
        WatchedColumns(["mark"]).add({"caption": ["a", "b"], "mark": column}, Ranks())
