"""check_source passes what holds, and names what each broken source does."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler

from jest_loader.testing.conformance import check_source
from tests.helpers import Counting, numbered_batches


class Sound:
    """A source that keeps each promise; what breaks one overrides a method."""

    num_examples, batch_size = 24, 4

    def __init__(self) -> None:
        self.epoch = self.position = self.loaded = 0
        self.rank, self.num_ranks = 0, 1

    def order(self, epoch: int) -> Any:
        return np.random.default_rng(epoch).permutation(self.num_examples)

    def batches(self, epoch: int) -> list[Any]:
        rows = self.order(epoch)[self.rank :: self.num_ranks]
        return [rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size)]

    def batch(self, rows: Any) -> dict[str, Any]:
        return {"id": rows, "value": rows * 2.0}

    def __len__(self) -> int:
        return len(self.batches(0))

    def __iter__(self):
        start, self.position, self.loaded = self.loaded, self.loaded, 0
        epoch = self.epoch
        for rows in self.batches(epoch)[start:]:
            self.position += 1
            yield self.batch(rows)
        self.epoch, self.position = epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.position, self.loaded = epoch, 0, 0

    def shard(self, rank: int, num_ranks: int) -> None:
        self.rank, self.num_ranks = rank, num_ranks

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch, self.position = state_dict["epoch"], state_dict["position"]
        self.loaded = self.position


def test_a_sound_source_passes():
    check_source(Sound)
    check_source(Sound, id_column="id", num_rows=24)


def test_a_last_batch_with_fewer_rows_passes():
    class Short(Sound):
        num_examples = 22

    check_source(Short)


def test_a_source_that_drops_the_last_batch_passes():
    class Drops(Sound):
        num_examples = 37

        def batches(self, epoch):
            return [rows for rows in super().batches(epoch) if len(rows) == self.batch_size]

    check_source(Drops)


class Unseeded(Sound):
    made = 0

    def __init__(self):
        super().__init__()
        Unseeded.made += 1
        self.seed = Unseeded.made

    def order(self, epoch):
        return np.roll(super().order(epoch), self.seed)


class LoadsAnotherOrder(Sound):
    shift = 0

    def order(self, epoch):
        return np.roll(super().order(epoch), self.shift)

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.shift = 1


class RepeatsARow(Sound):
    def order(self, epoch):
        rows = super().order(epoch)
        rows[9] = rows[1]
        return rows


class LosesTheLastBatch(Sound):
    def batches(self, epoch):
        return super().batches(epoch)[:-1]


class Drifts(Sound):
    def order(self, epoch):
        return super().order(epoch) + epoch


class HasShortBatches(Sound):
    def batches(self, epoch):
        first, *rest = super().batches(epoch)
        return [first[:2], first[2:], *rest]


class MiscountsItsBatches(Sound):
    def __len__(self):
        return 7


class ChangesItsColumns(Sound):
    def batch(self, rows):
        return super().batch(rows) | ({"more": rows} if 0 in rows else {})


class UsesItsMemoryAgain(Sound):
    def __init__(self):
        super().__init__()
        self.memory = np.zeros(self.batch_size, dtype=np.int64)

    def batch(self, rows):
        self.memory[: len(rows)] = rows
        return {"id": np.array(rows), "image": self.memory[: len(rows)]}


class RepeatsItsOrder(Sound):
    def order(self, epoch):
        return super().order(0)


class CountsItsPasses(Sound):
    passes = -1

    def __iter__(self):
        self.passes += 1
        yield from super().__iter__()

    def order(self, epoch):
        return super().order(max(self.passes, 0))


class GoesOnAfterAnEarlyEnd(Sound):
    def __iter__(self):
        self.loaded = self.position
        yield from super().__iter__()

    def set_epoch(self, epoch):
        self.epoch = epoch


class OnePass(Sound):
    read = False

    def batches(self, epoch):
        return [] if self.position == 0 and self.read else super().batches(epoch)

    def __iter__(self):
        yield from super().__iter__()
        self.read = True


class LeavesAThread(Sound):
    end = threading.Event()

    def __iter__(self):
        threading.Thread(target=self.end.wait, name="reader", daemon=True).start()
        yield from super().__iter__()


class LeavesAFile(Sound):
    files: list[Any] = []  # noqa: RUF012 - for all of them

    def __iter__(self):
        self.files.append(open(__file__))  # noqa: SIM115
        yield from super().__iter__()


class ForgetsItsPosition(Sound):
    def load_state_dict(self, state_dict):
        super().load_state_dict({**state_dict, "position": 0})


class IsABatchBehind(Sound):
    def state_dict(self):
        return {"epoch": self.epoch, "position": max(0, self.position - 1)}


class SharesItsState(Sound):
    def __init__(self):
        super().__init__()
        self.state: dict[str, Any] = {}

    def state_dict(self):
        self.state.update(super().state_dict())
        return self.state


class LoadsForEver(Sound):
    kept = 0

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.kept = self.position

    def set_epoch(self, epoch):
        super().set_epoch(epoch)
        self.loaded = self.kept


class ForgetsEpochs(Sound):
    def state_dict(self):
        return {"epoch": 0, "position": self.position}

    def set_epoch(self, epoch):
        if epoch != self.epoch:
            super().set_epoch(epoch)


class DealsAllToEach(Sound):
    def shard(self, rank, num_ranks):
        pass


class LosesRowsOfRanks(Sound):
    def shard(self, rank, num_ranks):
        super().shard(rank, num_ranks + (num_ranks > 1))


class SavesItsRank(Sound):
    def state_dict(self):
        return {**super().state_dict(), "rank": self.rank}


class LoadsTheFirstRank(Sound):
    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.rank = 0


BROKEN = {
    Unseeded: r"in epoch 0 of another source, batch 0 has other rows .*; let make return",
    RepeatsARow: r"epoch 0 has row \w+ in batch 0 and in batch 2; deliver each row once",
    LosesTheLastBatch: r"epoch 0 must have all 24 rows, .* got 20; deliver the last batch too",
    Drifts: r"epoch 1 must have the rows of epoch 0, but lacks 1 of them",
    HasShortBatches: r"batch 0 of epoch 0 must have 4 rows, got 2; only the last",
    MiscountsItsBatches: r"len must be the batches of an epoch, got 7 and 6 in epoch 0",
    ChangesItsColumns: r"batch \d of epoch 0 must have the columns of batch 0",
    UsesItsMemoryAgain: r"batch 0 of epoch 0 changed while later ones were drawn; yield copies",
    RepeatsItsOrder: r"epochs 0 and 1 have the same order; draw another",
    CountsItsPasses: r"after set_epoch\(2\), batch 0 has other rows",
    GoesOnAfterAnEarlyEnd: r"after a pass that was left early, batch 0 has other rows",
    LeavesAThread: r"a pass that was left after a batch left the threads 'reader'; end them",
    LeavesAFile: r"a pass that was left after a batch left .*test_source_checks.py open; close",
    LoadsAnotherOrder: r"resumed after 0 batches of epoch 0, batch 0 has other rows",
    ForgetsItsPosition: r"resumed after 1 batches of epoch 0, batch 0 has other rows .*put it back",
    IsABatchBehind: r"resumed after 1 batches of epoch 0, batch 0 has other rows",
    SharesItsState: r"the state after 0 batches of epoch 0 changed .*; state_dict must return",
    LoadsForEver: r"resumed after 1 batches of epoch 0, in the epoch after, batch 0 has other rows",
    ForgetsEpochs: r"resumed after 1 batches of epoch 1, batch 0 has other rows",
    DealsAllToEach: r"epoch 0 on 2 ranks has row \w+ in rank 0 and in rank 1",
    LosesRowsOfRanks: r"epoch 0 on 2 ranks, 8 rows of 24 are on no rank, and 7 may be dropped",
    SavesItsRank: r"epoch 0 on 2 ranks must be the same on all, and differs on ranks 0 and 1",
    LoadsTheFirstRank: r"on 2 ranks, on rank 1, batch 0 has other rows .*this rank's rows",
}  # fmt: skip


@pytest.mark.parametrize(("kind", "message"), BROKEN.items(), ids=[k.__name__ for k in BROKEN])
def test_a_broken_source_is_named(kind, message, monkeypatch):
    monkeypatch.setattr("jest_loader.testing.leftovers._PATIENCE_S", 0.1)
    LeavesAThread.end.clear()
    try:
        with pytest.raises(AssertionError, match=message):
            check_source(kind)
    finally:
        LeavesAThread.end.set()
        for file in LeavesAFile.files:
            file.close()


def test_what_a_source_lacks_is_said_or_told():
    batches = numbered_batches(8, 4)
    with pytest.raises(AssertionError, match=r"a list does not; add them, or pass resumes=False"):
        check_source(lambda: batches, shuffles=False)
    with pytest.raises(AssertionError, match=r"a list does not; add it, or pass shards=False"):
        check_source(lambda: batches, shuffles=False, resumes=False)
    check_source(lambda: batches, shuffles=False, resumes=False, shards=False)


def test_memory_that_is_used_again_is_seen_beside_sound_ids():
    with pytest.raises(AssertionError, match=BROKEN[UsesItsMemoryAgain]):
        check_source(UsesItsMemoryAgain, id_column="id")


def test_a_source_too_small_or_without_the_column_is_refused():
    with pytest.raises(ValueError, match=r"at least 4 batches to be checked, got 3"):
        check_source(lambda: numbered_batches(3, 4))
    with pytest.raises(ValueError, match=r"must have the column 'id', got 'number', 'caption'"):
        check_source(lambda: numbered_batches(8, 4), id_column="id")
    with pytest.raises(ValueError, match=r"got 0; use smaller batches .*, and begin each pass"):
        check_source(OnePass)


ROWS = [{"n": torch.tensor(n), "caption": f"row {n}"} for n in range(38)]


def seeded(kind):
    return kind(ROWS, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_stateful_data_loader_passes(drop_last):
    def make():
        sampler = seeded(RandomSampler)
        return StatefulDataLoader(ROWS, batch_size=4, sampler=sampler, drop_last=drop_last)

    check_source(make, num_rows=38, shards=False)


def test_a_data_loader_passes():
    def make():
        return DataLoader(ROWS, batch_size=4, sampler=seeded(torch.utils.data.RandomSampler))

    check_source(make, num_rows=38, resumes=False, shards=False)


def test_a_source_without_length_or_size_passes():
    class Bare:
        def __iter__(self):
            yield from numbered_batches(8, 4)

    check_source(Bare, shuffles=False, resumes=False, shards=False)
    check_source(lambda: Counting(8, 4), shards=False)
