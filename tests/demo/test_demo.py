"""The demo in a short form, and its data."""

import json

import numpy as np
import pytest

from jest_loader.adapters.mds import MdsSource
from jest_loader.demo.data import CURATED, HELD_OUT, UNCURATED, prepare
from jest_loader.demo.icons import FONTS, ICON_SIZE, render
from jest_loader.demo.run import DemoConfig, run_demo


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


@pytest.mark.slow
def test_the_held_out_style_is_in_no_training_set(data):
    assert set(CURATED) < set(UNCURATED)
    assert set(UNCURATED) | set(HELD_OUT) == set(FONTS)
    assert set(read(data.held_out)["font"]) == set(HELD_OUT)
    assert set(read(data.uncurated)["font"]) == set(UNCURATED)
    assert set(read(data.curated)["font"]) == set(CURATED)


@pytest.mark.slow
def test_only_captions_of_the_uncurated_set_are_shuffled(data):
    uncurated = read(data.uncurated)
    true = [icon.caption for icon in render(UNCURATED)]
    shuffled = uncurated["shuffled"].astype(bool)
    assert shuffled.mean() == pytest.approx(0.5, abs=0.02)
    right = np.array(true) == uncurated["caption"]
    assert right[~shuffled].all()
    assert right[shuffled].mean() < 0.01
    assert sorted(true) == sorted(uncurated["caption"]), "captions are dealt out, not made up"
    assert [icon.caption for icon in render(CURATED)] == list(read(data.curated)["caption"])


@pytest.mark.slow
def test_held_out_names_are_words_of_the_training_sets(data):
    names = set(read(data.held_out)["caption"])
    assert len(names) == data.num_classes > 300
    assert "bell" in names
    assert not any(name.endswith((" bold", " thin")) for name in names)


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


@pytest.mark.slow
def test_the_demo_in_short(data, tmp_path, capsys):
    config = DemoConfig(out=tmp_path / "demo", steps=2, reference_steps=2, device="cpu")
    config.out.mkdir()
    (config.out / "data").symlink_to(data.curated.parent)
    results = run_demo(config)
    shown = capsys.readouterr().out
    assert "50% of the captions" in shown
    table = [line.split() for line in shown.splitlines() if line.strip()]
    rows = {row[0]: row for row in table if row[0] in {*results["arms"], "curated"}}
    assert rows["curated"][4:7] == ["256", "0", "256"]
    assert rows["uniform"][3:6] == ["256", "0", "256"]
    assert rows["joint"][3:6] == ["1,280", "1,280", "256"]
    written = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert list(written["arms"]) == ["uniform", "independent", "joint"]
    assert written["arms"]["joint"]["flops"] > 2 * written["arms"]["uniform"]["flops"]
    for picture in ("curves.png", "icons.png"):
        assert (tmp_path / "demo" / picture).read_bytes().startswith(b"\x89PNG")
    again = run_demo(config)
    assert again["arms"] == results["arms"], "a finished demo shows its results again"
    with pytest.raises(ValueError, match=r"holds a demo with steps = 2, .* with 3; .* delete"):
        run_demo(DemoConfig(out=tmp_path / "demo", steps=3, reference_steps=2, device="cpu"))
