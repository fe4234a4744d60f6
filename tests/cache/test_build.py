"""A cache holds every sample's embeddings, whole or not at all."""

import numpy as np
import pytest
import torch

from jest_loader import CachedReference, Embeddings
from jest_loader.cache import build_cache


class Reference:
    """Embeds a row by its id, so that a row in the wrong place shows."""

    def embed(self, batch):
        ids = torch.as_tensor(np.asarray(batch["sample_id"]))
        angle = ids / 10
        image = torch.stack([angle.cos(), angle.sin()], dim=1)
        return Embeddings(image, -image, torch.tensor(7.5), torch.tensor(-2.0))


def batches(ids, size=4):
    return [{"sample_id": np.array(ids[i : i + size])} for i in range(0, len(ids), size)]


def test_what_was_embedded_is_read_back_by_id(tmp_path):
    ids = np.random.default_rng(0).permutation(18)
    build_cache(tmp_path / "cache", batches(ids), Reference(), num_samples=18)
    cached = CachedReference.open(tmp_path / "cache")
    batch = {"sample_id": np.array([17, 0, 9])}
    found, expected = cached.embed(batch), Reference().embed(batch)
    assert found.image.dtype == torch.float16
    torch.testing.assert_close(found.image, expected.image.half())
    torch.testing.assert_close(found.text, expected.text.half())
    assert (found.scale, found.bias) == (7.5, -2.0)


class Softmax(Reference):
    def embed(self, batch):
        found = super().embed(batch)
        return Embeddings(found.image, found.text, 5.0)


def test_a_softmax_reference_has_no_bias(tmp_path):
    build_cache(tmp_path / "cache", batches(range(4)), Softmax(), num_samples=4)
    assert CachedReference.open(tmp_path / "cache").embed({"sample_id": [0]}).bias is None


class NotFinite(Reference):
    def embed(self, batch):
        found = super().embed(batch)
        return Embeddings(found.image * 1e6, found.text, 5.0)


@pytest.mark.parametrize(
    ("ids", "reference", "message"),
    [
        (range(17), Reference(), r"hold every sample, but 1 of 18 did not come \(first \[17\]\)"),
        (range(19), Reference(), r"in \[0, 18\).* got 18; build it from this data set"),
        ([*range(18), 3], Reference(), "some of samples 3 to 17 came twice"),
        ([0, 0], Reference(), "some of samples 0 to 0 came twice"),
        (np.arange(18) / 2, Reference(), "one whole number per example, got float64"),
        (range(18), torch.nn.Linear(1, 1), "reference must be an embedder, got Linear"),
        ([], Reference(), "but 18 of 18 did not come"),
        (
            range(18),
            NotFinite(),
            "image embeddings must be finite in half precision, but some of samples 0 to 3",
        ),
    ],
    ids=["missing", "beyond", "twice", "at once", "float", "model", "empty", "not finite"],
)
def test_a_cache_that_cannot_be_whole_does_not_appear(tmp_path, ids, reference, message):
    with pytest.raises(ValueError, match=message):
        build_cache(tmp_path / "cache", batches(list(ids)), reference, num_samples=18)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no reference cache"):
        CachedReference.open(tmp_path / "cache")


def test_a_damaged_cache_is_named(tmp_path):
    build_cache(tmp_path / "cache", batches(list(range(4))), Reference(), num_samples=4)
    stored = (tmp_path / "cache" / "text.npy").read_bytes()
    (tmp_path / "cache" / "text.npy").write_bytes(stored[:-2])
    with pytest.raises(ValueError, match=r"cache at .* is damaged .* build it again"):
        CachedReference.open(tmp_path / "cache")
    (tmp_path / "cache" / "text.npy").write_bytes(stored)
    (tmp_path / "cache" / "manifest.json").write_text('{"version": 7}')
    with pytest.raises(ValueError, match="must have version 1, got 7"):
        CachedReference.open(tmp_path / "cache")


def test_a_cache_is_replaced_only_when_asked(tmp_path):
    arguments = (tmp_path / "cache", batches(list(range(4))))
    build_cache(*arguments, Reference(), num_samples=4)
    with pytest.raises(ValueError, match="must not exist yet"):
        build_cache(*arguments, Softmax(), num_samples=4)
    build_cache(*arguments, Softmax(), num_samples=4, overwrite=True)
    assert CachedReference.open(tmp_path / "cache").embed({"sample_id": [0]}).scale == 5.0
