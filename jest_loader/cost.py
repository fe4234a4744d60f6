"""The cost model: floating-point operations, a multiply-add counted as two."""

from dataclasses import dataclass


def transformer_flops(tokens: int, width: int, depth: int) -> int:
    """Forward of ``depth`` blocks on one sequence: 24 n d^2 + 4 n^2 d each (MLP of 4 d)."""
    return depth * (24 * tokens * width**2 + 4 * tokens**2 * width)


def patch_embedding_flops(tokens: int, patch_size: int, channels: int, width: int) -> int:
    """Forward of a ViT's patch embedding on one image."""
    return 2 * tokens * patch_size**2 * channels * width


def selection_flops(super_batch_size: int, sub_batch_size: int, width: int, num_chunks: int) -> int:
    """Joint selection, per model: all chunks but the last, against all candidates, both ways."""
    conditioned = sub_batch_size - max(1, sub_batch_size // num_chunks)  # All but the last chunk.
    return 2 * 2 * super_batch_size * conditioned * width


@dataclass(frozen=True)
class StepCost:
    """Flops of one training step with selection, by part.

    Args:
        training: Forward and backward of the sub-batch; a backward costs two forwards.
        scoring: Forward of the learner, or of its proxy, on the super-batch.
        reference: Forward of the reference on the super-batch; 0 where its embeddings are cached.
        selection: Products of chunks with all candidates.
    """

    training: int
    scoring: int = 0
    reference: int = 0
    selection: int = 0

    @property
    def total(self) -> int:
        """Flops of the step."""
        return self.training + self.scoring + self.reference + self.selection

    @property
    def overhead(self) -> float:
        """Cost over that of training alone: the iteration speed-up at which selection pays."""
        return self.total / self.training
