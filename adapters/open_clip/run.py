"""The two functions of the trainer that are wrapped, and the state beside each checkpoint."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from jest_loader.adapters.open_clip.files import num_without_caption
from jest_loader.adapters.open_clip.options import JestOptions, is_csv
from jest_loader.adapters.open_clip.reference import (
    Named,
    Reference,
    embedding,
    fitted,
    inputs_of,
    loss_of,
    reference_of,
    run_options,
)
from jest_loader.adapters.open_clip.rows import TrainRows, seed_of
from jest_loader.adapters.open_clip.sub_batches import SubBatches
from jest_loader.checks import shown
from jest_loader.files import save_json
from jest_loader.loader.dataset import JestDataset
from jest_loader.loader.options import Options
from jest_loader.loader.schedule import Schedule
from jest_loader.protocols import Scorer, Selector
from jest_loader.scoring.calibration import Calibration
from jest_loader.scoring.learnability import EasyReference, HardLearner, Learnability
from jest_loader.scoring.models import LiveLearner
from jest_loader.scoring.sized import SizedEmbedder
from jest_loader.selecting.selectors import IndependentSelector, JointSelector, TopKSelector

_FIT = "reference_fit"  # What a state calls the scale and bias that the reference was fitted to.


class Run:
    """One run of the trainer, with selection between its data and its steps.

    Args:
        options: How sub-batches are chosen.
        named: The reference's model, if one is named.
        get_data: The trainer's own function.
        train_one_epoch: The trainer's own function.
    """

    def __init__(
        self,
        options: JestOptions,
        named: Named | None,
        get_data: Callable[..., dict[str, Any]],
        train_one_epoch: Callable[..., None],
    ) -> None:
        self._options, self._named = options, named
        self._get_data, self._train_one_epoch = get_data, train_one_epoch
        self._fit: Calibration | None = None  # Of the reference to the sub-batches.

    def get_data(
        self, args: Any, preprocess_fns: tuple[Any, Any], epoch: int = 0, tokenizer: Any = None
    ) -> dict[str, Any]:
        """The trainer's data, sub-batches in place of what it trains on."""
        data = self._get_data(args, preprocess_fns, epoch=epoch, tokenizer=tokenizer)
        with one_sentence():
            self._args, self._tokenizer = args, tokenizer
            self._state = None if epoch == 0 else saved_state(args.resume, epoch)
            self._rows = TrainRows(
                data["train"], args, numbered=self._options.reference_cache is not None
            )
            if is_csv(args.train_data, args):
                _warn_of_captions(data["train"].dataloader.dataset)
            self._batches = SubBatches(self._num_steps(), args)
            self._reference = self._make_reference(preprocess_fns[1])
        data["train"] = self._batches
        return data

    def train_one_epoch(
        self, model: nn.Module, data: Any, loss: Any, epoch: int, *rest: Any, **keywords: Any
    ) -> None:
        """As the trainer's own, on chosen rows; the state is saved where the epoch ends."""
        import open_clip_train.main as trainer

        args, batches = self._args, self._batches
        batches.tensorboard = keywords.get("tb_writer")
        # A resumed run has the random numbers of one that was not stopped.
        trainer.random_seed(seed_of(args.seed, epoch), args.rank)
        if batches.dataset is None:
            with one_sentence():
                batches.dataset = self._make_dataset(model, epoch)
        batches.dataset.set_epoch(epoch)
        self._train_one_epoch(model, data, loss, epoch, *rest, **keywords)
        batches.dataset.set_epoch(epoch + 1)
        if args.save_logs:
            path = state_path(args.checkpoint_path, epoch + 1)
            fit = {} if self._fit is None else {_FIT: list(self._fit)}
            save_json(Path(path), batches.dataset.state_dict() | fit)

    def _num_steps(self) -> int:
        """Sub-batches of an epoch: what the rows make of super-batches."""
        args, factor = self._args, self._options.super_batch_factor
        candidates = factor * args.accum_freq * args.batch_size
        if steps := self._rows.num_examples // candidates:
            return int(steps)
        raise ValueError(
            f"an epoch must hold at least one super-batch, {candidates} rows of each rank "
            f"(--jest-super-batch-factor {factor} x --accum-freq {args.accum_freq} x --batch-size "
            f"{args.batch_size}), got {self._rows.num_examples} in whole batches; lower one of them"
        )

    def _make_reference(self, preprocess: Any) -> Reference | None:
        rows = None
        if self._options.reference_cache is not None:
            from open_clip_train.data import get_csv_dataset

            made = get_csv_dataset(self._args, preprocess, is_train=True, tokenizer=self._tokenizer)
            rows = made.dataloader.dataset
        return reference_of(self._options, self._named, rows, self._args, self._tokenizer)

    def _make_dataset(self, model: nn.Module, epoch: int) -> JestDataset:
        options, args, batches = self._options, self._args, self._batches
        size = args.accum_freq * args.batch_size
        schedule = None
        if options.stop_fraction < 1:
            num_steps = batches.num_steps * args.epochs
            schedule = Schedule(num_steps, stop_fraction=options.stop_fraction)
        dataset = JestDataset(
            self._rows,
            self._scorer(model),
            _selector(options),
            super_batch_size=options.super_batch_factor * size,
            sub_batch_size=size,
            options=Options(
                seed=args.seed,
                schedule=schedule,
                # Of synthetic data all rows are equal; resampled tars are dealt to all ranks.
                own_rows=args.dataset_type == "synthetic" or args.dataset_resampled,
                # Without workers rows are read where the model draws its random numbers.
                prefetch=min(1, args.workers),
            ),
        )
        if self._state is not None:
            dataset.load_state_dict({k: v for k, v in self._state.items() if k != _FIT})
            if dataset.epoch != epoch:
                raise ValueError(
                    f"{state_path(os.path.dirname(args.resume), epoch)} must be of epoch {epoch}, "
                    f"got {dataset.epoch}; put back the file that was saved with the checkpoint"
                )
        return dataset

    def _scorer(self, model: nn.Module) -> Scorer:
        options, args, loss = self._options, self._args, loss_of(self._args)
        learner = LiveLearner(model, embedding(args), **run_options(options, args))
        if self._reference is None:
            return HardLearner(learner, loss)
        reference = self._sized(self._reference.embedder(args, inputs_of(model, self._tokenizer)))
        if options.score == "easy_reference":
            return EasyReference(reference, loss)
        return Learnability(learner, reference, loss)

    def _sized(self, reference: SizedEmbedder) -> SizedEmbedder:
        """The reference as the run has it: with a bias for sub-batches of their size."""
        args, state = self._args, self._state
        if loss_of(args) != "sigmoid" or reference.trained_batch_size is not None:
            return reference
        if state is None:
            reference = fitted(
                reference, self._rows, args.world_size * args.accum_freq * args.batch_size
            )
        elif (saved := state.get(_FIT)) is not None:
            reference = reference.with_calibration(Calibration(*saved))
        self._fit = reference.calibration
        return reference


