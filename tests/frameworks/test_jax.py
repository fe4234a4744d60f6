"""JaxEmbedder: a model of JAX is scored without copies, and with the params of the moment."""

import numpy as np
import pytest
import torch

from tests.frameworks.toy import pairs

pytest.importorskip("grain", reason="make frameworks installs it, and JAX")

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jest_loader.adapters.jax import JaxEmbedder
from tests.frameworks.jax_toy import embed, params

BATCH = {name: torch.stack([pair[name] for pair in pairs(40)]) for name in ("id", "image", "text")}


def test_embeddings_are_what_jax_computed():
    weights = params(1)
    found = JaxEmbedder(embed, lambda: weights).embed(BATCH)
    image = BATCH["image"].numpy() @ np.asarray(weights["image"])
    expected = image / np.linalg.norm(image, axis=1, keepdims=True)
    np.testing.assert_allclose(found.image.numpy(), expected, atol=1e-6)
    assert float(found.logit_scale) == 10.0
    assert float(found.logit_bias) == -5.0


def test_rows_are_not_copied():
    kept = []

    def keeping(weights, batch):
        kept.append(embed(weights, batch))
        return kept[0]

    found = JaxEmbedder(keeping, lambda: params(1)).embed(BATCH)
    assert found.image.data_ptr() == kept[0][0].unsafe_buffer_pointer()


def test_half_precision_is_scored_in_fp32():
    half = jax.tree.map(lambda one: one.astype(jnp.bfloat16), params(1))
    batch = {name: BATCH[name].numpy().astype(jnp.bfloat16) for name in ("image", "text")}
    found = JaxEmbedder(embed, lambda: half).embed(batch)
    assert found.image.dtype == found.text.dtype == torch.float32


def test_rows_of_several_devices_are_gathered():
    def spread(weights, batch):
        sharding = NamedSharding(Mesh(jax.devices(), ("rows",)), PartitionSpec("rows"))
        return embed(weights, {name: jax.device_put(batch[name], sharding) for name in weights})

    weights = params(1)
    found = JaxEmbedder(spread, lambda: weights).embed(BATCH)
    expected = JaxEmbedder(embed, lambda: weights).embed(BATCH)
    assert len(jax.devices()) == 2
    torch.testing.assert_close(found.image, expected.image)


def test_a_model_without_a_bias_gives_three_values():
    found = JaxEmbedder(lambda *given: embed(*given)[:3], lambda: params(1)).embed(BATCH)
    assert found.logit_bias is None


def test_a_snapshot_outlives_params_that_a_step_overwrites():
    weights = params(1)
    live = JaxEmbedder(embed, lambda: weights)
    expected = live.embed(BATCH).image.clone()
    snapshot = live.snapshot()
    change = jax.jit(lambda given: jax.tree.map(lambda one: one + 1, given), donate_argnums=0)
    changed = change(weights)
    assert weights["image"].is_deleted()
    torch.testing.assert_close(snapshot.embed(BATCH).image, expected)
    weights = changed
    assert not torch.equal(live.embed(BATCH).image, expected)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda *given: embed(*given)[0],
            r"the tuple \(image, text, logit_scale\), with .* got \w+Impl$",
        ),
        (lambda *given: [*embed(*given)], "got list$"),
        (lambda *given: embed(*given)[:2], "got tuple of 2$"),
        (lambda weights, batch: embed(weights, {n: batch[n][:8] for n in weights}), "got 8 for 40"),
    ],
    ids=["one array", "a list", "two", "other rows"],
)
def test_what_is_no_embedding_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        JaxEmbedder(function, lambda: params(1)).embed(BATCH)


def test_params_that_are_no_function_are_refused():
    with pytest.raises(ValueError, match=r"params must be a function, got dict; .*lambda: params"):
        JaxEmbedder(embed, params(1))
