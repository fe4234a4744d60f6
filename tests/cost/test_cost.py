"""The cost model against torch's own count of floating-point operations, and known values."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jest_loader import Counts, FactoredScores, JestDataset, JointSelector
from jest_loader.cli import main
from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.models.towers import TwoTower
from jest_loader.cost.estimate import CostConfig, describe, estimate
from jest_loader.cost.flops import ExampleCost, selection_flops
from jest_loader.cost.shapes import KNOWN_MODELS, ModelShape, TextShape, VisionShape, model_shape
from jest_loader.ops.losses import contrastive_loss
from tests.helpers import numbered_batches, random_embeddings


def counting():
    """Counts flops; with plain attention, since the counter does not know the CPU's fused one."""
    return FlopCounterMode(display=False), sdpa_kernel(SDPBackend.MATH)


def pairs(config, size):
    shape = (size, config.channels, config.image_size, config.image_size)
    return {
        "image": torch.zeros(shape, dtype=torch.uint8),
        "text": torch.ones(size, config.context_length, dtype=torch.int64),
    }


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig(image_size=32, channels=1, vision_width=96, vision_depth=3, text_depth=0),
        ModelConfig(
            image_size=96, patch_size=16, vision_width=192, text_depth=3, context_length=20
        ),
    ],
    ids=["default", "demo", "larger"],
)
class TestBundledTowers:
    def test_a_forward_is_within_a_percent_of_the_count(self, config):
        model = TwoTower(config)
        counter, plain_attention = counting()
        with counter, torch.no_grad(), plain_attention:
            model.embed(pairs(config, 1))
        projections = 2 * config.embed_dim * (config.vision_width + config.text_width)
        counted = counter.get_total_flops() - projections
        assert model.forward_flops() == pytest.approx(counted, rel=0.01)

    def test_a_training_step_is_within_3_percent_of_three_forwards(self, config):
        """Pixels need no gradient, so patch embeddings cost two forwards rather than three."""
        model = TwoTower(config)
        counter, plain_attention = counting()
        with counter, plain_attention:
            contrastive_loss(model.embed(pairs(config, 4)), "sigmoid").backward()
        assert 4 * 3 * model.forward_flops() == pytest.approx(counter.get_total_flops(), rel=0.03)

    @pytest.mark.parametrize("times", [(2, 1), (1, 0.5), (2, 2)], ids=["patch", "image", "both"])
    def test_other_resolutions_cost_what_the_count_says(self, config, times):
        """Resizing the kernel, once for all images, is not in the formula."""
        resolution = (times[0] * config.patch_size, int(times[1] * config.image_size))
        model = TwoTower(config)
        counter, plain_attention = counting()
        with counter, torch.no_grad(), plain_attention:
            model.embed(pairs(config, 64), *resolution)
        projections = 2 * config.embed_dim * (config.vision_width + config.text_width)
        counted = counter.get_total_flops() / 64 - projections
        assert model.forward_flops(*resolution) == pytest.approx(counted, rel=0.01)


