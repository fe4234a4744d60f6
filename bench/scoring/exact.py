"""Embeddings of the bundled model in fp64, which picks in other precisions are compared with."""

from torch import nn
from torch.nn.functional import normalize

from jest_loader import Embeddings
from jest_loader.batch import Batch
from jest_loader.clip.models.model import ClipModel


def embed_in_fp64(model: nn.Module, batch: Batch) -> Embeddings:
    """Embeddings of a model in fp64, which normalises in fp32 by itself."""
    assert isinstance(model, ClipModel)
    image = model.image_tower(batch["image"].double(), None, None)
    text = model.text_tower(batch["text"])
    scale = model.log_scale.exp()
    return Embeddings(normalize(image, dim=1), normalize(text, dim=1), scale, model.logit_bias)
