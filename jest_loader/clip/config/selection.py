"""Options of selection."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jest_loader.clip.config.open_clip import OpenClipConfig
from jest_loader.clip.config.proxy import ProxyConfig
from jest_loader.clip.config.schedule import ScheduleConfig
from jest_loader.scoring.precision import Precision
from jest_loader.selecting.selectors import Quota


@dataclass(frozen=True)
class SelectionConfig:
    """How each sub-batch is chosen from its super-batch."""

    selector: Literal["uniform", "independent", "joint", "topk"] = "uniform"
    """uniform trains on the data as it comes and reads no super-batches."""

    score: Literal["learnability", "easy_reference", "hard_learner"] = "learnability"
    """Learner loss less reference loss, minus the reference loss, or the learner loss."""

    filter_ratio: float = 0.8
    """Share of candidates not chosen: 1 - 1/n of n batches, such as 0.5, 0.75, 0.8 or 0.9."""

    num_chunks: int = 16
    """Draws per sub-batch of the joint selector."""

    gain: float = 1.0
    """Factor on the logits from which candidates are drawn."""

    reference_cache: Path | None = None
    """The reference model's embeddings of the training data, as `jest-loader cache` writes them. Of
    cross-fitted references (`--folds`) one scores each step, and what it has seen is left out.
    """

    reference_checkpoint: Path | None = None
    """A checkpoint of this trainer, run on every super-batch; with a cache, only on candidates that
    the cache lacks.
    """

    reference_open_clip: OpenClipConfig = field(default_factory=OpenClipConfig)
    """A model of open_clip with its weights, in place of reference_checkpoint."""

    exclude_seen: bool = False
    """Leave out the candidates that the reference was trained on, as its checkpoint says or the one
    that its cache is of.
    """

    reference_batch_size: int | None = None
    """Batch size over all processes that the reference was trained at, to which its bias belongs.
    None takes what its checkpoint or cache records; where neither does, scale and bias are fitted
    to the sub-batches at the start, and the log says so. For the sigmoid loss only.
    """

    score_patch_size: int | None = None
    """Patch size at which the learner scores; None takes the model's. The reference keeps its own.
    """

    score_image_size: int | None = None
    """Image size at which the learner scores; None takes the model's."""

    mask_equal_captions: bool = False
    """Score candidates with equal captions as if they were not each other's negatives."""

    low_resolution_fraction: float = 0.0
    """Share of the sub-batch that is trained on at the patch and image size of scoring (half in
    Flexi-JEST); also for the selector uniform.
    """

    score_micro_batch_size: int | None = None
    """Candidates that a model embeds at once; None takes as many as are trained on."""

    score_precision: Precision = "auto"
    """Precision of the towers in scoring; auto is fp16 on a GPU and fp32 elsewhere."""

    scores_with: Literal["learner", "proxy"] = "learner"
    """Which model's loss the score takes: the learner's own, or that of a small model in its place,
    which learns from each sub-batch.
    """

    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    """The small model of scores_with=proxy."""

    overlap: bool = False
    """Choose the next sub-batch while the last one is trained on, with the weights from before."""

    quota: Quota = "equal"
    """How many each of several processes draws: equal, the same number, given all choices; global,
    the exact draw over all; local, the same number, without communication.
    """

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """How selection changes over the run."""

    @property
    def has_live_reference(self) -> bool:
        """Whether a reference is there to be run."""
        return self.reference_checkpoint is not None or self.reference_open_clip.name is not None
