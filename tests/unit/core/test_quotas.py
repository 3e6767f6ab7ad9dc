"""The core by example: quotas of users and groups, soft and hard."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from arrayd.errors import NoRoom
from arrayd.wire.grant import Grant
from arrayd_server.core.model import Peer
from arrayd_server.core.quotas import Limits
from tests.support.core_files import File, wanted
from tests.support.core_script import LARGE, MEDIUM, SMALL, World
from tests.support.core_town import (
    ANN,
    ANNS,
    BOB,
    BOBS,
    LAB,
    LABS,
    ROOT,
    founded,
    got,
    has,
    kept,
    limit,
)


@pytest.fixture
def town() -> World:
    """Give a world with sessions of Ann, Bob and root."""
    return founded()


@pytest.mark.parametrize(
    ("limits", "ask", "words", "details"),
    [
        (
            Limits(bytes=60),
            lambda town: got(town, b"bob", MEDIUM),
            "f40 needs 40 B; user 60002 has 25 B in memory and may have 60 B: yours are f25 25 B. "
            "Release arrays, evict what is pinned or kept (`arrayd evict`), or have the daemon's "
            'administrator raise bytes of "bob" in its option quotas.',
            ("bytes", 40, 60, 25),
        ),
        (
            Limits(blocks=1),
            lambda town: got(town, b"bob", MEDIUM),
            "f40 is one more; user 60002 has 1 block in memory and may have 1: yours are f25 25 B",
            ("blocks", 40, 1, 1),
        ),
        (
            Limits(pinned=40),
            lambda town: got(town, b"bob", MEDIUM, pin=9.0),
            "f40 needs 40 B; user 60002 has 25 B pinned or kept and may have 40 B: yours are "
            "f25 25 B. Ask without pin=",
            ("pinned", 40, 40, 25),
        ),
        (
            Limits(pinned=40),
            lambda town: kept(town, b"bob", 30),
            "name:x needs 30 B; user 60002 has 25 B pinned or kept and may have 40 B",
            ("pinned", 30, 40, 25),
        ),
        (
            Limits(sessions=1),
            lambda town: town.registry.holds.quotas.session(BOB, town.now),
            "This session is one more; user 60002 has 1 session and may have 1: yours are 12 py. "
            "Close clients (each arrayd.connect is one), end processes of yours (`kill PID`), or",
            ("sessions", 1, 1, 1),
        ),
        (
            Limits(loads=1),
            lambda town: [town.answer(town.get(b"bob", one)) for one in (LARGE, MEDIUM)][1],
            "f40 is one more; user 60002 has 1 load in flight and may have 1: yours are f60.",
            ("loads", 1, 1, 1),
        ),
    ],
    ids=["bytes", "blocks", "pinned", "kept", "sessions", "loads"],
)
def test_each_hard_limit(
    town: World, limits: Limits, ask: Any, words: str, details: tuple[str, int, int, int]
) -> None:
    """It is NoRoom that says whose quota it is, how much of it is used, and by what."""
    assert isinstance(got(town, b"bob", SMALL, pin=math.inf), Grant)
    limit(town, bob=limits)
    error = ask(town)
    assert isinstance(error, NoRoom)
    assert words in str(error)
    numbers = dict(zip(("limit", "needed", "quota", "held"), details, strict=True))
    assert error.details == {**numbers, "waiting": 0}
    assert town.registry.holds.quotas.session(ANN, town.now) is None  # others have theirs
    assert isinstance(got(town, b"ann", File("f30", 30), pin=math.inf), Grant)


def test_a_group_has_each_block_once(town: World) -> None:
    """What Ann and Bob both hold counts for each, and once for both; others' parts are no secret.

    A block that counts already needs no more room.
    """
    limit(town, lab=Limits(bytes=70))
    got(town, b"ann", MEDIUM)
    assert isinstance(got(town, b"bob", MEDIUM), Grant)
    got(town, b"bob", SMALL)
    assert has(town, ANNS) == (40, 1)
    assert has(town, BOBS) == (65, 2)
    assert has(town, LABS) == (65, 2)
    error = got(town, b"bob", LARGE)
    assert "group lab together has 65 B in memory and may have 70 B" in str(error)
    assert "f40 40 B" not in str(error)  # Ann asked for it first: he is not told her words
    assert "other members" not in str(error)  # he holds all of it
    error = got(town, b"ann", LARGE)
    assert "Release arrays, have other members of the group release arrays, or" in str(error)
    assert 'bytes of "@lab" in its option quotas' in str(error)


def test_the_idle_blocks_of_a_group_go_for_it(town: World) -> None:
    """The least recently used first, whichever member they were made for."""
    limit(town, lab=Limits(bytes=100))
    grants = [town.load(nonce, File(f"f{n}", n)) for nonce, n in ((b"ann", 31), (b"bob", 32))]
    for nonce, grant in zip((b"ann", b"bob"), grants, strict=True):
        town.now += 1
        town.release(nonce, grant)
    assert isinstance(got(town, b"bob", File("f50", 50)), Grant)
    town.free_all()
    assert [town.state(grant.segment) is None for grant in grants] == [True, False]


def test_a_resident_block_has_own_idle_ones_go(town: World) -> None:
    """Who has what nobody uses gets it: the refusal would name nothing that could be released."""
    limit(town, Limits(bytes=60))
    town.load(b"a", MEDIUM)
    mine = town.load(b"bob", SMALL)
    town.release(b"bob", mine)
    assert isinstance(got(town, b"bob", MEDIUM), Grant)
    assert has(town, BOBS) == (40, 1)


def test_to_join_a_load_is_no_way_around(town: World) -> None:
    """Bob waits for what is loaded for Ann: when it is there he is told, and she has it."""
    limit(town, bob=Limits(bytes=30))
    hers, his = town.get(b"ann", MEDIUM), town.get(b"bob", MEDIUM)
    town.work_off()
    assert isinstance(town.answer(hers), Grant)
    error = town.answer(his)
    assert isinstance(error, NoRoom)
    assert (error.details["limit"], error.details["needed"]) == ("bytes", 40)
    assert (error.details["quota"], error.details["held"]) == (30, 0)
    assert "may have 30 B. Have the daemon's administrator raise" in str(error)  # he has nothing


def test_a_reference_is_no_way_around(town: World) -> None:
    """Nor is one that the user's own process has sent: it is refused, and waits for room."""
    town.hello(b"her", 14, peer=dataclasses.replace(ANN, pid=14))
    grant = town.load(b"a", MEDIUM)
    got(town, b"ann", MEDIUM)
    town.naive.lend(b"ann", grant.segment, b"t")
    town.do(town.registry.lend, b"ann", grant.segment, b"t", town.now)
    town.end(b"ann")
    limit(town, Limits(blocks=0))
    to = town.asker(b"her")
    town.do(town.registry.redeem, to, grant.segment, b"t", town.now)
    error = town.answer(to)
    assert "This array is one more; user 60001 has 0 blocks in memory and may have 0." in str(error)
    limit(town)
    town.naive.arrive(grant.segment, b"t")
    to = town.asker(b"her")
    town.do(town.registry.redeem, to, grant.segment, b"t", town.now)
    assert isinstance(town.answer(to), Grant)


