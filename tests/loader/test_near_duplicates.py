"""The share of a sub-batch that has a look-alike in it, as the reference sees it."""

import pytest
import torch
from torch.nn.functional import normalize

from jest_loader import (
    EasyReference,
    Embeddings,
    ExampleScores,
    HardLearner,
    IndependentSelector,
    JointSelector,
    TopKSelector,
    UniformSelector,
)
from jest_loader.ops import plain
from jest_loader.scoring.near_duplicates import near_duplicates
from tests.helpers import jest_dataset, random_embeddings

FAMILIES, MEMBERS = 16, 8
SIZES = {"super_batch_size": FAMILIES * MEMBERS, "sub_batch_size": FAMILIES}


class Columns:
    """A model whose embeddings are columns of the batch."""

    def embed(self, batch):
        return Embeddings(batch["image"], batch["text"], logit_scale=20.0, logit_bias=-5.0)


def families(*, apart=0.05):
    """Sixteen pairs, each eight times with a little noise: members have cosines of 0.97 or more."""
    generator = torch.Generator().manual_seed(0)

    def rows():
        heads = torch.eye(FAMILIES).repeat_interleave(MEMBERS, dim=0)
        noise = torch.randn(len(heads), FAMILIES, generator=generator) / FAMILIES**0.5
        return normalize(heads + apart * noise, dim=1)

    return [{"image": rows(), "text": rows()}]


def stats_of(selector, data=None, scorer=None):
    dataset = jest_dataset(
        data or families(), scorer or EasyReference(Columns()), selector, **SIZES
    )
    list(dataset)
    return dataset.stats


def test_joint_selection_keeps_look_alikes_apart_and_others_do_not():
    joint = stats_of(JointSelector(FAMILIES))
    independent, top = stats_of(IndependentSelector()), stats_of(TopKSelector())
    assert joint.near_duplicates == 0
    assert independent.near_duplicates > 0.4
    assert top.near_duplicates > 0.4
    assert joint.uniform_near_duplicates > 0.4


def test_each_row_with_a_close_one_counts_by_image_or_by_text():
    image = torch.eye(6, dtype=torch.float64)
    text = torch.eye(6, dtype=torch.float64)
    image[1] = image[0]  # The same picture.
    text[3] = normalize(text[2] + 0.3 * text[3], dim=0)  # A cosine of 0.958.
    text[5] = normalize(text[4] + 0.4 * text[5], dim=0)  # A cosine of 0.928.
    side = Embeddings(image, text, 10.0)
    assert near_duplicates(side).item() == pytest.approx(4 / 6)
    assert near_duplicates(side, threshold=0.9).item() == 1
    assert near_duplicates(side, threshold=0.99).item() == pytest.approx(2 / 6)
    assert near_duplicates(Embeddings(image[:1], text[:1], 10.0)).item() == 0


def test_blocks_of_rows_find_what_all_rows_at_once_do(monkeypatch):
    side = random_embeddings(57, 3, seed=4)
    whole = near_duplicates(side)
    monkeypatch.setattr(plain, "_CPU_BLOCK_ELEMENTS", 500)
    assert near_duplicates(side) == whole
    assert 0.2 < whole < 1


def test_without_embeddings_of_a_reference_there_is_no_share():
    class ByNumber:
        def score(self, super_batch):
            return ExampleScores(super_batch["image"][:, 0])

    for scorer in (HardLearner(Columns()), ByNumber()):
        found = stats_of(IndependentSelector(), scorer=scorer)
        assert (found.near_duplicates, found.uniform_near_duplicates) == (None, None)
    uniform = jest_dataset(families(), None, UniformSelector(), **SIZES)
    list(uniform)
    assert uniform.stats.near_duplicates is None
