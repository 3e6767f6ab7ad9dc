"""Blocks with members: what one file's fate means for the others (the rest is in the walk)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arrayd.errors import LoadError
from arrayd.wire.grant import Grant, Spec
from arrayd_server.core.effects import Cancel, Effect, Fill, Measure, Probe, Reply, Seal
from arrayd_server.core.model import (
    Asker,
    AwaitedItem,
    BlockMember,
    Edition,
    LoadedMember,
    Peer,
    ProbedFacts,
    State,
    Wanted,
    own_alias,
)
from arrayd_server.core.quotas import Limits, Quotas
from arrayd_server.core.registry import Registry

SPEC = Spec((4,), "<f8", "C", 8)
ANN = Peer(60001, 11, members=True, foreign=True)
BOB = Peer(60002, 12, members=True, foreign=True)
NEW = b"new client"
OLD = b"old client"


@pytest.fixture
def registry() -> Registry:
    """Return a registry with a client that understands members, and one that does not."""
    registry = Registry("run-{}".format, 10_000)
    for nonce in (NEW, OLD):
        peer = Peer(7, 1, members=nonce == NEW)
        registry.hello(Asker(nonce, 0), peer, [], 0, 0.0)
    registry.headroom(10_000, registry.blocks.tightest)
    return registry


def edition(name: str, state: int = 1) -> Edition:
    """Return the state of a file."""
    return Edition(name, state)


def ask(registry: Registry, names: str, request: int = 1) -> list[Effect]:
    """Ask for files of one letter each in one request."""
    waiters = []
    for at, name in enumerate(names):
        member = BlockMember(name, f"/{name}", edition(name), 64 * at, 64)
        waiters.append((Asker(NEW, request, at), AwaitedItem(member=member)))
    return registry.get_together(names, 1000, waiters, 1.0)


def load(registry: Registry, names: str, found: str) -> list[Effect]:
    """Load files together, of which those of `found` are as expected; return what comes of it."""
    (fill,) = ask(registry, names)
    assert isinstance(fill, Fill)
    members = {names.index(name): LoadedMember(f"key {name}", SPEC) for name in found}
    effects = registry.loaded(fill.job, members, 2.0)
    seals = [effect for effect in effects if isinstance(effect, Seal)]
    return effects + [e for seal in seals for e in registry.sealed(seal.job, 3.0)]


def grants(effects: list[Effect]) -> dict[int, Grant]:
    """Return what was granted, by the number of the item."""
    replies = [effect for effect in effects if isinstance(effect, Reply)]
    return {one.to.item: one.body for one in replies if isinstance(one.body, Grant)}


def probes(effects: list[Effect]) -> list[object]:
    """Return what is to be probed."""
    return [effect.identity for effect in effects if isinstance(effect, Probe)]


def test_one_grant_each(registry: Registry) -> None:
    """Each has its own place in the one segment, and who asks again gets the same."""
    found = grants(load(registry, "abc", "abc"))
    assert [grant.offset for grant in found.values()] == [0, 64, 128]
    assert {grant.segment for grant in found.values()} == {"run-1"}
    assert {grant.extent for grant in found.values()} == {192}
    wanted = Wanted("b", "/b", edition=edition("b"))
    (again,) = registry.get(Asker(NEW, 2), wanted, AwaitedItem(), 4.0)
    assert grants([again])[0].offset == 64
    assert len(registry.blocks.table["run-1"].holders) == 1


def test_what_is_not_as_expected_is_loaded_alone(registry: Registry) -> None:
    """The others do not wait for it."""
    effects = load(registry, "abc", "ac")
    assert probes(effects) == ["/b"]
    assert sorted(grants(effects)) == [0, 2]
    assert [member.identity for member in registry.blocks.table["run-1"].members] == ["/a", "/c"]


def test_nothing_is_as_expected(registry: Registry) -> None:
    """Then there is no block."""
    assert probes(load(registry, "ab", "")) == ["/a", "/b"]
    assert registry.blocks.table["run-1"].state is State.UNLINKED


@pytest.mark.parametrize("gives_up", [True, False])
def test_a_prefetch_of_what_is_not_as_expected(registry: Registry, *, gives_up: bool) -> None:
    """It goes on as a load of that file alone, also if its asker gives up; no empty block stays."""
    (fill,) = ask(registry, "a")
    assert isinstance(fill, Fill)
    identity = Wanted("a", "/a", edition=edition("a"))
    registry.prefetch(Asker(OLD, 5), identity, 1.5)
    if gives_up:
        registry.cancel(NEW, 1, 1.6)
    effects = registry.loaded(fill.job, {}, 2.0)
    assert probes(effects) == ["/a"]
    (job,) = registry.jobs.table.values()
    assert job.detached
    assert len(job.waiters) == (not gives_up)
    assert not [effect for effect in effects if isinstance(effect, Seal)]
    assert [block.state for block in registry.blocks.table.values()] == [State.UNLINKED]


def measure(registry: Registry, names: str, sizes: dict[int, int]) -> list[Effect]:
    """Ask for files that are measured first, of which these have a size; return what follows."""
    waiters = [
        (Asker(NEW, 1, at), AwaitedItem(member=BlockMember(name, f"/{name}", edition(name), 0, 0)))
        for at, name in enumerate(names)
    ]
    (measured,) = registry.get_together(names, None, waiters, 1.0)
    assert isinstance(measured, Measure)
    assert [member.identity for member in measured.members] == [f"/{name}" for name in names]
    places = {at: (64 * n, size) for n, (at, size) in enumerate(sizes.items())}
    return registry.measured(measured.job, places, 1000, 2.0)


def test_members_are_measured_first(registry: Registry) -> None:
    """Those of any size lie one behind the other; what has none is loaded alone."""
    effects = measure(registry, "abc", {0: 64, 2: 64})
    assert probes(effects) == ["/b"]
    (fill,) = [effect for effect in effects if isinstance(effect, Fill)]
    found = {at: LoadedMember(f"key {name}", SPEC) for at, name in enumerate("ac")}
    (seal,) = registry.loaded(fill.job, found, 3.0)
    assert isinstance(seal, Seal)
    got = grants(registry.sealed(seal.job, 4.0))
    assert {at: (one.offset, one.extent) for at, one in got.items()} == {0: (0, 128), 2: (64, 128)}


def test_nothing_has_a_size(registry: Registry) -> None:
    """Then there is no block, and nothing is waited for but what is loaded alone."""
    effects = measure(registry, "ab", {})
    assert probes(effects) == ["/a", "/b"]
    assert not registry.blocks.table
    assert len(registry.jobs.table) == 2


def test_measured_members_may_wait_for_no_room(registry: Registry) -> None:
    """As others: each is tried by itself."""
    registry.headroom(900, registry.blocks.tightest)
    effects = measure(registry, "ab", {0: 64, 1: 64})
    assert probes(effects) == ["/a", "/b"]


def test_nobody_waits_for_what_is_measured(registry: Registry) -> None:
    """The job has ended, and what is found comes too late."""
    waiters = [
        (Asker(NEW, 1, at), AwaitedItem(member=BlockMember(name, f"/{name}", None, 0, 0)))
        for at, name in enumerate("ab")
    ]
    (measured,) = registry.get_together("ab", None, waiters, 1.0)
    assert isinstance(measured, Measure)
    assert registry.cancel(NEW, 1, 1.5) == [Cancel(measured.job)]
    assert registry.measured(measured.job, {0: (0, 64)}, 1000, 2.0) == []


def test_a_failure_is_no_error(registry: Registry) -> None:
    """Whatever befalls the block, each is tried by itself."""
    (fill,) = ask(registry, "ab")
    assert isinstance(fill, Fill)
    effects = registry.failed(fill.job, LoadError("removed"), 2.0)
    assert probes(effects) == ["/a", "/b"]
    assert not [effect for effect in effects if isinstance(effect, Reply)]


def test_too_large_for_the_room(registry: Registry) -> None:
    """What has no room at once is loaded one by one: together they wait for nothing."""
    registry.headroom(999, registry.blocks.tightest)
    assert probes(ask(registry, "ab")) == ["/a", "/b"]
    assert not registry.blocks.table


def test_the_block_is_outdated_when_all_its_files_are(registry: Registry) -> None:
    """A file that changes takes nobody else's array with it."""
    load(registry, "ab", "ab")
    registry.release(NEW, [("run-1", 99, 0)], 4.0)
    registry.inspected("run-1", mapped=False, now=4.0)
    for at, name in enumerate("ab"):
        wanted = Wanted(f"{name} anew", f"/{name}", edition=edition(name, 2))
        (probe,) = registry.get(Asker(NEW, 5 + at), wanted, AwaitedItem(), 5.0)
        assert isinstance(probe, Probe)
        found = ProbedFacts(f"key of {name} anew", SPEC, 100, 4)
        registry.probed(probe.job, found, 6.0)
        gone = registry.blocks.table["run-1"].state is State.UNLINKED
        assert gone == (name == "b")


