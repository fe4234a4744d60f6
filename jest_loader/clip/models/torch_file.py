"""Files that ``torch.save`` wrote: read without unpickling objects, and only if they are whole."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def read_torch_file(path: Path) -> Any:
    """What the file holds, on the CPU, after a look at its checksums.

    Raises:
        ValueError: if a record is not as it was written, or a tensor is larger than what is stored.
        Exception: any other, of what is no such file.
    """
    check_records(path)
    contents = torch.load(path, map_location="cpu", weights_only=True)
    for tensor in _tensors(contents):
        if tensor.is_meta or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ValueError(
                f"a tensor must not be larger than what is stored of it, got shape "
                f"{list(tensor.shape)} of {tensor.untyped_storage().nbytes()} bytes"
            )
    return contents


def check_records(path: Path) -> None:
    """Raise ``ValueError`` unless all records of the zip file are as they were written.

    ``torch.save`` writes a CRC-32 of each tensor, and of what describes them; ``torch.load`` does
    not look at them.
    """
    with zipfile.ZipFile(path) as records:
        for record in records.infolist():
            if record.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its records must not be compressed, got {record.filename!r}")
        size, stored = sum(record.file_size for record in records.infolist()), path.stat().st_size
        if size > stored:  # Several of them lie at one place.
            raise ValueError(f"its records must fit into it, got {size} bytes in {stored}")
        damaged = records.testzip()
    if damaged is not None:
        raise ValueError(f"its record {damaged!r} is not as it was written")


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors within; of a container that stands in several places, once."""
    seen, left = set(), [value]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, Mapping) else value)
