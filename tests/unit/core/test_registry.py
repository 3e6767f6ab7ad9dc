"""The core by example: sessions, requests, loads, holds and evict.

`test_registry_writing` has the blocks that clients write, `test_registry_room` the budget,
the clock and restarts. Every step is also checked against the rules and the naive model.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from arrayd.errors import AccessDenied, BadFile, InUse, NoSuchBlock
from arrayd.wire.grant import Grant
from arrayd_server.core.effects import (
    AskAgain,
    Cancel,
    Fill,
    IntroduceYourself,
    Probe,
    ReportProgress,
    Result,
)
from arrayd_server.core.model import Asker, AwaitedItem, Draft, State
from tests.support.core_files import SPEC, wanted, wanted_name
from tests.support.core_script import MEDIUM, SMALL, World


@pytest.fixture
def world() -> World:
    """Return a daemon with two sessions."""
    return World()


# ---- sessions ------------------------------------------------------------------------------


def test_an_unknown_session_is_asked_to_say_hello(world: World) -> None:
    """Every request of a stranger gets the same answer, and changes nothing."""
    to, r, now = Asker(b"?", 1), world.registry, world.now
    for replies in (
        world.do(r.get, world.naive.ask(to), wanted(SMALL), AwaitedItem(), now),
        world.do(r.redeem, world.naive.ask(to), "x", b"t", now),
        world.do(r.create, world.naive.ask(to), Draft(SPEC, 25, "put"), 1.0, now),
        world.do(r.seal, world.naive.ask(to), "x", now),
    ):
        assert [reply.body for reply in replies] == [IntroduceYourself()]
    assert r.admit(b"?", 1, 7) == IntroduceYourself()
    assert r.admit(b"a", 1, 7) is None


def test_what_a_stranger_tells_is_ignored(world: World) -> None:
    """Releases, lends, aborts, cancels and the end of an unknown session change nothing."""
    r, now = world.registry, world.now
    assert r.release(b"?", [("x", 1, 0)], now) == []
    assert r.lend(b"?", "x", b"t", now) == []
    assert r.abort(b"?", "x", now) == []
    assert r.cancel(b"?", 1, now) == []
    assert r.ended(b"?", now) == []


def test_events_of_unknown_segments_are_ignored(world: World) -> None:
    """The kernel's word on a segment that is not ours changes nothing."""
    r, now = world.registry, world.now
    assert r.inspected("x", True, now) == r.inspected("x", False, now) == []
    assert r.unlink_refused("x", now) == r.still_mapped("x") == []
    assert r.segment_removed("x", now) == r.freed("x", now) == []


def test_a_session_belongs_to_its_process(world: World) -> None:
    """A hello from another pid is refused and changes no hold."""
    grant = world.load(b"a", SMALL)
    assert isinstance(world.hello(b"a", 3), AccessDenied)
    assert "process 1's, not 0's" in str(world.registry.admit(b"a", 0, 7))  # of a PID namespace
    assert isinstance(world.registry.admit(b"a", 1, 8), AccessDenied)  # of another user
    assert set(world.registry.sessions[b"a"].holds) == {grant.segment}


def test_hello_replaces_the_holds(world: World) -> None:
    """A client that comes back holds what it states, and nothing else; the gone is left out."""
    kept, left = world.load(b"a", SMALL), world.load(b"a", MEDIUM)
    world.unmap(left.segment, b"a")
    answer = world.hello(b"a", 1, [kept.segment, "run-99"])
    assert list(answer.holds) == [kept.segment]
    assert answer.holds[kept.segment] > kept.seq
    assert set(world.registry.blocks.idle) == {left.segment}


def test_numbers_go_on_after_a_restart(world: World) -> None:
    """What a client says late of a grant of an earlier run ends none of this one's."""
    left = world.left(0, 25, sealed=True, published=False, keep=False)
    world.adopt(left)
    world.kernel.attach(left.segment, b"a")
    answer = world.hello(b"a", 1, [left.segment], latest=500)
    assert answer.holds == {left.segment: 501}
    world.do(world.registry.release, b"a", [(left.segment, 500, 0)], world.now)
    assert left.segment in world.registry.sessions[b"a"].holds
    assert world.load(b"a", MEDIUM).seq == 502
    assert world.load(b"b", MEDIUM).seq == 1


