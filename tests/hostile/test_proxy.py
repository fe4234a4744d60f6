"""An online proxy's state that is damaged, and a proxy that cannot learn, end in a sentence."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from jest_loader import Embeddings, OnlineProxy


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tower = torch.nn.Linear(4, 3)

    def embed(self, batch):
        image = torch.nn.functional.normalize(self.tower(batch["image"]), dim=1)
        return Embeddings(image, image.roll(1, 0), 5.0, -1.0)


BATCH = {"image": torch.eye(4)}


def proxy_of(model, optimizer=torch.optim.Adam, lr=1e-2, **options):
    optimizer = optimizer(model.parameters(), lr=lr)
    return OnlineProxy(model, optimizer, scheduler=StepLR(optimizer, 2), **options)


@pytest.fixture(scope="module")
def state():
    proxy = proxy_of(Model())
    for _ in range(3):
        proxy.update(BATCH)
    return proxy.state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("model"), "must have model, optimizer, scheduler, got"),
        (lambda s: s.update({"\x1b[2J": 1}), r"got .*x1b\[2J"),
        (lambda s: s.update(model=None), "must have its weights by name"),
        (lambda s: s["model"].pop("tower.bias"), "lacks tower.bias"),
        (lambda s: s["model"].update({"tower.bias": torch.zeros(4)}), "another shape tower.bias"),
        (lambda s: s["model"].update({"tower.bias": [0.0] * 3}), "tensors as its weights"),
        (lambda s: s["model"]["tower.bias"].fill_(math.inf), "not finite in tower.bias"),
        (lambda s: s.update(optimizer=None), "its own is none .TypeError"),
        (lambda s: s["optimizer"]["param_groups"].pop(), "own is of other groups of weights"),
        (lambda s: s["optimizer"]["state"].update({0: {}}), "lacks exp_avg, exp_avg_sq, step of"),
        (
            lambda s: s["optimizer"]["state"][1]["exp_avg"].fill_(math.nan),
            "has exp_avg of weight 1",
        ),
        (lambda s: s.update(scheduler=None), "cannot be loaded .TypeError"),
        (lambda s: s["scheduler"].update(last_epoch=-2), "last_epoch of a scheduler must be"),
        (lambda s: s["scheduler"].update(optimizer=3), "a scheduler has no optimizer = 3"),
        (lambda s: s["scheduler"].update(step=3), "a scheduler has no step = 3"),
        (lambda s: s["scheduler"].update(gamma=math.nan), "a scheduler has no gamma = nan"),
        (lambda s: s["scheduler"].update(gamma="big"), "a scheduler has no gamma = big"),
        (lambda s: s["scheduler"].update(base_lrs=3), "a scheduler has no base_lrs = 3"),
    ],
)
def test_a_damaged_state_is_refused(state, change, message):
    damaged = copy.deepcopy(state)
    change(damaged)
    with pytest.raises(ValueError, match=message) as caught:
        proxy_of(Model()).load_state_dict(damaged)
    assert "state" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda weights, lr: torch.optim.SGD(weights, lr, momentum=0.9),
        torch.optim.SGD,
        torch.optim.Adafactor,
        torch.optim.RAdam,
        torch.optim.NAdam,
        torch.optim.Rprop,
        torch.optim.Adadelta,
        torch.optim.ASGD,
        lambda weights, lr: torch.optim.AdamW(weights, torch.tensor(lr), amsgrad=True),
    ],
    ids=["momentum", "SGD", "Adafactor", "RAdam", "NAdam", "Rprop", "Adadelta", "ASGD", "AdamW"],
)
def test_states_of_all_optimizers_are_taken(optimizer):
    saved = proxy_of(Model(), optimizer)
    for updates in range(3):
        again = proxy_of(Model(), optimizer)
        again.load_state_dict(copy.deepcopy(saved.state_dict()))
        assert again.scheduler.last_epoch == updates
        saved.update(BATCH)


class Mask(Model):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((2,), -math.inf))


def test_masks_may_be_infinite():
    proxy_of(Mask()).load_state_dict(proxy_of(Mask()).state_dict())
    damaged = proxy_of(Mask()).state_dict()
    damaged["model"]["mask"].fill_(math.nan)
    with pytest.raises(ValueError, match="not finite in mask"):
        proxy_of(Mask()).load_state_dict(damaged)


class Steep(Model):
    """Its loss is finite and its gradient is not, as that of a square root at 0."""

    def embed(self, batch):
        embeddings = super().embed(batch)
        scale = embeddings.logit_scale + (0 * self.tower.bias.sum()).sqrt()
        return replace(embeddings, logit_scale=scale)


def test_a_gradient_that_is_not_finite_leaves_the_weights():
    for clip_norm in (None, 1.0):
        proxy = proxy_of(Steep(), clip_norm=clip_norm)
        before = copy.deepcopy(proxy.model.state_dict())
        with pytest.raises(
            ValueError, match=r"gradient must be finite, .* lower its learning rate"
        ):
            proxy.update(BATCH)
        for name, weight in proxy.model.state_dict().items():
            assert torch.equal(weight, before[name])


def test_frozen_weights_are_named():
    proxy = proxy_of(Model())
    proxy.model.requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="weights that require gradients, but depends on none"):
        proxy.update(BATCH)


@pytest.mark.parametrize("lr", [1e38, 1e30])
def test_weights_that_diverge_are_named(lr):
    proxy = proxy_of(Model(), torch.optim.SGD, lr=lr)
    with pytest.raises(ValueError, match=r"weights must be finite, .* lower its learning rate"):
        proxy.update(BATCH)
