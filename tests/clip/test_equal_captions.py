"""Examples with equal captions are no negatives of each other, where a run asks for that."""

from dataclasses import replace

import pytest
import torch

from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.train import DataConfig
from jest_loader.clip.loading.build import build_loader
from jest_loader.clip.models.towers import TwoTower
from jest_loader.clip.step.gradients import backward
from jest_loader.clip.train import train
from jest_loader.ops.losses import contrastive_loss
from jest_loader.ranks.ranks import Ranks
from tests.clip_runs import MODEL, config_for

LOW = SelectionConfig(score_patch_size=8, low_resolution_fraction=0.25)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("selection", [SelectionConfig(), LOW], ids=["full", "mixed"])
def test_the_loss_leaves_out_pairs_of_equal_captions(
    shards, tmp_path, selection, loss, monkeypatch
):
    """In whatever order the model is given the sub-batch."""
    seen = []
    forward = TwoTower.forward

    def recording(self, batch, *arguments, **options):
        seen.append((batch["text"], forward(self, batch, *arguments, **options)))
        return seen[-1][1]

    data = DataConfig(train=shards / "train", batch_size=8)
    sizes = replace(MODEL, vocab_size=4096)  # No two captions have the same tokens.
    config = config_for(
        shards, tmp_path / "run", data=data, model=sizes, selection=selection, loss=loss
    )
    torch.manual_seed(0)
    model = TwoTower(config.model, logit_scale=10.0, logit_bias=-2.0 if loss == "sigmoid" else None)
    batch = next(iter(build_loader(config, model, torch.device("cpu"))))
    assert len(set(batch["caption"])) < 8
    monkeypatch.setattr(TwoTower, "forward", recording)
    found = [
        backward(model, dict(batch), 3, replace(config, mask_equal_captions=masked), Ranks())
        for masked in (False, True)
    ]
    for (text, embeddings), loss_found, masked in zip(seen, found, (False, True), strict=True):
        ids = torch.unique(text, dim=0, return_inverse=True)[1] if masked else None
        torch.testing.assert_close(loss_found, contrastive_loss(embeddings, loss, ids).detach())
    assert not torch.allclose(*found)


@pytest.mark.parametrize("score", ["learnability", "easy_reference", "hard_learner"])
def test_scores_leave_out_pairs_of_equal_captions(shards, tmp_path, score):
    train(config_for(shards, tmp_path / "reference", steps=1))
    reference = None if score == "hard_learner" else tmp_path / "reference" / "checkpoint.pt"
    selection = SelectionConfig("joint", score, 0.5, 2, reference_checkpoint=reference)
    config = config_for(shards, tmp_path / "run", selection=selection)
    masked = replace(config, selection=replace(selection, mask_equal_captions=True))
    model = TwoTower(config.model, logit_scale=10.0, logit_bias=-2.0)
    scorers = [build_loader(each, model, torch.device("cpu")).scorer for each in (config, masked)]
    assert [scorer.equal_by for scorer in scorers] == [None, "caption"]


def test_runs_with_and_without_differ_and_do_not_go_on_as_each_other(shards, tmp_path):
    config = config_for(shards, tmp_path / "run", steps=2)
    plain = train(config)
    masked = train(replace(config, mask_equal_captions=True, out=tmp_path / "masked"))
    weights = [run.model.image_tower.patches.weight for run in (plain, masked)]
    assert not torch.equal(*weights)
    with pytest.raises(ValueError, match=r"mask_equal_captions = False, which cannot .* True"):
        train(replace(config, mask_equal_captions=True))
