"""What a run writes lands in its folder, whatever stands there under its names."""

import os

import pytest

from jest_loader.clip.config.log import LogConfig
from jest_loader.clip.journal.logs import open_logs
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
