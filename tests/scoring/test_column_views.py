"""Columns that hold more than one embedding of an example: of several models, or of views."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from jest_loader import ColumnReference

ROWS = 6


def unit(*shape, seed):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def reference(**options):
    return ColumnReference("image", "text", logit_scale=100.0, **options)


def test_width_takes_the_first_of_a_wider_column():
    first, second = unit(ROWS, 4, seed=0), unit(ROWS, 4, seed=1)
    wide = torch.cat([first, second], dim=1)
    found = reference(width=4).embed({"image": wide, "text": wide})
    assert torch.equal(found.image, first)
    assert torch.equal(found.text, first)


def test_first_view_is_taken_without_a_rule():
    views, captions = unit(ROWS, 3, 4, seed=2), unit(ROWS, 5, 4, seed=3)
    found = reference().embed({"image": views, "text": captions})
    assert torch.equal(found.image, views[:, 0])
    assert torch.equal(found.text, captions[:, 0])


def test_views_are_chosen_by_number_and_by_a_function_of_the_ids():
    views, captions = unit(ROWS, 3, 4, seed=2), unit(ROWS, 5, 4, seed=3)
    batch = {"image": views, "text": captions, "sample_id": np.arange(10, 10 + ROWS)}
    chosen = reference(image_view=lambda batch: batch["sample_id"] % 3, text_view=4)
    found = chosen.embed(batch)
    for row in range(ROWS):
        assert torch.equal(found.image[row], views[row, (10 + row) % 3])
        assert torch.equal(found.text[row], captions[row, 4])


def test_view_and_width_go_together_and_nan_views_are_skipped():
    views = torch.cat([unit(ROWS, 2, 4, seed=4), unit(ROWS, 2, 4, seed=5)], dim=2)
    views[3, 1] = torch.nan
    found = reference(width=4, image_view=1).embed({"image": views, "text": unit(ROWS, 4, seed=6)})
    assert torch.equal(found.image[2], views[2, 1, :4])
    assert list(found.skipped) == [3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 9}, r"width must be at most .* is 9 and column 'image' is of shape \(6, 8\)"),
        ({"image_view": 3}, r"a view must be from 0 to 1, as column 'image' has 2 .*, got 3"),
        ({"image_view": lambda batch: [0] * 5}, r"one whole number for each .* got .* of \(5,\)"),
        ({"image_view": lambda batch: [0.5] * 6}, r"one whole number for each .* got torch.float"),
        ({"image_view": lambda batch: [-1] * 6}, r"from 0 to 1, .* got -1"),
    ],
    ids=["too wide", "no such view", "too few", "fractions", "negative"],
)
def test_what_the_column_does_not_have_is_refused(options, message):
    views = unit(ROWS, 2, 8, seed=7)
    with pytest.raises(ValueError, match=message):
        reference(**options).embed({"image": views, "text": unit(ROWS, 8, seed=8)})


@pytest.mark.parametrize(
    "options",
    [{"width": 0}, {"image_view": -1}, {"text_view": "first"}, {"text_view": True}],
    ids=["no width", "negative", "a word", "a flag"],
)
def test_views_that_cannot_be_are_refused_at_once(options):
    with pytest.raises(ValueError, match=r"must be a whole number of at least"):
        reference(**options)
