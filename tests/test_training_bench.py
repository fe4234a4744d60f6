"""What the evidence's data, subsets and report compute."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.training import data, measures, report, subsets
from jest_loader.adapters.mds import MdsSource
from jest_loader.pack import write_mds
from tests.bench_data import ICON_COLUMNS, made_icons, write_made_run, write_made_runs


def icon(prefix: str, name: str, place: int) -> data.Icon:
    pixels = np.zeros((32, 32), np.uint8)
    pixels[place] = 255
    return data.Icon(prefix, name, name, pixels)


def test_an_arm_reaches_the_goal_when_as_good_as_uniform_ended(tmp_path):
    write_made_runs(tmp_path)
    times = {"step_ms": {"uniform": [10.0, 30.0, 20.0], "joint": [15.0, 60.0, 24.0]}}
    slower = measures.slower_than_uniform(times)
    # Of arms of the same selection it is the same.
    assert (slower["joint"], slower["joint_fifth"], slower["filtered"]) == (1.5, 1.5, 1.0)
    assert "easy" not in slower
    runs = measures.read(tmp_path)["noise-20-batch-128"]
    rows = measures.measured(runs, slower, reference_flops=2e10)
    joint = rows["joint"]
    assert joint["steps_to_goal"] == [20, 20, 20]  # 0.2, the mean of 0.18, 0.2 and 0.22.
    assert joint["fewer_steps"] == [2.0, 2.0, 2.0]
    assert joint["fewer_flops"] == [1.0, 1.0, 1.0]  # Its steps cost twice as much.
    assert joint["fewer_flops_with_reference"] == [pytest.approx(4 / 6)] * 3
    assert joint["less_time"] == [pytest.approx(2 / 1.5)] * 3
    assert joint["overhead"] == 2.0
    assert joint["top1_at_equal_flops"] == [0.2, 0.2, 0.2]
    assert joint["shuffled"] == [pytest.approx(0.25)] * 3
    line = report.table(rows)[-1]
    assert "40.0 % (40.0-40.0)" in line
    assert "2.0 x (2.0-2.0)" in line
    assert line.endswith("25.0 % (25.0-25.0)  70.0 % (70.0-70.0)")
    assert "never" not in report.table(rows)[1]


@pytest.mark.parametrize(
    ("top1", "step"),
    [
        ([0.1, 0.2, 0.1, 0.2], 40),  # Once is not twice; the last is.
        ([0.1, 0.2, 0.2, 0.1], 20),
        ([0.1, 0.2, 0.1, 0.1], None),
    ],
)
def test_the_goal_is_reached_twice_in_a_row_or_at_the_end(tmp_path, top1, step):
    write_made_run(tmp_path / "run", top1)
    run = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert measures.first_step(run, 0.2) == step


def test_a_run_of_fewer_flops_has_no_accuracy_at_equal_flops(tmp_path):
    write_made_run(tmp_path / "run", [0.1, 0.2, 0.3, 0.4])
    run = measures.read_run(tmp_path / "run")
    assert measures.at_flops(run, run["flops"] * 1.02) == 0.4
    assert measures.at_flops(run, run["flops"] * 1.1) is None
    assert measures.at_flops(run, run["flops"] / 2) == 0.2


def test_held_out_sets_are_not_trained_on_nor_icons_that_look_like_theirs():
    held_out = [icon("lucide", "bar", 4), icon("ph", "bell", 12)]
    others = [icon("one", "bar", 4), icon("one", "bell", 20), icon("two", "bar", 24)]
    kin = [icon("lucide-lab", "bar", 16)]
    splits = data.split([*held_out, *others, *kin], size=None, min_sets=1)
    assert {(found.prefix, found.raw) for found in splits["uncurated"]} == {
        ("one", "bell"), ("two", "bar"),
    }  # fmt: skip
    assert [found.raw for found in splits["test"]] == ["bar", "bell"]
    shared = data.split([*held_out, *others], size=None, min_sets=2)
    assert shared["test"] == []


def test_uncurated_icons_are_stored_in_random_order_as_is_any_part():
    icons = [icon("one", f"name {number}", number % 32) for number in range(200)]
    whole = data.split(icons, size=None, min_sets=1)["uncurated"]
    assert sorted(found.raw for found in whole) == sorted(found.raw for found in icons)
    assert [found.raw for found in whole] != [found.raw for found in icons]
    part = data.split(icons, size=20, min_sets=1)["uncurated"]
    assert len({found.raw for found in part} - {found.raw for found in icons[:20]}) > 10


def test_subsets_are_of_the_rows_whose_embeddings_say_so(tmp_path, monkeypatch):
    rows = [{**row, "caption": f"row {number}"} for number, row in enumerate(made_icons(64))]
    write_mds(tmp_path / "data", ICON_COLUMNS, rows)
    directions = torch.eye(64)
    # The caption of every fourth row is that of its image; images of odd rows are all the same.
    image = directions[[0 if number % 2 else number for number in range(64)]]
    text = directions[[number if number % 4 == 0 else 63 for number in range(64)]]
    monkeypatch.setattr(subsets, "_embeddings", lambda *_: (image, text))
    monkeypatch.setattr(subsets, "_CLUSTERS", 2)
    best = subsets.best_by_reference(tmp_path / "data", tmp_path, tmp_path / "best", keep=0.25)
    assert captions(best) == {f"row {number}" for number in range(0, 64, 4)}
    apart = subsets.least_alike(tmp_path / "data", tmp_path, tmp_path / "apart", keep=32 / 64)
    different = {f"row {number}" for number in range(2, 64, 2)}
    assert different < captions(apart)
    assert len(captions(apart)) == len(different) + 1  # One of those that are the same.
    both = subsets.joined([best, apart], tmp_path / "both")
    assert captions(both) == captions(best) | captions(apart)


def captions(path: Path) -> set[str]:
    source = MdsSource(path, batch_size=1, shuffle=False)
    return {batch["caption"][0] for batch in source}


def test_the_share_that_is_said_is_shuffled_and_marked():
    icons = [icon("one", f"name {number}", number % 32) for number in range(2000)]
    rows = data.shuffled(icons, 0.2)
    marked = [found.raw for found, was_shuffled in rows if was_shuffled]
    assert len(marked) / len(rows) == pytest.approx(0.2, abs=0.03)
    left = [
        (found.raw, own.raw) for (found, mark), own in zip(rows, icons, strict=True) if not mark
    ]
    assert all(found == own for found, own in left)
    assert sorted(found.raw for found, _ in rows) == sorted(own.raw for own in icons)


@pytest.mark.parametrize(
    ("name", "clean"),
    [("calendar-add-24-filled", "calendar-add"), ("thin-bell", "bell"), ("bell", "bell")],
)
def test_style_words_are_those_that_the_set_names(name, clean):
    found = {"suffixes": {"24-filled": "", "filled": "", "": ""}, "prefixes": {"thin": ""}}
    assert data.without_style(name, found) == clean