def ask_as(registry: Registry, peer: Peer, names: str) -> list[Effect]:
    """Ask for files in one request of another user, in a session that is called like it."""
    nonce = str(peer.uid).encode()
    registry.hello(Asker(nonce, 0), peer, [], 0, 0.0)
    waiters = []
    for at, name in enumerate(names):
        alias = own_alias(name, peer.user)
        member = BlockMember(alias, f"/{name}", edition(name), 64 * at, 64)
        waiters.append((Asker(nonce, 1, at), AwaitedItem(member=member)))
    return registry.get_together(names, 1000, waiters, 1.0)


def test_each_user_has_members_of_its_own(registry: Registry) -> None:
    """The same files, three times: none is found by another, in whatever words it asks."""
    load(registry, "ab", "ab")
    for peer in (ANN, BOB):
        (fill,) = ask_as(registry, peer, "ab")
        assert isinstance(fill, Fill)
        found = {at: LoadedMember(f"key {name}", SPEC) for at, name in enumerate("ab")}
        (seal,) = registry.loaded(fill.job, found, 2.0)
        assert isinstance(seal, Seal)
        registry.sealed(seal.job, 3.0)
    assert [(b.user, b.readers) for b in registry.blocks.table.values()] == [
        (None, set()),
        (ANN.uid, {ANN.uid}),
        (BOB.uid, {BOB.uid}),
    ]
    for peer, segment in ((ANN, "run-2"), (BOB, "run-3")):
        wanted = Wanted("b", "/b", edition=edition("b"), user=peer.user)
        (again,) = registry.get(Asker(str(peer.uid).encode(), 2), wanted, AwaitedItem(), 4.0)
        assert grants([again])[0].segment == segment
    older = replace(ANN, pid=13, members=False)
    registry.hello(Asker(b"older", 0), older, [], 0, 5.0)
    (probe,) = registry.get(Asker(b"older", 1), Wanted("b", "/b"), AwaitedItem(), 5.0)
    assert isinstance(probe, Probe)
    (fill,) = registry.probed(probe.job, ProbedFacts("key b", SPEC, 100, 4), 6.0)
    assert isinstance(fill, Fill), "the member of the daemon's user is not hers"


