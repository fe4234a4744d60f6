"""Threads that decode, and processes that a decoder is handed to."""

import multiprocessing
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from jest_loader.adapters.images import DecodeImages
from tests.adapters.pictures import FILES, file, photo


def test_one_thread_is_the_callers():
    threads = set()

    def note(image):
        threads.add(threading.current_thread())
        return torch.zeros(1)

    DecodeImages("jpg", transform=note, num_threads=1)({"jpg": [FILES["jpeg"]] * 20})
    assert threads == {threading.current_thread()}


def test_threads_start_late_and_end_with_close():
    before = threading.active_count()
    with DecodeImages("jpg", 16, num_threads=2) as decode_images:
        assert threading.active_count() == before
        decode_images({"jpg": [FILES["jpeg"]] * 40})
        assert threading.active_count() == before + 2
    assert threading.active_count() == before
    decode_images({"jpg": [FILES["jpeg"]]})
    decode_images.close()
    decode_images.close()


def test_threads_end_with_the_object():
    before = threading.active_count()
    decode_images = DecodeImages("jpg", 16, num_threads=2)
    decode_images({"jpg": [FILES["jpeg"]] * 40})
    del decode_images
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_pickles_without_its_threads():
    decode_images = DecodeImages("jpg", 16, num_threads=2)
    batch = {"jpg": [FILES["jpeg"]] * 5}
    images = decode_images(batch)["jpg"]
    copy = pickle.loads(pickle.dumps(decode_images))
    assert torch.equal(copy(batch)["jpg"], images)
    copy.close()
    decode_images.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_goes_on_in_another_process(method):
    decode_images = DecodeImages("jpg", 16, num_threads=2)
    batch = {"jpg": [FILES["jpeg"]] * 20}
    images = decode_images(batch)["jpg"]
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=_decode_into, args=(queue, decode_images, batch), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert np.array_equal(queue.get(), images.numpy())
    decode_images.close()


def _decode_into(queue, decode_images, batch):
    queue.put(decode_images(batch)["jpg"].numpy())


def test_interpreter_ends_with_threads_running():
    program = """
import io
from PIL import Image
from jest_loader.adapters.images import DecodeImages
stream = io.BytesIO()
Image.new("RGB", (20, 20)).save(stream, "JPEG")
decode = DecodeImages("jpg", 16, num_threads=3)
print(decode({"jpg": [stream.getvalue()] * 50})["jpg"].shape[0])
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert (result.stdout, result.stderr) == ("50\n", "")


def test_several_callers_at_once():
    rows = [[file(photo(60, 50, 7 * caller + n)) for n in range(30)] for caller in range(3)]
    with DecodeImages("jpg", 20, num_threads=2) as decode_images:
        results = [None] * 3

        def call(caller):
            results[caller] = decode_images({"jpg": rows[caller]})["jpg"]

        callers = [threading.Thread(target=call, args=(caller,)) for caller in range(3)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
    alone = DecodeImages("jpg", 20, num_threads=1)
    for encoded, images in zip(rows, results, strict=True):
        assert torch.equal(images, alone({"jpg": encoded})["jpg"])
