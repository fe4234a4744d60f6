"""What builds a model."""

from typing import Protocol

from jest_loader.clip.models.inputs import ModelInputs
from jest_loader.clip.models.model import ClipModel
from jest_loader.protocols import Loss


class Architecture(ModelInputs, Protocol):
    """A two-tower model's sizes and inputs, from which it is built.

    ``BundledArchitecture`` is the bundled model's, ``OpenClipArchitecture`` one of open_clip.
    """

    def build(self, loss: Loss, *, logit_scale: float, logit_bias: float) -> ClipModel:
        """A model to train, with the weights that it starts from, if it has any.

        Args:
            loss: A softmax model has no bias.
            logit_scale: Inverse temperature at the start, unless the weights have one.
            logit_bias: Logit bias at the start, unless the weights have one.

        Raises:
            ValueError: if the weights cannot be read, or are another model's.
        """
        ...

    def empty(self, loss: Loss) -> ClipModel:
        """The model of ``build``, whose weights are still to be loaded."""
        ...
