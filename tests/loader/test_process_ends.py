"""A process ends when its training loop does, whatever its reader is in."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

TRAIN = """
    import itertools, sys, time
    import torch
    import jest_loader.loader.read_ahead
    from jest_loader import ExampleScores, JestDataset
    from jest_loader.adapters.blocks.threads import map_in_threads

    jest_loader.loader.read_ahead._EXIT_TIMEOUT_S = 2.0

    def read(number):
        if number > 5:
            time.sleep(HOW_LONG)

    class Endless:
        def __iter__(self):
            for number in itertools.count():
                map_in_threads(read, [number, number], THREADS)
                yield {"number": torch.arange(4) + 4 * number}

    class Scorer:
        def score(self, super_batch):
            return ExampleScores(super_batch["number"].double())

    dataset = JestDataset(Endless(), Scorer(), super_batch_size=8, sub_batch_size=4)
    for step, batch in enumerate(dataset):
        print(step, flush=True)
        if step == 2:
            END
"""


@pytest.mark.parametrize(  # Each pair of two conditions once.
    ("how_long", "end", "threads"),
    [
        ("0.01", "raise KeyError('a bug')", "1"),
        ("0.01", "sys.exit(3)", "2"),
        pytest.param("10_000", "raise KeyError('a bug')", "2", marks=pytest.mark.slow),
        pytest.param("10_000", "sys.exit(3)", "1", marks=pytest.mark.slow),
    ],
    ids=["reading-raises", "reading-exits", "hanging-raises", "hanging-exits"],
)
def test_the_process_ends_when_the_training_loop_does(how_long, end, threads):
    script = textwrap.dedent(TRAIN).replace("HOW_LONG", how_long).replace("END", end)
    script = script.replace("THREADS", threads)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == (3 if "exit" in end else 1), result.stderr
    assert result.stdout.split() == ["0", "1", "2"]


def test_a_process_that_ends_lets_the_thread_leave_what_it_is_in():
    """Python ends a daemon thread where it stands: in torch's code that aborts the process."""
    script = """
        import threading, time
        from jest_loader.loader.read_ahead import ReadAhead

        begun = threading.Event()

        def numbers():
            yield 0
            begun.set()
            time.sleep(1)
            print("left", flush=True)
            yield 1

        reading = ReadAhead(numbers(), iter, depth=2, stall_timeout_s=None)
        next(reading)
        begun.wait()
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout.split()) == (0, ["left"]), result.stderr


def test_waiting_for_the_last_read_is_said_and_can_be_interrupted():
    script = """
        import signal, time
        from jest_loader.loader.read_ahead import ReadAhead

        signal.signal(signal.SIGINT, signal.default_int_handler)  # A job of a shell ignores it.

        def hangs():
            yield 0
            time.sleep(10_000)

        reading = ReadAhead(hangs(), iter, depth=2, stall_timeout_s=None)
        next(reading)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        said = process.stderr.readline()
        assert "waiting up to 10 s for the source's last read" in said
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert process.wait(60) == 0
        assert time.monotonic() - started < 6
        assert process.stderr.read() == ""


def test_two_processes_of_a_group_can_be_killed_at_once():
    script = textwrap.dedent(TRAIN).replace("HOW_LONG", "0.01").replace("END", "pass")
    script = script.replace("THREADS", "1")
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline() == b"0\n"
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    process.stdout.close()
