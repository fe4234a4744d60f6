"""What pyarrow raises of a file, as a sentence that names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from jest_loader.adapters.blocks.open_file import OpenFile
from jest_loader.adapters.parquet.byte_file import ByteFile
from jest_loader.checks import shown


class Refused(ValueError):
    """An error that names its file already."""


def check_pyarrow() -> None:
    """Raise ``ModuleNotFoundError`` with what to install, unless pyarrow is here."""
    if find_spec("pyarrow") is None:
        raise ModuleNotFoundError(
            "Parquet files need pyarrow, which the library does not: "
            "pip install 'jest-loader[parquet]'",
            name="pyarrow",
        )


@contextmanager
def opened(path: Path) -> Iterator[ByteFile]:
    """A Parquet file, open within the block.

    Raises:
        FileNotFoundError: if it is not there.
        OSError: if it cannot be opened or read.
        ValueError: in place of whatever pyarrow raises in the block.
    """
    try:
        file = ByteFile(OpenFile(path, in_part=True))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{shown(path)} is not there any more; fetch it again") from error
    try:
        yield file
    except Exception as error:
        if file.failed is not None:
            raise file.failed from None
        if isinstance(error, Refused):
            raise
        raise ValueError(
            f"{shown(path)} must be a whole Parquet file, but cannot be read "
            f"({shown(str(error) or type(error).__name__)}); fetch it again"
        ) from error
