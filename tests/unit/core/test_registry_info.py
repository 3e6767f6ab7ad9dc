"""The core by example: questions about what a file holds."""

from __future__ import annotations

from arrayd.errors import BadFile
from arrayd_server.core.effects import Cancel, Describe, Result
from tests.support.core_script import SMALL, World


def test_a_question_is_answered_once() -> None:
    """Repeated, it is the same; two sessions have one each, and no load joins or counts."""
    world = World()
    r, (one, two) = world.registry, (world.asker(b"a"), world.asker(b"b"))
    world.do(r.info, one, SMALL, world.now)
    assert world.seen == [Describe(1, SMALL)]
    world.do(r.info, one, SMALL, world.now)
    assert world.seen == []
    world.do(r.info, two, SMALL, world.now)
    assert world.seen == [Describe(2, SMALL)]
    world.load(b"a", SMALL)
    world.do(r.described, 1, {"bytes": 25})
    world.do(r.failed, 2, BadFile("none"), world.now)
    assert world.answer(one) == Result({"bytes": 25})
    assert isinstance(world.answer(two), BadFile)
    assert not r.jobs.table
    assert (r.counters.joins, r.counters.failures) == (0, 0)


def test_nobody_works_on_a_question_of_a_session_that_is_gone() -> None:
    """A cancelled question, or one whose asker has ended, is no work; its late answer nothing."""
    world = World()
    r, (one, two) = world.registry, (world.asker(b"a"), world.asker(b"b"))
    for to in (one, two):
        world.do(r.info, to, SMALL, world.now)
    world.cancel(one)
    assert world.seen == [Cancel(1)]
    world.end(b"b")
    assert Cancel(2) in world.seen
    assert world.do(r.described, 1, {}) == world.do(r.described, 2, {}) == []
