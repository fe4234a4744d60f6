"""The trainer with an online proxy, a schedule, and choosing ahead: exact however it is stopped."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import jest_loader.clip.train as module
from jest_loader.clip.config.proxy import ProxyConfig
from jest_loader.clip.config.schedule import ScheduleConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.train import DataConfig, TrainConfig
from jest_loader.clip.cost import run_cost
from jest_loader.clip.loading.build import build_loader, proxy_of
from jest_loader.clip.loading.cache import build_reference_cache
from jest_loader.clip.models.towers import TwoTower
from jest_loader.clip.train import train
from jest_loader.cost.flops import selection_flops
from jest_loader.pack import write_mds
from jest_loader.scoring.online_proxy import OnlineProxy
from tests.clip_runs import MODEL, config_for

PROXY = ProxyConfig(4, 8, 1, 8, heads=2, embed_dim=4, lr=1e-2)
SCHEDULE = ScheduleConfig(0.1, 0.9, 4, 0.75, 3.0)
HARD = SelectionConfig("joint", "hard_learner", 0.5, 2)
SELECTIONS = {
    "overlap": replace(HARD, overlap=True),
    "proxy": replace(HARD, scores_with="proxy", proxy=PROXY),
    "schedule": replace(HARD, schedule=SCHEDULE),
    "all": replace(
        HARD, scores_with="proxy", proxy=PROXY, schedule=SCHEDULE, overlap=True,
        score_micro_batch_size=5, mask_equal_captions=True,
    ),
}  # fmt: skip


def states_equal(first, second) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("selection", list(SELECTIONS))
def test_a_run_that_was_stopped_ends_as_one_that_was_not(shards, tmp_path, selection, monkeypatch):
    config = config_for(shards, tmp_path / "whole", selection=SELECTIONS[selection])
    config = replace(config, mask_equal_captions=selection == "all")
    whole = train(config)
    step, calls = module._train_step, iter(range(100))

    def until_the_eighth(run, batch):
        if next(calls) == 8:
            raise KeyboardInterrupt
        return step(run, batch)

    stopped = replace(config, out=tmp_path / "stopped")
    monkeypatch.setattr(module, "_train_step", until_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        train(stopped)
    monkeypatch.setattr(module, "_train_step", step)
    resumed = train(stopped)
    assert states_equal(whole.model, resumed.model)
    assert resumed.loader.counts == whole.loader.counts
    proxies = [proxy_of(run.loader) for run in (whole, resumed)]
    if proxies[0] is not None:
        assert states_equal(proxies[0].model, proxies[1].model)
        assert proxies[1].scheduler.last_epoch == 12


def test_a_proxy_scores_in_the_learners_place_and_learns(shards, tmp_path, monkeypatch):
    seen = []
    embed_image = TwoTower.embed_image

    def recording(self, image, *sizes):
        seen.append((self.config.sizes.vision_width, len(image), torch.is_grad_enabled()))
        return embed_image(self, image, *sizes)

    monkeypatch.setattr(TwoTower, "embed_image", recording)
    data = DataConfig(train=shards / "train", batch_size=8)
    selection = SELECTIONS["proxy"]
    config = config_for(shards, tmp_path / "run", selection=selection, data=data, steps=3)
    run = train(config)
    assert seen == 3 * [(8, 8, False), (8, 8, False), (8, 8, True), (16, 8, True)]
    proxy = proxy_of(run.loader)
    fresh = proxy_of(build_loader(config, run.model, run.device))
    assert not states_equal(proxy.model, fresh.model)
    assert proxy.model.config.sizes == replace(
        MODEL, vision_width=8, text_width=8, heads=2, embed_dim=4, patch_size=4
    )
    # As the learner's at the next step, the fourth of five in which both warm up to 0.01.
    rates = [group["lr"] for group in proxy.optimizer.param_groups]
    assert rates == pytest.approx([0.008, 0.008, 0.08])

    cost, forward = run_cost(config, run.model), proxy.model.forward_flops()
    assert (cost.scoring, cost.proxy, cost.reference) == (forward, 3 * forward, 0)
    assert cost.selection == selection_flops(1, 8, 4, 2)
    learners = 3 * run.model.forward_flops()
    assert run.flops == 24 * (learners + 3 * forward) + 48 * (forward + cost.selection)


@pytest.mark.parametrize("scores_with", ["learner", "proxy"])
def test_all_models_score_in_the_precision_that_is_set(shards, tmp_path, scores_with):
    train(config_for(shards, tmp_path / "reference", steps=1))
    proxy = PROXY if scores_with == "proxy" else ProxyConfig()
    selection = SelectionConfig(
        "joint", filter_ratio=0.5, scores_with=scores_with, proxy=proxy, score_precision="bf16",
        reference_checkpoint=tmp_path / "reference" / "checkpoint.pt",
    )  # fmt: skip
    config = config_for(shards, tmp_path / "run", selection=selection)
    scorer = build_loader(config, TwoTower(config.model), torch.device("cpu")).scorer
    assert scorer.learner.dtype == scorer.reference.dtype == torch.bfloat16
    assert isinstance(scorer.learner, OnlineProxy) == (scores_with == "proxy")


def test_a_run_goes_on_in_another_precision_of_scoring(shards, tmp_path, monkeypatch):
    """As it must where fp16 does not hold a learner's numbers any more."""

    def config(precision):
        selection = replace(HARD, score_precision=precision)
        return config_for(shards, tmp_path / "run", selection=selection)

    step, calls = module._train_step, iter(range(100))

    def until_the_eighth(run, batch):
        if next(calls) == 8:
            raise KeyboardInterrupt
        return step(run, batch)

    monkeypatch.setattr(module, "_train_step", until_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        train(config("fp16"))
    monkeypatch.setattr(module, "_train_step", step)
    run = train(config("bf16"))
    assert run.loader.counts.trained == 12 * 8
    assert run.loader.scorer.learner.dtype == torch.bfloat16


def test_the_proxys_weights_draw_nothing_from_the_learners(shards, tmp_path):
    data = DataConfig(train=shards / "train", batch_size=8)
    states = []
    for name in ("schedule", "proxy"):
        torch.manual_seed(0)
        config = config_for(shards, tmp_path / name, selection=SELECTIONS[name], data=data)
        build_loader(config, TwoTower(config.model), torch.device("cpu"))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_schedule_says_what_is_read_and_scored(shards, tmp_path):
    """Steps 0, 1, 4, 8, 11 are uniform; the others read 2, 3 and then 4 batches."""
    loaded = []
    config = config_for(shards, tmp_path / "run", selection=SELECTIONS["schedule"])
    loader = build_loader(config, TwoTower(config.model), torch.device("cpu"))
    while len(loaded) < 12:
        for _ in loader:
            loaded.append(loader.stats.counts)
            if len(loaded) == 12:
                break
    assert [count.loaded // 8 for count in loaded] == [1, 1, 2, 2, 1, 3, 3, 3, 1, 4, 4, 1]
    assert [count.scored // 8 for count in loaded] == [0, 0, 2, 2, 0, 3, 3, 3, 0, 4, 4, 0]


@pytest.mark.parametrize(("first", "last"), [(0.5, 0.9), (0.9, 0.5), (0.75, 0.75), (0.8, 0.0)])
def test_the_filter_ratio_goes_by_whole_batches_at_equal_intervals(first, last):
    schedule = ScheduleConfig(final_filter_ratio=last).schedule(900, first, 1.0)
    sizes = [round(1 / (1 - schedule.filter_ratio_at(step))) for step in range(900)]
    expected = np.linspace(round(1 / (1 - first)), round(1 / (1 - last)), len(set(sizes)))
    assert list(dict.fromkeys(sizes)) == expected.tolist()
    assert len({sizes.count(size) for size in sizes}) == 1


def test_the_gain_ends_where_it_is_told_to():
    schedule = ScheduleConfig(final_gain=0.5).schedule(100, 0.5, 2.0)
    assert [2.0 * schedule.gain_at(step) for step in (0, 50, 100)] == [2.0, 1.25, 0.5]
    assert ScheduleConfig().schedule(100, 0.5, 2.0) is None


@pytest.mark.parametrize("selector", ["joint", "independent", "topk"])
def test_the_selector_has_the_quota(shards, tmp_path, selector):
    selection = replace(HARD, selector=selector, quota="global")
    config = config_for(shards, tmp_path / "run", selection=selection)
    loader = build_loader(config, TwoTower(config.model), torch.device("cpu"))
    assert loader._arguments.selector.quota == "global"  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:.*looks like the logarithm")  # Its scale falls below 5.
@pytest.mark.parametrize("kind", ["proxy", "cached"])
def test_uniform_steps_leave_out_pictures_that_cannot_be_decoded(shards, tmp_path, kind):
    def encoded(row):
        buffer = io.BytesIO()
        Image.new("L", (8, 8), 20 * row % 256).save(buffer, "PNG")
        image = buffer.getvalue()
        return {"image": b"broken" if row == 21 else image, "caption": f"tone {row}"}

    columns = {"image": "bytes", "caption": "str"}
    write_mds(tmp_path / "shards", columns, (encoded(row) for row in range(48)))
    data = DataConfig(train=tmp_path / "shards", batch_size=8, max_skipped_fraction=0.2)
    selection = replace(SELECTIONS["proxy"], schedule=ScheduleConfig(uniform_every=2))
    if kind == "cached":
        torch.manual_seed(0)
        cache = tmp_path / "cache"
        build_reference_cache(cache, data, TwoTower(MODEL), "sigmoid")
        selection = SelectionConfig(
            "joint", "easy_reference", 0.5, 2, reference_cache=cache,
            schedule=ScheduleConfig(stop_fraction=0.3),
        )  # fmt: skip
    config = config_for(shards, tmp_path / "run", data=data, selection=selection, steps=24)
    run = train(config)
    assert 24 * 8 - 24 < run.counts.trained < 24 * 8


def refused(selection: SelectionConfig, **changes) -> TrainConfig:
    data = DataConfig(train=None, batch_size=8)
    return TrainConfig(data, None, model=MODEL, selection=selection, **changes)


UNIFORM = SelectionConfig()


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (
            replace(UNIFORM, overlap=True),
            "selection.overlap has no effect while selection.selector",
        ),
        (
            replace(UNIFORM, quota="global"),
            "selection.quota has no effect .* selection.selector to joint",
        ),
        (replace(UNIFORM, schedule=SCHEDULE), "selection.schedule has no effect"),
        (replace(UNIFORM, mask_equal_captions=True), "selection.mask_equal_captions has no effect"),
        (replace(UNIFORM, scores_with="proxy"), "selection.scores_with has no effect"),
        (
            replace(HARD, proxy=PROXY),
            "selection.proxy has no effect while selection.scores_with is learner; leave it "
            "out, or set selection.scores_with to proxy",
        ),
        (
            replace(SELECTIONS["proxy"], score_patch_size=8),
            "score_patch_size has no effect .* is proxy; .* set selection.scores_with to learner",
        ),
        (
            replace(SELECTIONS["proxy"], score="easy_reference"),
            "scores_with has no effect while selection.score is easy_reference",
        ),
        (
            replace(HARD, scores_with="proxy"),
            r"selection.proxy cannot be built: patch_size must divide image_size, got 16 and 8",
        ),
        (
            replace(HARD, selector="topk", schedule=ScheduleConfig(final_gain=2.0)),
            "final_gain has no effect while selection.selector is topk; .*selector to joint",
        ),
        (
            replace(HARD, selector="topk", gain=2.0),
            "selection.gain has no effect while selection.selector is topk; leave it out, or set",
        ),
        (
            replace(HARD, score="easy_reference", score_image_size=4),
            "selection.score_image_size has no effect while selection.score is easy_reference",
        ),
        (
            replace(UNIFORM, score_precision="bf16"),
            "selection.score_precision has no effect while selection.selector is uniform",
        ),
        (
            replace(UNIFORM, score_image_size=4),
            "selection.score_image_size has no effect while selection.selector is uniform",
        ),
        (
            replace(HARD, schedule=ScheduleConfig(final_gain=0.0)),
            "final_gain must be positive, got 1.0 and 0.0",
        ),
        (
            replace(HARD, schedule=ScheduleConfig(final_filter_ratio=0.7)),
            r"filter_ratio must be 1 - 1/n .* got 0.7",
        ),
        (
            replace(HARD, schedule=ScheduleConfig(0.9, 0.1)),
            "start_fraction of a schedule must be below its stop_fraction",
        ),
        (
            replace(HARD, score_micro_batch_size=0),
            "score_micro_batch_size must be a whole number",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(selection, message):
    with pytest.raises(ValueError, match=message):
        refused(selection)


def test_a_super_batch_that_grows_beyond_the_data_is_refused_at_the_start(shards, tmp_path):
    selection = replace(HARD, schedule=ScheduleConfig(final_filter_ratio=0.95))
    config = config_for(shards, tmp_path / "run", selection=selection)
    with pytest.raises(ValueError, match="one super-batch of 160 examples, but has 96"):
        build_loader(config, TwoTower(config.model), torch.device("cpu"))
