"""Memory that is used again."""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Scratch:
    """Memory that one window after another is read into.

    Fresh memory is not free: for large arrays the kernel hands out and clears new pages each time,
    which can take longer than reading into them.
    """

    def __init__(self) -> None:
        self._memory: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An uninitialized array; it overwrites the last one of that name."""
        num_bytes = dtype.itemsize * prod(shape)
        if name not in self._memory or self._memory[name].nbytes < num_bytes:
            self._memory.pop(name, None)  # before its successor is allocated
            self._memory[name] = np.empty(num_bytes, np.uint8)
        return self._memory[name][:num_bytes].view(dtype).reshape(shape)
