"""How a Zarr group is read over HTTP: not waited for in silence, no object without an end."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zarr.abc.store import Store

SILENCE_S = 60.0
MOST_BYTES = 1 << 30  # Of a chunk or a description, inflated.


def storage_options(path: str) -> dict[str, Any] | None:
    """What fsspec is told of a URL; None of what is not HTTP."""
    if not path.startswith(("http://", "https://")):
        return None
    import aiohttp

    class Bounded(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            blocks, size = [], 0
            async for block in self.content.iter_any():
                blocks.append(block)
                size += len(block)
                if size > MOST_BYTES:
                    self.close()
                    raise OSError(f"the answer is longer than {MOST_BYTES} bytes")
            self._body = b"".join(blocks)
            return self._body

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
    return {"client_kwargs": {"timeout": timeout, "response_class": Bounded}}


async def exists(store: "Store", key: str) -> bool:
    """Whether a store has a key; a server that answers with an error has not said that it has none.

    Raises:
        Exception: whatever the store raises.
    """
    from zarr.abc.store import RangeByteRequest
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import FsspecStore

    if not isinstance(store, FsspecStore):
        return await store.exists(key)
    # fsspec's own takes every error for an answer.
    found = await store.get(key, default_buffer_prototype(), RangeByteRequest(0, 1))
    return found is not None


def reason(error: Exception) -> str:
    """What an error says; not its parts, since aiohttp's hold the headers that were sent."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
