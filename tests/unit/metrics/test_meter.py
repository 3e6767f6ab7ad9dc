"""What is counted of requests, answers and loads."""

from __future__ import annotations

from typing import Any

import pytest

from arrayd.errors import AccessDenied, NoRoom
from arrayd.wire.requests import Request
from arrayd_server.core.effects import AskAgain, Reply, ReportProgress, Result
from arrayd_server.core.model import Asker
from arrayd_server.metrics import meter as module
from arrayd_server.metrics.meter import Distribution, Meter

DONE = Result({})


@pytest.fixture
def meter() -> Meter:
    """Return one that has counted nothing."""
    return Meter()


def ask(meter: Meter, number: int, verb: str = "get", **fields: Any) -> None:
    """Let session ``s`` ask."""
    answered = verb not in ("cancel", "release")
    meter.request(Request(number, b"s", verb, fields), answered=answered)


def test_a_request_ends_with_its_last_answer(meter: Meter) -> None:
    """Of a get with two items both count; one error makes it one that failed."""
    ask(meter, 1, items=[{}, {}])
    meter.answered(b"s", 1, DONE)
    assert not meter.counts.requests
    meter.answered(b"s", 1, NoRoom("full"))
    assert meter.counts.requests == {("get", "error"): 1}
    assert meter.counts.errors == {"NoRoom": 1}
    assert meter.counts.request_seconds["get"].buckets()[-1] == ("+Inf", 1)


def test_one_load_too_many_is_no_lack_of_room(meter: Meter) -> None:
    """It has a code of its own: the alert of NoRoom is not for what a client asks again."""
    ask(meter, 1, items=[{}, {}])
    meter.answered(b"s", 1, NoRoom("one more", limit="loads"))
    meter.answered(b"s", 1, NoRoom("too much", limit="bytes"))
    assert meter.counts.errors == {"NoRoom-loads": 1, "NoRoom": 1}


def test_what_has_no_answer_is_over_at_once(meter: Meter) -> None:
    """A release, and a get of nothing."""
    ask(meter, 1, "release", holds=[])
    ask(meter, 2, items=[])
    assert meter.counts.requests == {("release", "ok"): 1, ("get", "ok"): 1}


@pytest.mark.parametrize("how", ["cancelled", "ended", "again"])
def test_a_request_that_is_dropped(meter: Meter, how: str) -> None:
    """Its client has cancelled it, has gone, or is to ask again; it has no duration."""
    ask(meter, 1, items=[{}])
    if how == "cancelled":
        ask(meter, 2, "cancel", request=1)
    elif how == "ended":
        meter.forget_ended({b"s": None})
        assert not meter.counts.requests
        meter.forget_ended({})
    else:
        meter.answered(b"s", 1, AskAgain())
    assert meter.counts.requests["get", "dropped"] == 1
    assert not meter.counts.request_seconds
    meter.answered(b"s", 1, DONE)
    assert meter.counts.requests["get", "ok"] == 0


def test_a_repeated_request_is_one(meter: Meter) -> None:
    """A client that has lost its connection asks again by the same number."""
    for _ in range(2):
        ask(meter, 1, items=[{}])
    meter.answered(b"s", 1, DONE)
    assert meter.counts.requests == {("get", "ok"): 1}


def test_answers_are_passed_on(meter: Meter) -> None:
    """What watches them changes nothing; reports of progress are no answers."""
    sent: list[Reply | ReportProgress] = []
    answers: list[Reply | ReportProgress] = [
        ReportProgress(Asker(b"s", 1), 1, 2),
        Reply(Asker(b"s", 1), AccessDenied("no")),
    ]
    ask(meter, 1, "info")
    meter.watching(sent.extend)(answers)
    assert sent == answers
    assert meter.counts.requests == {("info", "error"): 1}
    assert meter.counts.errors == {"AccessDenied": 1}


def test_what_is_remembered_is_bounded(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound requests are counted when they come."""
    monkeypatch.setattr(module, "MAX_PENDING", 2)
    for number in range(5):
        ask(meter, number, items=[{}])
    assert meter.counts.requests == {("get", "other"): 3}


def test_labels_are_bounded(meter: Meter) -> None:
    """A client that makes up formats, or a loader that makes up errors, makes no series."""
    for number in range(100):
        meter.load_ended(f"x{number}", "ok", 1, 8, 0.5)
        meter.answered(b"s", 1, type(f"Made{number}", (NoRoom,), {})("up"))
    assert len(meter.counts.load_bytes) == module.MAX_FORMATS + 1
    assert meter.counts.loads["other", "ok"] == 100 - module.MAX_FORMATS
    assert len(meter.counts.errors) == module.MAX_CODES + 1
    assert sum(meter.counts.errors.values()) == 100


def test_loads(meter: Meter) -> None:
    """Several may end together; bytes and duration are of those that did well."""
    meter.load_ended("npy", "ok", 3, 30, 0.05)
    meter.load_ended("npy", "error", 1, 10, 0.05)
    assert meter.counts.loads == {("npy", "ok"): 3, ("npy", "error"): 1}
    assert meter.counts.load_bytes == {"npy": 30}
    assert meter.counts.load_seconds["npy"].total == 0.05


def test_a_distribution() -> None:
    """A value at a bound is within it; each bucket has those below it."""
    one = Distribution((1.0, 10.0))
    for value in (0.5, 1.0, 5.0, 11.0):
        one.add(value)
    assert one.buckets() == [("1.0", 2), ("10.0", 3), ("+Inf", 4)]
    assert one.total == 17.5


def test_a_copy_stays(meter: Meter) -> None:
    """What another thread reads does not change under it."""
    meter.load_ended("npy", "ok", 1, 8, 0.5)
    before = meter.counts.copy()
    meter.load_ended("npy", "ok", 1, 8, 0.5)
    assert before.loads == {("npy", "ok"): 1}
    assert before.load_seconds["npy"].buckets()[-1] == ("+Inf", 1)
