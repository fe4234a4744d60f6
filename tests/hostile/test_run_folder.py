"""What a run writes lands in its folder, whatever stands there under its names."""

import os

import pytest

from jest_loader.clip.config.log import LogConfig
from jest_loader.clip.journal.logs import open_logs
from jest_loader.clip.saving.checkpoint_folder import CheckpointFolder
from jest_loader.files import save_json


def links(path):
    (path / "theirs").write_text("a thesis\n")
    (path / "log.jsonl").symlink_to("theirs")


def dangles(path):
    (path / "log.jsonl").symlink_to("absent")


def has_two_names(path):
    (path / "theirs").write_text("a thesis\n")
    (path / "log.jsonl").hardlink_to(path / "theirs")


def is_a_pipe(path):
    os.mkfifo(path / "log.jsonl")


def is_a_folder(path):
    (path / "log.jsonl").mkdir()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("plant", [links, dangles, has_two_names, is_a_pipe, is_a_folder])
def test_a_log_is_written_to_a_file_of_its_own(tmp_path, plant):
    plant(tmp_path)
    before = sorted(tmp_path.iterdir())
    with (
        pytest.raises(ValueError, match=r"log.jsonl must be a file of its own .*; remove it"),
        open_logs(LogConfig(), tmp_path, 0, {}),
    ):
        pass
    assert sorted(tmp_path.iterdir()) == before
    if (tmp_path / "theirs").exists():
        assert (tmp_path / "theirs").read_text() == "a thesis\n"


def test_json_replaces_a_link_and_leaves_what_it_points_to(tmp_path):
    links(tmp_path)
    save_json(tmp_path / "log.jsonl", {"a": 1})
    assert not (tmp_path / "log.jsonl").is_symlink()
    assert (tmp_path / "theirs").read_text() == "a thesis\n"


@pytest.mark.parametrize("text", ["a thesis\n", "[1]\n", "{}\n", '{"stage": 1}\n'], ids=repr)
def test_a_log_of_something_else_is_not_emptied(tmp_path, text):
    (tmp_path / "log.jsonl").write_text(text)
    with (
        pytest.raises(ValueError, match=r"log.jsonl must be the log of a run, .*; move it away"),
        open_logs(LogConfig(), tmp_path, 0, {}),
    ):
        pass
    assert (tmp_path / "log.jsonl").read_text() == text


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000 + "\n", '{"step": null}\n', '{"step": [1]}\n', "3\n"],
    ids=["nested", "null", "list", "number"],
)
def test_a_line_that_is_none_ends_a_log(tmp_path, line):
    ours = '{"step": 1}\n'
    (tmp_path / "log.jsonl").write_text(ours + line)
    with open_logs(LogConfig(), tmp_path, 4, {}):
        assert (tmp_path / "log.jsonl").read_text() == ours


@pytest.mark.parametrize("text", ["a thesis", "[]", '{"accuracy": 0.5}'], ids=repr)
def test_metrics_of_something_else_are_not_replaced(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=r"metrics.json is of something else; move it away"):
        CheckpointFolder(tmp_path, keep=0)
    assert (tmp_path / "metrics.json").read_text() == text


@pytest.mark.timeout(20)
def test_metrics_that_are_a_pipe_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.json")
    with pytest.raises(ValueError, match=r"metrics.json is of something else; move it away"):
        CheckpointFolder(tmp_path, keep=0)
