"""A step's gradients are those of its whole batch: over ranks, and in micro-batches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.train import DataConfig
from jest_loader.clip.models.towers import TwoTower
from jest_loader.clip.processes import in_ddp
from jest_loader.clip.step.gradients import backward
from jest_loader.embeddings import Embeddings
from jest_loader.ops.losses import contrastive_loss
from jest_loader.ranks.ranks import Ranks, ranks_of
from tests.clip_runs import MODEL, config_for
from tests.processes import launch

NUM_ROWS = 14
TOWERS = replace(MODEL, text_depth=1, channels=3)


def model_for(loss, kind=TwoTower):
    torch.manual_seed(3)
    return kind(TOWERS, logit_bias=-2.0 if loss == "sigmoid" else None)


def batch_of(rows: slice):
    generator = torch.Generator().manual_seed(5)
    image = torch.randint(256, (NUM_ROWS, 3, 8, 8), dtype=torch.uint8, generator=generator)
    text = torch.randint(1, 64, (NUM_ROWS, 3), generator=generator)
    return {"image": image[rows], "text": text[rows], "caption": ["a"] * len(text[rows])}


def config_of(loss="sigmoid", micro=None, share=0.0, precision="fp32"):
    base = config_for(Path("unused"), Path("unused"), loss=loss, precision=precision, model=TOWERS)
    return replace(
        base,
        data=replace(base.data, batch_size=NUM_ROWS, micro_batch_size=micro),
        selection=SelectionConfig(
            score_patch_size=8 if share else None, low_resolution_fraction=share
        ),
    )


def gradients(model) -> dict[str, np.ndarray]:
    return {name: value.grad.numpy().copy() for name, value in model.named_parameters()}


def gradients_of(config, rows=slice(None), model=None, ranks=None):
    """After a step in training, in which the gradients are replaced."""
    model = model_for(config.loss) if model is None else model
    found = []
    for _ in range(2):
        model.zero_grad()
        found.append(backward(model, batch_of(rows), 7, config, ranks or Ranks()))
    assert found[0] == found[1]
    return found[0].item(), gradients(model)


def assert_same(found, expected, *, tolerance=2e-6):
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    for name, value in expected[1].items():
        error = np.abs(found[1][name.removeprefix("module.")] - value).max()
        assert error <= tolerance * max(1.0, np.abs(value).max()), name


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("micro", [1, 4, 99])
def test_micro_batches_have_the_gradients_of_the_whole_batch(loss, share, micro):
    expected = gradients_of(config_of(loss, share=share))
    assert_same(gradients_of(config_of(loss, micro, share)), expected)


def test_gradients_are_those_of_the_plain_loss():
    model = model_for("sigmoid")
    config = replace(config_of(micro=4), data=replace(config_of(micro=4).data, augment=False))
    found = gradients_of(config)
    loss = contrastive_loss(model.embed(batch_of(slice(None))), "sigmoid")
    loss.backward()
    assert_same(found, (loss.item(), gradients(model)))


def test_micro_batches_in_bf16_have_about_the_whole_batchs_gradients():
    whole, parts = (gradients_of(config_of(micro=micro, precision="bf16")) for micro in (None, 4))
    assert_same(parts, whole, tolerance=2e-2)
    plain = gradients_of(config_of())
    assert any(not np.array_equal(whole[1][name], plain[1][name]) for name in plain[1])


class Dropping(TwoTower):
    """With dropout before the embeddings are brought to unit norm."""

    def embed_image(self, image, *sizes):
        return nn.functional.normalize(nn.functional.dropout(super().embed_image(image, *sizes)))


def test_micro_batches_with_dropout_have_the_gradients_of_their_loss():
    config = config_of(micro=5)
    config = replace(config, data=replace(config.data, augment=False))
    model = model_for("sigmoid", Dropping)
    torch.manual_seed(11)
    model.zero_grad()
    found = backward(model, batch_of(slice(None)), 7, config, Ranks())
    after, got = torch.rand(1), gradients(model)
    torch.manual_seed(11)
    model.zero_grad()
    parts = [model.embed(batch_of(slice(start, start + 5))) for start in (0, 5, 10)]
    image, text = (torch.cat([getattr(part, side) for part in parts]) for side in ("image", "text"))
    loss = contrastive_loss(
        Embeddings(image, text, parts[0].logit_scale, parts[0].logit_bias), "sigmoid"
    )
    loss.backward()
    assert_same((found.item(), got), (loss.item(), gradients(model)))
    assert after == torch.rand(1), "and the generator stands where one pass leaves it"


def test_a_frozen_tower_has_no_gradients():
    model = model_for("sigmoid")
    model.text_tower.requires_grad_(requires_grad=False)
    backward(model, batch_of(slice(None)), 7, config_of(micro=5), Ranks())
    assert all(value.grad is None for value in model.text_tower.parameters())
    assert model.log_scale.grad is not None


CASES = [
    (loss, micro, share)
    for loss in ("sigmoid", "softmax")
    for micro in (None, 2)
    for share in (0.0, 0.5)
]
STARTS = {2: (0, 9, 14), 3: (0, 3, 8, 14)}


def on_a_rank(rank: int, starts) -> list:
    """A rank's gradients in each case; ranks have different numbers of examples."""
    rows, found = slice(*starts[rank : rank + 2]), []
    for case in CASES:
        config, ranks = config_of(*case), ranks_of(None)
        found.append(gradients_of(config, rows, in_ddp(model_for(case[0]), ranks), ranks))
    return found


@pytest.mark.parametrize("num_ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_have_the_gradients_of_the_whole_batch(num_ranks):
    """Those of scale and bias too. At mixed resolutions, those of the ranks' whole batches."""
    ended = launch(num_ranks, on_a_rank, STARTS[num_ranks])
    for each in ended:
        assert each.error is None, each.error
        found = dict(zip(CASES, each.result, strict=True))
        for (loss, micro, share), one in found.items():
            one = (one[0], {name.removeprefix("module."): grad for name, grad in one[1].items()})
            if share == 0:
                assert_same(one, gradients_of(config_of(loss)))
            elif micro is not None:
                assert_same(one, found[loss, None, share])


def with_a_buffer(rank: int) -> list:
    """Three steps of a model whose buffer DDP broadcasts, in one micro-batch or in two."""
    config, ranks = config_of("sigmoid", 4), ranks_of(None)
    config = replace(config, data=replace(config.data, batch_size=10))
    model = model_for("sigmoid")
    model.register_buffer("steps", torch.zeros(1))
    model = in_ddp(model, ranks)
    rows = slice(0, 5) if rank == 0 else slice(5, 9)
    for step in range(3):
        model.zero_grad()
        found = backward(model, batch_of(rows), step, config, ranks)
    return found.item(), gradients(model)


def test_ranks_with_unequal_micro_batches_do_not_wait_for_each_other():
    """As after a picture was left out on one of them."""
    ended = launch(2, with_a_buffer)
    for each in ended:
        assert each.error is None, each.error
        loss, found = each.result
        found = {name.removeprefix("module."): value for name, value in found.items()}
        assert_same((loss, found), gradients_of(config_of(), slice(0, 9)))


def test_ranks_that_do_not_divide_a_batch_are_named(monkeypatch):
    from jest_loader.clip import processes

    class Three:
        size = 3

    monkeypatch.setattr(processes, "ranks_of", lambda group: Three)
    with pytest.raises(ValueError, match=r"data.batch_size .* got 128 and 3 ranks; use 129, or"):
        processes.per_rank("data.batch_size", DataConfig(Path()).batch_size)
    assert processes.per_rank("data.batch_size", 129) == 43
