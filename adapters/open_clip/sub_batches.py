"""What the trainer iterates in place of its own loader: sub-batches, cut into its batches."""

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch import Tensor

from jest_loader.adapters.training_loops import numbers_to_log
from jest_loader.batch import split
from jest_loader.loader.dataset import JestDataset


class SubBatches:
    """The trainer's ``data["train"]`` and its ``dataloader`` in one.

    An epoch has as many steps as the rows make super-batches. A sub-batch is what one step of the
    optimizer trains on: with ``--accum-freq`` it is handed over in that many batches.

    Args:
        num_steps: Sub-batches of an epoch.
        args: The trainer's arguments.
    """

    sampler = None

    def __init__(self, num_steps: int, args: Any) -> None:
        self.num_steps = num_steps
        self.num_batches: int = num_steps * args.accum_freq
        self.num_samples: int = self.num_batches * args.batch_size * args.world_size
        self.dataset: JestDataset | None = None  # Once the learner is there.
        self.tensorboard: Any = None
        self._args = args

    @property
    def dataloader(self) -> "SubBatches":
        """Itself."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the dataset is told its epoch before."""

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        assert self.dataset is not None
        epoch = self.dataset.epoch
        for step, sub_batch in enumerate(islice(self.dataset, self.num_steps)):
            for part in split(sub_batch, self._args.batch_size):
                yield part["image"], part["text"]
            self._log(epoch, step)

    def _log(self, epoch: int, step: int) -> None:
        """Log what was chosen, where and when the trainer logs its loss."""
        args, is_last = self._args, step + 1 == self.num_steps
        if args.rank != 0 or not (step % args.log_every_n_steps == 0 or is_last):
            return  # Statistics wait for the device.
        assert self.dataset is not None
        numbers = numbers_to_log(self.dataset)
        text = " ".join(f"{name}: {value:.5g}" for name, value in numbers.items())
        logging.info("Train Epoch: %d %s", epoch, text)  # noqa: LOG015 # As the trainer does.
        number = epoch * self.num_steps + step
        if self.tensorboard is not None:
            for name, value in numbers.items():
                self.tensorboard.add_scalar(name, value, number)
        if args.wandb:
            import wandb

            wandb.log(numbers, step=number)
