"""Embeddings are a pytree, in which wrappers such as FSDP2 find tensors."""

import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from jest_loader import Embeddings
from tests.helpers import random_embeddings


def test_tensors_are_found_and_put_back():
    side = random_embeddings(4, 3, seed=0)
    given = Embeddings(side.image, side.text, torch.tensor(20.0), None, {1: "torn"})
    leaves, spec = tree_flatten(given)
    assert leaves[0] is given.image
    assert leaves[1] is given.text
    assert leaves[2] is given.logit_scale
    found = tree_unflatten(leaves, spec)
    assert vars(found) == vars(given)
    doubled = tree_map(lambda leaf: None if leaf is None else leaf * 2, [given])[0]
    assert torch.equal(doubled.text, 2 * given.text)
    assert doubled.skipped == {1: "torn"}
