"""Runs the tests of training loops, each in an environment of its own: `make frameworks`.

`python tests/frameworks/environments.py [NAME ...]` makes `.frameworks/NAME` for each table of
environments.toml, or for those named: a virtual environment with the project, the packages and
pytest. One that is there already is used again if it was made of the same requirements. The tests
run in it, and the outcome, with the versions, goes into bench/results/frameworks_cpu.txt beside
those of the other environments. The exit status is 1 if one could not be made or a test failed.
"""

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
TABLES = Path(__file__).with_name("environments.toml")
RESULTS = ROOT / "bench/results/frameworks_cpu.txt"
TOOLS = ["hypothesis>=6.112", "pytest>=9", "pytest-timeout>=2.4"]
VERSIONS = (
    "import json, sys; from importlib.metadata import version;"
    "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
)

Table = dict[str, list[str]]
Outcome = dict[str, Any]


def interpreter(name: str, packages: list[str]) -> Path:
    """The Python of an environment, which is made unless it is there.

    Raises:
        RuntimeError: if a package cannot be installed.
    """
    folder = ROOT / ".frameworks" / name
    python, stamp = folder / "bin/python", folder / "installed"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = "\n".join([platform.python_version(), *project["dependencies"], *packages, *TOOLS])
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Making {folder.relative_to(ROOT)}: minutes, torch alone is gigabytes.", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        ended = subprocess.run(
            [*pip, "--editable", str(ROOT), *packages, *TOOLS],
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        if ended.returncode != 0:
            raise RuntimeError(ended.stderr.strip().rpartition("\n")[2])
        stamp.write_text(wanted)
    return python


def outcome(name: str, table: Table) -> Outcome:
    """What the tests of one environment say, or why there is none to run them in."""
    day = {"date": datetime.datetime.now(tz=datetime.UTC).date().isoformat()}
    try:
        python = interpreter(name, table["packages"])
    except RuntimeError as error:
        return {**day, "passed": 0, "error": str(error)}
    names = ["torch", *(re.split(r"[^\w.-]", package)[0] for package in table["packages"])]
    versions = subprocess.run([python, "-c", VERSIONS, *names], stdout=subprocess.PIPE, check=True)
    command = ["-m", "pytest", "-q", "-W", "default", "--disable-warnings", *table["tests"]]
    report = ROOT / ".frameworks" / f"{name}.xml"
    report.unlink(missing_ok=True)
    subprocess.run(
        [python, *command, "-p", "no:cacheprovider", f"--junitxml={report}"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    return {
        **day,
        "versions": {"Python": platform.python_version(), **json.loads(versions.stdout)},
        "command": " ".join(["python", *command]),
        **counts(report),
    }


def counts(report: Path) -> dict[str, Any]:
    """How many tests passed, failed and were skipped, by pytest's report in JUnit's form."""
    if not report.exists():
        return {"passed": 0, "error": "pytest ended without a report"}
    [suite] = ElementTree.parse(report).getroot()
    tests, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    return {"passed": tests - failed - skipped, "failed": failed, "skipped": skipped}


def is_good(found: Outcome) -> bool:
    """Whether tests ran and none failed."""
    return found["passed"] > 0 and not found.get("failed") and "error" not in found


def text_of(outcomes: dict[str, Outcome]) -> str:
    """A paragraph for each environment, then all of it as one line of JSON."""
    lines = []
    for name, found in sorted(outcomes.items()):
        kinds = ("passed", "failed", "skipped")
        said = found.get("error") or ", ".join(f"{found[kind]} {kind}" for kind in kinds)
        lines.append(f"{name}: {said} ({found['date']})")
        if "command" in found:
            lines.append("  " + ", ".join(map(" ".join, found["versions"].items())))
            lines.append("  " + found["command"])
    torch = {
        name: found["versions"]["torch"] for name, found in outcomes.items() if "versions" in found
    }
    document = {
        "environment": {"machine": platform.machine(), "torch": torch},
        "outcomes": outcomes,
    }
    return "\n".join([*lines, json.dumps(document, sort_keys=True)]) + "\n"


def outcomes_in(text: str) -> dict[str, Outcome]:
    """The outcomes that ``text_of`` wrote down."""
    outcomes: dict[str, Outcome] = json.loads(text.splitlines()[-1])["outcomes"]
    return outcomes


def run(
    names: Iterable[str],
    tables: dict[str, Table],
    results: Path,
    outcome: Callable[[str, Table], Outcome] = outcome,
) -> int:
    """Run environments one after the other, and write each outcome as soon as it is there.

    Args:
        names: Of the environments; none stands for all.
        tables: All environments.
        results: The file, in which outcomes of environments that do not run now stay.
        outcome: Runs one.

    Returns:
        The exit status: 0 if tests ran in each and none failed, else 1.
    """
    status = 0
    before = outcomes_in(results.read_text()) if results.exists() else {}
    outcomes = {name: found for name, found in before.items() if name in tables}
    for name in list(names) or tables:
        outcomes[name] = outcome(name, tables[name])
        results.write_text(text_of(outcomes))
        status |= not is_good(outcomes[name])
    return status


if __name__ == "__main__":
    tables = tomllib.loads(TABLES.read_text())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(tables))
    names = parser.parse_args().names
    if unknown := [name for name in names if name not in tables]:
        parser.error(f"NAME must be one of {', '.join(tables)}, got {', '.join(unknown)}")
    sys.exit(run(names, tables, RESULTS))
