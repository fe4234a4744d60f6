"""``bench.gpu`` runs whole on a CPU, kernels interpreted: killed, continued, out of time, read."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.device import Device
from bench.gpu import dictionary
from bench.gpu.document import Document, read
from bench.gpu.kernels import TESTS
from bench.gpu.parts import PARTS, OutOfTime, Setting
from bench.gpu.predictions import GOALS, known_device, selection_ms, share_of_training
from bench.gpu.report import goal_lines, table, tiles_source
from bench.gpu.running import Budget, run_parts
from bench.joint.dictionary import pairs_of, write
from bench.selection import Size
from jest_loader.ops.tiles import Tiles, Work

ROOT = Path(__file__).parents[1]


def command(out: Path, data: Path) -> list[str]:
    options = ["--smoke", "--out", str(out), "--data", str(data), "--seconds", "800"]
    return [sys.executable, "-m", "bench.gpu", *options]


def wait_until_gone(process: int) -> None:
    """Fail if a part goes on though nobody takes its figures."""
    until = time.monotonic() + 60
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < until, "a part outlives the run that it is of"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def killed_and_continued(tmp_path_factory) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The document that a killed run left, that of the run behind it, and what this one printed."""
    out, data = tmp_path_factory.mktemp("gpu"), tmp_path_factory.mktemp("dictionary")
    lines = [f"Wort{n} | Wörter{n} :: word{n} | words{n}" for n in range(200)]
    write(list(pairs_of(lines)), data)
    first = subprocess.Popen(
        command(out, data), cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert first.stdout is not None
    assert first.stdout.readline().startswith("kernels    done")
    (part,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    wait_until_gone(int(part))
    left = read(out)
    second = subprocess.run(
        command(out, data), cwd=ROOT, capture_output=True, text=True, timeout=800, check=False
    )
    assert second.returncode == 0, second.stderr[-2000:]
    return left, read(out), second.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)  # of six processes on a machine that may be busy
def test_a_killed_run_is_continued_where_it_was(killed_and_continued):
    left, found, printed = killed_and_continued
    assert left["parts"]["kernels"]["state"] == "done"
    assert "scoring" not in left["parts"]
    assert found["parts"]["kernels"] == left["parts"]["kernels"], "it was not run again"
    assert {name: part["state"] for name, part in found["parts"].items()} == dict.fromkeys(
        PARTS, "done"
    )
    assert "kernels    done" not in printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_form_is_measured_and_picks_as_fp64(killed_and_continued):
    _, found, _ = killed_and_continued
    figures = {name: part["figures"] for name, part in found["parts"].items()}
    assert {one["outcome"] for one in figures["kernels"].values()} == {"passed"}
    (size,) = figures["selection"].values()
    forms = size["forms"]
    assert [*forms] == ["published fp32", "plain", "fused", "fused, fp32", "graph", "products"]
    for name in ("plain", "fused", "fused, fp32", "graph"):
        assert forms[name]["picks_of_fp64"] == 1.0, name
    for tiles in figures["tiles"].values():
        assert len(tiles["tried"]) == 2
        assert all(one["off_by"] < 1e-3 for one in tiles["tried"])
    picks = figures["scoring"]["picks"]
    assert picks["fp32"]["picks_of_fp64"] == 1.0
    assert picks["other noise"]["picks_of_fp64"] < 1.0
    assert {"training", "learner, fp16", "learner, tf32"} <= figures["scoring"]["times"].keys()
    assert figures["steps"]["steps"]["predicted"] > 1
    arms = ("uniform", "independent-1", "joint-1", "joint-4")
    assert [*figures["dictionary"]] == [f"8 {arm} seed 0" for arm in arms]
    assert {run["step"] for run in figures["dictionary"].values()} == {2}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_table_of_a_result_is_printed_again(killed_and_continued, tmp_path):
    _, found, printed = killed_and_continued
    (tmp_path / "gpu.json").write_text(json.dumps(found))
    options = [sys.executable, "-m", "bench.gpu", "--report", str(tmp_path)]
    report = subprocess.run(options, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert report.strip() == table(found)
    assert table(found) in printed
    for words in (
        "5 passed, 0 failed",
        "60 -> 12, width 16",
        "learner, bf16",
        "fastest (64, 16,",
        "8 joint-4 seed 0",
    ):
        assert words in report
    entry = tiles_source(found).strip().removesuffix(",")
    measured = eval(f"{{{entry}}}", {"Work": Work, "Tiles": Tiles})
    assert measured["cpu"].keys() == {Work(60, 4, 2), Work(60, 4, 4)}


def test_without_a_gpu_one_sentence_says_so_and_names_smoke():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    asked = [sys.executable, "-m", "bench.gpu", "--out", "nowhere"]
    found = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr == (
        "bench.gpu needs a CUDA GPU and PyTorch sees none here; --smoke runs all of it in small "
        "on a CPU\n"
    )
    assert not (ROOT / "nowhere").exists()


def document_in(folder: Path, **environment: str) -> Document:
    return Document(folder, {"device": "cpu", **environment}, smoke=True)


def test_parts_that_no_time_is_left_for_are_left_out(tmp_path):
    document, ended = document_in(tmp_path), []
    run_parts([*PARTS], document, Budget(5), ["--data", "d"], after_each=ended.append)
    assert ended == [*PARTS]
    found = read(tmp_path)["parts"]
    assert {part["state"] for part in found.values()} == {"left out"}
    assert found["kernels"]["said"] == (
        "2 s were left and it needs 20; the same command goes on here"
    )


def test_a_part_that_fails_says_how_and_costs_no_other(tmp_path, monkeypatch):
    monkeypatch.setitem(PARTS, "steps", PARTS["steps"]._replace(least_s=0, most_s=0.01))
    document = document_in(tmp_path)
    names, options = ["kernels", "steps"], ["--no-such-option"]
    run_parts(names, document, Budget(500), options, after_each=lambda _: None)
    found = read(tmp_path)["parts"]
    assert found["kernels"]["state"] == "failed"
    assert "--no-such-option" in found["kernels"]["said"]
    assert found["steps"]["state"] == "stopped"
    assert "at its limit of 0 s" in found["steps"]["said"]
    assert not document.is_done("kernels"), "the next run tries it again"


def test_without_its_data_the_map_is_left_out(tmp_path):
    document = document_in(tmp_path)
    run_parts(["dictionary"], document, Budget(500), [], after_each=lambda _: None)
    assert document.part("dictionary")["state"] == "left out"
    assert document.part("dictionary")["said"].endswith("name it with --data")


def test_a_map_that_time_ended_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    arms, told = ["uniform", "joint-1"], []

    def made(*_, **__):
        run = {"setting": {"batch_size": 8}, "seed": 0, "wrong": 0.2}
        end = {"step": 2, "r1": 0.5, "r10": 0.6, "fine": 0.7}
        more = {"curve": [end], "reference_accuracy": {"r1": 0.9}}
        lines = [json.dumps({**run, **more, "arm": arm}) for arm in arms]
        (tmp_path / "joint.jsonl").write_text("\n".join(lines))

    monkeypatch.setattr("bench.gpu.dictionary.subprocess.run", made)
    setting = Setting(
        Device("cpu"),
        smoke=True,
        out=tmp_path,
        data=tmp_path,
        done=frozenset(["8 uniform seed 0"]),
        ends_at=time.monotonic() + 100,
        tell=lambda key, _: told.append(key),
    )
    with pytest.raises(OutOfTime):
        dictionary.run(setting)
    assert told == ["8 joint-1 seed 0"]
    arms += ["independent-1", "joint-4"]
    dictionary.run(setting)
    assert told[1:] == ["8 independent-1 seed 0", "8 joint-1 seed 0", "8 joint-4 seed 0"]
    with pytest.raises(OutOfTime):
        dictionary.run(replace(setting, ends_at=time.monotonic()))


def test_figures_of_another_commit_are_not_added_to(tmp_path):
    document_in(tmp_path, commit="a").add("steps", "steps", {})
    assert document_in(tmp_path, commit="a").part("steps")["figures"] == {"steps": {}}
    with pytest.raises(ValueError, match=r"gpu.json must be of this environment .*--out"):
        document_in(tmp_path, commit="b")


def test_every_file_with_tests_for_a_gpu_is_run():
    marked = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*.py")
        if any(
            isinstance(node, ast.Attribute) and ast.unparse(node) == "pytest.mark.gpu"
            for node in ast.walk(ast.parse(path.read_text()))
        )
    ]
    assert {*marked} | {"tests/ops/test_fused.py"} == {*TESTS}


def test_times_at_peak_are_those_of_the_data_sheet():
    large = Size(163_840, 768)
    assert selection_ms("products", large, "H100") == pytest.approx(31.27, abs=0.01)
    assert selection_ms("fused, fp32", large, "H100") == pytest.approx(3 * 62.5, abs=0.2)
    assert selection_ms("published fp32", large, "H100") is None
    assert share_of_training(5, 3, "fp16", "H100") == pytest.approx(5 / 3)
    assert share_of_training(5, 3, "tf32", "H100") == pytest.approx(10 / 3)
    names = ("NVIDIA H200", "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "cpu")
    assert [known_device(name) for name in names] == ["H200", "A100", "H100", "H100"]


def test_goals_are_met_or_missed_or_not_measured():
    form = {"over_products": {"median": 1.25}, "peak_bytes": 3 << 30}
    parts = {"selection": {"figures": {"163840": {"forms": {"fused": form}}}}}
    lines = [*goal_lines(parts)]
    assert len(lines) == len(GOALS)
    assert lines[0].endswith("at most 1.3, found 1.25, met")
    assert lines[1].endswith("at most 2, found 3.00, missed")
    assert lines[2].endswith("5,120 -> 1,024: ms, as a graph: at most 1, not measured")


def test_a_captured_call_keeps_what_it_reads():
    held = torch.ones(2)
    captured = Device("cpu").captured(lambda: held + 1)
    assert captured.run is not None
    assert captured().tolist() == [2.0, 2.0]


def test_committed_results_stand_beside_their_table():
    for path in (ROOT / "bench" / "results" / "gpu").glob("*/gpu.json"):
        found = read(path)
        assert not found["smoke"], path
        assert path.with_name("gpu.txt").read_text() == table(found) + "\n", path
