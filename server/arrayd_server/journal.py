"""The log as systemd's journal takes it: fields beside the message, in its native protocol.

One datagram for each line to a socket of the journal's; a value with a line break has its length
before it (https://systemd.io/JOURNAL_NATIVE_PROTOCOL). Where the journal does not take one, for
whatever reason, the line goes to standard error, which ends in the journal as well: nothing is
lost but the fields.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator
from typing import TextIO

from arrayd_server.events import FACTS, Event

SOCKET = "/run/systemd/journal/socket"

MOST_BYTES = 64 << 10
"""A longer datagram is not tried: a journal that is behind would have no room for it."""

_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


class PlainLines(logging.Formatter):
    """The message alone, each line with its priority as sd-daemon(3) writes it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines."""
        start = f"<{_priority(record)}>"
        return "\n".join(start + line for line in super().format(record).splitlines())


class JournalHandler(logging.StreamHandler[TextIO]):
    """Sends each line to the journal, with its event and its facts.

    Parameters
    ----------
    path
        Of the journal's socket.
    """

    def __init__(self, path: str = SOCKET) -> None:
        super().__init__()
        self.setFormatter(PlainLines())
        self._path = path
        self._socket: socket.socket | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line, or write it to standard error."""
        if not self._sent(record):
            super().emit(record)

    def _sent(self, record: logging.LogRecord) -> bool:
        datagram = b"".join(_encoded(name, value) for name, value in fields(record))
        if len(datagram) > MOST_BYTES:
            return False
        try:
            if self._socket is None:
                self._socket = socket.socket(
                    socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
                )
            self._socket.sendto(datagram, self._path)
        except OSError:  # there is none, or it is behind and would stop the loop
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        super().close()


def fields(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a line's fields."""
    yield "MESSAGE", logging.Formatter().format(record)  # with the traceback, if it has one
    yield "PRIORITY", str(_priority(record))
    yield "SYSLOG_IDENTIFIER", "arrayd"
    yield "CODE_FILE", record.pathname
    yield "CODE_LINE", str(record.lineno)
    yield "CODE_FUNC", record.funcName
    event = getattr(record, "event", None)
    if isinstance(event, Event):
        yield "MESSAGE_ID", event.message_id
        yield "ARRAYD_EVENT", event.name
        for name in FACTS:
            if hasattr(record, name):
                yield f"ARRAYD_{name.upper()}", str(getattr(record, name))


def _encoded(name: str, value: str) -> bytes:
    text = value.encode(errors="surrogateescape")
    if b"\n" not in text:
        return b"%s=%s\n" % (name.encode(), text)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(text)), text)


def _priority(record: logging.LogRecord) -> int:
    return next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
