"""What a launcher should have put into the environment is named where it cannot be."""

import socket

import pytest
import torch
import torch.distributed as dist

from jest_loader.clip.processes import choose_device, process_group
from jest_loader.ranks.roll_call import RankError
from jest_loader.reference_cache.processes import Process

WHOLE = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29999"}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch):
    for name in (*WHOLE, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def setting(monkeypatch, changes):
    for name, text in (WHOLE | changes).items():
        if text is not None:
            monkeypatch.setenv(name, text)


def of_training():
    with process_group(CPU, 0.2):
        raise AssertionError("no group can be made")


RANKS = {
    "text": ({"WORLD_SIZE": "abc"}, "WORLD_SIZE must be a whole number of at least 1, got 'abc'"),
    "none": ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a whole number of at least 1, got 0"),
    "empty": ({"WORLD_SIZE": ""}, "WORLD_SIZE must be a whole number of at least 1, got ''"),
    "half": ({"WORLD_SIZE": "1.5"}, "WORLD_SIZE must be a whole number of at least 1, got '1.5'"),
    "digits": ({"WORLD_SIZE": "\u0662"}, "WORLD_SIZE must be a whole number of at least 1"),
    "long": ({"WORLD_SIZE": "9" * 9000}, "WORLD_SIZE must .* got '9+... .9002 characters"),
    "escape": ({"WORLD_SIZE": "\x1b[2J"}, "WORLD_SIZE must be a whole number"),
    "high": ({"RANK": "9"}, "RANK must be a whole number from 0 to 1, got 9"),
    "size": ({"RANK": "2"}, "RANK must be a whole number from 0 to 1, got 2"),
    "low": ({"RANK": "-1"}, "RANK must be a whole number from 0 to 1, got -1"),
    "name": ({"RANK": "first"}, "RANK must be a whole number from 0 to 1, got 'first'"),
    "unset": ({"RANK": None}, "RANK must be set, but is not"),
    "alone": ({"RANK": "3", "WORLD_SIZE": None}, "RANK must be a whole number from 0 to 0, got 3"),
}


@pytest.mark.parametrize("use", [of_training, Process.of_this_process], ids=["training", "cache"])
@pytest.mark.parametrize(("changes", "message"), RANKS.values(), ids=RANKS)
def test_ranks_that_cannot_be_are_named(monkeypatch, use, changes, message):
    setting(monkeypatch, changes)
    with pytest.raises(ValueError, match=message) as caught:
        use()
    assert "start the processes with torchrun" in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MASTER_ADDR": None}, "MASTER_ADDR must be set, but is not; start .* torchrun"),
        ({"MASTER_PORT": None}, "MASTER_PORT must be set, but is not; start .* torchrun"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT must be a whole number from 1 to 65535, got 'http'"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT must be a whole number from 1 to 65535, got 65536"),
    ],
)
def test_a_meeting_place_that_cannot_be_is_named(monkeypatch, changes, message):
    setting(monkeypatch, changes)
    with pytest.raises(ValueError, match=message):
        of_training()


def test_a_rank_whose_peers_never_come_ends_with_the_place(monkeypatch):
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    setting(monkeypatch, {"MASTER_PORT": str(port)})
    with pytest.raises(
        RankError, match=f"must meet at .* = localhost:{port}, but rank 0 could not"
    ):
        of_training()
    assert not dist.is_initialized()


def test_nothing_set_is_one_process():
    assert Process.of_this_process() == Process(0, 1)
    with process_group(CPU, 0.2) as ranks:
        assert ranks.size == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one", "LOCAL_RANK must be a whole number of at least 0, got 'one'"),
        ("-1", "LOCAL_RANK must be a whole number of at least 0, got -1"),
        ("", "LOCAL_RANK must be set, but is not"),
        ("5", "there are 2 for the one with LOCAL_RANK 5; use --nproc-per-node 2"),
    ],
)
def test_a_gpu_that_is_not_there_is_named(monkeypatch, text, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", text)
    with pytest.raises(ValueError, match=message):
        choose_device("auto")


@pytest.mark.parametrize("kind", [AssertionError, ModuleNotFoundError, RuntimeError], ids=str)
def test_a_device_that_is_not_there_is_refused(monkeypatch, kind):
    def fail(*_, **__):
        raise kind("Torch not compiled for it\nat 0x1")

    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(
        ValueError, match="'xpu' cannot be used here: Torch not compiled for it; use"
    ):
        choose_device("xpu")
