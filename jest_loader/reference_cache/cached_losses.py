"""Numbers of a reference that was run once, ahead of time, one for each example."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from jest_loader.batch import Batch
from jest_loader.reference_cache.cached import Cached, Ids, LookUp, Values
from jest_loader.reference_cache.stored_rows import open_cache
from jest_loader.skipped import use


class CachedLosses(Cached[Callable[[Batch], Tensor]]):
    """Looks up one stored number of each example by its sample id, such as a reference's loss.

    Args:
        loss: Floating [N]: an array, a memory map or a tensor.
        ids: Int64 [N], the sample ids of the rows; None for 0 to N - 1.
        seen: Bool [N], whether the reference was trained on them; None where it is not known.
        options: ``missing``, ``id_column`` and ``device``, by keyword; ``LookUp`` describes them. A
            function for ``missing`` is ``missing(batch) -> losses``, floating [B].

    Raises:
        ValueError: if ``loss`` is no vector, an id comes twice, or ``missing`` is something else.
        TypeError: if a keyword is none of ``LookUp``.
    """

    def __init__(
        self,
        loss: Values,
        *,
        ids: Ids = None,
        seen: Values | None = None,
        **options: Unpack[LookUp[Callable[[Batch], Tensor]]],
    ) -> None:
        if len(loss.shape) != 1:
            raise ValueError(f"cached losses must have shape [examples], got {tuple(loss.shape)}")
        super().__init__({"loss": loss}, ids, seen, **options)
        if self.missing not in ("error", "skip") and not callable(self.missing):
            raise ValueError(
                "missing must be 'error', 'skip' or a function that scores a batch, got "
                f"{self.missing!r}"
            )

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        expect: Mapping[str, str] | None = None,
        **options: Unpack[LookUp[Callable[[Batch], Tensor]]],
    ) -> "CachedLosses":
        """The cache that ``jest_loader.reference_cache.build`` wrote to ``path``, by memory map.

        Args:
            path: Its folder.
            expect: What it must have been built from, among ``data`` and whatever its builder
                named.
            options: ``missing``, ``id_column`` and ``device``; ``LookUp`` describes them.

        Raises:
            ValueError: if there is no whole cache of losses at ``path``, or it was built from
                something else.
        """
        _, columns, samples = open_cache(path, "loss", expect)
        return cls(columns["loss"], ids=samples, seen=columns.get("seen"), **options)

    def values(self, batch: Batch) -> Tensor:
        """Floating [B], in the dtype that they are stored in, NaN for examples without a value.

        Raises:
            ValueError: if the batch has no ids, or, with ``missing="error"``, an example no row.
        """
        return self.values_and_skipped(batch)[0]

    def values_and_skipped(self, batch: Batch) -> tuple[Tensor, Mapping[int, str]]:
        """The values, and the reason by row for those that are NaN.

        Raises:
            ValueError: as ``values``, or if ``missing`` does not return a value for each example.
        """
        found = self._look_up(batch, "a function that computes them")
        values = self._on_device(found.columns["loss"])
        if not found.skipped or isinstance(self.missing, str):
            return values, found.skipped
        used = use(self.missing, batch, rows=list(found.skipped))
        if not used.rows:
            return values, used.reasons
        computed: object = used.output
        if not isinstance(computed, Tensor) or computed.shape != (len(used.rows),):
            raise ValueError(
                f"missing must return one loss per example, shape ({len(used.rows)},), got "
                f"{tuple(computed.shape) if isinstance(computed, Tensor) else computed!r}"
            )
        index = torch.tensor(used.rows, device=values.device)
        return values.index_copy(0, index, computed.detach().to(values)), used.reasons
