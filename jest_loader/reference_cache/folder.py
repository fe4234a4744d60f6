"""The folder of a cache while it is being built: chunks that appear whole, and then the manifest.

A chunk is a file for each array, then a *record* of it in ``building/``. A chunk counts once its
record is there; everything is written under another name, brought to disk and renamed. So a process
may be killed at any moment, and several may build different chunks.
"""

import logging
import re
import shutil
import uuid
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jest_loader.checks import shown
from jest_loader.files import PART, check_only, read_regular, replacing, strangers
from jest_loader.ragged import Int64Array
from jest_loader.reference_cache.chunk_records import (
    BATCH_SIZE,
    Record,
    Settings,
    as_json,
    check_same,
    not_the_same,
    read_settings,
)
from jest_loader.reference_cache.format import (
    ATTRIBUTE,
    BUILDING,
    CACHE_VERSION,
    MOST_JSON_BYTES,
    ArrayForm,
    Manifest,
    array_metadata,
    check_chunk_sizes,
    check_content,
    checksum,
    read_json,
    read_manifest,
    value_forms,
)
from jest_loader.reference_cache.group import as_group, group_metadata
from jest_loader.reference_cache.measure import Arrays, Logit, check_same_logit
from jest_loader.reference_cache.sample_index import SampleIndex
from jest_loader.state_digest import has_its_digest, with_digest

_LOG = logging.getLogger(__name__)
_FILE = re.compile(
    r"zarr\.json|index/zarr\.json|(image|text|loss|seen|sample_id|index/id|index/row)/(zarr\.json|c/[0-9/]+)"
    rf"|{BUILDING}/([0-9]+|settings)\.json|({BUILDING}/)?{PART}"
)


class CacheFolder:
    """A cache that is not whole yet.

    Args:
        path: Its folder.
        settings: What is being built.

    Raises:
        ValueError: if ``path`` holds something else, or a building with other settings.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.settings = settings
        self._building = path / BUILDING
        for name in strangers(path, _belongs):
            raise ValueError(
                f"the output must not exist yet, but {str(path)!r} holds {shown(name)}; choose "
                "another, or say overwrite to replace a cache"
            )
        self._building.mkdir(parents=True, exist_ok=True)
        described = self._building / "settings.json"
        if not described.is_file():
            self._write(described, as_json({"version": CACHE_VERSION, **asdict(settings)}))
        check_same(path, read_settings(described), settings)

    def is_finished(self) -> bool:
        """Whether the cache is whole."""
        return (self.path / "zarr.json").is_file()

    def num_built(self) -> int:
        """Chunks that are there, whoever built them."""
        return sum(1 for _ in self._building.glob("[0-9]*.json"))

    def record(self, number: int) -> Record | None:
        """The record of a chunk, if the chunk is there; a damaged one counts as none."""
        path = self._record_path(number)
        try:
            found = read_json(path)
        except FileNotFoundError:
            return None
        except Exception:  # No JSON, or nested without end.
            found = {}
        if not isinstance(found, dict) or not has_its_digest(found):
            _LOG.warning("%s is damaged, so its chunk is built again", path)
            return None
        values = {field.name: found[field.name] for field in fields(Record)}
        return Record(**{**values, "logit": found["logit"] and Logit(*found["logit"])})

    def check_ids(self, first_row: int, ids: Int64Array) -> None:
        """Raise ``ValueError`` unless rows that are built have these sample ids (int64 [n])."""
        chunk_rows = self.settings.chunk_rows
        while len(ids):
            number, within = divmod(first_row, chunk_rows)
            here = ids[: chunk_rows - within]
            file = self.path / "sample_id" / "c" / str(number)
            if file.is_file():
                stored = np.fromfile(file, "<i8", len(here), offset=8 * within)
                if not np.array_equal(stored, here):
                    raise not_the_same(first_row)
            first_row, ids = first_row + len(here), ids[len(here) :]

    def add(
        self, number: int, columns: Arrays, logit: Logit | None, source: dict[str, Any] | None
    ) -> None:
        """Write a chunk: its values and ``sample_id``."""
        num_rows = len(columns["sample_id"])
        # A cache of one chunk is not padded.
        padded = num_rows if number == 0 else self.settings.chunk_rows
        checksums = {}
        for name, form in self._forms(logit, num_rows, padded).items():
            values = np.ascontiguousarray(columns[name], dtype=form.dtype)
            content = _padded(values, padded).tobytes()
            checksums[name] = checksum(content)
            self._write(form.chunk_path(self.path / name, number), content)
        record = Record.of(columns, logit, checksums, source)
        self._write(self._record_path(number), as_json(with_digest(asdict(record))))

    def finish(self, written_by: str) -> Manifest:
        """Write the index and the manifest, once all chunks are there.

        Raises:
            ValueError: if the chunks are not of one model, an example came twice, or rows that the
                source promises are not there.
        """
        records = self._records()
        num_rows, knows_seen = sum(r.num_rows for r in records), self.settings.knows_seen
        logit = _one_logit(records)
        chunk_rows = min(self.settings.chunk_rows, num_rows)
        checksums = {
            name: [record.checksums[name] for record in records]
            for name in self._forms(logit, num_rows, chunk_rows)
        }
        index = self._index(records, chunk_rows)
        manifest = Manifest(
            version=CACHE_VERSION,
            written_by=written_by,
            kind=self.settings.kind,
            num_rows=num_rows,
            num_missing=sum(record.num_missing for record in records),
            chunk_rows=chunk_rows,
            width=logit and logit.width,
            num_seen=sum(record.num_seen for record in records) if knows_seen else None,
            num_known=sum(record.num_known for record in records) if knows_seen else None,
            logit_scale=logit and logit.logit_scale,
            logit_bias=logit and logit.logit_bias,
            has_index=index.ids is not None,
            identity=self.settings.identity,
            checksums=checksums,
        )
        self._write_index(index, manifest)
        for name, form in manifest.arrays().items():
            self._write(self.path / name / "zarr.json", as_json(array_metadata(form)))
        self._write(self.path / "zarr.json", as_group(manifest))
        shutil.rmtree(self._building, ignore_errors=True)
        return manifest

    def _records(self) -> list[Record]:
        records: list[Record] = []
        while (record := self.record(len(records))) is not None:
            records.append(record)
        num_rows, promised = sum(r.num_rows for r in records), self.settings.num_rows
        if not num_rows:
            raise ValueError("the source must hold at least one example, but yielded none")
        if promised is not None and num_rows != promised:
            raise ValueError(
                f"the source must yield the {promised} examples that it promises, but yielded "
                f"{num_rows}; use drop_last=False"
            )
        if any(record.num_rows != self.settings.chunk_rows for record in records[:-1]):
            raise ValueError(
                "only the last chunk of a cache may be short, but the source ended before chunks "
                "that were built of it earlier; set overwrite to build the cache anew"
            )
        return records

    def _index(self, records: list[Record], chunk_rows: int) -> SampleIndex:
        form = ArrayForm(np.dtype("<i8"), (), chunk_rows * len(records), chunk_rows)
        ids = []
        for k, record in enumerate(records):
            file = form.chunk_path(self.path / "sample_id", k)
            content = file.read_bytes()
            check_content(self.path, file, content, record.checksums["sample_id"])
            ids.append(np.frombuffer(content, form.dtype)[: record.num_rows])
        return SampleIndex.of(np.concatenate(ids))

    def _write_index(self, index: SampleIndex, manifest: Manifest) -> None:
        if index.ids is None or index.rows is None:
            return
        self._write(self.path / "index" / "zarr.json", as_json(group_metadata({})))
        for name, values in (("index/id", index.ids), ("index/row", index.rows)):
            content = values.astype("<i8").tobytes()
            manifest.checksums[name] = [checksum(content)]
            self._write(manifest.arrays()[name].chunk_path(self.path / name, 0), content)

    def _forms(self, logit: Logit | None, num_rows: int, chunk_rows: int) -> dict[str, ArrayForm]:
        settings, width = self.settings, logit and logit.width
        forms = value_forms(settings.kind, width, knows_seen=settings.knows_seen)
        return {
            name: ArrayForm(dtype, shape, num_rows, chunk_rows)
            for name, (dtype, shape) in (*forms.items(), ("sample_id", (np.dtype("<i8"), ())))
        }

    def _record_path(self, number: int) -> Path:
        return self._building / f"{number:08}.json"

    def _write(self, path: Path, content: bytes) -> None:
        """Write a file that is whole and on disk as soon as it has its name."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, scratch=self._building) as part:
            part.write_bytes(content)


