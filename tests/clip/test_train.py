"""The trainer on a small packed set: it learns, goes on where it stopped, and refuses well."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jest_loader.clip.config.open_clip import OpenClipConfig
from jest_loader.clip.config.optimizer import OptimizerConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.train import DataConfig
from jest_loader.clip.cost import run_cost
from jest_loader.clip.loading.build import build_loader
from jest_loader.clip.loading.cache import build_reference_cache
from jest_loader.clip.loading.columns import open_shards, tokenize_and_decode
from jest_loader.clip.models.towers import TwoTower
from jest_loader.clip.saving import checkpoint
from jest_loader.clip.train import train
from jest_loader.loader.telemetry import Counts
from jest_loader.pack import write_mds
from tests.clip_runs import ARCHITECTURE, MODEL, config_for


def weights_equal(first, second) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_it_learns_and_writes_down_how(shards, tmp_path):
    run = train(config_for(shards, tmp_path / "run", steps=150, eval_every=50))
    top1 = f"{run.evaluations[-1].metrics['zero_shot_top1']:.1%}"
    assert (
        f"150 steps with uniform selection in {run.seconds:.0f} s; held out: zero-shot {top1}"
        in run.describe()
    )
    assert run.evaluations[-1].metrics["zero_shot_top1"] > 0.7
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written["finished"] is True
    assert [evaluation["step"] for evaluation in written["evaluations"]] == [50, 100, 150]
    assert written["counts"] == Counts(loaded=1200, trained=1200).to_dict()
    assert written["flops"] == 150 * 3 * 8 * run.model.forward_flops()


@pytest.mark.slow
def test_bf16_learns_as_well_and_keeps_weights_and_scores_in_fp32(shards, tmp_path):
    selection = SelectionConfig("joint", "hard_learner", filter_ratio=0.5, num_chunks=2)
    runs = [
        train(config_for(shards, tmp_path / name, steps=150, precision=name, selection=selection))
        for name in ("bf16", "fp32")
    ]
    assert not weights_equal(runs[0].model, runs[1].model)
    for run in runs:
        assert run.evaluations[-1].metrics["zero_shot_top1"] > 0.7
        assert all(weight.dtype == torch.float32 for weight in run.model.state_dict().values())


SELECTIONS = {
    "uniform": SelectionConfig(),
    "hard learner": SelectionConfig("joint", "hard_learner", filter_ratio=0.75, num_chunks=2),
    "independent": SelectionConfig("independent", "hard_learner", filter_ratio=0.5),
    "flexi": SelectionConfig(
        "joint", "hard_learner", 0.5, 2, score_patch_size=8, low_resolution_fraction=0.5
    ),
}


@pytest.mark.parametrize("selection", list(SELECTIONS))
def test_a_run_that_was_stopped_ends_as_one_that_was_not(shards, tmp_path, selection, monkeypatch):
    config = config_for(shards, tmp_path / "whole", selection=SELECTIONS[selection])
    whole = train(config)
    stopped = replace(config, out=tmp_path / "stopped")
    import jest_loader.clip.train as module

    step, calls = module._train_step, iter(range(100))

    def until_the_eighth(run, batch):
        if next(calls) == 8:
            raise KeyboardInterrupt
        return step(run, batch)

    monkeypatch.setattr(module, "_train_step", until_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        train(stopped)
    monkeypatch.setattr(module, "_train_step", step)
    resumed = train(stopped)
    assert weights_equal(whole.model, resumed.model)
    assert resumed.loader.counts == whole.loader.counts
    assert [e.metrics for e in resumed.evaluations] == [e.metrics for e in whole.evaluations]


def test_a_finished_run_is_not_run_again(shards, tmp_path):
    config = config_for(shards, tmp_path / "run")
    first = train(config)
    again = train(config)
    assert weights_equal(first.model, again.model)
    assert again.seconds == first.seconds


def test_another_configuration_does_not_go_on_from_a_checkpoint(shards, tmp_path):
    config = config_for(shards, tmp_path / "run")
    train(config)
    with pytest.raises(ValueError, match=r"run with optimizer.lr = 0.01, which cannot .* 0.02"):
        train(replace(config, optimizer=replace(config.optimizer, lr=0.02)))


@pytest.mark.parametrize(
    "resolution",
    [{"score_patch_size": 8}, {"score_image_size": 4}],
    ids=["patch", "image"],
)
def test_scoring_and_half_of_training_at_a_low_resolution(
    shards, tmp_path, resolution, monkeypatch
):
    """The towers see 16 candidates of 8, train on 4 and 4, and are evaluated at full resolution."""
    reference = train(config_for(shards, tmp_path / "reference", steps=1))
    checkpoint_path = tmp_path / "reference" / "checkpoint.pt"
    selection = SelectionConfig(
        "joint", "learnability", 0.5, 2, reference_checkpoint=checkpoint_path,
        low_resolution_fraction=0.5, **resolution,
    )  # fmt: skip
    config = config_for(shards, tmp_path / "run", selection=selection, steps=1, eval_every=1)
    low = (resolution.get("score_patch_size"), resolution.get("score_image_size"))
    seen = []

    embed_image = TwoTower.embed_image

    def recording(self, image, *sizes):
        seen.append((len(image), sizes == low, self.training, torch.is_grad_enabled()))
        return embed_image(self, image, *sizes)

    monkeypatch.setattr(TwoTower, "embed_image", recording)
    run = train(config)
    scored = [(8, True, False, False)] * 2 + [(8, False, False, False)] * 2
    assert seen == [
        *scored,
        (4, True, True, True),
        (4, False, True, True),
        (16, False, False, False),
    ]

    forward, cheap = run.model.forward_flops(), run.model.forward_flops(*low)
    cost = run_cost(config, run.model)
    assert (cost.scoring, cost.reference) == (cheap, reference.model.forward_flops())
    assert cost.training == 3 * (forward + cheap) / 2
    assert cost.uniform == 3 * forward
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    per_candidate = cost.scoring + cost.reference + cost.selection
    assert written["flops"] == 8 * cost.training + 16 * per_candidate


def test_a_sub_batch_is_mixed_before_it_is_split_into_resolutions(shards, tmp_path, monkeypatch):
    """Otherwise the low resolution would always get those drawn first."""
    low = SelectionConfig(score_patch_size=8, low_resolution_fraction=0.25)
    orders = []
    forward = TwoTower.forward

    def recording(self, batch, *sizes, first):
        assert first == 2
        orders.append(batch["text"])
        return forward(self, batch, *sizes, first=first)

    monkeypatch.setattr(TwoTower, "forward", recording)
    data = DataConfig(train=shards / "train", batch_size=8)
    config = config_for(shards, tmp_path / "run", selection=low, steps=3, data=data)
    run = train(config)
    sub_batches = iter(build_loader(config, run.model, run.device))
    for order in orders:
        given = next(sub_batches)["text"]
        assert not torch.equal(order, given)
        assert sorted(order.tolist()) == sorted(given.tolist())
    assert len(orders) == 3


def test_it_learns_at_mixed_resolutions(shards, tmp_path):
    selection = SelectionConfig(score_image_size=4, low_resolution_fraction=0.5)
    run = train(config_for(shards, tmp_path / "run", selection=selection, steps=300))
    assert run.evaluations[-1].metrics["zero_shot_top1"] > 0.5  # Chance is 0.125.


def test_every_reference_gives_the_same_selection(shards, tmp_path):
    """From a cache or by running the checkpoint: up to the cache's half precision."""
    reference = train(config_for(shards, tmp_path / "reference", steps=30))
    config = config_for(shards, tmp_path / "run")
    source = map(
        tokenize_and_decode(config.data, ARCHITECTURE),
        open_shards(config.data.train, batch_size=32, shuffle=False, drop_last=False),
    )
    cache = tmp_path / "cache"
    build_reference_cache(cache, config.data, reference.model, "sigmoid")
    joint = SelectionConfig("joint", filter_ratio=0.5, num_chunks=2)
    live = replace(joint, reference_checkpoint=tmp_path / "reference" / "checkpoint.pt")
    cached = replace(joint, reference_cache=cache)
    runs = {}
    for name, selection in (("live", live), ("cached", cached)):
        one = replace(config, out=tmp_path / name, selection=selection, steps=1)
        run = train(one)
        runs[name] = run.loader
        cost = run_cost(one, run.model)
        assert cost.reference == (run.model.forward_flops() if name == "live" else 0)
        assert cost.scoring == run.model.forward_flops()
    # What it was trained on is in its checkpoint, not in a cache built from the model alone.
    assert runs["live"].counts.seen > 0
    assert replace(runs["live"].counts, seen=0) == runs["cached"].counts
    batch = next(iter(source))
    sides = [runs[name].scorer.reference.embed(batch) for name in runs]
    torch.testing.assert_close(sides[0].image, sides[1].image.float(), atol=1e-3, rtol=0)