# ---- loads ---------------------------------------------------------------------------------


def test_a_load_goes_through_probe_fill_and_seal(world: World) -> None:
    """The first request of a source is probed, filled, sealed and granted to its asker."""
    to = world.get(b"a", SMALL)
    assert isinstance(world.work[1], Probe)
    world.finish(1)
    assert isinstance(world.work[1], Fill)
    assert world.state("run-1") is State.LOADING
    world.finish(1)
    assert world.answer(to) is None
    world.finish(1)
    assert world.answer(to) == Grant("run-1", SPEC, 1, "f25")


def test_a_resident_source_is_a_hit(world: World) -> None:
    """A second request is answered at once, without work, with the next number of its session."""
    first = world.load(b"a", SMALL)
    assert world.answer(world.get(b"a", SMALL)) == replace(first, seq=2)
    assert world.answer(world.get(b"b", SMALL)) == first
    assert world.registry.counters.hits == 2


def test_requests_join_a_load(world: World) -> None:
    """Eight requests at once are one load, and each is answered."""
    askers = [world.get(nonce, SMALL) for nonce in (b"a", b"b") * 4]
    assert len(world.work) == 1
    world.work_off()
    assert {world.answer(to).segment for to in askers} == {"run-1"}
    assert (world.registry.counters.loads, world.registry.counters.joins) == (1, 7)


def test_spellings_merge_at_the_probe(world: World) -> None:
    """Two paths of one file, asked for at once, become one load when both are known."""
    one, two = world.get(b"a", SMALL), world.get(b"b", wanted(SMALL, "b"))
    world.finish(1)
    world.finish(2)
    world.work_off()
    assert world.answer(one).segment == world.answer(two).segment
    assert world.answer(world.get(b"a", wanted(SMALL, "b"))) is not None


def test_a_spelling_of_a_resident_source_is_found_at_the_probe(world: World) -> None:
    """A new path of a resident file costs a probe, once."""
    grant = world.load(b"a", SMALL)
    world.get(b"b", wanted(SMALL, "b"))
    assert world.finish(2)[0].body == grant
    assert world.answer(world.get(b"b", wanted(SMALL, "b"))) is not None


def test_rows_of_a_resident_whole_are_a_window(world: World) -> None:
    """The rows of what is resident, or loading, as a whole are cut by the client."""
    half = replace(SMALL, rows="half")
    waiting = world.get(b"a", SMALL), world.get(b"b", half)
    world.work_off()
    assert [world.answer(to).window for to in waiting] == [False, True]
    assert world.answer(world.get(b"b", half)).window


def test_rows_alone_are_a_block_of_their_own(world: World) -> None:
    """Without the whole, a request for rows loads just these: they are not cut again."""
    grant = world.load(b"a", replace(SMALL, rows="half"))
    assert not grant.window
    assert world.load(b"a", SMALL).segment != grant.segment


def test_a_failed_load_tells_everyone(world: World) -> None:
    """All who wait get the error, the segment goes, and the next request tries again."""
    askers = [world.get(b"a", SMALL), world.get(b"b", SMALL)]
    world.finish(1)
    world.finish(1, "fail")
    assert all(isinstance(world.answer(to), BadFile) for to in askers)
    assert world.state("run-1") is State.UNLINKED
    world.get(b"a", SMALL)
    assert list(world.work) == [2]


def test_progress_goes_to_all_who_want_it_ten_times_a_second(world: World) -> None:
    """Between two messages lie 0.1 s; the last row is always reported, and never more than all."""
    world.get(b"c", SMALL)  # does not want it
    askers = [world.asker(nonce, SMALL) for nonce in (b"a", b"b")]
    for to in askers:
        world.get_again(to, wanted(SMALL), AwaitedItem(progress=True))
    world.finish(1)
    reports = []
    for rows in (1, 1, 1, 2):
        effects = world.registry.progress(1, rows, world.now)
        reports.append([(e.to, e.done) for e in effects if isinstance(e, ReportProgress)])
        world.now += 0.06
    assert reports == [
        [(to, 1) for to in askers],
        [],
        *[[(to, n) for to in askers] for n in (3, 4)],
    ]


