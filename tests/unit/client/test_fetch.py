"""`Fetching`: what is asked again of a daemon that refuses loads beyond a quota."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from arrayd.errors import BadFile, LoadTimeout, NoRoom, to_wire
from arrayd.session.call import Answers
from arrayd.session.fetch import Fetching, Terms
from arrayd.session.request import FileRequest
from arrayd.source import Source

REFUSED = to_wire(NoRoom("one more", limit="loads", quota=3, held=3))
LOADED = to_wire(BadFile("It was looked at."))
"""As good an answer as an array, which would have to be attached."""


class Daemon:
    """A session with a daemon that takes up to `rooms[0]` items of the first request, and so on."""

    def __init__(self, *rooms: int) -> None:
        self.rooms = list(rooms)
        self.asked: list[list[str]] = []
        self.blocks = self

    @contextlib.contextmanager
    def attaching(self) -> Iterator[None]:
        """Let nothing be attached."""
        yield

    def ask_until(self, op: str, _: float | None, **fields: Any) -> Answers:
        """Answer each item, and report the progress of those that are loaded."""
        assert op == "get"
        paths = [item["source"]["path"] for item in fields["items"]]
        self.asked.append(paths)
        room = self.rooms.pop(0)
        answers = {i: {"err": LOADED if i < room else REFUSED} for i in range(len(paths))}
        for i, answer in answers.items():
            if i < room and fields["report"] is not None:
                fields["report"](i, 1, 1)
            fields["take"](i, answer)
        return Answers(answers, len(answers), True)


def fetched(daemon: Daemon, count: int, **terms: Any) -> list[str]:
    """Ask for so many files; return what the results are."""
    requests = [FileRequest(Source(path=f"/{n}"), (1, n, 3, 4, 5)) for n in range(count)]
    session: Any = daemon
    return [type(one).__name__ for one in Fetching(session, Terms(**terms)).once(requests)]


def test_what_is_one_load_too_many_is_asked_for_again() -> None:
    """In order, twice as many at a time as were loaded the last time; progress is of the right."""
    reported: list[int] = []
    daemon = Daemon(3, 3, 1, 2, 3)
    found = fetched(daemon, 12, report=lambda item, *_: reported.append(item))
    assert found == ["BadFile"] * 12
    assert [len(asked) for asked in daemon.asked] == [12, 6, 6, 2, 3]
    assert daemon.asked[1] == [f"/{n}" for n in range(3, 9)]
    assert daemon.asked[2] == [f"/{n}" for n in range(6, 12)]
    assert reported == list(range(12))


def test_it_ends_without_progress() -> None:
    """All loads in flight are those of others: the refusal says so."""
    daemon = Daemon(0)
    assert fetched(daemon, 1) == ["NoRoom"]
    daemon = Daemon(2, 0)
    assert fetched(daemon, 6) == ["BadFile"] * 2 + ["NoRoom"] * 4
    assert len(daemon.asked) == 2


def test_it_ends_at_the_deadline() -> None:
    """What is not asked for again by then was not there in time."""
    daemon = Daemon(2)
    found = fetched(daemon, 6, timeout=1.0, deadline=time.monotonic())
    assert found == ["BadFile"] * 2 + [LoadTimeout.__name__] * 4
    assert len(daemon.asked) == 1


class Late(Daemon):
    """One that takes two of the items until the time has come, and answers the first."""

    def ask_until(self, op: str, _: float | None, **fields: Any) -> Answers:
        """Answer one item; at the second call, without a wait, some of the rest."""
        taken = list(islice(fields["items"], 2))
        self.asked.append([item["source"]["path"] for item in taken])
        fields["take"](0, {"err": LOADED})
        return Answers({0: {"err": LOADED}}, len(taken), False)

    def silence(self, _: float) -> str:
        """Say that it has answered."""
        return ""


def test_what_was_looked_at_too_late() -> None:
    """Is asked for once, without a wait; each source has its answer or its error."""
    daemon = Late()
    found = fetched(daemon, 5, timeout=1.0, deadline=time.monotonic() + 1.0)
    late = LoadTimeout.__name__
    assert found == ["BadFile", late, "BadFile", late, late]
    assert daemon.asked == [["/0", "/1"], ["/2", "/3"]]
