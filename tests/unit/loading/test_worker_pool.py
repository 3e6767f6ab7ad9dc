"""The pool of loaders when its options change while it works; `test_loader_limits` has the rest."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.impostors import Errand, pool, program

MEMORY = 1 << 30


def test_more_loaders_begin_at_once() -> None:
    """Tasks that waited for one get it; those that had one keep it when there are to be fewer."""

    async def run() -> None:
        async with pool(limit=1) as one:
            with program("silent"):
                errands = [Errand(one) for _ in range(4)]
                assert len(one.workers) == 1
                one.adjust(3, timeout=20.0, memory=MEMORY)
                assert len(one.workers) == 3
                one.adjust(1, timeout=20.0, memory=MEMORY)
                assert len(one.workers) == 3
            assert not any(errand.done for errand in errands)

    asyncio.run(run())


@pytest.mark.parametrize(("user", "children"), [(1, 1), (None, 3)])
def test_headers_leave_one_loader_clean(user: int | None, children: int) -> None:
    """The second header for another user is read by a second loader, as are all that follow.

    Of the daemon's own user it is the fourth: mostly there are few, and what is filled in between
    makes the loader one that needs no child.
    """

    async def run() -> None:
        async with pool(limit=2) as one:
            with program("honest"):
                for _ in range(children):
                    await Errand(one, urgent=True, user=user).result()
                    assert len(one.workers) == 1
                (clean,) = one.workers
                for _ in range(3):
                    await Errand(one, urgent=True, user=user).result()
                    assert [worker.clean for worker in one.workers] == [True, False]
                assert one.workers[0] is clean

    asyncio.run(run())


def test_a_loader_with_other_memory_goes_when_it_is_idle() -> None:
    """At once, or when it has done what it was given; the next task gets a new one."""

    async def run() -> None:
        async with pool() as one:
            with program("honest"):
                await Errand(one).result()
                (first,) = one.workers
                await Errand(one).result()
                assert one.workers == [first]
                one.adjust(1, timeout=20.0, memory=MEMORY // 2)
                assert one.workers == []
                under_way = Errand(one)
                one.adjust(1, timeout=20.0, memory=MEMORY)
                await under_way.result()
                assert one.workers == []
                await Errand(one).result()
                assert [worker.memory for worker in one.workers] == [MEMORY]

    asyncio.run(run())