def open_clip_model(name):
    """The model on no device, and its configuration."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    config = open_clip.get_model_config(name)
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    with torch.device("meta"):
        return kind(**config), config


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN_MODELS)
def test_known_models_are_those_of_open_clip(name):
    """Their sizes, and their flops: CLIP's to 0.1 %, SigLIP's, with its pooling, to 1.5 %."""
    model, config = open_clip_model(name)
    shape, visual, text = KNOWN_MODELS[name], model.visual, getattr(model, "text", model)
    if hasattr(visual, "trunk"):
        blocks, patch_size = visual.trunk.blocks, visual.trunk.patch_embed.patch_size
        hidden, class_tokens = blocks[0].mlp.fc1.out_features, visual.trunk.num_prefix_tokens
        width = visual.trunk.embed_dim
    else:
        blocks, patch_size = visual.transformer.resblocks, visual.patch_size
        hidden, class_tokens = blocks[0].mlp[0].out_features, 1
        width = visual.transformer.width
    assert shape.vision == VisionShape(  # type: ignore[call-arg]
        len(blocks), width, *{*patch_size}, *{*visual.image_size}, shape.vision.mlp_ratio,
        class_tokens,
    )  # fmt: skip
    assert int(shape.vision.mlp_ratio * width) == hidden
    blocks, tokens = text.transformer.resblocks, config["text_cfg"]["context_length"]
    width = text.token_embedding.embedding_dim
    assert shape.text == TextShape(len(blocks), width, tokens, shape.text.mlp_ratio)
    assert int(shape.text.mlp_ratio * width) == blocks[0].mlp[0].out_features
    assert shape.embed_dim == config["embed_dim"]

    counter, plain_attention = counting()
    with counter, plain_attention:
        image = torch.zeros(1, 3, *visual.image_size, device="meta")
        model(image, torch.zeros(1, tokens, dtype=torch.int64, device="meta"))
    tolerance = 0.015 if hasattr(visual, "trunk") else 0.001
    assert shape.forward_flops == pytest.approx(counter.get_total_flops(), rel=tolerance)


@pytest.mark.parametrize(("size", "num_chunks"), [(50, 5), (50, 7), (10, 4), (3, 16)])
def test_selection_costs_what_the_formula_says(size, num_chunks):
    embeddings = random_embeddings(200, 16, seed=0)
    with FlopCounterMode(display=False) as counter:
        JointSelector(num_chunks).select(FactoredScores(embeddings), size, key=0)
    assert selection_flops(200, size, 16, num_chunks) == counter.get_total_flops()


class TestAccount:
    def test_parts_of_a_run_add_up_where_the_filter_ratio_changes(self):
        """Two steps without selection, two at f = 0.5 and one at f = 0.75, added by hand."""
        cost = ExampleCost(training=30, scoring=7, reference=5, selection=2, proxy=11)
        steps = [(0, 8)] * 2 + [(16, 8)] * 2 + [(32, 8)]
        by_hand = sum(8 * (30 + 11) + scored * (7 + 5 + 2) for scored, _ in steps)
        counts = Counts()
        for scored, trained in steps:
            counts = counts.plus(Counts(scored=scored, trained=trained))
        run = cost.flops(counts)
        assert run.total == by_hand
        assert (run.training, run.reference, run.selection) == (40 * 30, 64 * 5, 64 * 2)
        assert run.scoring == 64 * 7 + 40 * 11
        assert run.uniform == run.training
        assert run.overhead == pytest.approx(by_hand / 1200)

    def test_it_takes_what_a_dataset_counted(self):
        class Any:
            def score(self, batch):
                return FactoredScores(random_embeddings(40, 4, seed=0))

        dataset = JestDataset(
            numbered_batches(8, 10), Any(), super_batch_size=40, sub_batch_size=10
        )
        assert len(list(dataset)) == 2
        assert ExampleCost(training=3, scoring=1).flops(dataset.counts).total == 2 * (30 + 40)


# Settings and overheads of docs/cost.md, the first six worked out before there was a command: at
# f = 0.8, b = 32,768 and 16 chunks.
SIGLIP, FLEXI = "--model ViT-B-16-SigLIP", "--score-patch 32 --low-resolution-fraction 0.5"


@pytest.mark.parametrize(
    ("options", "overhead"),
    [
        (f"{SIGLIP} --reference live", 4.34),
        (f"{SIGLIP} --reference cached", 2.67),
        (f"{SIGLIP} --score-patch 32", 1.72),
        (f"{SIGLIP} {FLEXI}", 1.43),
        (f"--model ViT-B-16 {FLEXI}", 1.28),
        (f"--model ViT-B-16-SigLIP-256 --context-length 16 {FLEXI}", 1.13),
        # As many tokens, and a quarter of the patch embedding: 5 * 0.75 * 0.23 / (3 * 46) less.
        (f"{SIGLIP} --score-image 112", 1.714),
        # Nothing left out: the candidates are scored for nothing.
        ("--filter-ratio 0 --num-chunks 1", 4 / 3),
        # No model runs, and one model's products remain.
        (f"{SIGLIP} --score easy_reference", 1.003),
        # As with a cached reference, but for its products.
        (f"{SIGLIP} --score hard_learner", 2.67),
    ],
)
def test_the_command_gives_known_overheads(options, overhead, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jest-loader", "cost", "--json", *options.split()])
    main()
    found = json.loads(capsys.readouterr().out)
    assert found["overhead"] == pytest.approx(overhead, abs=0.006)
    parts = found["flops_per_step"]
    spent = [parts[name] for name in ("training", "scoring", "reference", "selection")]
    assert sum(spent) == pytest.approx(parts["total"])
    assert parts["total"] / parts["uniform"] == pytest.approx(found["overhead"])


def test_a_proxy_is_run_on_candidates_and_trained_on_the_sub_batch():
    cost = estimate(CostConfig("ViT-L-14", proxy_model="ViT-B-32", context_length=32))
    learner, proxy = (
        model_shape(name).at(context_length=32).forward_flops for name in ("ViT-L-14", "ViT-B-32")
    )
    assert (cost.training, cost.scoring, cost.proxy) == (3 * learner, proxy, 3 * proxy)


def test_a_live_reference_is_the_model_that_was_named():
    config = CostConfig("ViT-B-16", reference="live", reference_model="ViT-L-14", batch_size=16)
    cost = estimate(config)
    assert cost.reference == KNOWN_MODELS["ViT-L-14"].forward_flops
    assert cost.selection == 4 * 15 * (512 + 768)


def test_sizes_can_be_written_out():
    written = model_shape("12x768@16/224+12x512@77")
    named = KNOWN_MODELS["ViT-B-16"]
    assert written == replace(named, vision=replace(named.vision, class_tokens=0))
    assert isinstance(written, ModelShape)


def test_the_table_says_what_it_costs_and_when_it_pays():
    table = describe(CostConfig("ViT-B-16-SigLIP"))
    assert "32,768 of 163,840 candidates per step" in table
    assert "scoring          7,530.81       1.667     1.667\n" in table
    assert "1/2.67 of the iterations (37%), in operations\n" in table
    assert table.endswith("1/2.77 of the iterations (36%), in time")


# By hand, from an H100's 989 / 67 and an A100's 312 / 19.5: without a selection, scoring five
# candidates for each that is trained on takes 5 / 3 of the time at the training's rate.
ALONE = "--filter-ratio 0.8 --num-chunks 1"


@pytest.mark.parametrize(
    ("options", "overhead"),
    [
        (f"{ALONE} --score-precision fp16", 1 + 5 / 3),
        (f"{ALONE} --score-precision fp32", 1 + 5 / 3 * 14.7612),
        (f"{ALONE} --score-precision tf32", 1 + 5 / 3 * 2),
        (f"{ALONE} --score-precision fp32 --device A100", 1 + 5 / 3 * 16),
        (f"{ALONE} --score-precision fp32 --device H200 --reference live", 1 + 10 / 3 * 14.7612),
        (f"{ALONE} --score-precision fp32 --train-precision fp32", 1 + 5 / 3),
        # A proxy of the learner's size scores in fp16, and trains in fp32.
        (f"{ALONE} --proxy-model ViT-B-16", 1 + 5 / 3 + 14.7612),
        # No model runs: 0.005 of the operations, in fp32.
        ("--model ViT-B-16-SigLIP --score easy_reference", 1 + 14.7612 * 0.003421),
    ],
)
def test_time_is_that_of_the_precisions(options, overhead, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jest-loader", "cost", "--json", *options.split()])
    main()
    found = json.loads(capsys.readouterr().out)
    assert found["time_overhead"] == pytest.approx(overhead, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: model_shape("ViT-Z-3"), r"12x512@77 .* or one of ViT-B-32, .*; got 'ViT-Z-3'"),
        (lambda: model_shape("0x768@16/224+12x512@77"), "a model must be sizes like"),
        (lambda: model_shape("12x768@32/16+12x512@77"), "a patch must fit the image, got .* 32"),
        (lambda: describe(CostConfig(score_patch=256)), "a patch must fit the image, got .* 256"),
        (lambda: CostConfig(filter_ratio=1.0), "filter_ratio must be at least 0 and below 1"),
        (lambda: CostConfig(low_resolution_fraction=0.5), "set score_patch or score_image"),
        (lambda: CostConfig(low_resolution_fraction=-1), "must be from 0 to 1, got -1"),
        (lambda: CostConfig(batch_size=0), "batch_size must be a whole number of at least 1"),
        (lambda: CostConfig(score_image=0), "score_image must be a whole number of at least 1"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
