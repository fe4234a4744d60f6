"""A ``JestDataset`` as the training loader of Lightning's ``Trainer``.

Lightning saves the state of such a loader, but neither restores it in each case nor tells it that
an epoch has ended after its length; the callback does.
"""

from typing import Any

from jest_loader.adapters.training_loops import (
    check_evaluated,
    datasets_in,
    length_of,
    numbers_to_log,
)
from jest_loader.loader.dataset import JestDataset

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError:  # The same under its other name, without types of its own here.
    from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment]

_KEY = "jest_dataset"


class JestCallback(Callback):
    """Resumes a ``JestDataset`` exactly, refuses what would go wrong with it, and logs it.

    From any checkpoint a run goes on with the sub-batches that it would have had, whether it was
    saved within an epoch or at its end. Each ``log_every_n_steps``, ``dataset.stats`` is logged as
    ``jest/score``, ``jest/uniform_score`` and so on.

    Args:
        accumulation: Whether ``accumulate_grad_batches`` may be above 1. Each sub-batch is then a
            batch of negatives of its own, as it was chosen.

    Raises:
        ValueError: at the start of ``fit``, if the training loader is no ``JestDataset``, its
            source cannot save its state while the trainer saves checkpoints, or gradients are
            accumulated unasked; when a ``JestDataset`` is evaluated on; when an epoch's length has
            changed and the trainer does not know.
    """

    def __init__(self, *, accumulation: bool = False) -> None:
        self._accumulation = accumulation
        self._dataset: JestDataset | None = None
        self._saved: dict[str, Any] | None = None  # In a checkpoint, to go on from.

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the dataset, and bring it to where the checkpoint was saved."""
        dataset = self._dataset = _training_dataset(trainer)
        if trainer.accumulate_grad_batches > 1 and not self._accumulation:
            raise ValueError(
                "accumulate_grad_batches must be 1 with a JestDataset, got "
                f"{trainer.accumulate_grad_batches}: a sub-batch is chosen as one batch; use a "
                "larger sub_batch_size, or JestCallback(accumulation=True) if each is to be one"
            )
        if trainer.checkpoint_callbacks:
            dataset.state_dict()  # Its error is one for now, not for the first checkpoint.
        if self._saved is not None:
            self._go_on(trainer, dataset, **self._saved)
            self._saved = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare what the trainer knows with the dataset, which it may have loaded anew."""
        dataset = _training_dataset(trainer)
        if dataset is not self._dataset:
            raise ValueError(
                "train_dataloader must return the same JestDataset each time, or its schedule and "
                "epochs begin again; make it once, in __init__ or setup"
            )
        if not _knows_length(trainer, dataset):
            raise ValueError(
                f"an epoch has now {len(dataset)} sub-batches, as the schedule makes it, and the "
                f"trainer goes on with {trainer.num_training_batches}; pass "
                "Trainer(reload_dataloaders_every_n_epochs=1)"
            )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log what was chosen."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined] # Lightning sets it late.
        if self._dataset is None or trainer.global_step % every != 0:
            return  # Statistics wait for the device.
        pl_module.log_dict(numbers_to_log(self._dataset))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the dataset, which the trainer has left after its length, that the epoch is over."""
        if self._dataset is not None and self._dataset.super_batches > 0:
            self._dataset.set_epoch(self._dataset.epoch + 1)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the dataset's state beside the model's."""
        if self._dataset is not None:
            checkpoint[_KEY] = {
                "state": self._dataset.state_dict(),
                "is_over": self._dataset.super_batches >= trainer.num_training_batches,
            }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the state until training starts: the loader may not be there yet."""
        self._saved = checkpoint.get(_KEY)
        if "loops" in checkpoint:  # Not where it is of weights alone.
            loops = checkpoint["loops"]["fit_loop"]
            _count_again(loops["epoch_loop.batch_progress"], loops["epoch_progress"])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to evaluate on a selection."""
        check_evaluated(trainer.val_dataloaders)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to test on a selection."""
        check_evaluated(trainer.test_dataloaders)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to predict for a selection."""
        check_evaluated(trainer.predict_dataloaders)

    def _go_on(
        self, trainer: Trainer, dataset: JestDataset, *, state: dict[str, Any], is_over: bool
    ) -> None:
        """Bring the dataset to where the state was saved; Lightning's loops are there already."""
        dataset.load_state_dict(state)
        if is_over:
            dataset.set_epoch(dataset.epoch + 1)
        if _knows_length(trainer, dataset):
            return
        if is_over:
            raise ValueError(
                "Lightning cannot go on from the last step of an epoch to one of another length, "
                f"of {len(dataset)} sub-batches after {trainer.num_training_batches}; use a "
                "checkpoint of another step, or of an epoch's end"
            )
        trainer.fit_loop._combined_loader = None  # So that it asks for the length again.
        trainer.fit_loop.setup_data()


def _count_again(batches: dict[str, Any], epochs: dict[str, Any]) -> None:
    """Put right the batches that were completed in all and the epochs that were begun.

    Lightning loses one of them at some resumes. By these numbers it tells where in an epoch a
    checkpoint was saved; where they are wrong, a run that is resumed from it takes steps too many.
    """
    now, total = batches["current"], batches["total"]
    total["completed"] = total["processed"] - (now["processed"] - now["completed"])
    if now["completed"] < now["processed"]:  # Saved where a batch ended, within an epoch.
        for numbers in epochs.values():
            numbers["ready"] = numbers["started"] = numbers["processed"] + 1


def _knows_length(trainer: Trainer, dataset: JestDataset) -> bool:
    """Whether the trainer has the length of the dataset's epoch, unless it was told another."""
    known = (None, trainer.num_training_batches)
    return trainer.limit_train_batches != 1.0 or length_of(dataset) in known


def _training_dataset(trainer: Trainer) -> JestDataset:
    found = list(datasets_in(trainer.train_dataloader))
    if len(found) != 1:
        raise ValueError(
            f"JestCallback needs one JestDataset as the training loader, got {len(found)}; pass it "
            "to fit, or return it from train_dataloader"
        )
    return found[0]