def test_progress_to_thousands_comes_less_often(world: World) -> None:
    """Many waiters cannot keep the daemon busy with reports of progress."""
    world.get(b"a", SMALL)
    world.finish(1)
    for number in range(5000):  # with the first 5001: more than 0.5 s apart
        to = Asker(b"b", 1000 + number)
        world.registry.get(to, wanted(SMALL), AwaitedItem(progress=True), world.now)
    reports = []
    for _ in range(3):
        reports.append(len(world.registry.progress(1, 1, world.now)))
        world.now += 0.49
    assert reports == [5000, 0, 5000]


def test_a_load_survives_its_first_asker(world: World) -> None:
    """It goes on for the others."""
    world.get(b"a", SMALL)
    to = world.get(b"b", SMALL)
    world.end(b"a")
    world.work_off()
    assert isinstance(world.answer(to), Grant)


def test_a_load_without_waiters_is_cancelled(world: World) -> None:
    """When the last waiter leaves, the work stops and the segment goes."""
    one, two = world.get(b"a", SMALL), world.get(b"b", SMALL)
    world.finish(1)
    world.cancel(one)
    assert world.work
    world.cancel(two)
    assert Cancel(1) in world.seen
    assert world.state("run-1") is State.UNLINKED


def test_late_word_of_a_cancelled_job_is_ignored(world: World) -> None:
    """Whatever a worker still says of a job that is over has no effect."""
    world.cancel(world.get(b"a", SMALL))
    assert not any(world.late(1))


def test_a_prefetch_goes_on_for_nobody(world: World) -> None:
    """It is answered at once, loads without waiters, survives them, and leaves an idle block."""
    to = world.asker(b"a")
    world.do(world.registry.prefetch, to, wanted(SMALL), world.now)
    assert world.answer(to) == Result({"resident": False})
    world.cancel(world.get(b"b", SMALL))
    world.work_off()
    assert list(world.registry.blocks.idle) == ["run-1"]
    again = world.asker(b"a")
    world.do(world.registry.prefetch, again, wanted(SMALL), world.now)
    assert world.answer(again) == Result({"resident": True})


def test_a_bound_prefetch_ends_with_its_session(world: World) -> None:
    """It gets nothing but the answer at once; others who wait are served when it has gone."""
    r, load, shared = world.registry, world.asker(b"a"), world.asker(b"a")
    world.do(r.prefetch, load, wanted(SMALL), world.now, bound=True)
    world.do(r.prefetch, shared, wanted(MEDIUM), world.now, bound=True)
    assert world.answer(load) == world.answer(shared) == Result({"resident": False})
    waiting = world.get(b"b", MEDIUM)
    world.end(b"a")
    assert Cancel(1) in world.seen
    world.work_off()
    assert isinstance(world.answer(waiting), Grant)
    assert list(r.blocks.table) == ["run-1"]


def test_a_name_is_not_prefetched(world: World) -> None:
    """A published block cannot be loaded."""
    to = world.asker(b"a")
    world.do(world.registry.prefetch, to, wanted_name("n"), world.now)
    assert isinstance(world.answer(to), NoSuchBlock)


# ---- holds ---------------------------------------------------------------------------------


def test_a_block_with_no_holder_is_idle(world: World) -> None:
    """Two sessions hold it; it is idle when both have let go."""
    one, two = world.load(b"a", SMALL), world.load(b"b", SMALL)
    world.release(b"a", one)
    assert not world.registry.blocks.idle
    world.release(b"b", two)
    assert list(world.registry.blocks.idle) == ["run-1"]


def test_a_repeated_request_renews_the_one_hold(world: World) -> None:
    """A release that names the older grant is ignored, one that names the latest counts."""
    old, new = world.load(b"a", SMALL), world.load(b"a", SMALL)
    world.release(b"a", old, unmaps=False)
    assert world.registry.sessions[b"a"].holds["run-1"].seq == new.seq == 2
    world.release(b"a", new)
    assert not world.registry.sessions[b"a"].holds


