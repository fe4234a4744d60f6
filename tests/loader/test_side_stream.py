"""What threads ask of CUDA's streams and devices, written down by a stand-in: without a GPU."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from jest_loader import ExampleScores, JointSelector
from jest_loader.loader import read_ahead, side_stream
from jest_loader.loader.read_ahead import ReadAhead
from jest_loader.loader.schedule import Step
from jest_loader.loader.side_stream import SideStream
from jest_loader.loader.super_batch import SuperBatch
from tests.helpers import Counting, jest_dataset


class Stream:
    def __init__(self, name, told):
        self.name, self.told, self.device = name, told, "cuda:0"

    def record_event(self):
        return f"event of {self.name}"

    def wait_event(self, event):
        self.told.append(f"{self.name} waits for {event}")

    def wait_stream(self, other):
        self.told.append(f"{self.name} waits for {other.name}")


class OnGpu(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    is_cuda = True

    def record_stream(self, stream):
        stream.told.append(f"memory is kept for {stream.name}")


@pytest.fixture
def told(monkeypatch):
    """What streams were told, of a process that has used its GPU."""
    told = []
    default = Stream("default", told)
    current = [default]

    @contextmanager
    def entered(stream):
        current.append(stream)
        yield
        current.pop()

    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        Stream=lambda: Stream("side", told),
        stream=entered,
        current_stream=lambda: current[-1],
        default_stream=lambda _: default,
    )
    monkeypatch.setattr(side_stream, "torch", SimpleNamespace(cuda=cuda))
    return told


def super_batch(column):
    return SuperBatch(Step(0, 0, len(column)), {"x": column}, len(column), 1, {}, None)


class Numbers:
    def score(self, super_batch):
        return ExampleScores(super_batch["number"].double())

    def snapshot(self):
        return self


def test_threads_that_read_ahead_use_the_gpu_of_the_loop(monkeypatch):
    """A thread begins on the first GPU, where a rank's `.cuda()` would then put its rows."""
    device, set_in = threading.local(), []
    device.number = 3
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        current_device=lambda: device.number,
        set_device=lambda number: set_in.append((threading.current_thread().name, number)),
    )
    monkeypatch.setattr(read_ahead, "torch", SimpleNamespace(cuda=cuda))
    ahead = ReadAhead(iter([1, 2]), iter, depth=1, stall_timeout_s=None)
    assert list(ahead) == [1, 2]
    assert set_in == [("jest-loader reader", 3)]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_dataset_runs_where_a_gpu_is_in_use(told, overlap):
    dataset = jest_dataset(
        Counting(6, 8),
        Numbers(),
        JointSelector(2),
        super_batch_size=24,
        sub_batch_size=8,
        overlap=overlap,
    )
    assert len(list(dataset)) == 2
    assert bool(told) == overlap, "without overlap all is launched where the loop launches"


def test_work_stands_between_what_the_loop_launched_and_launches_next(told):
    stream = SideStream(used=True)
    stream.start()
    with stream.entered(stream.marked(super_batch(torch.zeros(2))).ready):
        assert told == ["side waits for event of default"]
    made = torch.zeros(2).as_subclass(OnGpu)
    stream.join({"x": made, "caption": ["a", "b"]})
    assert told[1:] == ["default waits for side", "memory is kept for default"]


def test_work_comes_after_candidates_that_are_on_the_gpu_already(told):
    stream = SideStream(used=True)
    stream.start()
    with stream.entered(stream.marked(super_batch(torch.zeros(2).as_subclass(OnGpu))).ready):
        assert told == ["side waits for event of default"] * 2
