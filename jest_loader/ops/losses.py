"""Contrastive training losses of one batch, differentiable, in fp32."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from jest_loader.embeddings import Embeddings
from jest_loader.ops.plain import all_logits, exact, same_group
from jest_loader.protocols import Loss


def contrastive_loss(embeddings: Embeddings, loss: Loss, groups: Tensor | None = None) -> Tensor:
    """The batch's loss, [].

    ``"sigmoid"`` is SigLIP's sum over all pairs divided by the batch size (arXiv 2303.15343,
    section 3.2); ``"softmax"`` is CLIP's symmetric cross-entropy (arXiv 2103.00020, Figure 3).

    Args:
        embeddings: The embeddings of the B examples.
        loss: Which of the two.
        groups: Int64 [B], an id of each example; different examples with equal ids are not each
            other's negatives: the loss has no terms for them. None makes all others negatives.
    """
    logits = all_logits(exact(embeddings))
    if groups is not None:
        logits = logits.masked_fill(same_group(groups.to(logits.device)), -torch.inf)
    if loss == "sigmoid":
        signs = 2 * torch.eye(len(logits), device=logits.device) - 1
        return softplus(-signs * logits).sum() / len(logits)
    target = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
