"""The sentences for a source that yields other numbers of rows than it must."""

from jest_loader.loader.position import Position
from jest_loader.loader.promises import Promise
from jest_loader.protocols import Source


def too_many(num_found: int, promise: Promise, source: Source, start: Position) -> str:
    """The sentence for a pass, begun at a position, of more rows than the source promises."""
    if start.super_batches > 0:
        reason = (
            f"resumed within it, a {type(source).__name__} began another pass, as litData's does "
            "from an epoch's end; load the state of another step"
        )
    else:
        reason = (
            "each worker of an iterable dataset must yield a share of its own, see "
            "get_worker_info()"
        )
    return (
        f"the source must yield at most the {promise.most} examples that its length allows, but "
        f"yielded {num_found} in epoch {start.epoch}; {reason}"
    )


def too_few(num_found: int, epoch: int, super_batch_size: int) -> str:
    """The sentence for a pass without a super-batch."""
    if num_found == 0:
        return (
            f"the source is empty: it yielded no batch in epoch {epoch}; a generator can be read "
            "only once, pass an object that can be iterated again"
        )
    return (
        f"the source must hold at least one super-batch, but ended after {num_found} examples and "
        f"super_batch_size is {super_batch_size}; use a smaller one, or more data"
    )
