"""The arrays of a Zarr group, each by its own description.

What ``zarr.consolidate_metadata`` gathered tells names alone: rows may have been appended since.
"""

import asyncio
import re
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from jest_loader.adapters.fetching import SCHEMES, ObjectFolder
from jest_loader.adapters.zarr.codecs import check_codecs
from jest_loader.adapters.zarr.description import check_bounds, check_items, parsed
from jest_loader.adapters.zarr.local_files import check_size, first_missing
from jest_loader.adapters.zarr.over_http import exists, reason, storage_options
from jest_loader.adapters.zarr.record import WRITER_ATTRIBUTE, ArrayRecord, read_attribute
from jest_loader.checks import shown, without_secrets

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

    Arrays = dict[str, zarr.Array[Any]]

_OF_GROUP = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")  # Which Zarr opens of a group.
_RETRIES = 2  # Of a request to an object store that failed in passing.
_CHUNK = re.compile(r"c|c[./]\d.*|\d+([./]\d+)*")  # As formats 3 and 2 name them.


class ArrayGroup:
    """A group that was opened to be read.

    Args:
        path: A local directory or a URL.
        columns: Names of arrays, for a store that cannot list what it holds.
        fill_missing: Whether chunks that are missing are read as fill values.

    Raises:
        ValueError: if ``path`` is no group, or an array in it is damaged, missing or out of bounds.
    """

    def __init__(self, path: str, columns: Sequence[str] | None, *, fill_missing: bool) -> None:
        group = _open(path)
        self.path = without_secrets(path)  # For messages.
        self._fill_missing = fill_missing
        self._store: Store = group.store
        self._format = group.metadata.zarr_format
        self._description = "zarr.json" if self._format == 3 else ".zarray"
        self.attribute: Any = group.attrs.asdict().get(WRITER_ATTRIBUTE)
        self._records = self._read_records()
        self.arrays: Arrays = self._open_arrays(columns)

    @property
    def content(self) -> Any:
        """What ``write_zarr`` says of the group's content; None of a group of another's."""
        if not self._records:
            return self.attribute
        return {name: self.attribute[name] for name in ("rows", "content")}

    def check_chunks(self, name: str) -> None:
        """Raise ``ValueError`` if chunks of an array are missing; of local ones, all are looked up.

        Of others the last is, so that a shape cannot be made up.
        """
        from zarr.storage import LocalStore

        if self._fill_missing and self.attribute is None:
            return
        array = self.arrays[name]
        sizes = zip(array.shape, array.shards or array.chunks, strict=True)
        grid = [-(-size // part) for size, part in sizes]
        if 0 in grid:
            return
        name_of = array.metadata.encode_chunk_key
        missing: tuple[str, int | None] | None
        if isinstance(self._store, LocalStore):
            missing = first_missing(self._store.root / name, grid, name_of)
        else:
            last = name_of(tuple(size - 1 for size in grid))
            missing = None if self._exists(f"{name}/{last}") else (last, None)
        if missing:
            raise ValueError(self._missing(name, grid, *missing))

    def _exists(self, key: str) -> bool:
        from zarr.core.sync import sync

        try:
            return sync(exists(self._store, key))
        except Exception as error:  # Stores raise exceptions of their own.
            raise self._damaged(key, reason(error)) from None

    def _missing(self, name: str, grid: Sequence[int], key: str, found: int | None) -> str:
        got = "" if found is None else f", got {found}"
        remedy = "fetch the missing ones again"
        if self.attribute is None:
            remedy += (
                "; if fill values are meant there, set fill_missing_chunks=True, or write them"
            )
        return (
            f"array {shown(repr(name))} in {self.path} must have {prod(grid)} chunks{got}: {key} "
            f"is missing; {remedy}"
        )

    def _read_records(self) -> dict[str, ArrayRecord]:
        if self.attribute is None:
            return {}
        try:
            return read_attribute(self.attribute)
        except Exception as error:  # Whatever damaged values lead to.
            raise self._damaged(
                "zarr.json", f"of its attribute {WRITER_ATTRIBUTE}, {error}"
            ) from None

    def _open_arrays(self, columns: Sequence[str] | None) -> "Arrays":
        promised = self._promised()
        listed = self._listed()
        names = {*listed, *promised}
        if not names and columns is not None and not isinstance(columns, str):
            names = {*columns}  # HTTP, for one, cannot list.
        ordered = sorted(names)
        files = self._read([f"{name}/{self._description}" for name in ordered])
        arrays = {}
        for name, content in zip(ordered, files, strict=True):
            if content is not None:
                array = self._open_array(name, content)
                if array is not None:
                    arrays[name] = array
            elif name in promised or self._holds_chunks(name):
                raise self._damaged(f"{name}/{self._description}", "it is missing")
        return arrays

    def _open_array(self, name: str, content: bytes) -> "zarr.Array[Any] | None":
        """The array of a description; None if it is another group's."""
        import zarr

        from jest_loader.adapters.zarr.bounded_codecs import bound_decoding
        from jest_loader.adapters.zarr.chunk_store import ChunkStore

        record = self._records.get(name)
        try:
            if record is not None:
                record.check_description(content)
            described = parsed(content)
            if self._format == 3 and described.get("node_type") == "group":
                return None
            check_bounds(described)
            store = ChunkStore(self._store, name, record, fill_missing=self._fill_missing)
            array = zarr.open_array(store, path=name, mode="r", zarr_format=self._format)
            check_items(array)
        except Exception as error:  # Whatever damaged values, types and codecs lead to.
            raise self._damaged(f"{name}/{self._description}", str(error) or repr(error)) from error
        check_codecs(name, array, self.path)
        bound_decoding(array)
        return array

    def _promised(self) -> set[str]:
        """The arrays that the group itself names: what wrote it, and what consolidated it."""
        key = "zarr.json" if self._format == 3 else ".zmetadata"
        (content,) = self._read([key])
        if content is None:
            return {*self._records}
        try:
            found = parsed(content)
            gathered = found.get("consolidated_metadata") if self._format == 3 else found
            entries = {} if gathered is None else gathered["metadata"]
            arrays = {
                name.removesuffix("/.zarray")
                for name, entry in entries.items()
                if name.endswith("/.zarray") or entry.get("node_type") == "array"
            }
        except Exception as error:  # Whatever damaged values lead to.
            raise self._damaged(key, f"of its consolidated metadata: {error!r}") from error
        return {*self._records, *(name for name in arrays if "/" not in name)}

    def _listed(self) -> list[str]:
        try:
            return [name for found in self._list_folder("") if (name := found.rstrip("/"))]
        except Exception as error:  # A store that is gone.
            raise ValueError(
                f"the arrays of {self.path} cannot be listed: {shown(without_secrets(error))}; "
                "see that it can be reached, or name the columns"
            ) from error

    def _list_folder(self, name: str) -> list[str]:
        from zarr.core.sync import sync

        async def listed() -> list[str]:
            return [found async for found in self._store.list_dir(name)]

        return sync(listed())

    def _holds_chunks(self, name: str) -> bool:
        """Whether a folder that has no description seems to be an array's."""
        try:
            return any(_CHUNK.fullmatch(found) for found in self._list_folder(name))
        except Exception:  # It is no folder.
            return False

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync
        from zarr.storage import LocalStore

        async def read(key: str) -> bytes | None:
            try:
                if isinstance(self._store, LocalStore):
                    check_size(f"{self._store.root}/{key}")
                found = await self._store.get(key, default_buffer_prototype())
            except Exception as error:  # Stores raise exceptions of their own.
                raise self._damaged(key, reason(error)) from None
            return None if found is None else found.to_bytes()

        async def read_all() -> list[bytes | None]:
            return list(await asyncio.gather(*map(read, keys)))

        return sync(read_all())

    def _damaged(self, file: str, reason: str) -> ValueError:
        return ValueError(
            f"{shown(file)} in {self.path} cannot be used: {shown(without_secrets(reason))}; fetch "
            "or write it again"
        )


def _open(path: str) -> "zarr.Group":
    try:
        import zarr
    except ModuleNotFoundError as error:
        if error.name != "zarr":
            raise
        raise ModuleNotFoundError(
            "reading Zarr needs zarr; pip install 'jest-loader[zarr]'", name="zarr"
        ) from error
    try:
        for name in _OF_GROUP:
            check_size(f"{path}/{name}")
        if path.startswith(SCHEMES):
            from jest_loader.adapters.zarr.stored_group import StoredGroup

            store = StoredGroup(ObjectFolder(path, num_retries=_RETRIES))
            return zarr.open_group(store, mode="r", use_consolidated=False)
        return zarr.open_group(
            path, mode="r", use_consolidated=False, storage_options=storage_options(path)
        )
    except ModuleNotFoundError:  # It says what to install.
        raise
    except Exception as error:  # stores raise exceptions of their own
        raise ValueError(
            f"path must be a Zarr group, got {without_secrets(repr(path))}: "
            f"{shown(without_secrets(error))}; an array must lie in a group to be a column"
        ) from None
