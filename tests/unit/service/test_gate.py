"""Files are looked at in threads: in order for each user, and no user waits for another's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from arrayd.errors import AccessDenied, ArraydError, DaemonError, SourceChanged, SourceNotFound
from arrayd.wire.requests import Request
from arrayd_server.access import files
from arrayd_server.access.policy import Credentials
from arrayd_server.service import gate, vetting
from arrayd_server.service.gate import Gate, Verdict

ANN, BOB = Credentials(60001, 60001), Credentials(60002, 60002)
STAT = (1, 2, 3, 4, 5)


class Bench:
    """A gate in a loop, and what it has said."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.gate = Gate(self.loop, ["/"])
        self.said: list[Sequence[Verdict]] = []

    def look(self, who: Credentials, *paths: str) -> None:
        """Ask it."""
        self.gate.look(who, paths, self.said.append)

    def run(self, count: int) -> None:
        """Let the loop run until it has said so much."""

        async def watch() -> None:
            while len(self.said) < count:
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(watch(), 20))


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give one."""
    bench = Bench()
    yield bench
    bench.gate.close()
    bench.loop.close()


def test_a_verdict_on_each(bench: Bench, tmp_path: Path) -> None:
    """An error, or the stat; nothing that goes wrong is a yes."""
    (tmp_path / "x").write_bytes(b"1")
    root = Credentials(0, 0)
    bench.look(root, str(tmp_path / "x"), str(tmp_path / "y"), "no path")
    bench.run(1)
    (found, missing, none), info = bench.said[0], (tmp_path / "x").stat()
    assert found[:2] == (info.st_dev, info.st_ino)  # type: ignore[index]  # no error
    assert isinstance(missing, SourceNotFound)
    assert isinstance(none, SourceNotFound)


def test_in_doubt_no(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the looking lets nobody in."""
    monkeypatch.setattr(files, "look", lambda *_: 1 / 0)
    bench.look(ANN, "/x")
    bench.run(1)
    assert isinstance(bench.said[0][0], AccessDenied)


def test_files_that_hang(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost their user's share of the threads; others are served, and too many are refused."""
    go_on = threading.Event()

    def look(path: str, *_: object) -> tuple[str, tuple[int, ...]]:
        if path == "/hangs":
            assert go_on.wait(20)
        return path, STAT

    monkeypatch.setattr(files, "look", look)
    try:
        for _ in range(gate.SHARE + gate.MAX_WAITING):
            bench.look(ANN, "/hangs")
        with pytest.raises(DaemonError, match=f"{gate.MAX_WAITING} requests of user 60001"):
            bench.look(ANN, "/hangs")
        bench.look(BOB, "/x")
        bench.run(1)
        assert bench.said == [[STAT]]
    finally:
        go_on.set()
    bench.run(gate.SHARE + gate.MAX_WAITING + 1)


def test_a_look_that_takes_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it its user has that thread no more for a while; other users wait for nothing."""
    monkeypatch.setattr(gate, "LONG_LOOK", 0.0)
    monkeypatch.setattr(gate, "REST", 10**9)
    for _ in range(gate.SHARE + 1):
        bench.look(ANN, "/x")
    bench.run(gate.SHARE)
    bench.look(BOB, "/y", "/z")
    bench.run(gate.SHARE + 1)
    assert [len(verdicts) for verdicts in bench.said] == [1] * gate.SHARE + [2]
    monkeypatch.setattr(gate, "LONG_LOOK", 1e9)
    for _ in range(9):
        bench.look(BOB, "/y", "/z")
    bench.run(gate.SHARE + 10)
    assert len(bench.said[-1]) == 2


def request(op: str, **fields: object) -> Request:
    """Return a request."""
    return Request(1, b"n" * 16, op, fields)


def test_what_is_vetted() -> None:
    """Each file gets the stat that was found, or why not; a published name is no file."""
    items = [
        {"source": {"path": "/a"}, "stat": list(STAT)},
        {"source": {"name": "x"}},
        {"source": {"path": "/b"}, "stat": None},
        {"source": {"path": "/c"}, "stat": list(STAT)},
    ]
    asked = request("get", items=items, pin=None)
    assert vetting.paths(asked) == ["/a", "/b", "/c"]
    served = vetting.vetted(asked, [STAT, STAT, AccessDenied("no")]).fields
    assert served["pin"] is None
    first, named, second, third = served["items"]
    assert (first["stat"], second["stat"], named) == (list(STAT), list(STAT), items[1])
    assert isinstance(third["denied"], AccessDenied)


@pytest.mark.parametrize(
    ("seen", "error"),
    [((1, 2, 3, 4, 6), SourceChanged), ((1, 3, 3, 4, 5), SourceNotFound)],
)
def test_another_file_than_the_client_sees(seen: tuple[int, ...], error: type[ArraydError]) -> None:
    """It is not served in its place."""
    asked = request("info", source={"path": "/a"}, stat=list(seen))
    assert vetting.paths(asked) == ["/a"]
    assert isinstance(vetting.vetted(asked, [STAT]).fields["denied"], error)
