"""The log in the journal's native protocol: a datagram socket stands in for the journal."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from arrayd_server import events, journal, logs
from arrayd_server.config import Config
from arrayd_server.journal import JournalHandler

log = logging.getLogger("arrayd_server.tests")


class Journal:
    """What arrives at a socket, as the fields that the journal would keep."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)

    def entry(self) -> dict[str, str]:
        """Return the next entry; a field twice would be an error of ours."""
        rest, found = self.socket.recv(1 << 20), {}
        while rest:
            line, _, rest = rest.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                (length,) = struct.unpack_from("<Q", rest)
                value, end, rest = rest[8 : 8 + length], rest[8 + length :][:1], rest[9 + length :]
                assert end == b"\n"
            assert name.decode() not in found
            found[name.decode()] = value.decode(errors="surrogateescape")
        return found


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[Journal]:
    """Give a journal that has a handler of `log`."""
    one = Journal(tmp_path / "socket")
    handler = JournalHandler(one.path)
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield one
    log.removeHandler(handler)
    handler.close()
    one.socket.close()


def test_an_event_has_its_fields(stand_in: Journal) -> None:
    """The kind by name and number, the facts that there are, and where it was written."""
    about = events.GRANTED.about(uid=1001, pid=77, block="arrayd-1-2-3", source="/data/a.npy")
    log.info("granted uid=%d", 1001, extra=about)
    entry = stand_in.entry()
    assert int(entry.pop("CODE_LINE")) > 1
    assert entry == {
        "MESSAGE": "granted uid=1001",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "arrayd",
        "CODE_FILE": __file__,
        "CODE_FUNC": "test_an_event_has_its_fields",
        "MESSAGE_ID": events.GRANTED.message_id,
        "ARRAYD_EVENT": "granted",
        "ARRAYD_BLOCK": "arrayd-1-2-3",
        "ARRAYD_SOURCE": "/data/a.npy",
        "ARRAYD_UID": "1001",
        "ARRAYD_PID": "77",
    }


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "3")],
)
def test_the_level_is_a_priority(level: str, priority: str, stand_in: Journal) -> None:
    """``journalctl -p`` selects what it should; a line that is no event has no identity."""
    getattr(log, level)("one")
    entry = stand_in.entry()
    assert entry["PRIORITY"] == priority
    assert not {"MESSAGE_ID", "ARRAYD_EVENT", "ARRAYD_UID"} & set(entry)


def test_a_value_cannot_add_fields(stand_in: Journal) -> None:
    """A line break in what a user has sent is part of the value, whatever comes after it."""
    path = "/data/a\nMESSAGE_ID=00000000000000000000000000000000\n\udcff"
    about = events.REFUSED.about(source=path, uid=5)
    # Past the logger, whose lines pytest keeps: xdist cannot pass on what is no UTF-8.
    where = (log.name, logging.INFO, __file__, 1)
    line = log.makeRecord(*where, "no: %s", (path,), None, "here", extra=about)
    handler = next(one for one in log.handlers if isinstance(one, JournalHandler))
    handler.handle(line)
    entry = stand_in.entry()
    assert entry["ARRAYD_SOURCE"] == path
    assert entry["MESSAGE"] == f"no: {path}"
    assert entry["MESSAGE_ID"] == events.REFUSED.message_id


def test_a_traceback_is_one_message(stand_in: Journal) -> None:
    """What journald would have as a dozen lines is one entry."""
    try:
        raise KeyError("of a test")
    except KeyError:
        log.exception("a bug", extra=events.BUG.about())
    message = stand_in.entry()["MESSAGE"]
    assert message.startswith("a bug\nTraceback (most recent call last):\n")
    assert message.endswith("KeyError: 'of a test'")


@pytest.mark.parametrize("case", ["nobody listens", "it is behind", "too long"])
def test_what_it_does_not_take_is_written(
    case: str,
    tmp_path: Path,
    stand_in: Journal,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The line goes to standard error, each part with its priority; nothing waits."""
    handler = JournalHandler(str(tmp_path / "none") if case == "nobody listens" else stand_in.path)
    monkeypatch.setattr(log, "handlers", [handler])
    text = "x" * journal.MOST_BYTES if case == "too long" else "one"
    for _ in range(1000 if case == "it is behind" else 1):  # more than a socket has room for
        log.warning("%s\ntwo", text, extra=events.REFUSED.about(uid=1))
    handler.close()
    assert capsys.readouterr().err.endswith(f"<4>{text}\n<4>two\n")


@pytest.mark.parametrize("matches", [True, False])
def test_the_journal_is_known_by_its_variable(
    matches: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``JOURNAL_STREAM`` must be our standard error; else a line has its time and level."""
    one, other = os.fstat(2), tmp_path.stat()
    where = one if matches else other
    monkeypatch.setenv("JOURNAL_STREAM", f"{where.st_dev}:{where.st_ino}")
    handler = logs._handler(Config.load().log_file)
    assert isinstance(handler, JournalHandler) == matches
    handler.close()
