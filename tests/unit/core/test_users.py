"""The core by example: other users than the daemon's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from arrayd.errors import AccessDenied, ArraydError, LoadError, NoRoom, NoSuchBlock
from arrayd.wire.grant import Grant
from arrayd_server.core import users
from arrayd_server.core.effects import Probe, Reply, Share
from arrayd_server.core.model import (
    Asker,
    AwaitedItem,
    Block,
    Claims,
    Hold,
    Peer,
    ProbedFacts,
    Session,
    State,
    Wanted,
)
from arrayd_server.core.quotas import Limits, Quotas
from tests.support.core_files import SPEC, wanted
from tests.support.core_script import SMALL, World

ANN, BOB = Peer(60001, 11, foreign=True), Peer(60002, 12, foreign=True)
OWN, ADMIN = Peer(7, 1), Peer(60009, 19, foreign=True, admin=True)


def block(**how: object) -> Block:
    """Return a sealed block."""
    made = Block("run-1", 1, SPEC, 25, "x", State.SEALED, 0.0, 0.0)
    return dataclasses.replace(made, **how)  # type: ignore[arg-type]  # checked by the test


def test_in_and_out() -> None:
    """A user is in from the first hold to the last; the daemon's own is never named."""
    one = block()
    users.let_in(one, OWN)
    assert one.readers == set() and users.is_in(one, OWN) and not users.is_in(one, ANN)
    users.let_in(one, ANN)
    users.let_in(one, BOB)
    assert one.readers == {ANN.uid, BOB.uid}
    assert users.let_out(one, ANN, [ANN, BOB]) == []
    assert users.let_out(one, ANN, [BOB]) == [Share("run-1")]
    assert users.let_out(one, ANN, []) == []
    assert users.let_all_out(one) == [Share("run-1")] and users.let_all_out(one) == []


def test_pages_that_another_user_may_have_kept() -> None:
    """They are not used again: a pipe or an io_uring may hold them, and no lease sees it."""
    spares = World(100).registry.holds.spares
    spares.seconds, spares.least = 5.0, 1
    mine, hers = block(), block()
    users.let_in(hers, ANN)
    users.let_all_out(hers)
    assert spares.worth(mine)
    assert not spares.worth(hers)


@pytest.mark.parametrize(
    ("peer", "owner", "expected"),
    [(OWN, ANN, True), (ADMIN, ANN, True), (ANN, ANN, True), (ANN, BOB, False), (ANN, OWN, False)],
)
def test_whose_a_block_is(peer: Peer, owner: Peer, expected: bool) -> None:
    """Its user's, the daemon's and an administrator's."""
    assert users.owns(block(user=owner.user), peer) is expected


def test_names_of_users() -> None:
    """Each has names of its own, and sees them as they were given."""
    names = [users.stored_name("x", peer) for peer in (OWN, ANN, BOB)]
    assert len(set(names)) == 3
    assert {users.shown_name(name) for name in names} == {"x"}
    assert users.shown_name("~x/60001/y") == "~x/60001/y"


@pytest.fixture
def town() -> World:
    """Give a world with sessions of Ann and Bob."""
    town = World(100)
    town.hello(b"ann", ANN.pid, peer=ANN)
    town.hello(b"bob", BOB.pid, peer=BOB)
    return town


def test_a_session_is_its_users(town: World) -> None:
    """A process of another user does not speak for it, even with the same pid."""
    assert town.registry.admit(b"ann", ANN.pid, ANN.uid) is None
    assert isinstance(town.registry.admit(b"ann", ANN.pid, BOB.uid), AccessDenied)


def test_a_stated_hold(town: World) -> None:
    """Who was let in may state its hold; a name that somebody has read proves nothing."""
    grant = town.publish(b"ann", "hers")
    assert town.hello(b"bob", BOB.pid, [grant.segment], peer=BOB).holds == {}
    assert set(town.hello(b"ann", ANN.pid, [grant.segment], peer=ANN).holds) == {grant.segment}
    town.registry.claim(b"bob", Claims([(grant.segment, 1)], [grant.segment], 1), town.now)
    assert set(town.registry.block(grant.segment)[0].holders) == {b"ann"}  # type: ignore[union-attr]


def test_a_reference_is_for_its_user(town: World) -> None:
    """Another process of the same user redeems it; another user does not."""
    grant = town.publish(b"ann", "hers")
    town.hello(b"her", 13, peer=dataclasses.replace(ANN, pid=13))
    token = bytes(8)
    town.naive.lend(b"ann", grant.segment, token)
    town.do(town.registry.lend, b"ann", grant.segment, token, town.now)
    for nonce, kind in ((b"bob", NoSuchBlock), (b"her", Grant)):
        to = town.asker(nonce)
        if nonce == b"her":
            town.naive.arrive(grant.segment, token)
        town.do(town.registry.redeem, to, grant.segment, token, town.now)
        assert isinstance(town.answer(to), kind)