def test_encoded_pictures_of_any_size_are_decoded(shards, tmp_path):
    def encoded(row):
        buffer = io.BytesIO()
        image = Image.new("RGB", (40, 20 + row), (255, 0, 0) if row % 2 else (0, 0, 255))
        image.save(buffer, "JPEG" if row % 2 else "PNG")
        return {"image": buffer.getvalue(), "caption": "scarlet" if row % 2 else "navy"}

    write_mds(
        tmp_path / "shards", {"image": "bytes", "caption": "str"}, (encoded(r) for r in range(16))
    )
    data = DataConfig(train=tmp_path / "shards", test=tmp_path / "shards", batch_size=8)
    model = replace(MODEL, channels=3)
    run = train(config_for(shards, tmp_path / "run", data=data, model=model, steps=150))
    assert run.evaluations[-1].metrics["zero_shot_top1"] == 1.0


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_pictures_of_every_mode_look_as_they_should():
    """What ``convert`` alone does to these: clips, drops transparency, leaves them lying."""
    prepare = tokenize_and_decode(DataConfig(train=Path("unused")), ARCHITECTURE)
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, 8, 4))
    lying = Image.new("L", (8, 8))
    lying.paste(255, (0, 0, 8, 4))
    exif = lying.getexif()
    exif[0x0112] = 3  # Upside down.
    columns = {
        "image": [png(Image.fromarray(ramp)), png(clear), png(lying, exif=exif.tobytes())],
        "caption": ["ramp", "black above white", "white below"],
        "sample_id": np.arange(3),
    }
    found = prepare(columns)["image"][:, 0]
    assert torch.equal(found[0], torch.from_numpy((ramp // 257).astype(np.uint8)))
    assert found[1, :4].max() == 0
    assert found[1, 4:].min() == 255
    assert found[2, :4].max() == 0
    assert found[2, 4:].min() == 255


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["a.jpg"], "caption": ["a"]}, "column 'image' is text; set data.image_column"),
        ({"image": [b"x"], "caption": [b"a"]}, "captions must be text, but column 'caption' is"),
    ],
)
def test_columns_of_another_kind_are_refused(columns, message):
    prepare = tokenize_and_decode(DataConfig(train=Path("unused")), ARCHITECTURE)
    with pytest.raises(ValueError, match=message):
        prepare({**columns, "sample_id": np.arange(1)})


