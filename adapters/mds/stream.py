"""Where MDS shards are, as users say it."""

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from jest_loader.checks import is_number, shown, whole, without_secrets


@dataclass(frozen=True)
class MdsStream:
    """A folder of MDS shards: a remote one, or one of several that are mixed.

    Args:
        path: The folder that holds index.json: a local path or a URL.
        local: The folder that shards are fetched into when they are first read; processes may share
            it. None reads them at ``path``, which must be local then.
        limit_bytes: The most bytes that shards may take in ``local``; to make room, the least
            recently used are deleted. None for no limit.
        proportion: The stream's part of an epoch, relative to the other streams' proportions. An
            epoch has as many rows as all streams together: rows of a small stream are repeated, and
            a large stream gives other rows in each epoch. None for all streams: each row once.

    Raises:
        ValueError: if a URL has no ``local`` folder, or an argument is out of range.
    """

    path: str | PathLike[str]
    local: str | PathLike[str] | None = None
    limit_bytes: int | None = None
    proportion: float | None = None

    def __post_init__(self) -> None:
        for name, path in (("path", self.path), ("local", self.local)):
            if not isinstance(path, str | PathLike) and (name == "path" or path is not None):
                raise ValueError(
                    f"{name} must be a folder, or a URL with a local folder, got "
                    f"{shown(repr(path))}; give it as text or pathlib.Path"
                )
        if self.limit_bytes is not None:
            whole("limit_bytes", self.limit_bytes, 1)
        if self.local is None and "://" in os.fspath(self.path):
            raise ValueError(
                "shards at a URL are fetched into a local folder, but "
                f"{without_secrets(self.path)} has none; give one as in "
                "MdsStream(url, local=folder)"
            )
        if self.local is not None and Path(self.local).resolve() == Path(self.path).resolve():
            raise ValueError(
                f"local must be another folder than path, since its files may be dropped, got "
                f"{self.path} for both; leave local out to read shards where they are"
            )
        if self.limit_bytes is not None and self.local is None:
            raise ValueError("limit_bytes limits the folder local, but that is None; give both")
        given = self.proportion
        if given is not None and not (is_number(given) and 0 < given < float("inf")):
            raise ValueError(
                f"proportion must be a positive number or None, got {shown(repr(given))}"
            )
