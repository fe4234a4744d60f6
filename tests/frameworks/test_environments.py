"""The environments of `make frameworks`: each has tests to run, and none stops the others."""

import json
import tomllib

import pytest

from tests.frameworks.environments import ROOT, TABLES, counts, interpreter, outcomes_in, run
from tests.test_docs import NEEDS, PAGES, named

TESTS = {name: table["tests"] for name, table in tomllib.loads(TABLES.read_text()).items()}
TWO = {"one": {"packages": [], "tests": []}, "other": {"packages": [], "tests": []}}
GOOD = {
    "date": "2026-01-02", "versions": {"Python": "3.11.7", "torch": "2.7.0"},
    "command": "python -m pytest", "passed": 3, "failed": 0, "skipped": 1,
}  # fmt: skip
BAD = {"date": "2026-01-02", "passed": 0, "error": "no matching distribution"}


@pytest.mark.parametrize("name", TESTS)
def test_what_an_environment_runs_is_there(name):
    pages = {named(page) for page in PAGES}
    for test in TESTS[name]:
        file, _, node = test.partition("::")
        assert (ROOT / file).is_file()
        if file == "tests/test_docs.py":
            assert node.removeprefix("test_python_runs[").removesuffix("]") in pages


def test_each_page_that_needs_an_environment_has_one():
    run_there = {test for tests in TESTS.values() for test in tests}
    assert {f"tests/test_docs.py::test_python_runs[{page}]" for page in NEEDS} <= run_there


def test_one_that_cannot_be_made_stops_no_other(tmp_path):
    file = tmp_path / "results.txt"
    found = {"one": BAD, "other": GOOD}
    assert run([], TWO, file, lambda name, table: found[name]) == 1
    lines = file.read_text().splitlines()
    assert lines[:4] == [
        "one: no matching distribution (2026-01-02)",
        "other: 3 passed, 0 failed, 1 skipped (2026-01-02)",
        "  Python 3.11.7, torch 2.7.0",
        "  python -m pytest",
    ]
    assert json.loads(lines[4])["outcomes"] == found
    assert json.loads(lines[4])["environment"]["torch"] == {"other": "2.7.0"}
    # Named alone, it is the only one that is run again; an environment that is no more is left out.
    assert run(["one"], TWO, file, lambda name, table: GOOD) == 0
    assert outcomes_in(file.read_text()) == {"one": GOOD, "other": GOOD}
    assert run(["one"], {"one": TWO["one"]}, file, lambda name, table: GOOD) == 0
    assert outcomes_in(file.read_text()) == {"one": GOOD}


@pytest.mark.parametrize(
    "found", [{**GOOD, "failed": 1}, {**GOOD, "passed": 0}], ids=["a failure", "none that ran"]
)
def test_the_exit_status_is_1_for(found, tmp_path):
    assert run(["one"], TWO, tmp_path / "results.txt", lambda name, table: found) == 1


def test_outcomes_are_counted(tmp_path):
    report = tmp_path / "report.xml"
    assert counts(report) == {"passed": 0, "error": "pytest ended without a report"}
    report.write_text(
        '<testsuites><testsuite tests="9" skipped="2" failures="1" errors="3"/></testsuites>'
    )
    assert counts(report) == {"passed": 3, "failed": 4, "skipped": 2}


@pytest.mark.slow
def test_a_package_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.frameworks.environments.ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = []\n')
    with pytest.raises(RuntimeError, match=r"missing\.whl"):
        interpreter("name", [f"{tmp_path}/missing.whl"])
    assert not (tmp_path / ".frameworks/name/installed").exists()
