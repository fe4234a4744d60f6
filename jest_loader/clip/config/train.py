"""The trainer's configuration: one frozen tree, parsed by tyro and written into each checkpoint."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jest_loader.checks import whole
from jest_loader.clip.config.held_out import EvaluationConfig
from jest_loader.clip.config.log import LogConfig
from jest_loader.clip.config.model import ModelConfig
from jest_loader.clip.config.open_clip import OpenClipConfig
from jest_loader.clip.config.optimizer import OptimizerConfig
from jest_loader.clip.config.selection import SelectionConfig
from jest_loader.clip.config.selection_checks import check_selection
from jest_loader.protocols import Loss

_YEAR_S = 366 * 24 * 3600


@dataclass(frozen=True)
class DataConfig:
    """What is trained on, and what is held out."""

    train: Path
    """Folder of MDS shards or a Zarr group, as `jest-loader pack` writes them, or WebDataset tars
    or Parquet files: a folder, or a pattern such as 'shards/{00000..01023}.tar' or
    'data/train-*.parquet'.
    """

    test: Path | None = None
    """Held-out data of the same columns, for zero-shot and retrieval evaluation; None evaluates on
    evaluation.sets alone.
    """

    image_column: str = "image"
    """Column of images: encoded bytes (JPEG, PNG, WebP), or pixels of shape [height, width(,
    channels)]. Of tars also a member, such as jpg.
    """

    caption_column: str = "caption"
    """Column of captions. Of tars also a member or a field, such as txt or json:text:str."""

    watch_columns: tuple[str, ...] = ()
    """Columns of numbers, such as marks of quality or source, whose means over the sub-batches
    trained on are recorded with each evaluation.
    """

    batch_size: int = 128
    """Examples trained on per step, by all processes together."""

    micro_batch_size: int | None = None
    """Examples that a process runs at once in training; None runs all of its share of a batch. Less
    needs less memory and computes more: everything is embedded twice, since all examples of a batch
    stay each other's negatives.
    """

    window_rows: int | None = None
    """The least number of training rows to shuffle among each other; None for four batches, and in
    any case whole shards. Raise it where rows are stored in an order, by source for example.
    """

    max_skipped_fraction: float = 0.01
    """The largest share of a super-batch's candidates, but at least one candidate, that may be
    skipped because their pictures cannot be decoded or the reference has nothing on them; more is
    an error, and 0 allows none.
    """

    augment: bool = True
    """Shift training images a little, differently at each step."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a two-tower CLIP model on selected sub-batches."""

    data: DataConfig
    """The data."""

    out: Path
    """Folder of the run: checkpoint.pt, metrics.json and log.jsonl. The same command goes on from
    it.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    """Sizes of the bundled model, which is trained unless open_clip.name is given."""

    open_clip: OpenClipConfig = field(default_factory=OpenClipConfig)
    """A model of open_clip to train in its place."""

    selection: SelectionConfig = field(default_factory=SelectionConfig)
    """The selection."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""

    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What is measured on held-out data."""

    steps: int = 1000
    """Optimizer steps."""

    loss: Loss = "sigmoid"
    """SigLIP's sigmoid loss or CLIP's softmax loss, for training and for scoring."""

    mask_equal_captions: bool = False
    """Leave pairs of different examples with equal captions out of the training loss, where they
    would be negatives of each other; selection.mask_equal_captions does so when scoring.
    """

    initial_logit_scale: float = 10.0
    """Inverse temperature at the start, unless the weights that a run starts from have one."""

    initial_logit_bias: float = -10.0
    """Logit bias at the start, unless the weights that a run starts from have one; the softmax loss
    has none.
    """

    seed: int = 0
    """Seed of the weights, the order of the data, augmentation and selection."""

    device: str = "auto"
    """A torch device; auto takes a GPU where there is one."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of the towers in training; auto is bf16 on a GPU and fp32 elsewhere. Scoring has
    selection.score_precision; evaluation is in fp32.
    """

    compile: bool = False
    """Compile the towers with torch.compile, for training and for scoring: minutes at the start,
    faster steps.
    """

    checkpoint_activations: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, slower
    steps.
    """

    eval_every: int = 100
    """Steps between evaluations on the held-out data."""

    checkpoint_every: int = 200
    """Steps between checkpoints."""

    keep_checkpoints: int = 0
    """Newest checkpoints that stay beside checkpoint.pt, as checkpoint-00000200.pt."""

    max_seconds: float | None = None
    """Stop before so many seconds have passed since the start, with a checkpoint; the same command
    goes on. None trains to the end.
    """

    rank_timeout_s: float = 2400.0
    """How long processes wait for each other before an error that names the one that does not
    answer, in seconds. By default longer than the wait for a stalled source (30 minutes), so that
    its process can report it; it must be longer than an evaluation.
    """

    log: LogConfig = field(default_factory=LogConfig)
    """What is written down while training."""

    def __post_init__(self) -> None:
        self._check_watched()
        self._check_numbers()
        bundled = self.model if self.open_clip.name is None else None
        if bundled is None and self.model != ModelConfig():
            raise ValueError(
                "the options of model are the bundled one's and have no effect while "
                f"open_clip.name is set, got {self.open_clip.name}; leave them out"
            )
        check_selection(self.selection, bundled, self.steps)
        if self.loss == "softmax" and self.selection.reference_batch_size is not None:
            raise ValueError(
                "selection.reference_batch_size has no effect while loss is softmax, which has no "
                f"bias, got {self.selection.reference_batch_size}; leave it out"
            )
        self.optimizer.check(self.steps, self.initial_logit_scale)
        self._check_resolution()

    def _check_watched(self) -> None:
        if self.data.watch_columns and self.data.test is None and self.evaluation.sets is None:
            raise ValueError(
                "data.watch_columns has no effect without held-out data, with whose evaluations "
                "means are recorded; set data.test"
            )
        taken = {"image", "text", "caption", "sample_id", "content", "group"}
        if watched := taken.intersection(self.data.watch_columns):
            raise ValueError(
                f"data.watch_columns must not have the name of a prepared column, got "
                f"{min(watched)!r}; give it another name in the data"
            )

    def _check_numbers(self) -> None:
        at_least_one = {
            "steps": self.steps,
            "eval_every": self.eval_every,
            "checkpoint_every": self.checkpoint_every,
            "data.batch_size": self.data.batch_size,
            "selection.num_chunks": self.selection.num_chunks,
            "selection.score_micro_batch_size": self.selection.score_micro_batch_size,
            "selection.reference_batch_size": self.selection.reference_batch_size,
            "data.micro_batch_size": self.data.micro_batch_size,
            "log.every": self.log.every,
        }
        for name, value in at_least_one.items():
            if value is not None:
                whole(name, value, 1)
        positive = {
            "initial_logit_scale": self.initial_logit_scale,
            "max_seconds": 1.0 if self.max_seconds is None else self.max_seconds,
        }
        if not 0 < self.rank_timeout_s <= _YEAR_S:
            raise ValueError(
                f"rank_timeout_s must be positive and at most a year, got {self.rank_timeout_s}"
            )
        for name, number in positive.items():
            if not number > 0:
                raise ValueError(f"{name} must be positive, got {number}")
        if not math.isfinite(self.initial_logit_bias):
            raise ValueError(f"initial_logit_bias must be finite, got {self.initial_logit_bias}")
        whole("keep_checkpoints", self.keep_checkpoints, 0)

    def _check_resolution(self) -> None:
        selection, model = self.selection, self.model
        patch_size = selection.score_patch_size
        image_size = selection.score_image_size
        self._check_low_resolution_fraction()
        if self.open_clip.name is not None:
            return  # The model knows, once it is there.
        patch = model.patch_size if patch_size is None else patch_size
        image = model.image_size if image_size is None else image_size
        if not 1 <= image <= model.image_size:
            raise ValueError(
                "selection.score_image_size must be from 1 to the model's image size, got "
                f"{image} and {model.image_size}"
            )
        if model.image_tower == "conv":
            if patch_size is not None:
                raise ValueError(
                    "selection.score_patch_size needs patches, which model.image_tower conv does "
                    f"not have, got {patch_size}; set selection.score_image_size"
                )
        elif patch < 1 or image % patch != 0:
            raise ValueError(
                "patches must divide the images that are scored, got patches of "
                f"{patch} and images of {image}; set selection.score_patch_size or "
                "selection.score_image_size"
            )

    def _check_low_resolution_fraction(self) -> None:
        selection = self.selection
        share = selection.low_resolution_fraction
        if not 0 <= share <= 1:
            raise ValueError(
                f"selection.low_resolution_fraction must be from 0 to 1, got {share:g}"
            )
        if share > 0 and selection.score_patch_size is None and selection.score_image_size is None:
            raise ValueError(
                "selection.low_resolution_fraction needs the resolution; set "
                "selection.score_patch_size or selection.score_image_size"
            )
