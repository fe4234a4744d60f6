"""A model of JAX as a side of a scorer."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from jest_loader.batch import Batch, num_examples, to_numpy
from jest_loader.embeddings import Embeddings

EmbedFunction = Callable[[Any, Batch], tuple[Any, ...]]


class JaxEmbedder:
    """Embeds with a function of JAX and the parameters that it is to have now.

    Embeddings stay where they are, on the CPU or on a GPU that PyTorch sees too; those of several
    devices, or of a TPU, are copied to the CPU.

    Args:
        embed: ``embed(params, batch)``, compiled or not, returns ``(image, text, logit_scale,
            logit_bias)``, as ``Embeddings`` has them but arrays of JAX; without the bias for a
            softmax model. Tensors of the batch come as NumPy arrays.
        params: Returns the parameters, a pytree: ``lambda: state.params`` for the model being
            trained, ``lambda: params`` for a reference.

    Raises:
        ValueError: if an argument cannot be called.
    """

    def __init__(self, embed: EmbedFunction, params: Callable[[], Any]) -> None:
        given: tuple[tuple[str, object], ...] = (("embed", embed), ("params", params))
        for name, function in given:
            if not callable(function):
                raise ValueError(
                    f"{name} must be a function, got {type(function).__name__}; write "
                    "JaxEmbedder(embed, lambda: params)"
                )
        self._embed, self._params = embed, params

    def embed(self, batch: Batch) -> Embeddings:
        """Embeddings of the batch, in fp32 (fp64 of a model in fp64).

        Raises:
            ValueError: if the function returns anything but three or four values, or not a row per
                example.
        """
        found: object = self._embed(self._params(), to_numpy(batch))
        if not isinstance(found, tuple) or len(found) not in (3, 4):
            size = f" of {len(found)}" if isinstance(found, tuple) else ""
            raise ValueError(
                "embed must return the tuple (image, text, logit_scale), with logit_bias for a "
                f"sigmoid model, got {type(found).__name__}{size}"
            )
        embeddings = Embeddings(*map(_as_tensor, found))
        if len(embeddings.image) != num_examples(batch):
            raise ValueError(
                "embed must return one row per example of the batch, got "
                f"{len(embeddings.image)} for {num_examples(batch)}"
            )
        return embeddings

    def snapshot(self) -> "JaxEmbedder":
        """The same with a copy of the parameters as they are now.

        A copy, as a step that is given its parameters to overwrite (``donate_argnums``) deletes
        them.
        """
        params = jax.tree.map(_copied, self._params())
        return JaxEmbedder(self._embed, lambda: params)


def _as_tensor(value: Any) -> Any:
    """An array of JAX as a tensor of at least fp32, over the same memory where that can be."""
    if not isinstance(value, jax.Array):
        return value
    if value.dtype.itemsize < torch.float32.itemsize:
        value = value.astype("float32")
    return from_dlpack(value) if _can_share(value) else torch.from_numpy(np.array(value))


def _can_share(array: jax.Array) -> bool:
    devices = array.devices()
    kind = next(iter(devices)).platform
    return len(devices) == 1 and (kind == "cpu" or (kind == "gpu" and torch.cuda.is_available()))


def _copied(leaf: Any) -> Any:
    return leaf.copy() if isinstance(leaf, jax.Array) else leaf
