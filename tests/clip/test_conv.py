"""The convolutional image tower."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.models.conv import ConvTower, conv_flops
from jest_loader.clip.models.towers import TwoTower
from jest_loader.clip.train import train
from tests.clip_runs import MODEL, config_for

CONV = replace(MODEL, image_tower="conv", vision_width=16, vision_depth=2)


def images(count: int, side: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, side, side), generator=generator, dtype=torch.uint8)


def tower(depth: int = 3) -> ConvTower:
    torch.manual_seed(0)
    return ConvTower(1, 32, depth, 8)


def test_an_image_is_embedded_as_it_is_alone():
    model, image = tower(), images(5)
    torch.testing.assert_close(model(image)[3:4], model(image[3:4]))


def test_kernels_count_up_to_a_shift_and_a_factor():
    model, image = tower(), images(2)
    before = model(image)
    with torch.no_grad():
        for parameter in model.stages.parameters():
            if parameter.ndim == 4:
                parameter.mul_(3).add_(0.5)
    torch.testing.assert_close(model(image), before, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("depth", "side"), [(1, 16), (2, 15), (3, 32), (3, 20)])
def test_flops_are_those_of_the_counter(depth, side):
    model = tower(depth)
    with FlopCounterMode(display=False) as counter:
        model(images(1, side))
    projection = 2 * 32 * 8
    assert conv_flops(1, 32, depth, side) == counter.get_total_flops() - projection


def test_a_smaller_image_costs_less():
    model = TwoTower(ModelConfig(32, 1, "conv", vision_width=32, vision_depth=3, text_depth=0))
    image = images(4, 32)
    assert model.embed_image(image, image_size=32).equal(model.embed_image(image))
    assert not model.embed_image(image, image_size=16).equal(model.embed_image(image))
    assert model.forward_flops(image_size=16) == pytest.approx(model.forward_flops() / 4)


def test_a_run_learns_scoring_at_half_the_size(shards, tmp_path):
    selection = SelectionConfig(
        "joint", "hard_learner", 0.5, 4, score_image_size=4, low_resolution_fraction=0.5
    )
    config = config_for(
        shards, tmp_path / "run", model=CONV, selection=selection, steps=150, eval_every=150
    )
    assert train(config).evaluations[-1].metrics["zero_shot_top1"] > 0.7


def test_activations_that_are_checkpointed_have_the_same_gradients():
    models = [tower(), tower()]
    models[1].checkpointing = True
    gradients = []
    for model in models:
        model(images(4)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_depth": 0}, "vision_depth must be at least 1 for image_tower conv, got 0"),
        (
            {"vision_width": 24},
            "vision_width must be a multiple of 16 for 2 stages of image_tower conv, got 24",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONV, **changes)


def test_patches_are_refused(shards, tmp_path):
    selection = SelectionConfig("joint", "hard_learner", score_patch_size=2)
    with pytest.raises(ValueError, match=r"conv does not have, got 2; set selection\.score_image"):
        config_for(shards, tmp_path, model=CONV, selection=selection)
    with pytest.raises(ValueError, match="has no patches, got a patch size of 4"):
        tower()(images(1), 4)