def test_a_reference_of_other_inputs_is_refused(shards, tmp_path):
    other = config_for(shards, tmp_path / "other", model=replace(MODEL, vocab_size=128), steps=1)
    train(other)
    path = tmp_path / "other" / "checkpoint.pt"
    selection = SelectionConfig("joint", filter_ratio=0.5, reference_checkpoint=path)
    with pytest.raises(
        ValueError, match=r"tokenization is .* of 128 ids in .* of 64 ids in this run"
    ):
        train(config_for(shards, tmp_path / "run", selection=selection))


@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "cut"])
def test_a_damaged_checkpoint_is_named(shards, tmp_path, content):
    config = config_for(shards, tmp_path / "run")
    train(config)
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(ValueError, match=r"checkpoint.pt must be a whole checkpoint"):
        train(config)


def test_metrics_are_written_again_where_they_are_missing(shards, tmp_path):
    config = config_for(shards, tmp_path / "run")
    train(config)
    (tmp_path / "run" / "metrics.json").unlink()
    train(config)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["finished"] is True
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert found == {"checkpoint.pt", "metrics.json", "log.jsonl"}


def test_training_images_are_shifted_differently_at_each_step(shards, tmp_path, monkeypatch):
    import jest_loader.clip.step.gradients as module

    seeds = []
    monkeypatch.setattr(module, "augment", lambda image, seed: (seeds.append(seed), image)[1])
    train(config_for(shards, tmp_path / "augmented"))
    assert len(set(seeds)) == len(seeds) == 12
    config = config_for(shards, tmp_path / "plain")
    train(replace(config, data=replace(config.data, augment=False)))
    assert len(seeds) == 12


