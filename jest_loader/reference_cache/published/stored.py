"""An array of embeddings in a file, whose header is checked before a row is read."""

import io
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from jest_loader.checks import first_few, shown
from jest_loader.files import open_regular

_MOST_HEADER_BYTES = 1 << 16
_MOST_WIDTH = 1 << 16


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...

    def close(self) -> None: ...


class _Header(NamedTuple):
    dtype: np.dtype[Any]
    num_rows: int
    width: int
    offset: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the file that has this header."""
        return self.offset + self.num_rows * self.width * self.dtype.itemsize


class StoredArray:
    """The array [rows, width] of a .npy file, or of a member of an .npz, read a run at a time.

    Args:
        name: Where it is, for messages.
        open_file: Opens it.
        num_bytes: How many bytes it has.

    Raises:
        ValueError: if it holds anything but as many floating rows as its header says.
    """

    def __init__(self, name: str, open_file: Callable[[], _Readable], num_bytes: int) -> None:
        self._name, self._open = name, open_file
        self._file: _Readable | None = None
        header = self._header()
        if header.num_bytes != num_bytes:
            raise ValueError(
                f"{name} must have {header.num_bytes} bytes by its header, got {num_bytes}; it was "
                "cut short or damaged, so fetch it again"
            )
        self._dtype, self.num_rows, self.width, self._offset = header

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Float32 [stop - start, width].

        Raises:
            ValueError: if they are not there, or cannot be inflated.
        """
        row_bytes = self.width * self._dtype.itemsize
        with _naming(self._name):
            self._file = self._file or self._open()
            self._file.seek(self._offset + start * row_bytes)
            content = self._file.read((stop - start) * row_bytes)
        if len(content) != (stop - start) * row_bytes:
            raise ValueError(
                f"{self._name} must have {self.num_rows} rows, but was cut while it was read; "
                "fetch it again"
            )
        stored = np.frombuffer(content, self._dtype).reshape(-1, self.width)
        return as_float32(stored)

    def close(self) -> None:
        """Let go of the file; ``read`` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _header(self) -> _Header:
        with _naming(self._name):
            with closing(self._open()) as file:
                head = io.BytesIO(file.read(_MOST_HEADER_BYTES))
            np_format: Any = np.lib.format
            readers = {
                (1, 0): np_format.read_array_header_1_0,
                (2, 0): np_format.read_array_header_2_0,
            }
            shape, by_column, dtype = readers[np_format.read_magic(head)](head)
        is_array = len(shape) == 2 and 0 < shape[1] <= _MOST_WIDTH and shape[0] > 0
        if not is_array or by_column or not is_floating(dtype):
            order = " by column" if by_column else ""
            raise ValueError(
                f"{self._name} must hold embeddings [rows, width] of fp16, fp32, fp64, or bf16 as "
                f"uint16, but holds {shown(dtype)} of {shown(shape)}{order}; write it so"
            )
        return _Header(dtype, shape[0], shape[1], head.tell())


def npy_array(path: Path) -> StoredArray:
    """The array of a .npy file.

    Raises:
        ValueError: as ``StoredArray``, or if it cannot be opened.
    """
    with _naming(str(path)):
        num_bytes = path.stat().st_size
    return StoredArray(str(path), lambda: open(open_regular(path), "rb"), num_bytes)


def npz_array(path: Path, member: str) -> StoredArray:
    """An array of an .npz file, which is inflated as far as it is read.

    Raises:
        ValueError: as ``StoredArray``, or if there is no such array.
    """
    with _naming(str(path)):
        file = open(open_regular(path), "rb")  # noqa: SIM115 - the archive closes it, or we do
        try:
            archive = zipfile.ZipFile(file)
            names = archive.namelist()
        except BaseException:
            file.close()
            raise
    if f"{member}.npy" not in names:
        file.close()
        known = shown(first_few([name.removesuffix(".npy") for name in names]))
        raise ValueError(f"{path} must have an array {member!r}, but has {known}; name another")
    num_bytes = archive.getinfo(f"{member}.npy").file_size
    file.close()
    return StoredArray(f"{path}:{member}", lambda: _Member(path, f"{member}.npy"), num_bytes)


class _Member:
    """A member of an archive, which closes the archive too."""

    def __init__(self, path: Path, name: str) -> None:
        self._file = open(open_regular(path), "rb")  # noqa: SIM115 - close does
        try:
            self._archive = zipfile.ZipFile(self._file)
            self._member = self._archive.open(name)
        except BaseException:
            self._file.close()
            raise

    def read(self, size: int, /) -> bytes:
        """As many bytes as there are, at most ``size``."""
        return self._member.read(size)

    def seek(self, offset: int, /) -> int:
        """Go there; backwards means to inflate again from the start."""
        return self._member.seek(offset)

    def close(self) -> None:
        """Let go of the file."""
        self._member.close()
        self._archive.close()
        self._file.close()


class _naming:
    """What a damaged file makes NumPy and zipfile raise, which may be anything, with its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, Exception):
            raise ValueError(
                f"{self._name} must be an array that NumPy has written, but cannot be read "
                f"({shown(repr(error))}); fetch it again"
            ) from error


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether it is fp16, fp32, fp64, or two bytes that NumPy has no name for: bf16."""
    is_bf16 = dtype.itemsize == 2 and dtype.fields is None and dtype.subdtype is None
    return (dtype.kind == "f" and dtype.itemsize <= 8) or (dtype.kind in "uV" and is_bf16)


def as_float32(stored: NDArray[Any]) -> NDArray[np.float32]:
    """The same numbers in fp32, of a dtype that ``is_floating``."""
    if stored.dtype.kind in "uV":
        order = stored.dtype.byteorder if stored.dtype.kind == "u" else "<"
        bits = stored.view(np.dtype("u2").newbyteorder(order)).astype(np.uint32)
        return (bits << np.uint32(16)).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # What fp32 cannot hold is not finite.
        return stored.astype(np.float32)
