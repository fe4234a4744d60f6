"""Damage files that we read, one place at a time, and count how each reading ends.

    python -m tests.fuzz --seconds 60

Each trial copies a data set, a cache or a checkpoint, damages one file of the copy, and reads all
of it in a process of its own. It ends in one of these ways:

    named     an error that jest_loader or an adapter raised, in one line
    foreign   an error from below, or of many lines: damage is noticed, but not in our words
    harmless  what is read is what was written
    silent    something else is read, without an error
    death     the process was killed, or took longer than 20 seconds

The exit status is 1 if there is a death, or a silent trial where digests were written.
"""

import argparse
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import torch

from tests.fuzz.subjects import SUBJECTS, Subject

LIMIT_S = 20
_OURS = (f"{os.sep}jest_loader{os.sep}", f"{os.sep}adapters{os.sep}")


def _read_apart(subject: Subject, folder: Path) -> tuple[str, str]:
    """Read in a forked process: how it ended, with the content or what the error says."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        signal.alarm(LIMIT_S)
        with os.fdopen(send, "w") as pipe:
            json.dump(_outcome(subject, folder), pipe)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        return "death", f"status {status}"
    how, found = json.loads(told)
    return how, found


def _outcome(subject: Subject, folder: Path) -> tuple[str, str]:
    try:
        return "read", subject.read(folder)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        named = any(part in last for part in _OURS) and "\n" not in str(error)
        return "named" if named else "foreign", f"{type(error).__name__}: {error} ({last})"


def fuzz(subject: Subject, *, seed: int, seconds: float, trials: int) -> Counter[str]:
    """Damage one place at a time until the time or the number of trials is over.

    Returns:
        How many trials ended in each way. What is silent, foreign or a death is printed.
    """
    chance, ended, until = random.Random(seed), Counter[str](), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as place:
        whole, damaged = Path(place) / "whole", Path(place) / "damaged"
        subject.write(whole)
        how, content = _read_apart(subject, whole)
        assert how == "read", content
        while ended.total() < trials and time.monotonic() < until:
            shutil.copytree(whole, damaged)
            done = subject.damage(damaged, chance)
            how, found = _read_apart(subject, damaged)
            if how == "read":
                how = "harmless" if found == content else "silent"
            if how in ("silent", "foreign", "death"):
                print(f"{subject.name}: {how}: {done}" + (f": {found}" if how != "silent" else ""))
            ended[how] += 1
            shutil.rmtree(damaged)
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description="Damage files that we read, and count the ends.")
    parser.add_argument("--seconds", type=float, default=60, help="the most for each subject")
    parser.add_argument("--trials", type=int, default=10**9, help="the most for each subject")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="a part of the subjects' names")
    given = parser.parse_args()
    logging.disable()
    torch.set_num_threads(1)  # Threads do not outlive a fork.
    warnings.simplefilter("ignore")
    bad = False
    rows = []
    for subject in SUBJECTS:
        if given.only is None or given.only in subject.name:
            ended = fuzz(subject, seed=given.seed, seconds=given.seconds, trials=given.trials)
            rows.append((subject.name, ended))
            bad |= bool(ended["death"] or (subject.digests and ended["silent"]))
    ways = ("named", "foreign", "harmless", "silent", "death")
    print(f"\n{'':18}" + "".join(f"{way:>10}" for way in ways))
    for name, ended in rows:
        print(f"{name:18}" + "".join(f"{ended[way]:10}" for way in ways))
    sys.exit(bad)


if __name__ == "__main__":
    main()
