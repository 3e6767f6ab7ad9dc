"""ZMTP 3 as the daemon speaks it with one client: bytes in, messages out, no socket.

Of https://rfc.zeromq.org/spec/37/ the part that libzmq's DEALER needs: the NULL mechanism,
messages of one frame, PING. Of one peer at most the frame it is sending is kept, and that
has at most `limit` bytes; libzmq itself keeps the parts of a message without any limit.
"""

from __future__ import annotations

import struct

_MORE, _LONG, _COMMAND = 1, 2, 4
_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_MECHANISM = b"NULL".ljust(20, b"\0")
_GREETING_SIZE = 64
_MAX_COMMAND = 1024  # bytes; READY has 40, PING 23

GREETING = _SIGNATURE + b"\x03\x01" + _MECHANISM + bytes(32)
"""What either side says first: signature, version 3.1, mechanism."""


class Violation(ValueError):
    """These bytes are not ZMTP as arrayd's clients speak it."""


def frame(body: bytes, flags: int = 0) -> bytes:
    """Return the frame of a message, or of a command."""
    if len(body) < 256:
        return struct.pack(">BB", flags, len(body)) + body
    return struct.pack(">BQ", flags | _LONG, len(body)) + body


def _ready() -> bytes:
    kind = b"\x0bSocket-Type" + struct.pack(">I", 6) + b"ROUTER"
    return frame(b"\x05READY" + kind + b"\x08Identity" + bytes(4), _COMMAND)


READY = _ready()
"""What ends our half of the handshake."""


class ByteStream:
    """The bytes of one client, taken apart.

    Parameters
    ----------
    limit
        Bytes of the largest message.
    """

    def __init__(self, limit: int) -> None:
        self.ready = False  # the handshake is over
        self._limit = limit
        self._greeted = False
        self._buffer = bytearray()
        self._at = 0  # bytes before it were returned already

    def __len__(self) -> int:
        """Return how many bytes are kept."""
        return len(self._buffer)

    def feed(self, data: memoryview) -> None:
        """Add bytes that were received."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next(self) -> tuple[bytes | None, bytes]:
        """Return the next message or None, and what ZMTP itself has to answer.

        Raises
        ------
        Violation
            The connection must be closed.
        """
        if not self._greeted:
            if not self._take_greeting():
                return None, b""
            return self._next(READY)
        return self._next(b"")

    def _next(self, reply: bytes) -> tuple[bytes | None, bytes]:
        while (found := self._take_frame()) is not None:
            flags, body = found
            if not flags & _COMMAND:
                return body, reply
            reply += self._answer(body)
        return None, reply

    def _take_greeting(self) -> bool:
        start = bytes(self._buffer[:_GREETING_SIZE])
        for what, where in ((start[:1], _SIGNATURE[:1]), (start[9:10], _SIGNATURE[9:])):
            if what and what != where:
                raise Violation("no ZMTP")
        if len(start) > 10 and start[10] < 3:
            raise Violation(f"ZMTP {start[10]}")
        if len(start) < _GREETING_SIZE:
            return False
        if start[12:32] != _MECHANISM:
            raise Violation("another mechanism than NULL")
        self._at, self._greeted = _GREETING_SIZE, True
        return True

    def _take_frame(self) -> tuple[int, bytes] | None:
        at, buffer = self._at, self._buffer
        if len(buffer) - at < 2:
            return None
        flags, size = buffer[at], buffer[at + 1]
        begin = at + 2
        if flags & ~(_LONG | _COMMAND) or not (self.ready or flags & _COMMAND):
            raise Violation(f"a frame with flags {flags:#x}")
        if flags & _LONG:
            if len(buffer) - at < 9:
                return None
            (size,) = struct.unpack_from(">Q", buffer, at + 1)
            begin = at + 9
        if size > (_MAX_COMMAND if flags & _COMMAND else self._limit):
            raise Violation(f"a frame of {size} bytes")
        if len(buffer) - begin < size:
            return None
        with memoryview(buffer) as view:
            body = bytes(view[begin : begin + size])
        self._at = begin + size
        if self._at == len(buffer):
            buffer.clear()
            self._at = 0
        return flags, body

    def _answer(self, command: bytes) -> bytes:
        """Return the answer to a command, if it has one."""
        name, body = command[1 : 1 + command[0]], command[1 + command[0] :] if command else b""
        if not self.ready:
            if name != b"READY" or b"\x0bSocket-Type\0\0\0\x06DEALER" not in body:
                raise Violation("a handshake of no DEALER")
            self.ready = True
        elif name == b"PING":
            return frame(b"\x04PONG" + body[2:18], _COMMAND)  # after the time to live, a context
        return b""
