"""Ctrl-C ends the command with one sentence and 130, whenever it comes."""

import os
import subprocess
import sys

import pytest

import jest_loader
from jest_loader import cli

SENTENCE = "\njest-loader: stopped; the same command goes on"


def python(program, path):
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("imported", ["numpy", "torch", "tyro"])
def test_while_packages_are_imported(tmp_path, imported):
    (tmp_path / f"{imported}.py").write_text("raise KeyboardInterrupt\n")
    ended = python("from jest_loader.cli import main; main()", tmp_path)
    assert ended.returncode == 130
    assert ended.stderr.startswith(SENTENCE)
    assert len(ended.stderr.splitlines()) == 2


@pytest.mark.parametrize("command", ["train", "cache", "pack", "evaluate", "demo", "cost"])
def test_while_a_command_runs(monkeypatch, capsys, command):
    def stopped(*_):
        raise KeyboardInterrupt

    commands = cli._commands()
    options, _, _ = commands[command]
    monkeypatch.setattr(cli, "_commands", lambda: {command: (options, stopped, stopped)})
    monkeypatch.setattr(sys, "argv", ["jest-loader", command])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err.startswith(SENTENCE)


def test_the_names_of_the_package_are_there_when_asked_for(tmp_path):
    program = (
        "import sys, jest_loader\n"
        "assert 'torch' not in sys.modules\n"
        "jest_loader.Embeddings, jest_loader.loader.dataset\n"
        "assert {'JestDataset', '__version__', 'loader'} <= set(dir(jest_loader))\n"
        "from jest_loader import *\n"
        "JestDataset, OnlineProxy\n"
    )
    ended = python(program, tmp_path)
    assert ended.returncode == 0, ended.stderr
    with pytest.raises(AttributeError, match=r"^module 'jest_loader' has no attribute 'Nothing'$"):
        _ = jest_loader.Nothing
    with pytest.raises(AttributeError, match="__wrapped__"):
        _ = jest_loader.__wrapped__
