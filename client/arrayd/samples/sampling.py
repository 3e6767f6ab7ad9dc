"""Which positions of an epoch belong to which rank of a data-parallel run.

The ranks share one order. It is dealt out batch by batch: with B rows per batch and W ranks,
position p is in step ``p // (B * W)``, and there in the batch of rank ``p % (B * W) // B``. So one
step of all ranks together has the rows that one rank alone would have with batches of B · W.
Nothing is padded or given out twice: in the last step, some ranks may have a short batch and others
none. Where all ranks must take equally many steps (gradients are averaged in each), `drop_last`
leaves out the last step unless every rank has a full batch there.

A run that is taken up again at position s counts the steps from s, ``p - s`` in place of p: what
was delivered before is known by its positions alone, so the batch size and the number of ranks may
be others. Steps that were counted from 0 would begin with one in which some ranks had no batch.
"""

from __future__ import annotations

from collections.abc import Iterator

from arrayd.common.arguments import flag, whole
from arrayd.errors import SpecMismatch


def batches_of_rank(
    n: int,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
    start: int = 0,
) -> Iterator[tuple[int, int]]:
    """Return the batches of one rank in an epoch.

    Parameters
    ----------
    n
        Positions of the epoch: the rows of the selection.
    batch_size
        Rows per batch of one rank, from 1 on.
    rank, world
        Which rank, from 0 on, of how many.
    drop_last
        Leave out the last step unless all ranks have a full batch in it.
    start
        Position from which on the epoch is delivered, from 0 to `n`.

    Yields
    ------
    start, stop
        Positions of a batch, rising; never empty.

    Raises
    ------
    SpecMismatch
        An argument is not as described. At the call, not when the first batch is taken.
    """
    steps = count_steps(n, batch_size, world, drop_last, start)
    number = whole("rank", rank)
    if not 0 <= number < world:
        raise SpecMismatch(f"rank={rank!r} of world={world}: ranks are counted from 0.")
    return _batches(n, batch_size, number, world, start, steps)


def _batches(
    n: int, batch_size: int, rank: int, world: int, start: int, steps: int
) -> Iterator[tuple[int, int]]:
    for step in range(steps):
        first = start + (step * world + rank) * batch_size
        if first < n:
            yield first, min(n, first + batch_size)


def count_steps(
    n: int, batch_size: int, world: int = 1, drop_last: bool = False, start: int = 0
) -> int:
    """Return the steps of an epoch; in the last one, some ranks may have no batch.

    The arguments, and what is raised, are those of `batches_of_rank`.
    """
    positions, size, ranks = whole("n", n), whole("batch_size", batch_size), whole("world", world)
    for key, value in (("batch_size", size), ("world", ranks)):
        if value < 1:
            raise SpecMismatch(f"{key}={value}: it is a whole number from 1 on.")
    if not 0 <= whole("start", start) <= positions:
        raise SpecMismatch(f"start={start}: an epoch has the positions from 0 to {positions:,}.")
    left, step = positions - start, size * ranks
    return left // step if flag("drop_last", drop_last) else -(-left // step)


def count_rows(
    n: int,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
    start: int = 0,
) -> int:
    """Return how many rows the batches of a rank have together, without going through them.

    The arguments, and what is raised, are those of `batches_of_rank`.
    """
    batches_of_rank(n, batch_size, rank, world, drop_last, start)  # checks them
    full, rest = divmod(n - start, batch_size * world)
    tail = 0 if drop_last else min(batch_size, max(0, rest - rank * batch_size))
    return full * batch_size + tail
