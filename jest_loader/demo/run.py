"""The demo: one learner trained in several ways by the same number of operations."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from jest_loader.checks import whole
from jest_loader.clip.config.presets import preset
from jest_loader.clip.config.schedule import ScheduleConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.train import TrainConfig
from jest_loader.clip.loading.cache import build_reference_cache
from jest_loader.clip.processes import choose_device
from jest_loader.clip.saving import checkpoint
from jest_loader.clip.train import train
from jest_loader.demo import plots, sheets, table
from jest_loader.demo.data import DemoData, prepare
from jest_loader.demo.plan import (
    FILTER_RATIO,
    NUM_CHUNKS,
    SCORE_IMAGE_SIZE,
    SELECTING,
    STOP_FRACTION,
    Arm,
    Plan,
    plan,
    seconds_per_flop,
)
from jest_loader.files import save_json

QUERIES = (
    "shopping cart",
    "bell",
    "heart",
    "camera",
    "bicycle",
    "lock",
    "trash",
    "arrow left",
    "phone",
    "calendar",
    "umbrella",
    "cloud",
)


_KEPT = 4  # Checkpoints of an arm that selects, besides its last.


@dataclass(frozen=True)
class DemoConfig:
    """Train the same small CLIP with and without joint selection, and compare."""

    out: Path = Path("runs/demo")
    """Folder for data, checkpoints, numbers and pictures. An interrupted demo goes on from it."""

    noise_fraction: float = 0.5
    """Share of the uncurated set's captions that is shuffled: the one thing added to the data."""

    steps: int = 1000
    """Training steps of uniform sampling; the other runs get as many floating-point operations."""

    reference_steps: int = 200
    """Training steps of the reference model on the curated set."""

    independent: bool = False
    """Whether independent selection is compared too, which takes as long as another arm."""

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

    @property
    def arms(self) -> list[Arm]:
        """Those that are trained, in the order of the table."""
        return [arm for arm in get_args(Arm) if arm != "independent" or self.independent]


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Run the demo: ``demo.json``, ``curves.png``, ``found.png`` and ``chosen.png``.

    Raises:
        ValueError: if ``config.out`` holds a demo with other settings, or ``config.steps`` are too
            few to pay for the reference.
    """
    plots.check_installed()
    _check_same_demo(config)
    table.begin(config.out)
    data = prepare(config.out / "data", noise_fraction=config.noise_fraction)
    planned = plan(config.steps, config.reference_steps, config.arms, data)
    device = choose_device(config.device)
    table.announce(data, planned, device, _seconds_left(config, planned, device))
    reference = train(reference_config(config, data), label="reference  ")
    cache = reference_cache(config, data)
    runs = {
        arm: train(arm_config(config, data, arm, cache), label=arm.ljust(11)) for arm in config.arms
    }
    results = {
        "reference": reference.summary(),
        "arms": {arm: run.summary() for arm, run in runs.items()},
        "flops": {arm: planned.flops(arm, steps) for arm, steps in planned.steps.items()},
        "queries": QUERIES,
        "found": {arm: sheets.num_found(runs[arm], QUERIES) for arm in runs},
    }
    save_json(config.out / "demo.json", results)
    plots.draw_curves(results, planned, data, config.out / "curves.png")
    sheets.draw_found(runs["joint"], runs["uniform"], QUERIES, config.out / "found.png")
    selecting = config.out / "joint" / _first_kept(planned.steps["joint"])
    sheets.draw_chosen(selecting, reference, runs["joint"].config, config.out / "chosen.png")
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


def _base_config(
    config: DemoConfig, data: DemoData, train_on: Path, name: str, steps: int
) -> TrainConfig:
    base = preset("demo", train_on, config.out / name)
    return replace(
        base,
        data=replace(base.data, test=data.held_out, watch_columns=("shuffled",)),
        steps=steps,
        seed=config.seed,
        device=config.device,
        eval_every=max(1, steps // 20),
    )


def reference_config(config: DemoConfig, data: DemoData) -> TrainConfig:
    """The training run of the reference."""
    return _base_config(config, data, data.curated, "reference", config.reference_steps)


def arm_config(
    config: DemoConfig, data: DemoData, arm: Arm, cache: Path | None = None
) -> TrainConfig:
    """The training run of one arm; those that select need the reference's ``cache``."""
    steps = plan(config.steps, config.reference_steps, [arm], data).steps[arm]
    train_on = data.curated if arm == "curated" else data.uncurated
    base = _base_config(config, data, train_on, arm, steps)
    if arm not in SELECTING:
        return base
    return replace(
        base,
        selection=_selection(arm, cache),
        checkpoint_every=_checkpoint_every(steps),
        keep_checkpoints=_KEPT,
    )


def _checkpoint_every(steps: int) -> int:
    """Steps between the checkpoints of an arm that selects; the first is from while it does."""
    return -(-steps // _KEPT)


def _first_kept(steps: int) -> str:
    return f"checkpoint-{_checkpoint_every(steps):08}.pt"


def _selection(arm: Arm, cache: Path | None) -> SelectionConfig:
    assert arm == "joint" or arm == "independent"
    return SelectionConfig(
        selector=arm,
        filter_ratio=FILTER_RATIO,
        num_chunks=NUM_CHUNKS,
        reference_cache=cache,
        score_image_size=SCORE_IMAGE_SIZE,
        schedule=ScheduleConfig(stop_fraction=STOP_FRACTION),
    )


def reference_cache(config: DemoConfig, data: DemoData) -> Path:
    """The trained reference's embeddings of the uncurated set, made unless they are there.

    From its checkpoint, which knows the batch size and the icons that it was trained on.
    """
    run = config.out / "reference"
    path = run / "cache"  # Goes when the reference goes.
    model = checkpoint.load_model(run / "checkpoint.pt").to(choose_device(config.device))
    trained = reference_config(config, data)
    inputs = replace(trained.data, train=data.uncurated)
    build_reference_cache(path, inputs, model, trained.loss, batch_size=1024)
    return path


def _seconds_left(config: DemoConfig, planned: Plan, device: torch.device) -> float:
    """Roughly how long the runs will take that are not finished, by timing a few steps."""
    left = sum(
        planned.flops(arm, steps) - planned.flops(arm, 0)
        for arm, steps in planned.steps.items()
        if not _finished(config.out / arm)
    )
    if not _finished(config.out / "reference"):
        left += planned.reference_flops
    return left * seconds_per_flop(device) if left else 0.0


def _finished(run: Path) -> bool:
    metrics = run / "metrics.json"
    return metrics.is_file() and bool(json.loads(metrics.read_text())["finished"])