def test_nobody_joins_the_load_of_another_users_members(registry: Registry) -> None:
    """Not even by an alias that finds it: she gets a load of her own."""
    ask(registry, "ab")
    registry.hello(Asker(b"ann", 0), ANN, [], 0, 0.0)
    (probe,) = registry.get(Asker(b"ann", 1), Wanted("b", "/b", user=ANN.uid), AwaitedItem(), 2.0)
    assert isinstance(probe, Probe)
    assert registry.jobs.table[probe.job].user == ANN.uid


def test_members_beyond_a_quota(registry: Registry) -> None:
    """They are loaded one by one, and counted as hers: what fits she gets."""
    registry.blocks.change_quotas(Quotas(others=Limits(bytes=999)))
    effects = ask_as(registry, ANN, "ab")
    assert probes(effects) == ["/a", "/b"]
    assert {job.user for job in registry.jobs.table.values()} == {ANN.uid}


def test_an_older_client_gets_a_block_of_its_own(registry: Registry) -> None:
    """It leads to that from then on, for both."""
    load(registry, "ab", "ab")
    wanted = Wanted("a", "/a", edition=edition("a"))
    (probe,) = registry.get(Asker(OLD, 2), wanted, AwaitedItem(), 4.0)
    assert isinstance(probe, Probe)
    (fill,) = registry.probed(probe.job, ProbedFacts("key a", SPEC, 100, 4), 5.0)
    assert isinstance(fill, Fill)
    registry.filled(fill.job, 0)
    for nonce, effects in (
        (OLD, registry.sealed(fill.job, 6.0)),
        (NEW, registry.get(Asker(NEW, 3), wanted, AwaitedItem(), 7.0)),
    ):
        grant = grants(effects)[0]
        assert (grant.segment, grant.extent) == ("run-2", 0), nonce
    assert registry.blocks.table["run-1"].members[0].aliases == []
