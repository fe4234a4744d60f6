"""What is written once, and read after each damage."""

import hashlib
import json
import random
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jest_loader import CachedReference, Embeddings, ExampleScores, JestDataset
from jest_loader.adapters.mds import MdsSource
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.clip.saving import checkpoint
from jest_loader.clip.train import train
from jest_loader.pack import write_mds, write_zarr
from jest_loader.reference_cache import build
from tests import clip_runs
from tests.fuzz.damage import damage_bytes, damage_state

_COLUMNS = {"image": "jpeg", "caption": "str", "size": "ndarray:int32:2"}


@dataclass(frozen=True)
class Subject:
    """Something that is written once, and read after each damage.

    Args:
        name: For the table.
        write: Writes it into an empty folder.
        read: Reads all of it, and returns what stands for its content.
        damage: Changes one place of one of its files, and says what it did.
        digests: Whether what is written has digests, so that nothing may be silent.
    """

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], str]
    damage: Callable[[Path, random.Random], str] = damage_bytes
    digests: bool = True


def _rows(size: int = 48) -> Iterable[dict[str, Any]]:
    for row in range(size):
        noise = random.Random(row)
        yield {
            "image": noise.randbytes(200 + row),
            "caption": f"caption {row} " + "word " * noise.randrange(9),
            "size": np.array([row, row + 1], np.int32),
        }


def _content(batches: Iterable[Any]) -> str:
    """A digest of all values of all batches, in order."""
    digest = hashlib.sha256()
    for batch in batches:
        for name in sorted(batch):
            values = batch[name]
            plain = values.tolist() if hasattr(values, "tolist") else list(values)
            digest.update(repr((name, plain)).encode())
    return digest.hexdigest()


def _read_mds(folder: Path) -> str:
    return _content(MdsSource(folder, batch_size=8, shuffle=False))


def _read_zarr(folder: Path) -> str:
    return _content(ZarrSource(folder, batch_size=8, shuffle=False))


class _Angles:
    """A reference whose embeddings tell the row."""

    def embed(self, batch: Any) -> Embeddings:
        angle = torch.as_tensor(np.asarray(batch["sample_id"])).float() / 50
        rows = torch.stack([angle.cos(), angle.sin()], dim=1)
        return Embeddings(rows, -rows, torch.tensor(7.5), torch.tensor(-2.0))


def _ids() -> list[dict[str, Any]]:
    return [{"sample_id": np.arange(first, first + 8)} for first in range(0, 48, 8)]


def _write_cache(folder: Path) -> None:
    build(folder, _ids(), _Angles(), chunk_rows=16, identity={"data": "numbers"})


def _read_cache(folder: Path) -> str:
    reference = CachedReference.open(folder)
    digest = hashlib.sha256()
    for batch in _ids():
        found = reference.embed(batch)
        digest.update(found.image.numpy().tobytes() + found.text.numpy().tobytes())
        digest.update(repr((found.logit_scale, found.logit_bias)).encode())
    return digest.hexdigest()


class _BySize:
    def score(self, super_batch: Any) -> ExampleScores:
        return ExampleScores(torch.as_tensor(super_batch["size"])[:, 0].float())


def _dataset(folder: Path) -> JestDataset:
    source = MdsSource(folder, batch_size=8, columns=["size"])
    return JestDataset(source, _BySize(), super_batch_size=16, sub_batch_size=4)


def _write_state(folder: Path) -> None:
    write_mds(folder / "data", _COLUMNS, _rows())
    with _dataset(folder / "data") as dataset:
        next(iter(dataset))
        state = dataset.state_dict()
    (folder / "state.json").write_text(json.dumps(state))


def _read_state(folder: Path) -> str:
    state = json.loads((folder / "state.json").read_bytes())
    with _dataset(folder / "data") as dataset:
        dataset.load_state_dict(state)
        return _content(dataset)


def _write_run(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as data:
        for part in ("train", "test"):
            write_mds(Path(data) / part, clip_runs.COLUMNS, clip_runs.rows(32))
        train(clip_runs.config_for(Path(data), folder, steps=2, checkpoint_every=2))
    for path in folder.iterdir():
        if not path.name.startswith("checkpoint"):
            path.unlink()


def _read_checkpoint(folder: Path) -> str:
    contents = checkpoint.load(folder / "checkpoint.pt")
    checkpoint.model_of(contents)
    digest = hashlib.sha256()
    _take_in(digest, contents)
    return digest.hexdigest()


def _take_in(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(value.contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        for key in value:
            digest.update(repr(key).encode())
            _take_in(digest, value[key])
    elif isinstance(value, list | tuple):
        for part in value:
            _take_in(digest, part)
    else:
        digest.update(repr(value).encode())


SUBJECTS = [
    Subject("MDS", lambda path: write_mds(path, _COLUMNS, _rows(), shard_bytes=4096), _read_mds),
    Subject(
        "MDS, zstd",
        lambda path: write_mds(path, _COLUMNS, _rows(), shard_bytes=4096, compression="zstd"),
        _read_mds,
    ),
    Subject("Zarr", lambda path: write_zarr(path, _COLUMNS, _rows(), chunk_rows=16), _read_zarr),
    Subject("reference cache", _write_cache, _read_cache),
    Subject("checkpoint", _write_run, _read_checkpoint),
    Subject(
        "state",
        _write_state,
        _read_state,
        damage=damage_state,
    ),
]
