"""The largest micro-batch that fits into a memory budget."""

from collections.abc import Callable

import torch


class MemoryBudget:
    """Finds the largest micro-batch that fits, once, by trying ever larger ones.

    Args:
        max_bytes: The most that running a micro-batch may take above what is in use before: its
            inputs on the device, activations and outputs.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size = 0  # The micro-batch that fits.
        self._tried = 0  # Rows of the largest batch that was measured.

    def micro_batch_size(
        self, num_rows: int, run: Callable[[int], object], device: torch.device
    ) -> int:
        """A power of two, or ``num_rows`` if all fit at once.

        Args:
            num_rows: Rows of the batch.
            run: ``run(rows)`` runs the model on the first ``rows`` rows of the batch.
            device: Where it runs.

        Raises:
            ValueError: if not even one row fits, or memory cannot be measured on ``device``.
        """
        all_fitted = self._size == self._tried
        if num_rows > self._tried and all_fitted:
            _check_device(device)
            run(1)  # What libraries allocate at their first use is not the micro-batch's.
            self._size = largest_that_fits(
                lambda rows: peak_bytes(lambda: run(rows), device), self._max_bytes, num_rows
            )
            self._tried = num_rows
        return self._size


def largest_that_fits(peak: Callable[[int], int], max_bytes: int, most: int) -> int:
    """The largest of 1, 2, 4, ... and ``most`` whose peak is at most ``max_bytes``.

    Peaks grow about linearly, so each is predicted from the two before it, and a size that would
    not fit is not tried.

    Args:
        peak: ``peak(rows)`` runs the model on that many rows and measures its peak in bytes.
        max_bytes: The limit.
        most: Rows of the batch.

    Raises:
        ValueError: if one row does not fit.
    """
    fits, needed, growth = 1, peak(1), 0.0
    if needed > max_bytes:
        raise ValueError(
            f"max_memory_bytes must be enough for one candidate, which takes {needed}, "
            f"got {max_bytes}"
        )
    while fits < most:
        rows = min(2 * fits, most)
        if needed + growth * (rows - fits) > max_bytes:
            break
        found = peak(rows)
        if found > max_bytes:
            break
        growth = max(0.0, (found - needed) / (rows - fits))
        fits, needed = rows, found
    return fits


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most CUDA memory in use while ``run`` runs, above what was in use before.

    Resets PyTorch's peak statistics.
    """
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def _check_device(device: torch.device) -> None:
    if device.type != "cuda":
        raise ValueError(
            f"max_memory_bytes needs a CUDA device, to measure memory, but the model is on "
            f"{device}; give micro_batch_size instead"
        )
