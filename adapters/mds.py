"""Reads MosaicML MDS shards from a local folder, in columns, without ``StreamingDataset``.

``streaming`` parses the index, decompresses and hashes; the bytes of a shard are taken apart here,
a column at a time. A shard is read whole, checked against its size and hash in the index, and
decompressed in memory: the data set's folder is never written to and no cache is needed.
(``Stream.prepare_shard`` would decompress into the folder, and checks only what it downloads.)
"""

import hashlib
import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from jest_loader.adapters.blocks import BlockSource
from jest_loader.adapters.columns import Columns, choose_columns
from jest_loader.adapters.mds_shard import cells, decode
from jest_loader.adapters.order import Int64Array

if TYPE_CHECKING:
    from streaming.base.format.base.reader import FileInfo
    from streaming.base.format.mds.reader import MDSReader

_HASHES_BY_SPEED = ("xxh3_64", "xxh3_128", "xxh128", "xxh64", "xxh32", "sha1", "md5", "sha256")


class MdsSource(BlockSource):
    """Batches from a local folder of MDS shards.

    Scalars and ``ndarray`` columns of fixed dtype and shape come as NumPy arrays [batch, ...],
    ``str`` as a list of str, ``bytes``, ``jpeg`` and ``png`` undecoded as a list of bytes, every
    other encoding decoded by ``streaming`` as an object array [batch]. See ``BlockSource`` for
    epochs, shuffling and state.

    Args:
        path: The folder that holds index.json.
        batch_size: Rows in a batch.
        shuffle: Whether to shuffle; otherwise rows come as stored.
        window_rows: The least number of rows to shuffle among each other; the shards that hold them
            are kept in memory. None for four batches.
        seed: Chooses the order.
        columns: The columns to read; None for all.
        id_column: The name for each row's place in the data set (int64), or None to do without.
        drop_last: Whether to leave out the rows that do not fill a last batch.
        allow_pickle: Whether ``pkl`` columns may be read. **Reading them runs whatever code their
            author put there.**

    Raises:
        ValueError: if an argument is out of range, the folder holds no readable MDS index, or a
            ``pkl`` column would be read. While iterating: if a shard is not as the index describes
            it.
        FileNotFoundError: while iterating, if a shard is missing.
    """

    def __init__(  # noqa: PLR0913, the eight keywords a loader may have and the path
        self,
        path: str | PathLike[str],
        *,
        batch_size: int,
        shuffle: bool = True,
        window_rows: int | None = None,
        seed: int = 0,
        columns: Sequence[str] | None = None,
        id_column: str | None = "sample_id",
        drop_last: bool = True,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__(
            MdsShards(Path(path), columns, allow_pickle=allow_pickle),
            batch_size=batch_size,
            shuffle=shuffle,
            window_rows=window_rows,
            seed=seed,
            id_column=id_column,
            drop_last=drop_last,
        )


class MdsShards:
    """The shards of a data set as blocks.

    Args:
        path: The folder that holds index.json.
        columns: The columns to read; None for all.
        allow_pickle: Whether ``pkl`` columns may be read.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None, *, allow_pickle: bool) -> None:
        self._path = path
        index = _load_index(path)
        # Empty shards hold nothing to deliver.
        self._shards = [shard for shard in _readers(path) if shard.samples]
        if not self._shards:
            raise ValueError(
                f"a data set must hold at least one row, but {path} holds none; write it again"
            )
        self._check_same_columns()
        encodings = dict(
            zip(self._shards[0].column_names, self._shards[0].column_encodings, strict=True)
        )
        self.column_names = choose_columns(list(encodings), columns, path)
        if not allow_pickle:
            self._refuse_pickle({name: encodings[name] for name in self.column_names})
        self.block_rows: Int64Array = np.array([shard.samples for shard in self._shards])
        text = json.dumps(index, sort_keys=True)
        self.fingerprint = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def read(self, block: int) -> Columns:
        """All rows of a shard."""
        shard = self._shards[block]
        data = self._load(shard)
        try:
            spans = cells(data, shard.samples, shard.column_sizes)
            return {
                name: decode(encoding, data, starts, sizes)
                for name, encoding, (starts, sizes) in zip(
                    shard.column_names, shard.column_encodings, spans, strict=True
                )
                if name in self.column_names
            }
        except (ValueError, KeyError, IndexError, OSError) as error:
            raise ValueError(
                f"{self._name(shard)} cannot be decoded: {error!r}; fetch it again"
            ) from error

    def _load(self, shard: "MDSReader") -> bytes:
        """The shard's bytes, checked and decompressed."""
        from streaming.base.compression import decompress

        raw_path = self._path / shard.raw_data.basename
        if shard.zip_data is None or raw_path.is_file():
            return _read_checked(raw_path, shard.raw_data)
        zip_path = self._path / shard.zip_data.basename
        packed = _read_checked(zip_path, shard.zip_data)
        try:
            data = decompress(shard.compression, packed)
        except Exception as error:  # each codec raises exceptions of its own
            raise ValueError(
                f"{zip_path} cannot be decompressed: {error}; fetch it again"
            ) from error
        _check(data, shard.raw_data, f"{zip_path}, decompressed,")
        return data

    def _name(self, shard: "MDSReader") -> str:
        return str(self._path / (shard.zip_data or shard.raw_data).basename)

    def _check_same_columns(self) -> None:
        first = self._shards[0]
        for shard in self._shards:
            expected = list(zip(first.column_names, first.column_encodings, strict=True))
            found = list(zip(shard.column_names, shard.column_encodings, strict=True))
            if found != expected:
                raise ValueError(
                    f"all shards must have the same columns, but {self._name(first)} has "
                    f"{expected} and {self._name(shard)} has {found}; make them two data sets"
                )

    def _refuse_pickle(self, encodings: dict[str, str]) -> None:
        from streaming.base.format.mds.encodings import is_mds_encoding_safe

        unsafe = [
            name for name, encoding in encodings.items() if not is_mds_encoding_safe(encoding)
        ]
        if unsafe:
            raise ValueError(
                f"columns must not hold pickles, which run code when read, but {unsafe} of "
                f"{self._path} do; leave them out with columns=[...], or pass allow_pickle=True if "
                "you trust whoever wrote them"
            )


def _load_index(path: Path) -> dict[str, Any]:
    """The parsed index.json, once it is known to be one that ``streaming`` can make readers of."""
    index_path = path / "index.json"
    if not index_path.is_file():
        raise ValueError(
            f"path must be a local folder with an MDS index.json, got {str(path)!r}; for shards "
            "kept elsewhere, copy the folder here first"
        )
    try:
        index = json.loads(index_path.read_text(encoding="utf-8"))
        shards = [(info["format"], info["raw_data"], info["zip_data"]) for info in index["shards"]]
        version = index["version"]
        files = [file["basename"] for _, *pair in shards for file in pair if file]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index_path} is not an MDS index: {error!r}; fetch it again") from error
    formats = {format_ for format_, *_ in shards}
    if version != 2 or formats - {"mds"}:
        raise ValueError(
            f"{index_path} must list MDS shards of version 2, got version {version} and "
            f"{sorted(formats)}; write the data set again with MDSWriter"
        )
    outside = [
        name for name in files if PurePosixPath(name).is_absolute() or ".." in Path(name).parts
    ]
    if outside:
        raise ValueError(
            f"{index_path} must name files inside its folder, got {outside}; do not use an index "
            "from a source that you do not trust"
        )
    return dict(index)


