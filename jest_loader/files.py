"""Files and folders that appear whole or not at all, and the values that JSON can hold."""

import errno
import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from jest_loader.checks import shown

BelongsTo = Callable[[str], bool]
"""Whether a file belongs to a folder, by its path within it."""

PART = r"\.[^/]+\.[0-9a-f]{32}\.part"
"""A pattern of the names that ``replacing`` gives to files until they are whole."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_OURS = (
    "must be a file of its own to be written to, but is a link, a second name of a file, or no "
    "regular file; remove it, or choose another folder"
)


@contextmanager
def new_folder(
    path: str | os.PathLike[str], *, overwrite: bool, files_at: Callable[[Path], BelongsTo]
) -> Iterator[Path]:
    """A folder to write into, which takes the name ``path`` once the block ends without an error.

    Until then it is a hidden sibling of ``path``. An error removes it; what is left of a killed
    process is ``.NAME.partial-...``, which no reader takes for the folder.

    Args:
        path: The folder to make. One that exists must be empty, or be overwritten.
        overwrite: Whether to replace a folder of the same kind. It stays as it is until the new one
            is whole.
        files_at: Looks into a folder that is to be replaced and says which files belong to it;
            raises ``ValueError`` for a folder of another kind.

    Raises:
        ValueError: if ``path`` cannot be made, exists and may not be replaced, or holds anything
            else.
        OSError: if the disk is full; it names ``path``.
    """
    final = Path(path).resolve()  # The folder itself is replaced, not a link to it.
    _check_free(final, files_at, overwrite=overwrite)
    tag = uuid4().hex[:8]
    partial = final.with_name(f".{final.name}.partial-{tag}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise ValueError(
            f"the output must be in a folder that can be written to, but {str(final)!r} is not "
            f"({error.strerror}); choose another"
        ) from error
    try:
        with _full_disk_named(final):
            yield partial
            _put_in_place(partial, final, tag)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    """Let the error of a full disk, which has no name in it, say what could not be written."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in _FULL:
            raise
        text = f"{error.strerror} (make room, or choose another place)"
        raise OSError(error.errno, text, str(path)) from error


def _put_in_place(partial: Path, final: Path, tag: str) -> None:
    if not final.exists():
        partial.rename(final)
        return
    replaced = final.with_name(f".{final.name}.replaced-{tag}")
    final.rename(replaced)
    partial.rename(final)
    shutil.rmtree(replaced)


def _check_free(path: Path, files_at: Callable[[Path], BelongsTo], *, overwrite: bool) -> None:
    if not path.name:
        raise ValueError(f"the output must be a folder with a name, got {str(path)!r}; give one")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise ValueError(
            f"the output must not exist yet, got {str(path)!r}; choose another, or set overwrite"
        )
    check_only(path, files_at(path))


def check_only(path: Path, belongs: BelongsTo) -> None:
    """Raise ``ValueError`` if the folder, which is to be deleted, holds what does not belong to it.

    Args:
        path: The folder.
        belongs: Whether a file does, by its path within the folder, with slashes.
    """
    for name in strangers(path, belongs):
        raise ValueError(
            f"all files of what is overwritten must belong to it, but {str(path)!r} also holds "
            f"{shown(name)}; move that away, or choose another output"
        )


def strangers(path: Path, belongs: BelongsTo) -> Iterator[str]:
    """Files and links below a folder that do not belong to it; links are not followed."""
    for folder, folders, files in os.walk(path):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*files, *links]):
            file = Path(folder, name)
            within = file.relative_to(path).as_posix()
            if file.is_symlink() or not belongs(within):
                yield within


@contextmanager
def replacing(path: Path, *, scratch: Path | None = None) -> Iterator[Path]:
    """A file to write, which takes the name ``path`` once it is whole and on disk.

    Args:
        path: The file to make, or to replace. An error leaves it as it was.
        scratch: A folder of the same file system to write in until then; None for that of ``path``.
    """
    # Not by process id: processes on several machines may have the same.
    part = (scratch or path.parent) / f".{path.name}.{uuid4().hex}.part"
    try:
        with _full_disk_named(path):
            yield part
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def open_regular(path: Path) -> int:
    """The descriptor of a regular file to read; what is none, as a pipe or a device, is not opened.

    Raises:
        OSError: if it cannot be opened or is no regular file; ``strerror`` says why.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def read_regular(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file; what is none, such as a pipe or a device, is not opened.

    Raises:
        OSError: if it cannot be read, is no regular file, or has more bytes; ``strerror`` says why.
    """
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise OSError(errno.EFBIG, f"more than {most_bytes >> 20} MiB", str(path))
        content = file.read(size + 1)
    if len(content) != size:
        raise OSError(errno.EIO, "its size changes while it is read", str(path))
    return content


def open_to_append(path: Path) -> int:
    """The descriptor of a file to read and append to, made if it is not there; no link is followed.

    Raises:
        ValueError: if ``path`` is a link, has a second name, or is no regular file: what is written
            to it would land elsewhere.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise ValueError(f"{path} {_NOT_OURS}") from error
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise ValueError(f"{path} {_NOT_OURS}")
    return descriptor


def save_json(path: Path, values: dict[str, Any]) -> None:
    """Write ``values`` to ``path``, in place of what was there; what is not finite as null."""
    with replacing(path) as part:
        part.write_text(json.dumps(finite(values), indent=1, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """JSON values, with null in place of numbers that are not finite, which JSON lacks."""
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
