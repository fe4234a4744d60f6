"""Captions made to take memory or time."""

import random
import time
import tracemalloc

import pytest
import torch

from jest_loader import SkipRowsError
from jest_loader.clip.models import open_clip_tokenizer
from jest_loader.clip.models.open_clip_tokenizer import OpenClipTokenizer
from jest_loader.clip.models.tokenizer import HashTokenizer, cut


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


@pytest.mark.parametrize("captions", [["a", None], ["a", b"b"], ["a", 3.0], "a text"])
@pytest.mark.parametrize("name", ["hash", "open_clip"])
def test_captions_that_are_no_text_are_named(captions, name, simple):
    tokenize = simple() if name == "open_clip" else HashTokenizer(1000, 4)
    with pytest.raises(ValueError, match=r"captions must be (text, but that of row 1|a list)"):
        tokenize(captions)


@pytest.fixture
def simple():
    """Makes open_clip's own tokenizer, as it is or as we take it."""

    def make(*, plain=False, context_length=77):
        pytest.importorskip("open_clip", reason="open_clip is not installed")
        from open_clip.tokenizer import SimpleTokenizer

        tokenizer = SimpleTokenizer(context_length=context_length)
        return tokenizer if plain else OpenClipTokenizer(tokenizer)

    return make


def letters(number, alphabet="abcdefghijklmnopqrstuvwxyz"):
    return "".join(random.Random(0).choices(alphabet, k=number))


@pytest.mark.parametrize(
    "caption",
    ["x" * 250_000, letters(250_000), letters(250_000, "ab c"), "&" * 250_000, "é " * 125_000],
    ids=["one letter", "letters", "words", "punctuation", "accents"],
)
def test_open_clip_takes_no_time_for_a_long_caption(caption, simple):
    tokenize = simple()
    start = time.process_time()  # Other processes may be busy.
    assert tokenize([caption]).shape == (1, 77)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "text",
    [
        "Donaudampfschifffahrtsgesellschaftskapitän und Lebensmittelunverträglichkeit, ",
        "blackandwhitephotography thinkbigsundaywithmarsha internationalwomensday ",
        "a photo of größe 3.14 日本, it's “here”!\n",
        "一张海边的照片。天空是蓝色的。",
        "\U0001f602" * 8,
        "&amp; &lt;b&gt; ",
    ],
    ids=["German", "longest tokens", "mixed", "Chinese", "emoji", "entities"],
)
def test_cutting_changes_no_token(text, simple):
    for length in (16, 77):
        ours, theirs = (simple(plain=plain, context_length=length) for plain in (False, True))
        assert torch.equal(ours([text * 300]), theirs([text * 300]))


def test_no_token_of_open_clip_is_longer_than_the_cut_counts_on(simple):
    tokenizer = simple(plain=True)
    tokens = [token.removesuffix("</w>") for token in tokenizer.encoder]
    assert max(map(len, tokens)) <= 32


def test_open_clips_words_are_not_all_kept(simple, monkeypatch):
    monkeypatch.setattr(open_clip_tokenizer, "_MOST_WORDS", 100)
    ours, theirs = simple(), simple(plain=True)
    words = [f"{letters(number % 20)}q{letters(number // 20)}" for number in range(400)]
    captions = [f"{word} <start_of_text> {letters(100)}" for word in [*words, *words[:50]]]
    assert torch.equal(ours(captions), theirs(captions))
    assert len(theirs.cache) > 400
    assert len(ours.plain.cache) <= 100
    assert max(map(len, ours.plain.cache)) <= 64
    assert ours.plain.cache["<start_of_text>"] == "<start_of_text>"


def test_what_open_clips_parsers_do_not_take_is_a_bad_row(simple):
    tokenize = simple(context_length=256)
    with pytest.raises(SkipRowsError) as raised:
        tokenize(["a", "&#" + "1" * 5000, "b"])
    assert list(raised.value.reasons) == [1]
    assert "the caption cannot be tokenized" in raised.value.reasons[1]


def test_what_lies_at_the_end_is_left_where_the_tokenizer_keeps_it():
    assert cut(["a" * 3000 + "b" * 2048], 4, from_end=True) == ["b" * 2048]
    assert cut(["a" * 2048 + "b" * 3000], 4) == ["a" * 2048]
