"""ZMTP as the daemon takes it apart: whole messages from any pieces, and nothing from liars."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from arrayd_server.transport import zmtp as ours
from tests.faults import zmtp

LIMIT = 1000
SHAKE = zmtp.GREETING + zmtp.ready()


def fed(*pieces: bytes) -> tuple[list[bytes], bytes]:
    """Return the messages in some pieces, and what was answered to them."""
    stream, messages, replies = ours.ByteStream(LIMIT), [], b""
    for piece in pieces:
        stream.feed(memoryview(piece))
        while True:
            message, reply = stream.next()
            replies += reply
            if message is None:
                break
            messages.append(message)
    return messages, replies


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return `data` in pieces."""
    ends = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(ends)]


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(0, 10_000), max_size=9))
@settings(max_examples=200, deadline=None)
def test_any_pieces(bodies: list[bytes], places: list[int]) -> None:
    """However the bytes arrive, the messages come out whole and in order."""
    data = SHAKE + b"".join(map(zmtp.frame, bodies))
    assert fed(*cut(data, places)) == (bodies, ours.READY)


@given(st.lists(st.integers(0, 10_000), max_size=5), st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes(flips: list[int], rest: bytes) -> None:
    """Any bytes are messages, a violation, or not enough yet; nothing else."""
    data = bytearray(SHAKE + zmtp.frame(b"x" * 300) + rest)
    for flip in flips:
        data[flip % len(data)] ^= 1 << flip % 8
    try:
        messages, _ = fed(bytes(data))
    except ours.Violation:
        return
    assert sum(map(len, messages)) <= len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x01\x00",
        zmtp.GREETING[:10] + b"\x02",
        zmtp.GREETING[:12] + b"PLAIN".ljust(52, b"\0"),
        zmtp.GREETING + zmtp.frame(b"no READY"),
        zmtp.GREETING + zmtp.ready(b"SUB"),
        zmtp.GREETING + zmtp.command(b"PING", bytes(10)),
        zmtp.GREETING + zmtp.header(5000, zmtp.COMMAND),
        SHAKE + zmtp.frame(b"part", zmtp.MORE),
        SHAKE + zmtp.header(LIMIT + 1),
        SHAKE + zmtp.header(2**64 - 1),
        SHAKE + b"\x08\x00",
        SHAKE + zmtp.header(5000, zmtp.COMMAND),
    ],
)
def test_violations(data: bytes) -> None:
    """What is no handshake of a DEALER and no single frame of a bearable size is refused."""
    with pytest.raises(ours.Violation):
        fed(data)


def test_the_largest_message() -> None:
    """A message of the limit passes, and nothing of it is kept afterwards."""
    stream = ours.ByteStream(LIMIT)
    stream.feed(memoryview(SHAKE + zmtp.frame(bytes(LIMIT))))
    assert stream.next() == (bytes(LIMIT), ours.READY)
    assert len(stream) == 0


def test_commands() -> None:
    """PING is answered with its context; what we do not know is passed over."""
    ping = zmtp.command(b"PING", b"\0\1" + b"context")
    messages, replies = fed(SHAKE, ping, zmtp.command(b"WHAT", b"?"), zmtp.frame(b"x"))
    assert messages == [b"x"]
    assert replies == ours.READY + zmtp.command(b"PONG", b"context")


def test_libzmq_understands(short_directory: Path) -> None:
    """A DEALER of libzmq shakes hands with our bytes, and what it sends is what we take apart."""
    context = zmq.Context()
    with (
        socket.socket(socket.AF_UNIX) as listener,
        context.socket(zmq.DEALER) as dealer,
    ):
        listener.bind(f"{short_directory}/sock")
        listener.listen()
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RCVTIMEO, 10_000)
        dealer.connect(f"ipc://{short_directory}/sock")
        dealer.send(b"x" * 300)
        with listener.accept()[0] as sock:
            sock.settimeout(10)
            sock.sendall(ours.GREETING)
            sent = zmtp.receive(sock, len(zmtp.GREETING))
            sock.sendall(ours.READY + ours.frame(b"small") + ours.frame(bytes(999)))
            assert (dealer.recv(), dealer.recv()) == (b"small", bytes(999))
            sent += zmtp.receive(sock, len(zmtp.ready()) + 309)
            assert fed(sent) == ([b"x" * 300], ours.READY)
    context.term()
