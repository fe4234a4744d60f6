"""Arrays of .npz and .npy members, read without pickle and bounded before they are inflated."""

import io
import math
import zipfile
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jest_loader.checks import shown
from jest_loader.ragged import RaggedBytes

_MOST_BYTES = 1 << 26
_HEADER_BYTES = 1 << 14


class Form(NamedTuple):
    """What all arrays of a column are like.

    Args:
        dtype: In the processor's byte order.
        shape: Of one row.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} of {self.shape}"


def npz_array(content: memoryview, name: str) -> NDArray[Any]:
    """An array of an npz file.

    Raises:
        ValueError: if there is none of that name, it holds no plain numbers, or is too large.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [entry.filename.removesuffix(".npy") for entry in archive.infolist()]
        if name not in names:
            raise ValueError(f"it has no array {shown(name)!r}, it has {shown(names)}")
        entry = archive.infolist()[names.index(name)]
        if entry.file_size > _MOST_BYTES:
            raise ValueError(f"an array of more than {_MOST_BYTES >> 20} MiB")
        with archive.open(entry) as file:
            return _array(file, entry.file_size)


def npy_array(content: memoryview) -> NDArray[Any]:
    """The array of an npy file.

    Raises:
        ValueError: if it holds no plain numbers, or is too large.
    """
    if len(content) > _MOST_BYTES:
        raise ValueError(f"an array of more than {_MOST_BYTES >> 20} MiB")
    return _array(io.BytesIO(content), len(content))


def npy_head(form: Form) -> bytes:
    """How an npy file of an array begins, as NumPy writes it."""
    file = io.BytesIO()
    parser: Any = np.lib.format  # which has no types
    parser.write_array(file, np.zeros(form.shape, form.dtype), allow_pickle=False)
    size = math.prod(form.shape) * form.dtype.itemsize
    return file.getvalue()[: len(file.getvalue()) - size]


def plain_arrays(members: RaggedBytes, form: Form) -> NDArray[Any] | None:
    """All npy files as one array [n, ...]; None where one does not begin as NumPy writes it."""
    head = npy_head(form)
    size = len(head) + math.prod(form.shape) * form.dtype.itemsize
    if size == len(head) or (members.sizes != size).any():
        return None
    table = members.to_array(np.uint8, (size,))
    if (table[:, : len(head)] != np.frombuffer(head, np.uint8)).any():
        return None
    content = np.ascontiguousarray(table[:, len(head) :])
    return content.view(form.dtype).reshape(len(members), *form.shape)


def _array(file: IO[bytes], num_bytes: int) -> NDArray[Any]:
    parser: Any = np.lib.format  # which has no types
    version = parser.read_magic(file)
    read_header = {
        (1, 0): parser.read_array_header_1_0,
        (2, 0): parser.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"a format of version {version}")
    shape, is_fortran, dtype = read_header(file, max_header_size=_HEADER_BYTES)
    if dtype.kind not in "biuf" or dtype.hasobject:
        raise ValueError(f"an array must be of numbers, got {shown(dtype)}")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size > num_bytes:
        raise ValueError(f"an array of {shown(shape)} is not in {num_bytes} bytes")
    stored = file.read(size + 1)
    if len(stored) != size:
        raise ValueError("it does not have the size that its header says")
    found = np.frombuffer(stored, dtype).reshape(shape, order="F" if is_fortran else "C")
    return found.astype(dtype.newbyteorder("="), order="C", copy=False)
