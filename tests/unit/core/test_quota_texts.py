"""The core by example: what a user is told whose quota has no room, and what counts meanwhile."""

from __future__ import annotations

import dataclasses
import math

import pytest

from arrayd.errors import NoRoom
from arrayd.wire.grant import Grant
from arrayd_server.core.model import Peer
from arrayd_server.core.quotas import Limits
from tests.support.core_files import File, wanted
from tests.support.core_script import MEDIUM, SMALL, World
from tests.support.core_town import ANN, LAB, LABS, founded, got, has, limit


@pytest.fixture
def town() -> World:
    """Give a world with sessions of Ann, Bob and root."""
    return founded()


def test_what_is_only_pinned_is_to_be_evicted(town: World) -> None:
    """Bob holds nothing: there is nothing that he could release."""
    limit(town, bob=Limits(bytes=60))
    grant = town.load(b"bob", SMALL, pin=math.inf)
    town.release(b"bob", grant)
    error = got(town, b"bob", MEDIUM)
    assert "yours are f25 25 B. Evict what is pinned or kept (`arrayd evict`), or" in str(error)
    town.evict()
    town.free_all()
    assert isinstance(got(town, b"bob", MEDIUM), Grant)


class Shy:
    """An identity that is put into words as few times as may be."""

    told = 0

    def __str__(self) -> str:
        Shy.told += 1
        return f"n{Shy.told}"


def test_of_many_blocks_the_largest_are_named(town: World) -> None:
    """The others are counted: nothing is said, or sorted, of thousands at each refusal."""
    limit(town, bob=Limits(blocks=30))
    for number in range(30):
        grant = got(town, b"bob", File(f"f{number}", 1 + number % 20))
        town.block(grant.segment).identity = Shy()
    error = got(town, b"bob", MEDIUM)
    assert "yours are n1 20 B, n2 19 B, n3 18 B, n4 17 B, n5 16 B and 25 more. Rel" in str(error)
    assert Shy.told == 5


def test_a_group_has_what_is_loaded_for_one_who_has_gone(town: World) -> None:
    """A load that nobody waits for outlives its session: it counts for the group until its end."""
    eve = Peer(60003, 15, "py", 15, foreign=True, groups=frozenset({LAB}))
    limit(town, lab=Limits(bytes=30))
    assert isinstance(got(town, b"ann", SMALL), Grant)
    accounts = town.registry.blocks.accounts
    town.hello(b"eve", eve.pid, peer=eve)
    to = town.asker(b"eve", wanted(MEDIUM))
    town.do(town.registry.prefetch, to, wanted(MEDIUM), town.now)
    town.end(b"eve")
    assert accounts.in_flight(LABS) == 1
    town.work_off()
    assert has(town, LABS) == (25, 1)  # it was refused
    assert eve.uid not in accounts.members(LABS)  # nothing of hers is left


def test_the_block_of_a_load_that_goes_on_names_no_path_of_the_first(town: World) -> None:
    """It is loaded anew, as Ann has asked for it: Bob's path for it is his."""
    limit(town, bob=Limits(bytes=10))
    his = town.get(b"bob", MEDIUM)
    hers = town.get(b"ann", MEDIUM)
    (job,) = town.registry.jobs.table.values()
    job.waiters[hers].asked = dataclasses.replace(MEDIUM, user=ANN.uid)
    town.work_off()
    assert isinstance(town.answer(his), NoRoom)
    grant = town.answer(hers)
    assert isinstance(grant, Grant)
    block = town.block(grant.segment)
    assert (block.identity.user, block.user) == (ANN.uid, ANN.uid)