def state_path(folder: str, epoch: int) -> str:
    """Where the state after so many epochs lies; not ``.pt``, which the trainer takes for its own.

    It is found by the epoch, whatever the checkpoint's name, as ``epoch_latest.pt``.
    """
    return os.path.join(folder, f"epoch_{epoch}.jest.json")


def saved_state(checkpoint: str, epoch: int) -> Any:
    """The state beside a checkpoint after so many epochs, read as the trainer reads that.

    Raises:
        ValueError: if it is not there or no JSON.
    """
    import fsspec

    path = state_path(os.path.dirname(checkpoint), epoch)
    try:
        with fsspec.open(path, "rb") as file:
            return json.load(file)
    except FileNotFoundError:
        raise ValueError(
            f"{path} must lie beside the checkpoint to go on from, but does not; copy it there, or "
            "start a run from those weights with --pretrained in place of --resume"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must be the state that was saved with the checkpoint, but cannot be read: "
            f"{shown(error)}; put back the file"
        ) from error


@contextmanager
def one_sentence() -> Iterator[None]:
    """End the program with one line and status 2 where the block finds a mistake of the user's."""
    try:
        yield
    except ValueError as error:
        sys.stderr.write(f"jest-loader: {error}\n")
        raise SystemExit(2) from error


def _warn_of_captions(rows: Any) -> None:
    if missing := num_without_caption(rows):
        logging.warning(  # noqa: LOG015 # As the trainer does.
            "%d of %d captions are empty, or words that pandas reads as missing such as null, and "
            'are trained on as "nan"; take these rows out of the csv',
            missing,
            len(rows),
        )


def _selector(options: JestOptions) -> Selector:
    match options.selector:
        case "joint":
            return JointSelector(options.num_chunks, options.gain)
        case "independent":
            return IndependentSelector(options.gain)
        case "topk":
            return TopKSelector()