def _readers(path: Path) -> list["MDSReader"]:
    """One of ``streaming``'s readers for each shard."""
    try:
        from streaming import Stream
    except ModuleNotFoundError as error:
        if error.name != "streaming":
            raise
        raise ModuleNotFoundError(
            "reading MDS shards needs mosaicml-streaming; pip install 'jest-loader[mds]'",
            name="streaming",
        ) from error
    from streaming.base.format.mds.reader import MDSReader
    from streaming.base.world import World

    stream = Stream(local=str(path))
    stream.apply_default(
        {
            "split": None,
            "download_retry": 1,
            "download_timeout": 60,
            "validate_hash": None,
            "keep_zip": True,
        }
    )
    try:
        # Pickles are refused by MdsShards, which also lets a user leave their columns out.
        readers = stream.get_shards(World(1, 1, 1, 0), allow_unsafe_types=True)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(
            f"{path / 'index.json'} is not an MDS index: {error!r}; fetch it again"
        ) from error
    return [reader for reader in readers if isinstance(reader, MDSReader)]


def _read_checked(path: Path, info: "FileInfo") -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"shard {path} is in the index but not in the folder; fetch it again"
        ) from error
    _check(data, info, str(path))
    return data


def _check(data: bytes, info: "FileInfo", name: str) -> None:
    """Compare a file with its size and, if it has any, one of its hashes in the index."""
    from streaming.base.hashing import get_hash

    if len(data) != info.bytes:
        raise ValueError(
            f"shard {name} must have {info.bytes} bytes as the index says, got {len(data)}; fetch "
            "it again"
        )
    algorithms = [name for name in _HASHES_BY_SPEED if name in info.hashes] or sorted(info.hashes)
    for algorithm in algorithms[:1]:
        found = get_hash(algorithm, data)
        if found != info.hashes[algorithm]:
            raise ValueError(
                f"shard {name} must have the {algorithm} {info.hashes[algorithm]} as the index "
                f"says, got {found}; fetch it again"
            )
