"""Which failed loads are remembered, and who is told of which."""

from __future__ import annotations

from dataclasses import replace

from arrayd.errors import BadFile
from arrayd.source import Source
from arrayd_server import identity
from arrayd_server.core import failed_loads
from arrayd_server.core.failed_loads import FailedLoad, FailedLoads
from arrayd_server.core.model import Asker, AwaitedItem, Job, Peer, Session, Stage
from arrayd_server.identity import BlockIdentity

ANN, BOB = 1001, 1002


def origin(path: str) -> BlockIdentity:
    """Return what a request for a file asks for."""
    return identity.of_source(Source.of(path), None)


SESSIONS = {
    b"a": Session(b"a", Peer(ANN, 11, "a.py", foreign=True), 0.0),
    b"b": Session(b"b", Peer(BOB, 12, "b.py", foreign=True), 0.0),
}


def noted(failures: FailedLoads, path: str, *names: tuple[bytes, str], now: float = 1.0) -> Job:
    """Let a load of a path fail for sessions, each of which has asked by a path of its own."""
    job = Job(1, Stage.PROBING, origin(path), 0.0)
    job.waiters = {
        Asker(nonce, 1, index): AwaitedItem(asked=origin(asked))
        for index, (nonce, asked) in enumerate(names)
    }
    failures.note(job, job.waiters, BadFile(f"{path} is damaged."), SESSIONS, now)
    return job


def told(found: FailedLoad) -> tuple[str, str, list[int]]:
    """Return what a failure says: of what, why, for which processes."""
    return str(found.identity), str(found.error), [peer.pid for peer, _ in found.askers]


def test_a_user_is_told_of_its_own() -> None:
    """By the path by which it asked, without who else asked; an operator is told of all."""
    failures = FailedLoads()
    noted(failures, "/x/one", (b"a", "/x/one"), (b"a", "/x/one"), (b"b", "/y/link"))
    noted(failures, "/x/two", (b"a", "/x/two"))
    assert [told(one) for one in failures.latest()] == [
        ("/x/two", "/x/two is damaged.", [11]),
        ("/x/one", "/x/one is damaged.", [11, 12]),
    ]
    assert [told(one) for one in failures.latest(BOB)] == [("/y/link", "/y/link is damaged.", [12])]
    assert list(failures.latest(1003)) == []


def test_the_latest_are_shown() -> None:
    """Ten of them; one user's do not hide another's until very many have failed."""
    failures = FailedLoads()
    noted(failures, "/b", (b"b", "/b"))
    for number in range(failed_loads.REMEMBERED - 1):
        noted(failures, f"/{number}", (b"a", f"/{number}"), now=float(number))
    latest = [one.at for one in failures.latest()]
    assert latest == [float(failed_loads.REMEMBERED - 2 - i) for i in range(failed_loads.SHOWN)]
    assert len(list(failures.latest(BOB))) == 1
    noted(failures, "/more", (b"a", "/more"))
    assert not list(failures.latest(BOB))


def test_what_is_no_load() -> None:
    """A look at what a file holds, and a name that nobody publishes, are not remembered."""
    failures = FailedLoads()
    for job in (
        replace(Job(1, Stage.PROBING, origin("/x"), 0.0), info=True),
        Job(2, Stage.AWAITING, origin("/x"), 0.0),
    ):
        failures.note(job, (), BadFile("no"), SESSIONS, 1.0)
    assert not list(failures.latest())
