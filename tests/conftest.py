"""What every test starts from: the same seeds, one thread, and a GPU only where there is one."""

import os
import random
import resource
import socket
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
import torch

# Without a GPU the Triton kernels are interpreted. Triton reads this when it is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Deadlines measure the machine, not the code. CI draws the same examples every time.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")

# More threads only wait for each other on tensors as small as the tests'.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (for third-party code: the project draws from no global generator)
    torch.manual_seed(0)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that would reach the network fails."""

    def refuse(*_: object) -> None:
        raise AssertionError("reads the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Lets no file grow beyond 2,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
