"""Compiled towers and checkpointed activations: the same numbers, for more time or less memory."""

import json
from functools import partialmethod

import pytest
import torch
from torch import nn

from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.config.open_clip import OpenClipConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.models.open_clip_architecture import resolve
from jest_loader.clip.models.towers import TwoTower
from jest_loader.clip.train import train
from tests.clip_runs import config_for

BUNDLED = ModelConfig(
    image_size=32, vision_width=16, vision_depth=1, text_width=16, text_depth=1, heads=2,
    embed_dim=8, vocab_size=64,
)  # fmt: skip
OPEN_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {
        "image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8,
    },
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}  # fmt: skip


def built(kind, tmp_path):
    torch.manual_seed(0)
    if kind == "bundled":
        return TwoTower(BUNDLED, logit_scale=10.0, logit_bias=-5.0)
    pytest.importorskip("open_clip", reason="open_clip is not installed")
    (tmp_path / "tiny.json").write_text(json.dumps(OPEN_CLIP))
    options = OpenClipConfig(str(tmp_path / "tiny.json"))
    return resolve(options).build("sigmoid", logit_scale=10.0, logit_bias=-5.0)


def step_and_scores(model, size, *, in_bf16):
    """Embeddings of a sub-batch at mixed resolutions, gradients, and what scoring sees."""
    generator = torch.Generator().manual_seed(size)
    batch = {
        "image": torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=generator),
        "text": torch.randint(1, 64, (size, 8), generator=generator),
    }
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
        found = model(batch, 16, first=size // 2)
    (found.image @ found.text.T).diagonal()[1:].sum().backward()
    grads = [p.grad.clone() for p in model.tower_parameters() if p.grad is not None]
    with torch.no_grad():
        scored = model.eval().embed(batch, 16)
        evaluated = model.embed_image(batch["image"])
    model.train()
    return [found.image.detach(), found.text.detach(), *grads], [scored.image, evaluated]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "in_bf16"), [("bundled", True), ("open_clip", False)], ids=["bundled", "open_clip"]
)
def test_compiled_towers_do_the_same_without_graph_breaks(kind, in_bf16, tmp_path, monkeypatch):
    """With checkpointed activations, at two resolutions, in training and scoring, at many sizes.

    Towers are compiled with fullgraph, so that a graph break, or too many graphs, is an error; not
    by inductor, which takes minutes on a CPU.
    """
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    torch.compiler.reset()
    model = built(kind, tmp_path)
    model.checkpoint_activations()
    names, sizes = list(model.state_dict()), (8, 6, 10)
    plain = [step_and_scores(model, size, in_bf16=in_bf16) for size in sizes]
    model.compile_towers()
    assert list(model.state_dict()) == names
    for size, (trained, scored) in zip(sizes, plain, strict=True):
        found = step_and_scores(model, size, in_bf16=in_bf16)
        atol = 2e-2 if in_bf16 else 1e-5
        torch.testing.assert_close(found[0], trained, rtol=atol, atol=atol)
        torch.testing.assert_close(found[1], scored, rtol=0, atol=1e-5)


def test_gradients_are_the_same_with_checkpointed_activations(tmp_path):
    """Those of open_clip's models: in test_open_clip."""
    results = []
    for checkpointed in (False, True):
        model = built("bundled", tmp_path)
        if checkpointed:
            model.checkpoint_activations()
        results.append(step_and_scores(model, 6, in_bf16=False))
    assert all(map(torch.equal, results[0][0], results[1][0]))


def test_blocks_run_again_in_the_backward_pass_of_such_a_run(shards, tmp_path, monkeypatch):
    """And not while scoring, which keeps nothing; the weights end the same, to the bit."""
    import jest_loader.clip.models.towers as module

    calls = []
    forward = module._Block.forward
    monkeypatch.setattr(
        module._Block,
        "forward",
        lambda self, *args: (calls.append(torch.is_grad_enabled()), forward(self, *args))[1],
    )
    selection = SelectionConfig("joint", "hard_learner", filter_ratio=0.5, num_chunks=2)
    runs, counts = [], []
    for name, checkpointed in (("plain", False), ("checkpointed", True)):
        config = config_for(
            shards, tmp_path / name, selection=selection, steps=3, eval_every=100,
            checkpoint_activations=checkpointed,
        )  # fmt: skip
        runs.append(train(config).model.state_dict())
        counts.append((calls.count(True), calls.count(False)))
        calls.clear()
    assert counts[1][0] == 2 * counts[0][0] > 0
    assert counts[1][1] == counts[0][1] > 0
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_a_run_compiles_its_towers(shards, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **options: compiled.append((self, options))
    )
    run = train(config_for(shards, tmp_path / "run", steps=1, compile=True))
    towers = [run.model.image_tower, run.model.text_tower]
    assert compiled == [(tower, {"fullgraph": True}) for tower in towers]