def test_soft_limits_order_evictions(town: World) -> None:
    """Idle blocks of who is above go first, until it is not; then the least recently used."""
    files = [(b"ann", 26), (b"bob", 41), (b"bob", 42), (b"bob", 43), (b"a", 27)]
    grants = [town.load(nonce, File(f"f{n}", n)) for nonce, n in files]
    for (nonce, _), grant in zip(files, grants, strict=True):
        town.now += 1
        town.release(nonce, grant)
    limit(town, bob=Limits(soft_bytes=80))
    order = [block.size for block in town.registry.blocks.evictable(10_000, town.now)]
    assert order == [41, 42, 26, 43, 27]
    limit(town, Limits(soft_bytes=20), lab=Limits(soft_bytes=0))
    order = [block.size for block in town.registry.blocks.evictable(10_000, town.now)]
    assert order == [26, 41, 42, 43, 27]
    limit(town, own=Limits(soft_bytes=0))
    assert next(town.registry.blocks.evictable(1, town.now)).size == 27
    limit(town)
    assert next(town.registry.blocks.evictable(1, town.now)).size == 26


def test_a_smaller_limit_drops_nothing(town: World) -> None:
    """What is there stays, and what is new is refused; a larger one lets it in."""
    grant = got(town, b"bob", MEDIUM)
    limit(town, Limits(bytes=10, sessions=0))
    assert has(town, BOBS) == (40, 1)
    assert town.block(grant.segment).holders.keys() == {b"bob"}
    assert isinstance(got(town, b"bob", MEDIUM), Grant)  # it has that
    assert isinstance(got(town, b"bob", SMALL), NoRoom)
    limit(town, Limits(bytes=100))
    assert isinstance(got(town, b"bob", SMALL), Grant)


def test_pins_end_by_themselves(town: World) -> None:
    """A pin counts until its time is over, or the block has gone; a longer one counts on."""
    limit(town, bob=Limits(pinned=60))
    pins = town.registry.blocks.accounts.pins
    got(town, b"bob", SMALL, pin=5.0)
    assert isinstance(got(town, b"bob", MEDIUM, pin=5.0), NoRoom)
    assert isinstance(got(town, b"bob", SMALL, pin=9.0), Grant)  # it is pinned: that costs nothing
    town.sleep(6.0)
    assert pins.of(BOB.uid, town.now) == 25
    town.sleep(4.0)
    assert isinstance(got(town, b"bob", MEDIUM, pin=math.inf), Grant)
    assert pins.of(BOB.uid, town.now) == 40
    town.end(b"bob")
    town.evict()
    assert pins.of(BOB.uid, town.now) == 0
    assert not pins.blocks