def test_checkpoints_are_read_without_unpickling_objects(tmp_path):
    class Planted:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"version": 1, "model": Planted()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="must be a whole checkpoint"):
        checkpoint.load(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"selection": SelectionConfig("joint", "hard_learner", filter_ratio=0.7)},
            r"filter_ratio must be 1 - 1/n .* got 0.7",
        ),
        ({"selection": SelectionConfig("joint")}, "learnability needs a reference; set selection"),
        (
            {"selection": SelectionConfig("joint", reference_cache=Path("nowhere"))},
            "no reference cache at nowhere",
        ),
        (
            {"selection": SelectionConfig("joint", reference_checkpoint=Path("nowhere"))},
            "no checkpoint at nowhere",
        ),
        ({"data": DataConfig(train=Path("nowhere"))}, "nowhere must be a folder of MDS shards"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"initial_logit_bias": float("inf")}, "initial_logit_bias must be finite, got inf"),
        (
            {"open_clip": OpenClipConfig("ViT-B-32")},
            "the options of model are the bundled one's and have no effect while open_clip.name is",
        ),
        ({"optimizer": OptimizerConfig(lr=0)}, "optimizer.lr must be positive, got 0"),
        ({"device": "tpu-of-mine"}, "device 'tpu-of-mine' cannot be used here"),
        (
            {"optimizer": OptimizerConfig(clip_norm=-1)},
            "optimizer.clip_norm must be positive, got -1",
        ),
        (
            {"selection": SelectionConfig("joint", "hard_learner", filter_ratio=0.95)},
            "at least one super-batch of 160 examples, but has 96; lower data.batch_size",
        ),
        ({"model": replace(MODEL, image_size=16)}, r"must be uint8 .*\(1, 16, 16\).*got .*8, 8"),
        (
            {
                "loss": "softmax",
                "selection": SelectionConfig("independent", "hard_learner", filter_ratio=0.5),
            },
            "IndependentSelector cannot use softmax scores",
        ),
        (
            {"selection": SelectionConfig(score_patch_size=3, low_resolution_fraction=0.5)},
            "patches of 3 and images of 8",
        ),
        (
            {"selection": SelectionConfig(score_image_size=6, low_resolution_fraction=0.5)},
            "patches of 4 and images of 6",
        ),
        (
            {"selection": SelectionConfig(score_image_size=16, low_resolution_fraction=0.5)},
            "from 1 to .*, got 16 and 8",
        ),
        ({"selection": SelectionConfig(low_resolution_fraction=2)}, "from 0 to 1, got 2"),
        (
            {"selection": SelectionConfig(low_resolution_fraction=0.5)},
            "needs the resolution; set selection.score_patch_size",
        ),
    ],
)
def test_bad_configurations_are_refused_in_a_sentence(shards, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(config_for(shards, tmp_path / "run", **changes))


def test_a_missing_column_is_named(shards, tmp_path):
    data = DataConfig(train=shards / "train", batch_size=8, caption_column="title")
    with pytest.raises(ValueError, match="no column 'title', it has caption, image, sample_id"):
        train(config_for(shards, tmp_path / "run", data=data))