def test_a_quota(town: World) -> None:
    """A user's own idle blocks make room within the quota; if they do not, it is NoRoom."""
    town.registry.blocks.change_quotas(Quotas(others=Limits(bytes=60)))
    grant = town.load(b"bob", SMALL)
    town.release(b"bob", grant)  # idle, and his
    town.publish(b"bob", "used")
    error = town.answer(town.create(b"bob", 40))
    assert isinstance(error, NoRoom)
    numbers = {"needed": 40, "quota": 60, "held": 50, "waiting": 0}
    assert error.details == {"limit": "bytes", **numbers}
    assert town.registry.block(grant.segment)[0] is not None
    town.naive.evicting = True  # there is room, but not for Bob
    town.create(b"bob", 25)
    town.free_all()
    assert town.registry.block(grant.segment)[0] is None


def test_a_quota_counts_what_is_found_resident(town: World) -> None:
    """A block that others loaded is no way around it, by whichever words it is asked for."""
    town.registry.blocks.change_quotas(Quotas(others=Limits(bytes=20)))
    town.load(b"a", SMALL)
    by_alias = town.answer(town.get(b"bob", SMALL))
    to = town.get(b"bob", wanted(SMALL)._replace(alias="in other words"))
    town.work_off()
    for error in (by_alias, town.answer(to)):
        assert isinstance(error, NoRoom)
        assert error.details["quota"] == 20


@dataclasses.dataclass
class Words:
    """An identity that tells an error in words of its own."""

    words: str

    def retold(self, error: ArraydError, other: object) -> ArraydError:
        """Return it."""
        return type(error)(error.message.replace(str(other), self.words))


def test_an_error_is_told_in_the_words_of_who_asked(town: World) -> None:
    """Bob waits for the load that Ann has begun, by another path: of hers he is not told."""
    tos = [Asker(nonce, 1) for nonce in (b"ann", b"bob")]
    for number, (to, peer) in enumerate(zip(tos, (ANN, BOB), strict=True)):
        town.registry.hello(Asker(to.nonce, 0), peer, [], 0, 1.0)
        waiter = AwaitedItem(asked=Words(f"/{number}"))
        town.registry.get(to, Wanted(("f", number), f"/{number}"), waiter, 1.0)
    first, second = list(town.registry.jobs.table)
    for number in (first, second):
        town.registry.probed(number, ProbedFacts("key", SPEC, 25, 1), 1.0)
    replies = town.registry.failed(first, LoadError("/0 is cut off."), 1.0)
    told = {reply.to: str(reply.body) for reply in replies if isinstance(reply, Reply)}
    assert told == {tos[0]: "/0 is cut off.", tos[1]: "/1 is cut off."}


def test_a_grant_names_the_path_that_was_asked_for(town: World) -> None:
    """Ann has had it loaded, Bob gets it as well, and she again by another path."""
    peers = {b"ann": ANN, b"bob": BOB}
    told = []
    for number, nonce in enumerate((b"ann", b"bob", b"ann")):
        town.registry.hello(Asker(nonce, 0), peers[nonce], [], 0, 1.0)
        waiter = AwaitedItem(asked=Words(f"/{number}"))
        wanted, to = Wanted(("f", number), f"/{number}"), Asker(nonce, number + 1)
        effects = town.registry.get(to, wanted, waiter, 1.0)
        (probe,) = [one for one in effects if isinstance(one, Probe)]
        effects = town.registry.probed(probe.job, ProbedFacts("key", SPEC, 25, 1), 1.0)
        if not number:
            town.registry.filled(probe.job, 0)
            effects = town.registry.sealed(probe.job, 1.0)
        bodies = [one.body for one in effects if isinstance(one, Reply)]
        told += [body.source for body in bodies if isinstance(body, Grant)]
    assert told == [str(Words(f"/{number}")) for number in range(3)]


class Unseen(dict[str, Block]):
    """A table in which blocks are found by name, and that nobody goes through."""

    def __iter__(self) -> Iterator[str]:
        """Fail."""
        raise AssertionError("all blocks are looked at")

    values = items = keys = __iter__  # type: ignore[assignment]  # they fail alike


def test_who_is_told_of_what(town: World) -> None:
    """Ann of what was made for her and what she holds, and others' blocks are not looked at."""
    blocks = town.registry.blocks
    for number, owner in enumerate((ANN.uid, BOB.uid, None, ANN.uid), 1):
        name = f"run-{number}"
        blocks.add(block(segment=name, number=number, user=owner))
    session = Session(b"x", ANN, 0.0)
    session.holds["run-3"] = Hold(1, 0.0)
    assert len(users.told_of(blocks, {b"x": session}, ADMIN)) == 4
    blocks.table = Unseen(blocks.table)
    told = users.told_of(blocks, {b"x": session}, ANN)
    assert [one.segment for one in told] == ["run-1", "run-3", "run-4"]
    assert [one.segment for one in users.told_of(blocks, {}, BOB)] == ["run-2"]
    gone = blocks.table["run-2"]
    blocks.mark_unlinked(gone)
    blocks.remove(gone)
    assert users.told_of(blocks, {}, BOB) == [] and list(blocks.by_user) == [ANN.uid]
