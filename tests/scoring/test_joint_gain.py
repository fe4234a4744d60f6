"""What conditioning adds, by models trained at another batch size than that of the sub-batch."""

from dataclasses import replace
from statistics import mean

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from jest_loader import (
    Embeddings,
    FactoredScores,
    FrozenReference,
    IndependentSelector,
    JointSelector,
)
from jest_loader.ops.losses import contrastive_loss

WIDTH = 24


def pairs(size, seed, wrong=0.0):
    """Two noisy views of the same points, some of the texts of other examples."""
    generator = torch.Generator().manual_seed(seed)
    point, image, text = torch.randn(3, size, WIDTH, generator=generator)
    text = point + 0.6 * text
    num_wrong = int(wrong * size)
    text[:num_wrong] = text[:num_wrong].roll(1, 0)
    return {"image": point + 0.6 * image, "text": text}


class Towers(nn.Module):
    """A matrix for each side."""

    def __init__(self, trained_batch_size):
        super().__init__()
        self.image, self.text = (nn.Linear(WIDTH, 16, bias=False) for _ in range(2))
        self.log_scale = nn.Parameter(torch.tensor([2.3]))
        self.logit_bias = nn.Parameter(torch.tensor([-5.0]))
        self.trained_batch_size = trained_batch_size

    def embed(self, batch):
        image, text = self.image(batch["image"]), self.text(batch["text"])
        unit = normalize(image, dim=1), normalize(text, dim=1)
        return Embeddings(*unit, self.log_scale.exp(), self.logit_bias)


def trained(seed, size, steps, wrong=0.0):
    """A model trained at a batch size with the sigmoid loss, to a learning rate of zero."""
    torch.manual_seed(seed)
    model = Towers(size)
    towers, logit = model.image.weight, [model.log_scale, model.logit_bias]
    groups = [{"params": [towers, model.text.weight], "lr": 1e-2}, {"params": logit, "lr": 5e-2}]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for step in range(steps):
        optimizer.zero_grad()
        batch = pairs(size, 1000 * seed + step, wrong)
        contrastive_loss(model.embed(batch), "sigmoid").backward()
        optimizer.step()
        schedule.step()
    return FrozenReference(model)


def gains(learner, reference):
    """Learnability of 1,024 of 5,120 drawn jointly, less that of as many drawn independently."""
    found = []
    for seed in range(3):
        batch = pairs(5120, 10**6 + seed, wrong=0.2)
        sides = learner.embed(batch), reference.embed(batch)
        joint, independent = (
            learnability(sides, selector.select(FactoredScores(*sides, "sigmoid"), 1024, key=seed))
            for selector in (JointSelector(), IndependentSelector())
        )
        found.append(joint - independent)
    return found


def learnability(sides, index):
    learner, reference = (
        contrastive_loss(
            replace(side, image=side.image[index], text=side.text[index]), "sigmoid"
        ).item()
        for side in sides
    )
    return learner - reference


@pytest.mark.slow
def test_models_trained_at_128_gain_at_1024_what_those_of_1024_gain():
    sizes = (128, 1024)
    learners = [trained(1, size, 50, wrong=0.2) for size in sizes]
    references = [trained(2, size, 150) for size in sizes]
    as_trained, at_the_size = (
        gains(learner, reference) for learner, reference in zip(learners, references, strict=True)
    )
    adapted = gains(*(side.at_sub_batch_size(1024) for side in (learners[0], references[0])))
    noise = max(at_the_size) - min(at_the_size) + max(adapted) - min(adapted)
    assert abs(mean(adapted) - mean(at_the_size)) < max(noise, 0.1)
    assert mean(as_trained) > 1 > 10 * mean(at_the_size)
