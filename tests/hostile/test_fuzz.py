"""Damaged files, at random."""

import subprocess
import sys


def test_damage_is_never_silent_where_there_are_digests() -> None:
    # In a process of its own: threads of earlier tests do not outlive the forks.
    command = [sys.executable, "-m", "tests.fuzz", "--trials", "12", "--seed", "16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