def test_short_pins_of_many_blocks_leave_nothing() -> None:
    """What is pinned for a year and evicted at once is forgotten before the year is over."""
    town = World(1000)
    pins = town.registry.blocks.accounts.pins
    for number in range(300):
        block = town.left(5, 10, True, False, False)
        block.segment, block.pinned_until = f"old-{number}", 1e9 + number
        pins.update(block, there=True)
        pins.update(block, there=False)
    assert len(pins._ends) <= 101


@pytest.mark.parametrize("named", [False, True])
def test_root_and_the_daemons_user(town: World, named: bool) -> None:
    """They have no limits but those that entries of theirs say, and count in no group."""
    limits = {"root": Limits(blocks=0), "own": Limits(blocks=0)} if named else {}
    limit(town, Limits(blocks=0, loads=1, sessions=0), lab=Limits(blocks=0), **limits)
    for nonce, size in ((b"a", 41), (b"root", 42)):
        expected = NoRoom if named else Grant
        assert isinstance(got(town, nonce, File(f"f{size}", size)), expected)
    assert has(town, LABS) == (0, 0)
    assert town.registry.holds.quotas.session(ROOT, town.now) is None


def test_who_comes_into_a_group(town: World) -> None:
    """What a user has counts for a group from its first session in it, until it has nothing.

    A session that began before says nothing of it, and takes nothing back.
    """
    eve = Peer(60003, 15, "py", 15, foreign=True)
    limit(town, lab=Limits(bytes=100, sessions=3, loads=1))
    town.hello(b"eve", eve.pid, peer=eve)
    got(town, b"eve", SMALL)
    assert has(town, LABS) == (0, 0)
    inside = dataclasses.replace(eve, pid=16, groups=frozenset({LAB}))
    assert town.registry.holds.quotas.session(inside, town.now) is None
    town.hello(b"inside", inside.pid, peer=inside)
    assert has(town, LABS) == (25, 1)
    error = town.registry.holds.quotas.session(ANN, town.now)
    assert "group lab together has 4 sessions and may have 3" in str(error)
    town.end(b"inside")
    assert has(town, LABS) == (25, 1)
    town.end(b"eve")
    town.evict()
    assert has(town, LABS) == (0, 0)
    town.free_all()
    town.hello(b"eve", eve.pid, peer=eve)
    got(town, b"eve", SMALL)
    assert has(town, LABS) == (0, 0)
    assert town.registry.blocks.accounts.open_sessions(LABS) == 2


def test_a_load_that_others_wait_for_goes_on(town: World) -> None:
    """Bob may have no more, so he is answered; Ann's wait is the load's from then on."""
    limit(town, bob=Limits(bytes=10), lab=Limits(bytes=100))
    his, hers = town.get(b"bob", MEDIUM), town.get(b"ann", MEDIUM)
    assert town.registry.blocks.accounts.in_flight(BOBS) == 1
    town.work_off()
    assert isinstance(town.answer(his), NoRoom)
    grant = town.answer(hers)
    assert isinstance(grant, Grant)
    assert town.block(grant.segment).user == ANN.uid
    assert not any(town.registry.blocks.accounts.loads.values())


def test_a_pin_that_finds_no_room_when_the_load_ends(town: World) -> None:
    """Two loads with room for one pin: one is answered by a grant, one by NoRoom."""
    limit(town, bob=Limits(pinned=50))
    tos = [town.get(b"bob", one, pin=math.inf) for one in (SMALL, MEDIUM)]
    town.work_off()
    assert sorted(type(town.answer(to)).__name__ for to in tos) == ["Grant", "NoRoom"]


def test_jobs_that_wait_for_room_count(town: World) -> None:
    """They will have it: what is asked for meanwhile does not get it as well."""
    full = town.load(b"a", File("f980", 980))
    limit(town, Limits(bytes=60))
    first = town.create(b"bob", 40)
    assert town.answer(first) is None
    error = town.answer(town.create(b"bob", 25))
    assert isinstance(error, NoRoom)
    words = "user 60002 has 0 B in memory, 40 B more waiting for room, and may have 60 B. Give up "
    assert words + "calls that wait for room, or have the daemon's" in str(error)
    assert (error.details["held"], error.details["waiting"]) == (0, 40)
    town.release(b"a", full)
    town.free_all()
    town.work_off()
    assert isinstance(town.answer(first), Grant)


def test_a_question_is_a_load(town: World) -> None:
    """To look into a file takes a loader as well, and so does a load that nobody waits for."""
    limit(town, bob=Limits(loads=1))
    to = town.asker(b"bob")
    town.do(town.registry.info, to, SMALL, town.now)
    other = town.asker(b"bob", wanted(MEDIUM))
    town.do(town.registry.prefetch, other, wanted(MEDIUM), town.now)
    assert isinstance(town.answer(other), NoRoom)
    other = town.asker(b"bob")
    town.do(town.registry.info, other, MEDIUM, town.now)
    assert isinstance(town.answer(other), NoRoom)
    waiting = town.get(b"bob", "a name")  # no load: a name is waited for
    assert town.answer(waiting) is None
