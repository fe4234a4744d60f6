"""Where a tar is, and how it is opened."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jest_loader.adapters.blocks.open_file import OpenFile, Stamp
from jest_loader.checks import shown
from jest_loader.ragged import Stored


class OpenTar(Stored, Protocol):
    """The bytes of a tar, open as long as this object is in use."""

    @property
    def stamp(self) -> Stamp:
        """Changes when the tar does."""
        ...


class Shard(Protocol):
    """A tar that can be opened."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def path(self) -> Path:
        """Where it lies, or would lie; its index stands beside it."""
        ...

    def open(self, *, in_part: bool) -> OpenTar:
        """Its bytes, read where they are looked at.

        Args:
            in_part: Whether only small parts will be.
        """
        ...


@dataclass(frozen=True)
class LocalShard:
    """A tar on a local disk.

    Args:
        path: The file.
    """

    path: Path

    @property
    def name(self) -> str:
        """See ``Shard``."""
        return str(self.path)

    def open(self, *, in_part: bool) -> OpenFile:
        """See ``Shard``.

        Raises:
            FileNotFoundError: if it is gone.
            OSError: if it cannot be opened.
        """
        try:
            return OpenFile(self.path, in_part=in_part)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"shard {shown(self.path)} is not there any more; fetch it again"
            ) from error