def finished(path: Path, settings: Settings) -> Manifest | None:
    """The cache at ``path`` if it is whole.

    Raises:
        ValueError: if it was built with other settings, or chunks are missing or cut short.
    """
    if not (path / "zarr.json").is_file():
        return None
    manifest = read_manifest(path)
    found = {name: getattr(manifest, name) for name in ("version", "kind", "identity")}
    # A cache of one chunk may have been built with larger ones.
    several = manifest.num_rows > manifest.chunk_rows
    found["chunk_rows"] = manifest.chunk_rows if several else settings.chunk_rows
    found["num_rows"] = manifest.num_rows if settings.num_rows is not None else None
    found["knows_seen"] = manifest.num_seen is not None
    check_same(path, found, settings)
    check_chunk_sizes(path, manifest)
    if settings.identity.get(BATCH_SIZE) != manifest.identity.get(BATCH_SIZE):
        # It was built before that was known, and is the same but for that.
        manifest = replace(manifest, identity=settings.identity)
        with replacing(path / "zarr.json") as part:
            part.write_bytes(as_group(manifest))
    return manifest


def remove(path: Path) -> None:
    """Delete a cache, whole or not or damaged, and nothing else.

    Raises:
        ValueError: if ``path`` is something else.
    """
    if not path.exists():
        return
    try:
        says_so = ATTRIBUTE.encode() in read_regular(path / "zarr.json", MOST_JSON_BYTES)
    except OSError:  # It is not there, or too long.
        says_so = False
    if not says_so and not (path / BUILDING).is_dir():
        raise ValueError(
            f"only a reference cache can be overwritten, but {str(path)!r} is none; choose another "
            "output"
        )
    check_only(path, _belongs)
    # Renamed first: a folder that a killed process deleted in part would no longer be recognised.
    gone = path.with_name(f"{path.name}.{uuid.uuid4().hex}.deleted")
    path.rename(gone)
    shutil.rmtree(gone)


def _belongs(name: str) -> bool:
    """Whether a file of that name is a cache's, whole or not."""
    return _FILE.fullmatch(name) is not None


def _one_logit(records: list[Record]) -> Logit | None:
    first = records[0].logit
    for record in records:
        if first is not None and record.logit is not None:
            check_same_logit(first, record.logit)
    return first


def _padded(values: NDArray[Any], num_rows: int) -> NDArray[Any]:
    if len(values) == num_rows:
        return values
    fill = -1 if values.dtype.kind == "i" else np.nan
    padding = np.full((num_rows - len(values), *values.shape[1:]), fill, values.dtype)
    return np.concatenate([values, padding])
