"""The command line: help for every option, one line for every mistake."""

import os
import subprocess
import sys

import pytest

from jest_loader.cli import main


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = "from jest_loader.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("demo", ["--out", "--steps", "--noise-fraction", "--seed"]),
        ("train", ["--data.train", "--model.patch-size", "--selection.filter-ratio", "--loss"]),
        ("evaluate", ["--checkpoint", "--data", "--classes", "--templates", "--sets"]),
        ("pack", ["--input", "--output", "--captions", "--format"]),
        ("cache", ["--data", "--checkpoint", "--out", "--chunk-rows", "--overwrite"]),
        ("verify-cache", ["--cache", "--data", "--checkpoint"]),
        ("cost", ["--model", "--filter-ratio", "--score-patch", "--reference", "--json"]),
    ],
)
def test_help_explains_every_option(command, options, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jest-loader", command, "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in options:
        assert option in shown
    lines = [line for line in shown.splitlines() if " --" in line]
    assert len(lines) >= len(options)


def test_a_mistake_ends_with_one_line_and_status_2(tmp_path):
    result = run("train", "--data.train", str(tmp_path), "--out", str(tmp_path / "run"))
    assert result.returncode == 2
    assert result.stderr.startswith(f"jest-loader: {tmp_path} must be a folder of MDS shards")
    assert len(result.stderr.splitlines()) == 1


def test_a_cache_that_is_none_ends_with_one_line_and_status_2(tmp_path):
    result = run("verify-cache", "--cache", str(tmp_path))
    assert result.returncode == 2
    assert result.stderr.startswith(f"jest-loader: no reference cache at {tmp_path}: zarr.json is")
    assert len(result.stderr.splitlines()) == 1


def test_an_unknown_command_is_refused():
    result = run("fly")
    assert result.returncode != 0
    assert "demo" in result.stdout + result.stderr


def test_without_the_extras_it_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'tyro' else find(name, *a)\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = run("demo", PYTHONPATH=path)
    assert result.returncode == 1
    assert "need tyro, which the library does not: pip install 'jest-loader[all]'" in result.stderr


def test_a_warning_fits_80_columns_and_stands_once():
    said = f"the learner has passed the reference, see /a/path/that-is-whole; {'so it is, ' * 20}"
    program = (
        "import logging\n"
        "from jest_loader import cli\n"
        f"cli._run = lambda: logging.getLogger('jest_loader').warning({said!r})\n"
        "cli.main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
        timeout=120,
        check=True,
    )
    lines = result.stderr.splitlines()
    assert max(map(len, lines)) < 80
    assert " ".join(line.strip() for line in lines) == f"WARNING: {said.strip()}"
