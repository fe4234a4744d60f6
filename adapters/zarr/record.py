"""What ``write_zarr`` keeps of the arrays that it wrote, in the group's attributes.

Each chunk file ends with the crc32c of its bytes, which Zarr's codec compares. The record holds
these four bytes of all chunks, so that a chunk in the place of another is told from its end alone;
and a digest of each array's description, without which the codec could be left out.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jest_loader.state_digest import has_its_digest, with_digest

WRITER_ATTRIBUTE = "jest_loader"
_CRC_BYTES = 4


@dataclass(frozen=True)
class ArrayRecord:
    """What is kept of an array.

    Args:
        description: The digest of its ``zarr.json``.
        crcs: Of each chunk in their order, the last four bytes of its file.
    """

    description: str
    crcs: bytes

    def check_description(self, content: bytes) -> None:
        """Raise ``ValueError`` unless this is the array's ``zarr.json``."""
        if _digest(content) != self.description:
            raise ValueError("it is not what was written: its digest does not fit")

    def check_chunk(self, number: int, end: bytes) -> None:
        """Raise ``ValueError`` unless a chunk may end with the bytes ``end``."""
        if self.crcs[_CRC_BYTES * number :][:_CRC_BYTES] != end[-_CRC_BYTES:]:
            raise ValueError(
                "it is not the chunk that was written there: its checksum is not the one in the "
                "group's zarr.json"
            )


def attribute_of(
    folder: Path, names: Iterable[str], *, num_rows: int, num_chunks: int, content: str
) -> dict[str, Any]:
    """The value of ``WRITER_ATTRIBUTE`` for arrays that are whole.

    Args:
        folder: The group's folder.
        names: Its arrays.
        num_rows: Their rows.
        num_chunks: Their chunks, along the first dimension.
        content: A digest of all values.
    """
    arrays = {
        name: {
            "description": _digest((folder / name / "zarr.json").read_bytes()),
            "crcs": b"".join(_ends(folder / name / "c", num_chunks)).hex(),
        }
        for name in names
    }
    return with_digest({"rows": num_rows, "content": content, "arrays": arrays})


def read_attribute(found: Any) -> dict[str, ArrayRecord]:
    """The records of a group's arrays, by name; none of a group that an earlier release wrote.

    Raises:
        ValueError: if ``found`` is damaged.
    """
    if not isinstance(found, Mapping) or ("arrays" in found) != ("digest" in found):
        raise ValueError("it is not what jest-loader writes")
    if "arrays" not in found:
        return {}
    if not has_its_digest(found):
        raise ValueError("its digest does not fit")
    return {
        name: ArrayRecord(kept["description"], bytes.fromhex(kept["crcs"]))
        for name, kept in found["arrays"].items()
    }


def _ends(chunks: Path, num_chunks: int) -> Iterable[bytes]:
    for number in range(num_chunks):
        path = chunks / str(number)
        while path.is_dir():  # A chunk has all of the other dimensions.
            path /= "0"
        with path.open("rb") as file:
            file.seek(-_CRC_BYTES, 2)
            yield file.read()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
