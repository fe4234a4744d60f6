"""A ``JestDataset`` as the training loader of the ``Trainer`` of Hugging Face's transformers."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from jest_loader.adapters.training_loops import check_evaluated, numbers_to_log
from jest_loader.batch import Batch
from jest_loader.files import replacing
from jest_loader.loader.dataset import JestDataset

logger = logging.getLogger(__name__)
_FILE = "jest_dataset.pt"
_LAST_FILE = "trainer_state.json"  # Of those that the trainer saves in a checkpoint.


class JestTrainerMixin:
    """Trains on a ``JestDataset`` and resumes it exactly: ``class T(JestTrainerMixin, Trainer)``.

    Its state is saved in each checkpoint's folder as ``jest_dataset.pt``, and ``dataset.stats`` is
    logged with the loss as ``jest/score`` and so on.

    Args:
        arguments: For ``Trainer``.
        jest: Makes the dataset, called with the trainer's model, which it may score with.
        keywords: For ``Trainer``.

    Raises:
        ValueError: if ``jest`` makes no ``JestDataset``, or one whose sub-batches are not of
            ``per_device_train_batch_size`` rows, or if a ``JestDataset`` is to be evaluated on; in
            ``train``, if the checkpoint holds no state of a dataset, or another's.
    """

    args: Any
    model: Any

    def __init__(
        self, *arguments: Any, jest: Callable[[torch.nn.Module], JestDataset], **keywords: Any
    ) -> None:
        super().__init__(*arguments, **keywords)
        self.jest_dataset = jest(self.model)
        _check(self.jest_dataset, self.args, keywords.get("eval_dataset"))
        trainer: Any = self
        trainer.add_callback(_Saving(self.jest_dataset))

    def get_train_dataloader(self) -> Any:
        """The dataset, as the trainer's loops take it."""
        return _Loader(self.jest_dataset)

    def train(self, resume_from_checkpoint: Any = None, *arguments: Any, **keywords: Any) -> Any:
        """As ``Trainer.train``."""
        self.args.ignore_data_skip = True  # The dataset goes on by itself.
        folder, there = resume_from_checkpoint, self.args.output_dir
        if folder is True and get_last_checkpoint(there) is not None:  # type: ignore[no-untyped-call]
            folder = _last_whole(there)
        if folder and folder is not True:
            self.jest_dataset.load_state_dict(_saved_in(Path(folder)))
        trainer: Any = super()
        return trainer.train(folder, *arguments, **keywords)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As ``Trainer.save_model``, with the dataset's state where it is a checkpoint's.

        The trainer calls it before it saves what else belongs to the checkpoint and deletes others,
        so that one that looks whole has the state.
        """
        trainer: Any = super()
        trainer.save_model(output_dir, _internal_call)
        if _internal_call and output_dir is not None:
            saved = self.jest_dataset.state_dict()
            if self.args.should_save:
                Path(output_dir).mkdir(parents=True, exist_ok=True)
                with replacing(Path(output_dir, _FILE)) as part:
                    torch.save(saved, part)

    def _run_epoch(
        self, *, epoch: int, steps_in_epoch: int, num_update_steps_per_epoch: int, **keywords: Any
    ) -> None:
        """As the ``Trainer`` of transformers 5, told what is left of an epoch that is resumed."""
        done = self.jest_dataset.super_batches if self.jest_dataset.epoch == epoch else 0
        if done > 0:
            steps_in_epoch -= done
            num_update_steps_per_epoch = -(-steps_in_epoch // self.args.gradient_accumulation_steps)
        trainer: Any = super()
        trainer._run_epoch(
            epoch=epoch,
            steps_in_epoch=steps_in_epoch,
            num_update_steps_per_epoch=num_update_steps_per_epoch,
            **keywords,
        )

    def log(self, logs: dict[str, Any], *arguments: Any, **keywords: Any) -> None:
        """As ``Trainer.log``, with what was chosen beside a loss."""
        if "loss" in logs:
            logs |= numbers_to_log(self.jest_dataset)
        trainer: Any = super()
        trainer.log(logs, *arguments, **keywords)


class _Saving(TrainerCallback):
    """Looks at the start whether checkpoints can be saved."""

    def __init__(self, dataset: JestDataset) -> None:
        self._dataset = dataset

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Fail now where the first checkpoint would."""
        if args.save_strategy != "no":
            self._dataset.state_dict()


class _Loader:
    """The dataset with the lengths that the trainer's loops ask for.

    Before the first epoch they ask how many sub-batches an epoch has, after ``set_epoch`` how many
    are left of it, which are fewer where a run is resumed.
    """

    def __init__(self, dataset: JestDataset) -> None:
        self._dataset = dataset
        self._in_epoch = False

    def __len__(self) -> int:
        done = self._dataset.super_batches if self._in_epoch else 0
        return len(self._dataset) - done

    def set_epoch(self, epoch: int) -> None:
        self._dataset.set_epoch(epoch)
        self._in_epoch = True

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._dataset)


def _check(dataset: object, args: Any, eval_dataset: object) -> None:
    if not isinstance(dataset, JestDataset):
        raise ValueError(
            f"jest must return a JestDataset, got {type(dataset).__name__}; write "
            "jest=lambda model: JestDataset(...)"
        )
    if args.per_device_train_batch_size != dataset.sub_batch_size:
        raise ValueError(
            "per_device_train_batch_size must be the dataset's sub_batch_size, got "
            f"{args.per_device_train_batch_size} and {dataset.sub_batch_size}; make them equal"
        )
    check_evaluated(eval_dataset)


def _saved_in(folder: Path) -> Any:
    try:
        return torch.load(folder / _FILE, weights_only=True)
    except FileNotFoundError:
        raise ValueError(
            f"{folder} must hold a {_FILE} to go on from, but has none; it was saved by another "
            "trainer or not to its end, resume from another checkpoint"
        ) from None


def _last_whole(output_dir: str) -> str | None:
    """The newest checkpoint that was saved to its end; None where none was."""
    steps = (folder.name.rpartition("-")[2] for folder in Path(output_dir).glob("checkpoint-*"))
    for step in sorted((int(step) for step in steps if step.isdigit()), reverse=True):
        folder = Path(output_dir, f"checkpoint-{step}")
        if _is_whole(folder):
            return str(folder)
        logger.warning("%s was not saved to its end; it is left out", folder)
    logger.warning("no checkpoint in %s was saved to its end; training begins anew", output_dir)
    return None


def _is_whole(folder: Path) -> bool:
    try:
        json.loads((folder / _LAST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
