"""Whether a source deals its rows among ranks."""

from itertools import combinations

from jest_loader.loader.data_loader import set_epoch
from jest_loader.protocols import ShardableSource, Source
from jest_loader.state_digest import with_digest
from jest_loader.testing.passes import Rows, Subject, check_each_once, check_equal, flat
from jest_loader.testing.source_states import resumed, stateful

_NUM_RANKS = (1, 2, 4)


def check_ranks(subject: Subject, epochs: list[Rows], *, resumes: bool) -> None:
    """Check the parts of 1, 2 and 4 ranks.

    Raises:
        AssertionError: naming the ranks that share a row, the rows that none has, or the state that
            is not the same on all or from which a rank does not go on.
    """
    for num_ranks in _NUM_RANKS:
        sources = [_dealt(subject.make(), rank, num_ranks) for rank in range(num_ranks)]
        for epoch in (0, 1):
            where = f"epoch {epoch} on {num_ranks} ranks"
            parts = [subject.epoch(source, epoch, where) for source in sources]
            check_each_once(
                ((f"rank {rank}", flat(part)) for rank, part in enumerate(parts)), where
            )
            _check_whole(epochs[epoch], parts, where)
        if resumes:
            _check_states(subject, num_ranks)


def _dealt(source: Source, rank: int, num_ranks: int) -> Source:
    assert isinstance(source, ShardableSource), (
        f"a source that deals its rows must have shard(rank, num_ranks), and a "
        f"{type(source).__name__} does not; add it, or pass shards=False"
    )
    source.shard(rank, num_ranks)
    return source


def _check_whole(alone: Rows, parts: list[Rows], where: str) -> None:
    """Check that the ranks have all rows together, but for a batch that each may drop."""
    size = len(alone[0])
    drops = all(len(batch) == size for part in parts for batch in part)
    missing = len(flat(alone)) - sum(len(flat(part)) for part in parts)
    most = size * len(parts) - 1 if drops else 0
    assert missing <= most, (
        f"{where}, {missing} rows of {len(flat(alone))} are on no rank, and {most} may be dropped; "
        "deal every row to a rank"
    )


def _check_states(subject: Subject, num_ranks: int) -> None:
    """Check that after a batch all ranks have one state, and go on from it."""
    where = f"after a batch of epoch 0 on {num_ranks} ranks"
    states, rests = [], []
    for rank in range(num_ranks):
        source = _dealt(subject.make(), rank, num_ranks)
        set_epoch(source, 0)
        batches = iter(source)
        next(batches)
        states.append(stateful(source).state_dict())
        rests.append(subject.read(batches, where))
    for one, other in combinations(range(num_ranks), 2):
        assert with_digest(states[one]) == with_digest(states[other]), (
            f"the state {where} must be the same on all, and differs on ranks {one} and {other}; "
            "save the batches that each rank has had, not its rows"
        )
    for rank, rest in enumerate(rests):
        source = resumed(_dealt(subject.make(), rank, num_ranks), states[0])
        check_equal(
            subject.epoch(source, 0, where), rest, f"resumed {where}, on rank {rank}",
            "load_state_dict must go on with this rank's rows",
        )  # fmt: skip
