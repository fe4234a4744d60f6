"""The tests that need a GPU, and those of the kernels, which are compiled where there is one.

Warnings are no failures here: another version of a library than the one that CI has may warn. The
tests want pytest, pytest-timeout and hypothesis; nothing else in this package does.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.gpu.parts import Setting

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[2]
TESTS = ("tests/test_gpu.py", "tests/ops/test_fused.py")
SMOKE_TESTS = ("tests/ops/test_fused.py::test_noise_is_the_plain_forms",)
_MESSAGE_CHARACTERS = 600


def run(setting: Setting) -> None:
    """Run the tests; each is a figure, by its name in pytest."""
    import pytest

    tests = SMOKE_TESTS if setting.smoke else TESTS
    options = ["--import-mode=importlib", "-q", "-p", "no:cacheprovider", "-W", "default"]
    options += ["--rootdir", str(ROOT), "-m", "not slow", "--continue-on-collection-errors"]
    paths = [str(ROOT / test) for test in tests]
    status = pytest.main([*options, *paths], plugins=[Outcomes(setting)])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {status!r}; what it printed is above")


class Outcomes:
    """Tells the outcome of each test as it ends, and leaves out tests whose outcome is known."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def pytest_collection_modifyitems(self, items: "list[pytest.Item]") -> None:
        """Leave out what is known."""
        items[:] = [item for item in items if item.nodeid not in self._setting.done]

    def pytest_collectreport(self, report: "pytest.CollectReport") -> None:
        """Tell of a file whose tests cannot be imported."""
        if report.failed:
            self._setting.tell(report.nodeid, outcome(report, seconds=0.0))

    def pytest_runtest_logreport(self, report: "pytest.TestReport") -> None:
        """Tell how a test ended: by its call, or by a set-up that failed or skipped it."""
        if report.when == "call" or not report.passed:
            self._setting.tell(report.nodeid, outcome(report, seconds=report.duration))


def outcome(report: "pytest.TestReport | pytest.CollectReport", seconds: float) -> dict[str, Any]:
    """``passed``, ``failed`` or ``skipped``, seconds, and the end of what a failure says."""
    said = report.longreprtext[-_MESSAGE_CHARACTERS:] if report.failed else ""
    return {"outcome": report.outcome, "seconds": round(seconds, 3), "said": said}


def counted(figures: dict[str, Any], outcomes: Collection[str]) -> dict[str, int]:
    """How many tests ended in each way."""
    ended = [figure["outcome"] for figure in figures.values()]
    return {name: ended.count(name) for name in outcomes}
