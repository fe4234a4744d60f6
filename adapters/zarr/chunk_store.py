"""The chunks of an array on their way to Zarr, checked."""

from typing import TYPE_CHECKING

from zarr.storage import LocalStore, WrapperStore

from jest_loader.adapters.zarr.local_files import check_size
from jest_loader.adapters.zarr.record import ArrayRecord

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

DESCRIPTIONS = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


class ChunkStore(WrapperStore["Store"]):
    """A store as one of its arrays sees it.

    Args:
        store: What holds the array.
        name: The array.
        record: What was kept of it when it was written, if anything was.
        fill_missing: Whether a chunk may be missing, which Zarr then reads as fill values.

    Raises:
        ValueError: when a chunk is read that is missing, or is not the one that was written.
    """

    def __init__(
        self, store: "Store", name: str, record: ArrayRecord | None, *, fill_missing: bool
    ) -> None:
        super().__init__(store)
        self._name = name
        self._record = record
        self._fill_missing = fill_missing

    def _with_store(self, store: "Store") -> "ChunkStore":
        return ChunkStore(store, self._name, self._record, fill_missing=self._fill_missing)

    async def get(
        self, key: str, prototype: "BufferPrototype", byte_range: "ByteRequest | None" = None
    ) -> "Buffer | None":
        """The bytes under a key, or some of them; None if there are none."""
        if isinstance(self._store, LocalStore):
            check_size(f"{self._store.root}/{key}")
        value = await self._store.get(key, prototype, byte_range)
        if key.endswith(DESCRIPTIONS):
            return value
        if value is None and not self._fill_missing:
            raise ValueError(f"chunk {key} is missing")
        if value is not None and self._record is not None:
            number = int(key.removeprefix(f"{self._name}/c/").split("/")[0])
            self._record.check_chunk(number, value[-4:].to_bytes())
        return value
