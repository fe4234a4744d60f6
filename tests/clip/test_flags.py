"""The trainer's messages name options as they are typed."""

import pytest

from jest_loader.clip.commands.flags import with_flags


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("data.batch_size must be at least 1", "--data.batch-size must be at least 1"),
        ("lower data.batch_size.", "lower --data.batch-size."),
        ("set selection.score_patch_size or it", "set --selection.score-patch-size or it"),
        ("filter_ratio must be 1 - 1/n", "--selection.filter-ratio must be 1 - 1/n"),
        ("eval_every must be 1; max_seconds", "--eval-every must be 1; --max-seconds"),
        ("steps of a super_batch_size", "steps of a super_batch_size"),
        (
            "runs/data.batch_size/x data.batch_size.old",
            "runs/data.batch_size/x data.batch_size.old",
        ),
        ("--data.batch-size", "--data.batch-size"),
        ("among ['label_column'], got 'label_colum'", "among ['label_column'], got 'label_colum'"),
    ],
)
def test_fields_become_flags(message, expected):
    assert with_flags(message) == expected