def test_a_repeated_request_is_answered_once(world: World) -> None:
    """A request sent twice while it loads is one waiter."""
    what, waiter = wanted(SMALL), AwaitedItem()
    to = world.get_again(world.asker(b"a", what), what, waiter)
    world.get_again(to, what, waiter)
    world.work_off()
    assert len(world.answers[to]) == 1


def test_an_unheld_but_mapped_block_stays(world: World) -> None:
    """The kernel overrules the holds: what a forked child maps is not idle until it unmaps."""
    grant = world.load(b"a", SMALL)
    world.kernel.attach(grant.segment, "child")
    world.end(b"a")
    assert not world.registry.blocks.idle
    world.unmap(grant.segment, "child")
    world.read_closed()
    assert list(world.registry.blocks.idle) == [grant.segment]


def test_a_reference_in_flight_keeps_its_block(world: World) -> None:
    """A lent block is not idle though its sender has gone; redeemed, it has a new holder."""
    grant = world.load(b"a", SMALL)
    world.naive.lend(b"a", grant.segment, b"t")
    world.do(world.registry.lend, b"a", grant.segment, b"t", world.now)
    world.end(b"a")
    assert not world.registry.blocks.idle
    to = world.asker(b"b")
    world.naive.arrive(grant.segment, b"t")
    world.do(world.registry.redeem, to, grant.segment, b"t", world.now)
    assert world.answer(to).segment == grant.segment
    assert not world.block(grant.segment).lends


def test_only_a_holder_lends(world: World) -> None:
    """A session cannot keep what it does not hold."""
    segment = world.cache(SMALL)
    world.do(world.registry.lend, b"b", segment, b"t", world.now)
    assert not world.block(segment).lends


def test_a_reference_to_what_is_gone_is_an_error(world: World) -> None:
    """It is NoSuchBlock: never other data."""
    to = world.asker(b"a")
    world.do(world.registry.redeem, to, "run-99", b"t", world.now)
    assert isinstance(world.answer(to), NoSuchBlock)


def test_a_block_whose_file_was_removed_is_loaded_anew(world: World) -> None:
    """The asker must ask again, holders read on, and the next load has another name."""
    old = world.load(b"a", SMALL)
    world.kernel.named.clear()
    assert world.answer(world.get(b"b", SMALL)) == AskAgain()
    assert world.load(b"b", SMALL).segment != old.segment
    assert world.state(old.segment) is State.UNLINKED


# ---- evict ---------------------------------------------------------------------------------


def test_evict_frees_what_nobody_uses(world: World) -> None:
    """Kept and pinned blocks too; the answer comes with the pages."""
    world.release(b"a", world.publish(b"a", "n", keep=True))
    world.cache(MEDIUM, pin=math.inf)
    to = world.evict()
    assert world.answer(to) is None
    world.free_all()
    assert world.answer(to) == Result({"blocks": 2, "bytes": 65, "arrays": 2})
    assert world.registry.blocks.charged == 0


def test_evict_of_nothing_is_an_error(world: World) -> None:
    """No block of that source: NoSuchBlock."""
    assert isinstance(world.answer(world.evict("run-99")), NoSuchBlock)


def test_evict_spares_all_if_one_is_used(world: World) -> None:
    """InUse names the holder by pid and program; nothing is freed."""
    world.cache(SMALL)
    world.load(b"b", MEDIUM)
    error = world.answer(world.evict())
    assert isinstance(error, InUse)
    assert "f40 (held by 2 py)" in str(error)
    assert list(world.registry.blocks.idle) == ["run-1"]


def test_evict_asks_the_kernel(world: World) -> None:
    """A block that a stranger mapped by its name is in use, though the core thought it idle."""
    segment = world.cache(SMALL)
    world.kernel.attach(segment, "stranger")
    error = world.answer(world.evict())
    assert isinstance(error, InUse)
    assert "mapped by a process that is no client" in str(error)
    assert world.state(segment) is State.SEALED
