"""Examples of tars, read when they are taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jest_loader.adapters.blocks.columns import Columns
from jest_loader.adapters.tar.column_spec import ColumnSpec
from jest_loader.adapters.tar.headers import FLAWS
from jest_loader.adapters.tar.index import TarIndex
from jest_loader.adapters.tar.npz import Form, plain_arrays
from jest_loader.adapters.tar.values import column_of
from jest_loader.checks import shown
from jest_loader.ragged import Int64Array, RaggedBytes, Stored
from jest_loader.skipped import SKIP_REASON

_GAP_BYTES = 4096  # Between members of an example that are read in one call.


@dataclass(frozen=True, eq=False)
class OpenShard:
    """A tar that is read.

    Args:
        name: For messages.
        index: What it holds.
        data: Its bytes.
    """

    name: str
    index: TarIndex
    data: Stored | memoryview


class Place(NamedTuple):
    """Where a column's members lie.

    Args:
        starts: Int64 [rows], in bytes within their tar; 0 where there is none to read.
        sizes: Int64 [rows], in bytes.
        flaws: Int8 [rows], which of ``headers.FLAWS`` they have; -1 where there is no member.
    """

    starts: Int64Array
    sizes: Int64Array
    flaws: NDArray[np.int8]

    def take(self, rows: Int64Array) -> "Place":
        """Of the given rows (int64 [n])."""
        return Place(self.starts[rows], self.sizes[rows], self.flaws[rows])

    def readable(self, most_bytes: int) -> NDArray[np.bool_]:
        """Bool [rows]: whether there is a member that can be read."""
        usable: NDArray[np.bool_] = (self.flaws == 0) & (self.sizes <= most_bytes)
        return usable

    def reason(self, row: int, spec: ColumnSpec) -> str:
        """Why a row's member cannot be read."""
        flaw = int(self.flaws[row])
        if flaw < 0:
            return f"it has no {spec.members}"
        where = f"its {spec.members} at byte {self.starts[row]}"
        if flaw:
            return f"{where} is {FLAWS[flaw]} (tar --dereference --hard-dereference, no --sparse)"
        return f"{where} has more than {spec.most_bytes} bytes"


