"""The options of a source, said once for all formats."""

from dataclasses import dataclass
from typing import Required, TypedDict

from jest_loader.checks import flag, shown, whole


@dataclass(frozen=True)
class SourceOptions:
    """How rows are put into batches; the keyword arguments of every source.

    Args:
        batch_size: Rows in a batch.
        shuffle: Whether to shuffle; otherwise rows come as stored.
        window_rows: The least number of rows to shuffle among each other. The shards or chunks that
            hold them are kept open or in memory. None for four batches. More mixes better where
            rows that are stored side by side are alike.
        seed: Chooses the order, from 0 to 2**64 - 1.
        id_column: The name under which batches carry each row's int64 place in the data set (of
            several streams one after the other), or None to do without.
        drop_last: Whether to drop the rows at an epoch's end that do not fill a batch.

    Raises:
        ValueError: if an option is out of range.
    """

    batch_size: int
    shuffle: bool = True
    window_rows: int | None = None
    seed: int = 0
    id_column: str | None = "sample_id"
    drop_last: bool = True

    def __post_init__(self) -> None:
        # As plain ints, which a state can hold.
        object.__setattr__(self, "batch_size", whole("batch_size", self.batch_size, 1))
        for name in ("shuffle", "drop_last"):
            object.__setattr__(self, name, flag(name, getattr(self, name)))
        object.__setattr__(self, "seed", whole("seed", self.seed, 0, 2**64 - 1))
        if self.window_rows is not None:
            object.__setattr__(self, "window_rows", whole("window_rows", self.window_rows, 1))
        id_column: object = self.id_column
        if id_column is not None and (not isinstance(id_column, str) or not id_column):
            raise ValueError(
                f"id_column must be a name, or None for no ids, got {shown(repr(id_column))}"
            )


class SourceKeywords(TypedDict, total=False):
    """``SourceOptions`` as keyword arguments, for type checkers."""

    batch_size: Required[int]
    shuffle: bool
    window_rows: int | None
    seed: int
    id_column: str | None
    drop_last: bool
