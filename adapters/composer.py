"""A ``JestDataset`` as the training loader of MosaicML Composer's ``Trainer``.

Composer saves and restores the state of a DataLoader's dataset by itself. The callback refuses what
it would do wrong in silence, and tells it an epoch's length.
"""

from typing import Any

from composer import Callback, Logger, State
from composer.callbacks import CheckpointSaver
from torch.utils.data import DataLoader

from jest_loader.adapters.training_loops import check_evaluated, length_of, numbers_to_log
from jest_loader.checks import whole
from jest_loader.loader.dataset import JestDataset

_LOADER = "DataLoader(dataset, batch_size=None, num_workers=0)"


class JestCallback(Callback):  # type: ignore[misc] # Not in the environment that checks types.
    """Refuses what would go wrong with a ``JestDataset``, tells an epoch's length, and logs it.

    From any checkpoint a run goes on with the sub-batches that it would have had. An epoch is as
    long as the dataset says, also where a schedule changes that. Every ``batch_log_interval``
    batches, ``dataset.stats`` is logged as ``jest/score``, ``jest/uniform_score`` and so on.

    Args:
        batch_log_interval: Batches from one logging to the next.
        microbatches: Whether ``device_train_microbatch_size`` may be below ``sub_batch_size``. Each
            part of a sub-batch is then a batch of its own to a contrastive loss.

    Raises:
        ValueError: if ``batch_log_interval`` is below 1; at the start of ``fit``, if the training
            loader is no DataLoader of a ``JestDataset``, its source cannot save its state while
            checkpoints are saved, its sub-batches would be divided unasked, or it goes on within an
            epoch that ``train_subset_num_batches`` ends; when a ``JestDataset`` is evaluated on.
    """

    def __init__(self, *, batch_log_interval: int = 10, microbatches: bool = False) -> None:
        super().__init__()
        self._batch_log_interval = whole("batch_log_interval", batch_log_interval, 1)
        self._microbatches = microbatches
        self._dataset: JestDataset | None = None
        self._is_limited = False  # By train_subset_num_batches.

    def before_load(self, state: State, logger: Logger) -> None:
        """Look at the dataset before a state changes its length."""
        if state.train_dataloader is not None:
            self._look_at(state)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Refuse what would go wrong."""
        dataset = self._dataset or self._look_at(state)
        size, microbatch = dataset.sub_batch_size, state.device_train_microbatch_size
        if microbatch != size and not (self._microbatches and microbatch is not None):
            raise ValueError(
                "device_train_microbatch_size must be the dataset's sub_batch_size, got "
                f"{microbatch} and {size}: a sub-batch is chosen as one batch; use a smaller "
                "sub_batch_size, or JestCallback(microbatches=True) if each part is to be one"
            )
        if any(isinstance(callback, CheckpointSaver) for callback in state.callbacks):
            dataset.state_dict()  # Its error is one for now, not for the first checkpoint.
        if self._is_limited and state.timestamp.batch_in_epoch.value > 0:
            raise ValueError(
                "Composer cannot go on within an epoch that train_subset_num_batches ends, after "
                f"{state.timestamp.batch_in_epoch.value} of its batches; use a checkpoint of an "
                "epoch's end"
            )
        for evaluator in state.evaluators:
            check_evaluated(evaluator.dataloader.dataloader)
        self._tell_length(state)

    def epoch_start(self, state: State, logger: Logger) -> None:
        """Tell the length of the epoch, which a schedule may have changed."""
        self._tell_length(state)

    def batch_end(self, state: State, logger: Logger) -> None:
        """Log what was chosen."""
        if self._dataset is None or state.timestamp.batch.value % self._batch_log_interval != 0:
            return  # Statistics wait for the device.
        logger.log_metrics(numbers_to_log(self._dataset))

    def epoch_end(self, state: State, logger: Logger) -> None:
        """Tell the dataset, which the trainer has left after its length, that the epoch is over."""
        if self._dataset is not None and self._dataset.super_batches > 0:
            self._dataset.set_epoch(self._dataset.epoch + 1)

    def eval_start(self, state: State, logger: Logger) -> None:
        """Refuse to evaluate on a selection."""
        check_evaluated(state.dataloader)

    def predict_start(self, state: State, logger: Logger) -> None:
        """Refuse to predict for a selection."""
        check_evaluated(state.dataloader)

    def _look_at(self, state: State) -> JestDataset:
        dataset = self._dataset = _training_dataset(state.train_dataloader)
        length, known = length_of(dataset), state.dataloader_len
        self._is_limited = known is not None and (length is None or known.value < length)
        return dataset

    def _tell_length(self, state: State) -> None:
        length = None if self._dataset is None else length_of(self._dataset)
        if length is not None and not self._is_limited:
            state.dataloader_len = length


def _training_dataset(loader: Any) -> JestDataset:
    dataset = loader.dataset if isinstance(loader, DataLoader) else loader
    if not isinstance(dataset, JestDataset):
        raise ValueError(
            f"JestCallback needs {_LOADER} as train_dataloader, around a JestDataset, got "
            f"{type(dataset).__name__}"
        )
    if dataset is loader or loader.batch_size is not None:
        raise ValueError(
            f"a JestDataset must be passed to Composer as {_LOADER}, since it saves the state of a "
            "DataLoader's dataset only, and a sub-batch is a batch already"
        )
    return dataset
