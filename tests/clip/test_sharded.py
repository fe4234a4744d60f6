"""The bundled model in FSDP2 on two ranks learns and scores as it does whole."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from jest_loader import LiveLearner
from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.models.towers import TwoTower
from jest_loader.ops.losses import contrastive_loss
from tests.processes import launch

SIZES = {
    "image_size": 16, "channels": 1, "patch_size": 8, "vision_width": 16, "vision_depth": 1,
    "text_width": 16, "text_depth": 1, "heads": 2, "embed_dim": 8, "vocab_size": 64,
    "context_length": 3,
}  # fmt: skip
STEPS, ROWS = 4, 6


def model_of(tower):
    torch.manual_seed(0)
    return TwoTower(ModelConfig(**SIZES, image_tower=tower), logit_bias=-2.0)


def batch_of(step, rank):
    generator = torch.Generator().manual_seed(10 * step + rank)
    image = torch.randint(256, (ROWS, 1, 16, 16), generator=generator, dtype=torch.uint8)
    return {"image": image, "text": torch.randint(1, 64, (ROWS, 3), generator=generator)}


def train(model, ranks):
    """Losses and scale, step by step, of the mean over the batches of some ranks."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(STEPS):
        parts = [contrastive_loss(model(batch_of(step, rank)), "sigmoid") for rank in ranks]
        loss = torch.stack(parts).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def sharded(tower):
    model = model_of(tower)
    mesh = init_device_mesh("cpu", (2,))
    for part in (model.image_tower, model.text_tower):
        fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def run(rank, tower):
    torch.set_num_threads(1)
    whole, model = model_of(tower), sharded(tower)
    expected = train(whole, [0, 1])
    losses = train(model, [rank])
    dist.all_reduce(losses)
    torch.testing.assert_close(losses / 2, expected)
    assert all(isinstance(weight, DTensor) for weight in model.parameters())
    found = LiveLearner(model, micro_batch_size=4).embed(batch_of(9, rank))
    plain = LiveLearner(whole).embed(batch_of(9, rank))
    for name in ("image", "text", "logit_scale", "logit_bias"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name))
    again = sharded(tower)
    set_model_state_dict(again, get_model_state_dict(model))
    embedded = LiveLearner(again).embed(batch_of(9, rank))
    torch.testing.assert_close(embedded.logit_scale, plain.logit_scale)
    assert float(found.logit_scale) != 10.0, "the scale was trained"


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["vit", "conv"])
def test_a_sharded_model_learns_and_scores_as_a_whole_one(tower):
    ended = launch(2, run, tower)
    assert [rank.error for rank in ended] == [None, None]
