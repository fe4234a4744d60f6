"""Captions made to take memory or time."""

import time
import tracemalloc

import pytest
import torch

from jest_loader.clip.models.tokenizer import HashTokenizer


def test_long_captions_are_not_kept():
    tokenize = HashTokenizer(1000, 16)
    tracemalloc.start()
    for number in range(20):
        tokenize([f"{number} " + "a b " * 50_000])
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 200_000


@pytest.mark.parametrize("caption", ["a" * 250_000, "a " * 125_000, "é!" * 125_000])
def test_a_long_caption_takes_no_time(caption):
    start = time.monotonic()
    assert HashTokenizer(1000, 16)([caption]).shape == (1, 16)
    assert time.monotonic() - start < 0.5


def test_words_past_the_context_change_nothing():
    tokenize = HashTokenizer(1000, 4)
    assert torch.equal(
        tokenize(["one two three four " + "x " * 999]), tokenize(["one two three four"])
    )


@pytest.mark.parametrize("caption", ["", "\0", "\ud800 half", "\ufeff"])
def test_odd_captions_have_tokens(caption):
    assert HashTokenizer(1000, 4)([caption]).dtype == torch.int64


def test_no_captions_have_no_rows():
    assert HashTokenizer(1000, 4)([]).shape == (0, 4)
