"""The arms of ``bench.training``: what each is trained on, and how its sub-batches are chosen."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.training.subsets import best_by_reference, joined, least_alike
from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.config.optimizer import OptimizerConfig
from jest_loader.clip.config.schedule import ScheduleConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.train import DataConfig, TrainConfig
from jest_loader.clip.loading.cache import build_reference_cache
from jest_loader.clip.saving import checkpoint
from jest_loader.clip.train import train
from jest_loader.protocols import Loss

STEPS, BATCH_SIZE = 1600, 128
_LR = 1e-3  # With batches of 128.
_HALF_SIZE = 16
_FLEXI: dict[str, Any] = {"score_image_size": _HALF_SIZE, "low_resolution_fraction": 0.5}
_JOINT = SelectionConfig(selector="joint", filter_ratio=0.8)


@dataclass(frozen=True)
class Setting:
    """What the arms that are compared with each other have in common.

    Args:
        noise: Percent of the captions that are shuffled.
        batch_size: Batch size of all arms.
        num_examples: Examples that each arm is trained on, unless an arm says otherwise.
        loss: Loss of learner and reference, "sigmoid" or "softmax".
        longer: Factor on ``num_examples``.
    """

    noise: int = 20
    batch_size: int = BATCH_SIZE
    num_examples: int = STEPS * BATCH_SIZE
    loss: Loss = "sigmoid"
    longer: int = 1

    @property
    def lr(self) -> float:
        """The uniform arm's best of those tried over one length, with batches of 128 and of 512."""
        return _LR * math.sqrt(self.batch_size / BATCH_SIZE)

    @property
    def name(self) -> str:
        """Name of its folder and of its rows in tables."""
        name = f"noise-{self.noise}-batch-{self.batch_size}"
        loss = "" if self.loss == "sigmoid" else f"-{self.loss}"
        return name + loss + ("" if self.longer == 1 else f"-times-{self.longer}")


@dataclass(frozen=True)
class Arm:
    """What an arm is trained on, and how its sub-batches are chosen.

    Args:
        about: Description for the table.
        selection: The selection, but for the reference.
        subset: Makes what it is trained on from the uncurated data; None trains on all of these.
        masks_loss: Whether equal captions are no negatives in the loss.
        reference: The folder of the data that its reference is trained on.
        part: Trains for that part of the steps, its learning rate decayed by then.
    """

    about: str
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    subset: "Callable[[Bench, Setting], Path] | None" = None
    masks_loss: bool = False
    reference: str = "curated"
    part: float = 1.0

    @property
    def scores_with_reference(self) -> bool:
        """Whether candidates are scored with the reference."""
        chosen = self.selection
        return chosen.selector != "uniform" and chosen.score != "hard_learner"


@dataclass(frozen=True)
class Bench:
    """Where everything is.

    Args:
        data: What ``bench.training.data`` wrote.
        out: Folder of runs, caches and subsets.
        steps: Steps of the reference, with batches of ``BATCH_SIZE``.
        stops_at: Time at which runs are to be saved and stopped, by ``time.monotonic``.
    """

    data: Path
    out: Path
    steps: int = STEPS
    stops_at: float = math.inf

    def seconds_left(self) -> float | None:
        """Until runs are to stop; None if they are not."""
        if self.stops_at == math.inf:
            return None
        return max(1.0, self.stops_at - time.monotonic())

    def uncurated(self, setting: Setting) -> Path:
        """The uncurated data, some of whose captions are shuffled."""
        return self.data / f"uncurated_{setting.noise}"

    def filtered(self, setting: Setting) -> Path:
        """The fifth that the reference finds easiest."""
        path = self._subset("filtered", setting)
        return best_by_reference(self.uncurated(setting), self.cache(setting), path, keep=0.2)

    def pruned(self, setting: Setting) -> Path:
        """The half whose pictures are least like others, to the reference."""
        path = self._subset("pruned", setting)
        return least_alike(self.uncurated(setting), self.cache(setting), path, keep=0.5)

    def with_curated(self, setting: Setting) -> Path:
        """The uncurated and the curated data."""
        path = self._subset("with_curated", setting)
        return joined([self.uncurated(setting), self.data / "curated"], path)

    def curated(self, _: Setting) -> Path:
        """The curated sets."""
        return self.data / "curated"

    def clean(self, _: Setting) -> Path:
        """The uncurated data without style words and sizes in captions, none shuffled."""
        return self.data / "uncurated_clean"

    def _subset(self, name: str, setting: Setting) -> Path:
        return self.out / "subsets" / f"{name}-{setting.noise}-{setting.loss}"

    def cache(self, setting: Setting, train_on: str = "curated") -> Path:
        """The reference's embeddings of the uncurated data, made if they are not there.

        Args:
            setting: Setting of the data and of the reference's loss.
            train_on: The folder of the data that the reference is trained on.
        """
        config = base_config(
            self.data / train_on,
            self.data / "test",
            self.out / "references" / f"{train_on}-{setting.loss}",
            self.steps,
            setting.loss,
        )
        train(replace(config, max_seconds=self.seconds_left()), label="reference")
        model = checkpoint.load_model(config.out / "checkpoint.pt")
        data = replace(config.data, train=self.uncurated(setting))
        path = config.out / f"cache_{setting.noise}"
        build_reference_cache(path, data, model, config.loss, batch_size=1024)
        return path

    def config(self, name: str, setting: Setting, seed: int) -> TrainConfig:
        """The run of an arm; its data and reference are made if they are not there."""
        arm = ARMS[name]
        base = base_config(
            self.uncurated(setting) if arm.subset is None else arm.subset(self, setting),
            self.data / "test",
            self.out / setting.name / name / f"seed-{seed}",
            int(arm.part * setting.num_examples * setting.longer) // setting.batch_size,
            setting.loss,
        )
        return replace(
            base,
            data=replace(base.data, batch_size=setting.batch_size, watch_columns=("shuffled",)),
            optimizer=replace(base.optimizer, lr=setting.lr),
            selection=replace(
                arm.selection,
                reference_cache=(
                    self.cache(setting, arm.reference) if arm.scores_with_reference else None
                ),
            ),
            mask_equal_captions=arm.masks_loss,
            max_seconds=self.seconds_left(),
            seed=seed,
        )


