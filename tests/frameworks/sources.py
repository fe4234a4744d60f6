"""What a loader does as a source, in the words of the table of docs/sources.md.

Each loader numbers its rows from 0 and yields batches of 10. A sub-batch is a whole super-batch of
50, in an order drawn by its position, so that a lost, repeated or displaced row cannot hide.
"""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jest_loader import JestDataset, UniformSelector
from tests.processes import launch

WHOLE, LEFT_OVER = 200, 230  # Rows: of four super-batches, and of 30 rows more.
PAGE = Path(__file__).parents[2] / "docs/sources.md"

Make = Callable[[int], Any]
"""Returns a new source of so many rows."""
Number = Callable[[Any], Any]
Rows = list[list[int]]

# By us, or by webdataset itself.
REFUSED = "must read rows of its own|add an explicit nodesplitter"


def table() -> dict[str, dict[str, str]]:
    """The page's table: by loader the cells by column, without what it yields."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| ")
    ]
    [header] = [row for row in rows if row[0] == "loader"]
    return {
        row[0]: dict(zip(header[2:], row[2:], strict=True))
        for row in rows
        if len(row) == len(header) and row is not header
    }


def check(name: str, make: Make, number: Number) -> None:
    """Compare the row of a loader in the page's table with what it does on one rank.

    Args:
        name: The row's first cell.
        make: Makes the loader.
        number: The numbers of a batch's rows.
    """
    data = Measuring(make, number)
    expected = table()[name]
    del expected["two ranks"]
    found = {
        "length": data.length(),
        "order": data.order(),
        "within an epoch": data.resumes(data.within_epochs),
        "from its end": data.resumes(data.ends_of_epochs),
    }
    assert found == expected, f"{name}: {found}"


def check_ranks(name: str, make: Callable[..., Any], number: Number, *arguments: Any) -> None:
    """Compare the row of a loader in the page's table with what two processes do with it.

    Args:
        name: The row's first cell.
        make: Makes the loader of ``WHOLE`` rows, as a function at the top of a module.
        number: The numbers of a batch's rows, such a function too.
        arguments: Of ``make``.
    """
    ended = launch(2, _rows_of_rank, make, number, arguments)
    if all(one.error and re.search(REFUSED, one.error) for one in ended):
        found = "refused"
    else:
        first, second = (one.result for one in ended)
        assert first, ended
        assert len(first) == len(second)
        found = "shared" if set(first) & set(second) else "own rows"
    assert found == table()[name]["two ranks"], f"{name}: {found}"


class Measuring:
    """Measures a loader; see ``check``."""

    def __init__(self, make: Make, number: Number) -> None:
        self._make, self._number = make, number

    def dataset(self, num_rows: int = WHOLE, seed: int = 0) -> JestDataset:
        torch.manual_seed(seed)
        return JestDataset(
            self._make(num_rows),
            None,
            UniformSelector(),
            super_batch_size=50,
            sub_batch_size=50,
        )

    def numbers(self, batch: Any) -> list[int]:
        return np.asarray(self._number(batch)).flatten().tolist()

    def passed(self, dataset: JestDataset) -> Rows:
        return [self.numbers(batch) for batch in dataset]

    def length(self) -> str:
        """Whether ``len`` is known, and right."""
        for num_rows in (WHOLE, LEFT_OVER):
            try:
                assert len(self.dataset(num_rows)) == 4
            except TypeError:
                return "no"
        return "yes"

    def order(self) -> str:
        """Whether epochs have an order of their own, and whether ``set_epoch`` chooses it."""
        # The rows of each super-batch, since the draw of an epoch has an order of its own too.
        data = self.dataset()
        first, second = ([*map(sorted, self.passed(data))] for _ in range(2))
        told = self.dataset()
        told.set_epoch(1)
        alone = [*map(sorted, self.passed(told))]
        assert all(len(rows) == 4 for rows in (first, second, alone))
        if first == second:
            return "the same"
        return "`set_epoch`" if second == alone else "each pass"

    def resumes(self, states: Callable[[int], Iterator[tuple[dict[str, Any], Rows]]]) -> str:
        """Whether a run goes on from states as it went on without a stop."""
        exact = True
        for num_rows in (WHOLE, LEFT_OVER):
            try:
                found = [*states(num_rows)]
            except ValueError as error:
                if not re.search("can be neither saved|reads that epoch again", str(error)):
                    raise
                return "no state"
            for state, expected in found:
                try:
                    exact &= self.rest(num_rows, state) == expected
                except ValueError:  # It yields more or fewer rows than its length allows.
                    exact = False
        return "exact" if exact else "not"

    def rest(self, num_rows: int, state: dict[str, Any]) -> Rows:
        """What a resumed run delivers up to the end of epoch 1."""
        data = self.dataset(num_rows, seed=1)
        data.load_state_dict(copy.deepcopy(state))
        found: Rows = []
        for epoch in range(data.epoch, 2):
            data.set_epoch(epoch)
            found += self.passed(data)
        return found

    def within_epochs(self, num_rows: int) -> Iterator[tuple[dict[str, Any], Rows]]:
        """The states after each sub-batch but an epoch's last, and what followed."""
        data, states, delivered = self.dataset(num_rows), [], []
        for _ in range(2):
            for batch in data:
                delivered.append(self.numbers(batch))
                states.append(copy.deepcopy(data.state_dict()))
        assert len(states) == 8
        return ((states[n - 1], delivered[n:]) for n in (1, 2, 3, 5, 6, 7))

    def ends_of_epochs(self, num_rows: int) -> Iterator[tuple[dict[str, Any], Rows]]:
        """The states after an epoch's last sub-batch and after the epoch, and what followed.

        Also those of a loop that leaves epochs after their length, as most frameworks do.
        """
        data = self.dataset(num_rows)
        for _ in data:
            last = copy.deepcopy(data.state_dict())
        after = copy.deepcopy(data.state_dict())
        following = self.passed(data)
        yield last, following
        yield after, following
        data = self.dataset(num_rows)
        for _, _ in zip(range(4), data, strict=False):
            last = copy.deepcopy(data.state_dict())
        data.set_epoch(1)
        after = copy.deepcopy(data.state_dict())
        following = self.passed(data)
        last_of_loop = self.dataset(num_rows, seed=1)
        last_of_loop.load_state_dict(last)
        last_of_loop.set_epoch(1)
        yield last_of_loop.state_dict(), following
        yield after, following


def _rows_of_rank(rank: int, make: Callable[..., Any], number: Number, arguments: Any) -> list[int]:
    data = Measuring(lambda _: make(*arguments), number)
    return [row for rows in data.passed(data.dataset(seed=rank)) for row in rows]
