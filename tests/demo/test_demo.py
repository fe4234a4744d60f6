"""The demo in a short form, and its data."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from jest_loader.adapters.mds import MdsSource
from jest_loader.clip.models.model import ClipModel
from jest_loader.clip.models.trained import trained_architecture
from jest_loader.demo import sheets
from jest_loader.demo.data import (
    CURATED,
    HELD_OUT,
    NEAR_DUPLICATE,
    UNCURATED,
    DemoData,
    prepare,
    split,
)
from jest_loader.demo.icons import FAMILIES, FONTS, ICON_SIZE, render
from jest_loader.demo.plan import Arm, plan
from jest_loader.demo.run import QUERIES, DemoConfig, arm_config, run_demo
from jest_loader.demo.table import conclusion, wrong_fraction
from tests.bench_data import write_made_demo


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("demo") / "data", noise_fraction=0.5)


def read(path) -> dict:
    source = MdsSource(path, batch_size=512, shuffle=False, drop_last=False)
    batches = list(source)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def test_icons_are_the_real_ones():
    icons = {icon.caption: icon.pixels for icon in render(["fa6-solid"])}
    assert len(icons) > 1300
    assert {"bell", "cart shopping", "magnifying glass plus"} <= icons.keys()
    for pixels in icons.values():
        assert pixels.shape == (ICON_SIZE, ICON_SIZE)
        assert pixels.max() > 100
        assert pixels[0].max() == 0, "icons keep a margin"
    bell = icons["bell"] > 128
    assert bell[:, :16].sum() == pytest.approx(bell[:, 16:].sum(), rel=0.1), "a bell is symmetric"
    assert bell[16:].sum() > bell[:16].sum()


def test_a_family_of_fonts_is_in_one_set_alone():
    sets = [set(fonts) for fonts in (CURATED, UNCURATED, HELD_OUT)]
    assert sorted(font for fonts in sets for font in fonts) == sorted(FONTS)
    assert sorted(font for fonts in FAMILIES.values() for font in fonts) == sorted(FONTS)
    for family in FAMILIES.values():
        assert sum(not fonts.isdisjoint(family) for fonts in sets) == 1


@pytest.mark.slow
def test_the_sets_are_of_their_fonts(data):
    assert set(read(data.held_out)["font"]) == set(HELD_OUT)
    assert set(read(data.uncurated)["font"]) == set(UNCURATED)
    assert set(read(data.curated)["font"]) == set(CURATED)


@pytest.mark.slow
def test_no_drawing_of_one_set_is_in_another(data):
    ink = {}
    for name in ("curated", "uncurated", "held_out"):
        rows = read(getattr(data, name))["image"].reshape(data.num_examples[name], -1) / 255.0
        ink[name] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for one, other in [
        ("curated", "uncurated"), ("held_out", "uncurated"), ("held_out", "curated"),
    ]:  # fmt: skip
        assert (ink[one] @ ink[other].T).max() < NEAR_DUPLICATE + 1e-6


@pytest.mark.slow
def test_only_captions_of_the_uncurated_set_are_shuffled(data):
    uncurated = read(data.uncurated)
    curated, own, _ = split()
    true = [icon.caption for icon in own]
    shuffled = uncurated["shuffled"].astype(bool)
    assert shuffled.mean() == pytest.approx(0.5, abs=0.02)
    right = np.array(true) == uncurated["caption"]
    assert right[~shuffled].all()
    assert right[shuffled].mean() < 0.01
    assert sorted(true) == sorted(uncurated["caption"]), "captions are dealt out, not made up"
    assert [icon.caption for icon in curated] == list(read(data.curated)["caption"])


@pytest.mark.slow
def test_held_out_names_are_names_in_two_other_families(data):
    names = set(read(data.held_out)["caption"])
    assert len(names) == data.num_classes > 200
    assert set(QUERIES) <= names
    assert not any(name.endswith((" bold", " thin")) for name in names)
    known = {family: set() for family in FAMILIES}
    family_of = {font: family for family, fonts in FAMILIES.items() for font in fonts}
    for icon in render(CURATED + UNCURATED):
        known[family_of[icon.font]].add(icon.caption)
    styles = ("", " line", " fill", " outline", " light", " bold", " thin", " duotone")
    for name in names:
        captions = {name + style for style in styles}
        assert sum(not captions.isdisjoint(those) for those in known.values()) >= 2, name


@pytest.mark.slow
def test_another_noise_fraction_is_refused(data):
    with pytest.raises(ValueError, match=r"holds a demo set with .*0\.5.*not .*0\.2"):
        prepare(data.curated.parent, noise_fraction=0.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_fraction": float("nan")}, "noise_fraction must be from 0 to 1, got nan"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DemoConfig(**settings)


MADE = DemoData(
    curated="curated", uncurated="uncurated", held_out="held_out", noise_fraction=0.5,
    num_examples={"curated": 800, "uncurated": 19_200, "held_out": 1000}, num_classes=222,
)  # fmt: skip


def test_arms_that_select_pay_for_their_reference_out_of_the_same_flops():
    planned = plan(800, 200, get_args(Arm), MADE)
    assert planned.steps["uniform"] == planned.steps["curated"] == 800
    uniform = planned.flops("uniform", 800)
    for arm in ("independent", "joint"):
        steps = planned.steps[arm]
        assert planned.flops(arm, steps) <= uniform < planned.flops(arm, steps + 2)
        assert planned.flops(arm, 0) == planned.reference_flops > planned.flops("uniform", 200)
    assert planned.steps["joint"] < planned.steps["independent"] < 600


def test_too_few_steps_to_pay_for_the_reference_are_refused():
    with pytest.raises(ValueError, match=r"the reference takes as many operations as 225 steps"):
        plan(225, 200, ["joint"], MADE)


def evaluated(top1, step=1, shuffled=0.5):
    return {"step": step, "metrics": {"zero_shot_top1": top1}, "watched": {"shuffled": shuffled}}


@pytest.mark.parametrize(("joint", "won"), [(0.31, True), (0.2, False)])
def test_the_conclusion_is_what_came_out(joint, won):
    ends = {"joint": joint, "uniform": 0.23, "curated": 0.19}
    said = conclusion({"arms": {arm: {"evaluations": [evaluated(e)]} for arm, e in ends.items()}})
    assert f"{joint:.1%} of the held-out icons right" in said
    assert "uniform sampling 23.0%, the curated set alone 19.0%" in said
    assert ("did not win" in said) != won


def test_wrong_captions_are_counted_while_an_arm_selects():
    found = [evaluated(0, step, shuffled) for step, shuffled in ((5, 0.3), (10, 0.4), (15, 0.5))]
    run = {"steps": 20, "evaluations": found}
    assert wrong_fraction("joint", run) == pytest.approx(0.35)
    assert wrong_fraction("uniform", run) == pytest.approx(0.4)


def test_the_sheet_of_what_was_chosen_scores_as_the_run_did(tmp_path, monkeypatch):
    write_made_demo(tmp_path / "data")
    data = prepare(tmp_path / "data", noise_fraction=0.5)
    config = arm_config(DemoConfig(out=tmp_path, steps=12, reference_steps=2), data, "joint")
    learner, reference = (
        trained_architecture(config).build(config.loss, logit_scale=10.0, logit_bias=-5.0)
        for _ in range(2)
    )
    sizes: dict[nn.Module, list[int | None]] = {learner: [], reference: []}
    embed = ClipModel.embed

    def noted(model, inputs, *, image_size=None):
        sizes[model].append(image_size)
        return embed(model, inputs, image_size=image_size)

    monkeypatch.setattr(ClipModel, "embed", noted)
    monkeypatch.setattr(sheets, "load_model", lambda path: learner)
    run = SimpleNamespace(model=reference, device=torch.device("cpu"))
    sheets.draw_chosen(tmp_path / "checkpoint.pt", run, config, tmp_path / "chosen.png")
    assert config.selection.score_image_size == 16
    assert set(sizes[learner]) == {16}
    assert set(sizes[reference]) == {None}, "cached, it was run at its own size"
    assert (tmp_path / "chosen.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_demo_in_short(tmp_path, capsys):
    config = DemoConfig(
        out=tmp_path / "demo", steps=12, reference_steps=2, independent=True, device="cpu"
    )
    write_made_demo(config.out / "data")
    data = prepare(config.out / "data", noise_fraction=0.5)
    results = run_demo(config)
    shown = capsys.readouterr().out
    before, after = shown.split("minutes to go.")
    assert [
        line for line in shown.splitlines() if len(line) > 79 and str(tmp_path) not in line
    ] == []
    for word in ("50% of the captions", "16 names", "M weights", "32 x 32", "Device: cpu"):
        assert word in before
    assert after.lstrip().startswith("Joint selection ")
    written = json.loads((tmp_path / "demo" / "demo.json").read_text())
    arms = written["arms"]
    assert list(arms) == ["uniform", "curated", "independent", "joint"]
    table = after[after.index("-----") :].splitlines()[1:5]
    cells = {row.split()[0]: row.split() for row in table}
    for arm, run in arms.items():
        assert f"{run['evaluations'][-1]['metrics']['zero_shot_top1']:.1%}" in cells[arm]
    steps = arms["joint"]["steps"]
    assert arms["joint"]["counts"]["scored"] == 1280 * (steps // 2)
    assert arms["joint"]["counts"]["trained"] == 256 * steps
    assert arms["joint"]["counts"]["seen"] == 0, "the reference has seen none of what it scores"
    planned = plan(12, 2, config.arms, data)
    for arm in ("uniform", "independent", "joint"):
        own = planned.flops(arm, steps) - planned.flops(arm, 0)
        assert arms[arm]["flops"] / arms[arm]["steps"] * steps == pytest.approx(own, rel=0.02)
    for picture in ("curves.png", "found.png", "chosen.png"):
        assert (tmp_path / "demo" / picture).read_bytes().startswith(b"\x89PNG")
    again = run_demo(config)
    assert again["arms"] == results["arms"], "a finished demo shows its results again"
    with pytest.raises(ValueError, match=r"holds a demo with steps = 12, .* with 13; .* delete"):
        run_demo(replace(config, steps=13))
