"""The trainer's configuration: one frozen tree, parsed by tyro and written into each checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jest_loader.clip.architecture import Architecture
from jest_loader.clip.open_clip_architecture import resolve
from jest_loader.clip.open_clip_config import OpenClipConfig
from jest_loader.clip.towers import ModelConfig
from jest_loader.protocols import Loss


@dataclass(frozen=True)
class DataConfig:
    """What is trained on, and what is held out."""

    train: Path
    """Folder of MDS shards or a Zarr group, as `jest-loader pack` writes them."""

    test: Path | None = None
    """Held-out data of the same columns, for zero-shot and retrieval evaluation; None evaluates
    nothing.
    """

    image_column: str = "image"
    """Column of images: encoded bytes (JPEG, PNG, WebP), or pixels of shape [height, width(,
    channels)].
    """

    caption_column: str = "caption"
    """Column of captions."""

    watch_columns: tuple[str, ...] = ()
    """Columns of numbers, such as marks of quality or source, whose means over the sub-batches
    trained on are recorded with each evaluation.
    """

    batch_size: int = 128
    """Examples trained on per step."""

    max_skipped_fraction: float = 0.01
    """Share of a super-batch's candidates, or one if that is less, that may be left out because
    their pictures cannot be decoded or the reference has nothing on them; more is an error.
    """

    augment: bool = True
    """Shift training images a little, differently at each step."""


@dataclass(frozen=True)
class SelectionConfig:
    """How each sub-batch is chosen from its super-batch."""

    selector: Literal["uniform", "independent", "joint", "topk"] = "uniform"
    """uniform trains on the data as it comes and reads no super-batches."""

    score: Literal["learnability", "easy_reference", "hard_learner"] = "learnability"
    """Learner loss less reference loss, minus the reference loss, or the learner loss."""

    filter_ratio: float = 0.8
    """Share of candidates left out: a super-batch holds batch_size / (1 - filter_ratio)
    candidates.
    """

    num_chunks: int = 16
    """Draws per sub-batch of the joint selector."""

    gain: float = 1.0
    """Factor on the logits from which candidates are drawn."""

    reference_cache: Path | None = None
    """The reference model's embeddings of the training data, as `jest-loader cache` writes them."""

    reference_checkpoint: Path | None = None
    """A checkpoint of this trainer, run on every super-batch; with a cache, only on candidates that
    the cache lacks.
    """

    reference_open_clip: OpenClipConfig = field(default_factory=OpenClipConfig)
    """A model of open_clip with its weights, in place of reference_checkpoint."""

    score_patch_size: int | None = None
    """Patch size at which the learner scores; None takes the model's. The reference keeps its own.
    """

    score_image_size: int | None = None
    """Image size at which the learner scores; None takes the model's."""

    low_resolution_fraction: float = 0.0
    """Share of the sub-batch that is trained on at the patch and image size of scoring (half in
    Flexi-JEST); also for the selector uniform.
    """

    @property
    def has_live_reference(self) -> bool:
        """Whether a reference is there to be run."""
        return self.reference_checkpoint is not None or self.reference_open_clip.name is not None


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay to zero."""

    lr: float = 1e-3
    """Peak learning rate."""

    scale_lr_factor: float = 10.0
    """Learning rate of the logit scale and bias, as a multiple of lr: they must travel further."""

    weight_decay: float = 0.1
    """Applied to matrices only, not to biases, norms, scale and bias."""

    warmup_steps: int = 100
    """Steps until the learning rate is at its peak."""

    clip_norm: float = 1.0
    """Largest norm of the gradient."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a two-tower CLIP model on selected sub-batches."""

    data: DataConfig
    """The data."""

    out: Path
    """Folder of the run: checkpoint.pt and metrics.json. The same command goes on from it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """Sizes of the bundled model, which is trained unless open_clip.name is given."""

    open_clip: OpenClipConfig = field(default_factory=OpenClipConfig)
    """A model of open_clip to train in its place."""

    selection: SelectionConfig = field(default_factory=SelectionConfig)
    """The selection."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""

    steps: int = 1000
    """Optimizer steps."""

    loss: Loss = "sigmoid"
    """SigLIP's sigmoid loss or CLIP's softmax loss, for training and for scoring."""

    initial_scale: float = 10.0
    """Inverse temperature at the start, unless the weights that a run starts from have one."""

    initial_bias: float = -10.0
    """Logit bias at the start, unless the weights that a run starts from have one; the softmax loss
    has none.
    """

    seed: int = 0
    """Of the weights, the order of the data, augmentation and selection."""

    device: str = "auto"
    """A torch device; auto takes a GPU where there is one."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the towers in training; auto is bf16 on a GPU and fp32 elsewhere. Scoring is in fp32."""

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

    @property
    def architecture(self) -> Architecture:
        """The model that is trained.

        Raises:
            ValueError: if open_clip has no such model or is not installed.
        """
        return self.model if self.open_clip.name is None else resolve(self.open_clip)

    def __post_init__(self) -> None:
        references = {
            "reference_cache": self.selection.reference_cache,
            "reference_checkpoint": self.selection.reference_checkpoint,
            "reference_open_clip.name": self.selection.reference_open_clip.name,
        }
        unused = [name for name, value in references.items() if value is not None]
        both = self.selection.reference_checkpoint, self.selection.reference_open_clip.name
        if None not in both:
            raise ValueError(
                "selection.reference_checkpoint and selection.reference_open_clip.name both name "
                "a reference to run; set one of them"
            )
        if unused and self.selection.selector == "uniform":
            raise ValueError(
                f"selection.{unused[0]} has no effect while selection.selector is uniform; set "
                "selection.selector, to joint for example"
            )
        at_least_one = {
            "steps": self.steps,
            "eval_every": self.eval_every,
            "checkpoint_every": self.checkpoint_every,
            "data.batch_size": self.data.batch_size,
            "selection.num_chunks": self.selection.num_chunks,
        }
        for name, value in at_least_one.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        positive = {
            "optimizer.lr": self.optimizer.lr,
            "optimizer.clip_norm": self.optimizer.clip_norm,
            "initial_scale": self.initial_scale,
        }
        for name, number in positive.items():
            if not number > 0:
                raise ValueError(f"{name} must be positive, got {number}")
        not_negative = {
            "optimizer.warmup_steps": self.optimizer.warmup_steps,
            "optimizer.weight_decay": self.optimizer.weight_decay,
        }
        for name, number in not_negative.items():
            if not number >= 0:
                raise ValueError(f"{name} must not be negative, got {number}")
        self._check_resolution()

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
