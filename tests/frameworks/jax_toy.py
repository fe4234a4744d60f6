"""The small two-tower model in JAX, and a run that keeps what it was trained on."""

import json

import grain
import jax
import jax.numpy as jnp
import numpy as np

from jest_loader import JestDataset, Learnability, Options
from jest_loader.adapters.grain import GrainSource
from jest_loader.adapters.jax import JaxEmbedder
from tests.frameworks.toy import pairs

jax.config.update("jax_num_cpu_devices", 2)
STEPS = 4  # Of an epoch: 176 rows by 40, and 16 that are left over.


def params(seed):
    image, text = jax.random.split(jax.random.key(seed))
    return {
        "image": 0.1 * jax.random.normal(image, (24, 8)),
        "text": 0.1 * jax.random.normal(text, (12, 8)),
    }


@jax.jit
def embed(params, batch):
    image, text = (batch[name] @ params[name] for name in ("image", "text"))
    image, text = (rows / jnp.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, text))
    return image, text, 10.0, -5.0


def loss(params, batch):
    image, text, scale, bias = embed(params, batch)
    labels = 2 * jnp.eye(len(image)) - 1
    return jax.nn.softplus(-labels * (scale * image @ text.T + bias)).sum() / len(image)


def stepped(params, batch):
    return jax.tree.map(lambda one, slope: one - 0.1 * slope, params, jax.grad(loss)(params, batch))


step = jax.jit(stepped)
overwriting_step = jax.jit(stepped, donate_argnums=0)


def rows(size=176):
    """Pairs as NumPy arrays, as pipelines of Grain have them."""
    return [{name: value.numpy() for name, value in pair.items()} for pair in pairs(size)]


def shuffled(epoch):
    return grain.MapDataset.source(rows()).seed(epoch).shuffle().batch(8)


class Run:
    """Params that are trained, and what a dataset of Grain's scores with them."""

    def __init__(self, source=shuffled, **options) -> None:
        self.params, self.step, self.num_steps = params(1), step, 0
        self.source, self.options = source, Options(**options)
        self.scored_at = []  # How many steps were done when each super-batch was scored.

    def now(self):
        self.scored_at.append(self.num_steps)
        return self.params

    def dataset(self) -> JestDataset:
        reference = params(7)
        return JestDataset(
            GrainSource(self.source),
            Learnability(JaxEmbedder(embed, self.now), JaxEmbedder(embed, lambda: reference)),
            super_batch_size=40,
            sub_batch_size=8,
            options=self.options,
        )

    def train(self, batches, after_step=lambda: None):
        """The numbers of the rows of each batch."""
        seen = []
        for batch in batches:
            self.params = self.step(self.params, {name: batch[name] for name in ("image", "text")})
            self.num_steps += 1
            seen.append(batch["id"].tolist())
            after_step()
        return seen


def state_of(batches):
    """As it comes back from a file."""
    return json.loads(json.dumps(batches.get_state()))


def equal(one, other) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))
