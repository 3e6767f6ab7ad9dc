"""A ZMTP 3 peer by hand, on a bare Unix socket: it can send what libzmq never would."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

MORE, LONG, COMMAND = 1, 2, 4
"""Flags of a frame."""

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
"""Signature, version 3.1, mechanism, and the rest of 64 bytes."""


def header(size: int, flags: int = 0) -> bytes:
    """Return the announcement of a frame of `size` bytes."""
    if size < 256:
        return struct.pack(">BB", flags, size)
    return struct.pack(">BQ", flags | LONG, size)


def frame(body: bytes, flags: int = 0) -> bytes:
    """Return a frame; a message is one frame unless it has `MORE`."""
    return header(len(body), flags) + body


def command(name: bytes, body: bytes = b"") -> bytes:
    """Return a command frame, such as READY or PING."""
    return frame(bytes([len(name)]) + name + body, COMMAND)


def ready(kind: bytes = b"DEALER", identity: bytes = b"") -> bytes:
    """Return what ends a handshake."""
    properties = ((b"Socket-Type", kind), (b"Identity", identity))
    return command(b"READY", b"".join(_property(name, value) for name, value in properties))


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def dial(path: str, timeout: float | None = 10.0) -> socket.socket:
    """Connect, and say nothing."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def join(path: str, timeout: float | None = 10.0) -> socket.socket:
    """Connect and shake hands: what comes next are frames."""
    sock = dial(path, timeout)
    try:
        sock.sendall(GREETING)
        receive(sock, len(GREETING))
        sock.sendall(ready())
        receive(sock, receive(sock, 2)[1])  # its READY
    except OSError:
        sock.close()
        raise
    return sock


def receive(sock: socket.socket, size: int) -> bytes:
    """Return exactly so many bytes.

    Raises
    ------
    ConnectionError
        The other end hung up.
    """
    got = b""
    while len(got) < size:
        piece = sock.recv(size - len(got))
        if not piece:
            raise ConnectionError("hung up")
        got += piece
    return got


def read_message(sock: socket.socket) -> bytes:
    """Return the next message, of one frame."""
    flags, size = receive(sock, 2)
    if flags & LONG:
        (size,) = struct.unpack(">Q", bytes([size]) + receive(sock, 7))
    return receive(sock, size)


def hung_up(sock: socket.socket) -> bool:
    """Say whether the other end closes the connection within the socket's timeout."""
    try:
        while sock.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


def close_all(socks: Iterable[socket.socket]) -> None:
    """Hang up."""
    for sock in socks:
        sock.close()