@dataclass(frozen=True, eq=False)
class TarRows:
    """The examples of some tars, end to end.

    Args:
        specs: The columns.
        forms: Of columns of arrays, by name.
        shards: The tars.
    """

    specs: Sequence[ColumnSpec]
    forms: Mapping[str, Form]
    shards: Sequence[OpenShard]

    @cached_property
    def _ends(self) -> Int64Array:
        return np.cumsum([shard.index.num_rows for shard in self.shards])

    @cached_property
    def _tars(self) -> RaggedBytes:
        """Each tar as one row, read where it is looked at."""
        start = np.zeros(1, np.int64)
        return RaggedBytes.concat(
            [
                RaggedBytes.within(shard.data, start, np.array([len(shard.data)]))
                for shard in self.shards
            ]
        )

    @cached_property
    def _places(self) -> dict[tuple[str, ...], Place]:
        """Of all rows, by extensions."""
        kinds = {spec.extensions for spec in self.specs if spec.extensions}
        return {
            extensions: _joined([_place(shard.index, extensions) for shard in self.shards])
            for extensions in kinds
        }

    def take(self, rows: Int64Array) -> Columns:
        """See ``Rows``."""
        shard_of = np.searchsorted(self._ends, rows, side="right")
        bad: dict[int, str] = {}
        places = {}
        for spec in self.specs:
            if spec.extensions:
                places[spec.name] = self._usable(spec, rows, bad)
        read = [spec for spec in self.specs if spec.kind not in ("bytes", "key")]
        contents = self._contents([places[spec.name] for spec in read], shard_of)
        columns: dict[str, Any] = {}
        for spec in self.specs:
            if spec.kind == "key":
                columns[spec.name] = self._keys(rows, shard_of)
            elif spec.kind == "bytes":
                place = places[spec.name]
                columns[spec.name] = self._tars.take(shard_of).parts(place.starts, place.sizes)
            else:
                here = contents[read.index(spec)]
                columns[spec.name] = self._decoded(spec, here, places[spec.name], bad)
        columns[SKIP_REASON] = self._reasons(bad, rows, shard_of)
        return columns

    def _usable(self, spec: ColumnSpec, rows: Int64Array, bad: dict[int, str]) -> Place:
        """Where a column's members lie; those that cannot be read are noted, and left out."""
        place = self._places[spec.extensions].take(rows)
        usable = place.readable(spec.most_bytes)
        if usable.all():
            return place
        for row in np.flatnonzero(~usable).tolist():
            bad.setdefault(row, place.reason(row, spec))
        flaws = np.where(usable, place.flaws, np.int8(-1))
        return Place(np.where(usable, place.starts, 0), np.where(usable, place.sizes, 0), flaws)

    def _contents(self, places: list[Place], shard_of: Int64Array) -> list[RaggedBytes]:
        """What the members of some columns hold, in memory."""
        if not places or not len(shard_of):
            return [RaggedBytes() for _ in places]
        starts = np.stack([place.starts for place in places], axis=1)
        sizes = np.stack([place.sizes for place in places], axis=1)
        members = _read_together(self._tars, shard_of, starts, sizes)
        return [members[number :: len(places)] for number in range(len(places))]

    def _decoded(
        self, spec: ColumnSpec, contents: RaggedBytes, place: Place, bad: dict[int, str]
    ) -> Any:
        form = self.forms.get(spec.name)
        if spec.kind == "npy" and form is not None:
            arrays = plain_arrays(contents, form)
            if arrays is not None:
                return arrays
        is_there = (place.flaws == 0).tolist()
        given = [
            view if there else None for view, there in zip(contents.views(), is_there, strict=True)
        ]
        column, reasons = column_of(spec, given, form)
        for row, reason in reasons.items():
            at = f"its {spec.members} at byte {place.starts[row]} cannot be read: {reason}"
            bad.setdefault(row, at)
        return column

    def _keys(self, rows: Int64Array, shard_of: Int64Array) -> list[str]:
        within = self._within(rows, shard_of)
        pairs = zip(shard_of.tolist(), within.tolist(), strict=True)
        return [self.shards[shard].index.key(row) for shard, row in pairs]

    def _within(self, rows: Int64Array, shard_of: Int64Array) -> Int64Array:
        """Int64 [n], which row of its tar each is."""
        firsts = np.concatenate([[0], self._ends[:-1]])
        within: Int64Array = rows - firsts[shard_of]
        return within

    def _reasons(self, bad: dict[int, str], rows: Int64Array, shard_of: Int64Array) -> list[str]:
        reasons = [""] * len(rows)
        within = self._within(rows, shard_of)
        for row, reason in bad.items():
            shard = self.shards[shard_of[row]]
            name = shard.index.named(int(within[row]), shard.name)
            reasons[row] = f"{name}: {shown(reason, most=500)}"
        return reasons


def _joined(places: list[Place]) -> Place:
    starts, sizes, flaws = zip(*places, strict=True)
    return Place(np.concatenate(starts), np.concatenate(sizes), np.concatenate(flaws))


def _place(index: TarIndex, extensions: tuple[str, ...]) -> Place:
    members = index.members_of(extensions)
    is_there = members >= 0
    return Place(
        np.where(is_there, index.starts[members], 0),
        np.where(is_there, index.sizes[members], 0),
        np.where(is_there, index.flaws[members].astype(np.int8), np.int8(-1)),
    )


def _read_together(
    tars: RaggedBytes, shard_of: Int64Array, starts: Int64Array, sizes: Int64Array
) -> RaggedBytes:
    """Several members of each row, in memory; those that lie close together in one call.

    Args:
        tars: Each tar as a row.
        shard_of: Int64 [rows], the tar of each.
        starts: Int64 [rows, members], in bytes within the tar.
        sizes: Int64 [rows, members], in bytes.

    Returns:
        The members, row by row.
    """
    order = np.argsort(starts, axis=1, kind="stable")
    first = np.take_along_axis(starts, order, axis=1)
    size = np.take_along_axis(sizes, order, axis=1)
    last = np.maximum.accumulate(first + size, axis=1)
    begins = np.ones(first.shape, bool)
    begins[:, 1:] = first[:, 1:] - last[:, :-1] > _GAP_BYTES
    heads = np.flatnonzero(begins)
    run_of = begins.ravel().cumsum() - 1
    run_starts = first.ravel()[heads]
    run_ends = np.maximum.reduceat((first + size).ravel(), heads)
    tar_of = np.repeat(shard_of, first.shape[1])[heads]
    runs = tars.take(tar_of).parts(run_starts, run_ends - run_starts).copy()
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(order.size).reshape(order.shape), axis=1)
    back = place.ravel()
    run_of, offset = run_of[back], (first.ravel() - run_starts[run_of])[back]
    return runs.take(run_of).parts(offset, sizes.ravel())
