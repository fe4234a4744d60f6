"""A group in an object store, as Zarr sees it: objects are bounded, faults are no missing ones."""

from typing import TYPE_CHECKING, Any

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.storage import ObjectStore

from jest_loader.adapters.fetching import ObjectFolder
from jest_loader.adapters.fetching.object_store import not_fetched
from jest_loader.adapters.zarr.local_files import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


class StoredGroup(ObjectStore[Any]):
    """A group's objects, to be read.

    Args:
        folder: Where they are.

    Raises:
        OSError: when something is read and the store answers with an error, or with too much.
    """

    def __init__(self, folder: ObjectFolder) -> None:
        super().__init__(folder.store, read_only=True)
        self._folder = folder

    def __reduce__(self) -> Any:
        return StoredGroup, (self._folder,)

    def with_read_only(self, read_only: bool = False) -> "StoredGroup":
        """The same group, which is only read."""
        return StoredGroup(self._folder)

    async def get(
        self, key: str, prototype: "BufferPrototype", byte_range: "ByteRequest | None" = None
    ) -> "Buffer | None":
        """The bytes of an object, or some of them; None if there is no such object."""
        import obstore

        blocks, size = [], 0
        try:
            found = await obstore.get_async(self._folder.store, key, options=_options(byte_range))
            async for block in found.stream(min_chunk_size=1 << 16):
                blocks.append(block)
                size += len(block)
                if size > MOST_BYTES:
                    raise OSError(f"it has more than {MOST_BYTES} bytes")
        except Exception as error:  # obstore's are of many kinds.
            _check_missing(error)
            return None
        return prototype.buffer.from_bytes(b"".join(blocks))

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        import obstore

        try:
            await obstore.head_async(self._folder.store, key)
        except Exception as error:  # obstore's are of many kinds.
            _check_missing(error)
            return False
        return True

    async def list_dir(self, prefix: str) -> "AsyncGenerator[str, None]":
        """The names in a folder."""
        try:
            async for name in super().list_dir(prefix):
                yield name
        except Exception as error:  # obstore's are of many kinds.
            raise OSError(str(not_fetched(error))) from None


def _check_missing(error: Exception) -> None:
    """Raise an ``OSError`` unless the store says that it has no such object."""
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        raise error
    fault = not_fetched(error)
    if fault.status != 404 or "NoSuchBucket" in str(fault):
        raise OSError(str(fault)) from None


def _options(byte_range: "ByteRequest | None") -> Any:
    if isinstance(byte_range, RangeByteRequest):
        return {"range": (byte_range.start, byte_range.end)}
    if isinstance(byte_range, OffsetByteRequest):
        return {"range": {"offset": byte_range.offset}}
    if isinstance(byte_range, SuffixByteRequest):
        return {"range": {"suffix": byte_range.suffix}}
    return {}
