"""The cost model: floating-point operations, a multiply-add counted as two."""

from dataclasses import dataclass
from typing import Protocol


def transformer_flops(tokens: int, width: int, depth: int, mlp_ratio: float = 4.0) -> int:
    """Forward of ``depth`` blocks on one sequence: 24 n d^2 + 4 n^2 d each, with an MLP of 4 d."""
    hidden = int(mlp_ratio * width)
    return depth * (8 * tokens * width**2 + 4 * tokens * width * hidden + 4 * tokens**2 * width)


def patch_embedding_flops(tokens: int, patch_size: int, channels: int, width: int) -> int:
    """Forward of a ViT's patch embedding on one image."""
    return 2 * tokens * patch_size**2 * channels * width


def selection_flops(super_batch_size: int, sub_batch_size: int, width: int, num_chunks: int) -> int:
    """Joint selection, per model: all chunks but the last, against all candidates, both ways."""
    conditioned = sub_batch_size - max(1, sub_batch_size // num_chunks)  # All but the last chunk.
    return 2 * 2 * super_batch_size * conditioned * width


class Counted(Protocol):
    """Numbers of examples, as ``jest_loader.Counts`` has them."""

    @property
    def scored(self) -> int:
        """Examples seen by a scorer."""
        ...

    @property
    def trained(self) -> int:
        """Examples emitted in a sub-batch."""
        ...


@dataclass(frozen=True)
class Flops:
    """Flops by part, of a step or of a run.

    Args:
        training: Forward and backward of the sub-batches; a backward costs two forwards.
        scoring: Forward of the learner on the candidates; or forward of an online proxy on the
            candidates, and forward and backward on the sub-batches.
        reference: Forward of the reference on the candidates; 0 where its embeddings are cached.
        selection: Products of chunks with all candidates.
        uniform: Training on as many examples without selection, at full resolution.
    """

    training: float
    scoring: float
    reference: float
    selection: float
    uniform: float

    @property
    def total(self) -> float:
        """Flops of all parts."""
        return self.training + self.scoring + self.reference + self.selection

    @property
    def overhead(self) -> float:
        """Cost over that of uniform training: the iteration speed-up at which selection pays."""
        return self.total / self.uniform


@dataclass(frozen=True)
class ExampleCost:
    """Flops per example, so that the account of a run is linear in what it counted.

    It holds where the filter ratio changes during the run, but for one size of sub-batch.

    Args:
        training: Per example trained: three forwards of the learner.
        scoring: Per example scored: a forward of the learner or of its online proxy.
        reference: Per example scored: a forward of the reference; 0 where it is cached.
        selection: Per example scored: its products with the chunks of one sub-batch.
        proxy: Per example trained: three forwards of the online proxy.
        uniform: Per example trained without selection, at full resolution; None takes ``training``.
    """

    training: float
    scoring: float = 0
    reference: float = 0
    selection: float = 0
    proxy: float = 0
    uniform: float | None = None

    def flops(self, counts: Counted) -> Flops:
        """The account of so many examples, such as ``dataset.counts``."""
        trained, scored = counts.trained, counts.scored
        return Flops(
            training=self.training * trained,
            scoring=self.scoring * scored + self.proxy * trained,
            reference=self.reference * scored,
            selection=self.selection * scored,
            uniform=(self.training if self.uniform is None else self.uniform) * trained,
        )


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a run computes per example, as flops of one forward, and how it selects.

    Args:
        learner: The learner, as it is trained.
        learner_low: The learner at the resolution of scoring.
        low_resolution_fraction: Share of the sub-batch that is trained on at that resolution.
        scorer: The learner or its online proxy, as it scores; 0 if the score needs neither.
        trains_scorer: Whether that is a proxy, which learns from the sub-batch.
        reference: The reference; 0 if it is cached, or the score needs none.
        width: Width of the embeddings that the joint selector multiplies, of the scorer and of the
            reference together; 0 for other selectors.
        sub_batch_size: Examples trained on per step.
        num_chunks: Draws per sub-batch.
    """

    learner: float
    learner_low: float
    low_resolution_fraction: float = 0.0
    scorer: float = 0.0
    trains_scorer: bool = False
    reference: float = 0.0
    width: int = 0
    sub_batch_size: int = 1
    num_chunks: int = 1


def example_cost(setup: Setup) -> ExampleCost:
    """What the examples of such a run cost; a backward costs two forwards."""
    low = setup.low_resolution_fraction
    return ExampleCost(
        training=3 * ((1 - low) * setup.learner + low * setup.learner_low),
        scoring=setup.scorer,
        reference=setup.reference,
        selection=selection_flops(1, setup.sub_batch_size, setup.width, setup.num_chunks),
        proxy=3 * setup.scorer * setup.trains_scorer,
        uniform=3 * setup.learner,
    )