def _selects(about: str, *, part: float = 1.0, reference: str = "curated", **changes: Any) -> Arm:
    """JEST with some options of its selection changed."""
    return Arm(about, replace(_JOINT, **changes), part=part, reference=reference)


_CLEAN = "uncurated_clean"
_FIRST_QUARTER = ScheduleConfig(stop_fraction=0.25)
ARMS = {
    "uniform": Arm("uniform"),
    "independent": _selects("independent, learnability", selector="independent"),
    "joint": _selects("joint, learnability (JEST)"),
    "flexi": _selects("Flexi-JEST: joint, scored and half trained at half size", **_FLEXI),
    "flexi_quarter": _selects(
        "Flexi-JEST with a quarter trained at half size",
        score_image_size=_HALF_SIZE,
        low_resolution_fraction=0.25,
    ),
    "flexi_scored": _selects("JEST, scored at half size", score_image_size=_HALF_SIZE),
    "easy": _selects("joint, easy reference", score="easy_reference"),
    "hard": _selects("joint, hard learner", score="hard_learner"),
    "joint_start": _selects(
        "JEST for a quarter of the steps, then uniform", schedule=_FIRST_QUARTER
    ),
    "easy_start": _selects(
        "easy reference for a quarter of the steps, then uniform",
        score="easy_reference",
        schedule=_FIRST_QUARTER,
    ),
    "joint_equal_flops": _selects("JEST, 0.37 of the steps: uniform's flops", part=0.37),
    "joint_quarter": _selects("JEST, a quarter of the steps", part=1 / 4),
    "joint_fifth": _selects("JEST, a fifth of the steps", part=1 / 5),
    "flexi_third": _selects("Flexi-JEST, a third of the steps", part=1 / 3, **_FLEXI),
    "easy_fifth": _selects(
        "easy reference, a fifth of the steps", part=1 / 5, score="easy_reference"
    ),
    "joint_50": _selects("JEST, f = 0.5", filter_ratio=0.5),
    "joint_90": _selects("JEST, f = 0.9", filter_ratio=0.9),
    "independent_50": _selects("independent, f = 0.5", selector="independent", filter_ratio=0.5),
    "independent_90": _selects("independent, f = 0.9", selector="independent", filter_ratio=0.9),
    "joint_gain": _selects("JEST, scores times a quarter", gain=0.25),
    "joint_masked_both": Arm(
        "JEST, equal captions masked in scores and loss",
        replace(_JOINT, mask_equal_captions=True),
        masks_loss=True,
    ),
    "uniform_masked": Arm("uniform, equal captions masked in the loss", masks_loss=True),
    "independent_clean": _selects(
        "independent, reference of clean captions", reference=_CLEAN, selector="independent"
    ),
    "joint_clean": _selects("JEST, reference of clean captions", reference=_CLEAN),
    "flexi_clean": _selects("Flexi-JEST, reference of clean captions", reference=_CLEAN, **_FLEXI),
    "easy_clean": _selects(
        "easy reference, reference of clean captions", reference=_CLEAN, score="easy_reference"
    ),
    "uniform_flexi": Arm("uniform, half at half size", SelectionConfig(**_FLEXI)),
    "filtered": Arm("uniform on the reference's best fifth, chosen ahead", subset=Bench.filtered),
    "pruned": Arm("uniform on the least alike half", subset=Bench.pruned),
    "with_curated": Arm("uniform on curated and uncurated", subset=Bench.with_curated),
    "curated": Arm("uniform on curated only", subset=Bench.curated),
    "clean": Arm("uniform on all with clean captions", subset=Bench.clean),
}


def base_config(
    train_on: Path, test: Path, out: Path, steps: int = STEPS, loss: Loss = "sigmoid"
) -> TrainConfig:
    """What all arms have in common."""
    return TrainConfig(
        data=DataConfig(train=train_on, test=test, batch_size=BATCH_SIZE, augment=False),
        out=out,
        model=ModelConfig(
            image_size=32, channels=1, image_tower="conv", vision_width=128, vision_depth=3,
            text_width=96, text_depth=0, embed_dim=96, vocab_size=16384,
        ),
        loss=loss,
        optimizer=OptimizerConfig(lr=_LR, warmup_steps=max(1, steps // 16)),
        steps=steps,
        initial_logit_bias=-5.0,
        eval_every=max(1, steps // 32),
        checkpoint_every=max(1, steps // 8),
    )  # fmt: skip
