"""Running a model on candidates to score them: in micro-batches, without the skipped rows."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypedDict, TypeVar, Unpack

import torch
from torch import Tensor, nn

from jest_loader.batch import Batch, columns, num_examples, split, structure, to_device
from jest_loader.checks import check_keywords, whole
from jest_loader.scoring.memory import MemoryBudget
from jest_loader.scoring.precision import Precision, autocast_dtype, checked_precision
from jest_loader.scoring.wrappers import device_of, is_sharded, scoring, unwrapped, weight_dtypes
from jest_loader.skipped import SkipRowsError, use

Output = TypeVar("Output")


class RunOptions(TypedDict, total=False):
    """How a model is run on candidates: keyword arguments of every class that runs a model.

    Args:
        prepare: ``prepare(batch) -> batch``, called on each micro-batch before the model, its
            tensors on the model's device: to decode or shrink images, say. None does nothing.
        micro_batch_size: How many candidates the model is run on at once; None runs it on all.
        max_memory_bytes: In place of ``micro_batch_size``, on a CUDA device: what a micro-batch may
            take beside the weights. Measured on the first super-batch.
        precision: Of the model's products while it scores: ``"fp16"`` and ``"bf16"`` run it under
            ``torch.autocast``, ``"fp32"`` without. ``"auto"`` is fp16 on a CUDA device for weights
            in fp32, and the weights' own precision otherwise.
    """

    prepare: Callable[[Batch], Batch] | None
    micro_batch_size: int | None
    max_memory_bytes: int | None
    precision: Precision


class ModelRunner(Generic[Output]):
    """Runs a function of a model on batches: in ``eval`` mode, without gradients.

    Where the function or ``prepare`` raises ``SkipRowsError``, it is called again with the other
    rows.

    Args:
        model: The model, wrapped for training or not.
        function: ``function(model, batch)``; the batch's tensors are on the model's device.
        check: ``check(output, num_rows)`` returns the output, or raises if it is not valid.
        options: How the model is run.

    Raises:
        ValueError: if ``prepare`` is no function, sizes are not positive, both are given,
            ``max_memory_bytes`` is given with FSDP, or ``precision`` is another word.
        TypeError: if a keyword is none of ``RunOptions``.
    """

    def __init__(
        self,
        model: nn.Module,
        function: Callable[[nn.Module, Batch], object],
        check: Callable[[object, int], Output],
        **options: Unpack[RunOptions],
    ) -> None:
        check_keywords(options, RunOptions)
        self._model = unwrapped(model)
        self._copy: nn.Module | None = None
        self._function = function
        self._check = check
        self._prepare = options.get("prepare")
        if self._prepare is not None and not callable(self._prepare):
            raise ValueError(
                f"prepare must be a function of a batch or None, got {self._prepare!r}"
            )
        self._precision = checked_precision(options.get("precision", "auto"))
        self._size = options.get("micro_batch_size")
        if self._size is not None:
            whole("micro_batch_size", self._size, 1)
        self._budget = self._memory_budget(options.get("max_memory_bytes"))

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of autocast while the model runs; None where it runs without.

        Raises:
            ValueError: if autocast cannot bring the model's weights to the precision.
        """
        device = device_of(self._model).type
        return autocast_dtype(self._precision, device, weight_dtypes(self._model))

    def run(self, batch: Batch) -> "Outputs[Output]":
        """What the function makes of the batch's usable rows, and why it skipped the others.

        Raises:
            SkipRowsError: if no row is usable.
            ValueError: as ``dtype`` and ``call``.
        """
        outputs: list[Output] = []
        usable: list[int] = []
        skipped: dict[int, str] = {}
        start = 0
        with scoring(self._model, self.dtype):
            for part in self._parts(batch):
                output, rows, reasons = use(partial(self.call, self._model), part)
                outputs += [] if output is None else [output]
                usable += [start + row for row in rows]
                skipped |= {start + row: reason for row, reason in reasons.items()}
                start += len(rows) + len(reasons)
        if skipped and not outputs:
            raise SkipRowsError(skipped)
        return Outputs(outputs, usable, skipped)

    def snapshot(self) -> "ModelRunner[Output]":
        """The same with a copy of the weights as they are now, valid until the next call.

        Raises:
            ValueError: if the model is sharded by FSDP, whose weights no rank has whole.
        """
        if is_sharded(self._model):
            raise ValueError(
                "overlap=True scores with a copy of the weights, which a model in FSDP does not "
                "have in one place; use overlap=False, or an OnlineProxy"
            )
        if self._copy is None:
            self._copy = copy.deepcopy(self._model).requires_grad_(requires_grad=False)
        with torch.no_grad():
            for mine, theirs in zip(_tensors(self._copy), _tensors(self._model), strict=True):
                mine.copy_(theirs)
        runner = copy.copy(self)
        runner._model = self._copy
        return runner

    def call(self, model: nn.Module, batch: Batch) -> Output:
        """The function's checked output for a batch, in the model's mode and with gradients.

        Raises:
            ValueError: if the batch lacks a column that it reads, or the function fails for the
                precision that it is run in.
        """
        device = device_of(model)
        batch = to_device(batch, device)
        num_rows = num_examples(batch)
        if self._prepare is not None:
            batch = to_device(self._prepare(batch), device)
            if batch is None:
                raise ValueError("prepare must return the batch, got None; add a return")
        try:
            output = self._function(model, batch)
        except KeyError as error:
            missing = _missing_column(error, batch)
            if missing is None:
                raise
            raise ValueError(missing) from error
        except RuntimeError as error:
            fault = _precision_fault(error, model, batch)
            if fault is None:
                raise
            raise ValueError(fault) from error
        return self._check(output, num_rows)

    def _memory_budget(self, max_bytes: int | None) -> MemoryBudget | None:
        if max_bytes is None:
            return None
        if self._size is not None:
            raise ValueError(
                "give micro_batch_size or max_memory_bytes, not both, "
                f"got {self._size} and {max_bytes}"
            )
        if is_sharded(self._model):
            raise ValueError(
                "max_memory_bytes does not go with FSDP, all of whose ranks must run the same "
                "number of micro-batches; give micro_batch_size"
            )
        return MemoryBudget(whole("max_memory_bytes", max_bytes, 1))

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        size = self._size
        if self._budget is not None:
            size = self._budget.micro_batch_size(
                num_examples(batch),
                lambda rows: use(partial(self.call, self._model), next(split(batch, rows))),
                device_of(self._model),
            )
        return iter([batch]) if size is None else split(batch, size)


