"""The demo: one learner trained three ways on the same data, for the same number of steps."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from jest_loader.checks import whole
from jest_loader.clip.config.presets import preset
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.loading.cache import build_reference_cache
from jest_loader.clip.run import Run
from jest_loader.clip.train import train
from jest_loader.demo import plots, table
from jest_loader.demo.data import DemoData, prepare
from jest_loader.files import save_json

Arm = Literal["uniform", "independent", "joint"]

QUERIES = (
    "shopping cart",
    "battery charging",
    "bell",
    "heart",
    "magnifying glass plus",
    "airplane",
    "lock",
    "trash",
    "arrow left",
    "phone",
    "calendar",
    "cloud rain",
)


@dataclass(frozen=True)
class DemoConfig:
    """Train the same small CLIP with uniform, independent and joint selection, and compare."""

    out: Path = Path("runs/demo")
    """Folder for data, checkpoints, numbers and pictures. An interrupted demo goes on from it."""

    noise_fraction: float = 0.5
    """Share of the uncurated set's captions that is shuffled: the one thing added to the data."""

    steps: int = 800
    """Training steps of each of the three runs."""

    reference_steps: int = 800
    """Training steps of the reference model on the curated set."""

    seed: int = 0
    """Seed of weights, data order, augmentation and selection; the data set stays the same."""

    device: str = "auto"
    """A torch device; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        whole("reference_steps", self.reference_steps, 1)
        whole("seed", self.seed, 0)
        if not 0 <= self.noise_fraction <= 1:
            raise ValueError(f"noise_fraction must be from 0 to 1, got {self.noise_fraction}")


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Run the demo and write ``demo.json``, ``curves.png`` and ``icons.png`` to ``config.out``.

    Raises:
        ValueError: if ``config.out`` holds a demo with other settings.
    """
    plots.check_installed()
    _check_same_demo(config)
    data = prepare(config.out / "data", noise_fraction=config.noise_fraction)
    table.announce(data)
    reference = train(_reference_config(config, data), label="reference")
    cache = _cache(config, data, reference)
    runs = {
        arm: train(arm_config(config, data, arm, cache), label=arm.ljust(11))
        for arm in get_args(Arm)
    }
    summaries = {arm: run.summary() for arm, run in runs.items()}
    results = {"reference": reference.summary(), "arms": summaries}
    save_json(config.out / "demo.json", results)
    plots.draw_curves(results, config.out / "curves.png")
    plots.draw_icons(runs["joint"], QUERIES, config.out / "icons.png")
    table.report(config.out, data, results)
    return results


def _check_same_demo(config: DemoConfig) -> None:
    """A folder holds one demo: parts of two must not end in one table."""
    settings = {**asdict(config), "out": None, "device": None}
    path = config.out / "settings.json"
    if not path.is_file():
        config.out.mkdir(parents=True, exist_ok=True)
        save_json(path, settings)
    found = json.loads(path.read_text())
    for name, value in settings.items():
        if found.get(name) != value:
            raise ValueError(
                f"{config.out} holds a demo with {name} = {found.get(name)}, which cannot go on "
                f"with {value}; choose another --out, or delete {config.out}"
            )


def _base_config(config: DemoConfig, data: DemoData, train_on: Path, name: str) -> TrainConfig:
    base = preset("demo", train_on, config.out / name)
    return replace(
        base,
        data=replace(base.data, test=data.held_out),
        steps=config.steps,
        seed=config.seed,
        device=config.device,
        eval_every=max(1, config.steps // 20),
    )


def _reference_config(config: DemoConfig, data: DemoData) -> TrainConfig:
    base = _base_config(config, data, data.curated, "reference")
    return replace(
        base,
        steps=config.reference_steps,
        eval_every=max(1, config.reference_steps // 20),
    )


def arm_config(
    config: DemoConfig, data: DemoData, arm: Arm, cache: Path | None = None
) -> TrainConfig:
    """The training run of one arm; all but the uniform one need the reference's ``cache``."""
    base = _base_config(config, data, data.uncurated, arm)
    reference_cache = None if arm == "uniform" else cache
    return replace(base, selection=SelectionConfig(selector=arm, reference_cache=reference_cache))


def _cache(config: DemoConfig, data: DemoData, reference: Run) -> Path:
    """The reference's embeddings of the uncurated set, made unless they are there."""
    path = config.out / "reference" / "cache"  # Goes when the reference goes.
    inputs = replace(reference.config.data, train=data.uncurated)
    build_reference_cache(path, inputs, reference.model, reference.config.loss, batch_size=1024)
    return path