@dataclass(frozen=True)
class Outputs(Generic[Output]):
    """The output of a function for a batch.

    Args:
        parts: The output for each micro-batch, of its usable rows only; at least one.
        rows: The usable rows, by number in the batch.
        skipped: Why the other rows are skipped.
    """

    parts: list[Output]
    rows: list[int]
    skipped: dict[int, str]

    def column(self, of: Callable[[Output], Tensor]) -> Tensor:
        """The tensors of all parts joined, in fp32 or fp64; skipped rows are NaN.

        Args:
            of: Takes the tensor out of a part.
        """
        tensors = [of(part) for part in self.parts]
        joined = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        joined = joined.to(torch.promote_types(joined.dtype, torch.float32))
        if not self.skipped:
            return joined
        index = torch.tensor(self.rows, device=joined.device)
        num_rows = len(self.rows) + len(self.skipped)
        whole_column = joined.new_full((num_rows, *joined.shape[1:]), torch.nan)
        return whole_column.index_copy(0, index, joined)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _precision_fault(error: RuntimeError, model: nn.Module, batch: Batch) -> str | None:
    """The message for an error that comes of precision; None where it has another cause."""
    text = str(error).partition("\n")[0]
    if "type" not in text and "autocast" not in text:  # Of an operation's dtypes, or unsafe in it.
        return None
    halves = (torch.float16, torch.bfloat16)
    half = next((dtype for dtype in weight_dtypes(model) if dtype in halves), None)
    full = [
        name
        for name, (_, column) in zip(structure(batch), columns(batch), strict=True)
        if isinstance(column, Tensor) and column.dtype == torch.float32
    ]
    if half is not None and full:
        return (
            "a batch must have the precision of the model that it is given to, but the model's is "
            f"{half} and column {full[0]} is torch.float32 ({text}); cast it where the model is "
            f"called, as in batch['image'].to({half})"
        )
    device = device_of(model).type
    if half is None and torch.is_autocast_enabled(device):
        return (
            "a model must be able to score in the autocast of its precision, but fails in "
            f"{torch.get_autocast_dtype(device)} ({text}); pass precision='fp32'"
        )
    return None


def _missing_column(error: KeyError, batch: Batch) -> str | None:
    """The message for a column that the batch lacks; None where the error has another cause."""
    key: Any = error.args[0] if error.args else None
    if not isinstance(batch, Mapping) or not isinstance(key, str) or key in batch:
        return None
    return (
        f"the batch must have every column that the model reads, but lacks {key!r}; it has "
        f"{', '.join(map(repr, batch))}; add the column to the source, or pass a function that "
        "reads these"
    )
