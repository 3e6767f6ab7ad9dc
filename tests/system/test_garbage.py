"""Peers that talk nonsense: they get an error or silence, and the daemon serves on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

import arrayd
from arrayd.common import proc
from arrayd.errors import ArraydError
from arrayd.session import connection
from arrayd.wire import protocol
from arrayd.wire.requests import FIELDS
from tests.faults import zmtp
from tests.support.daemons import Daemon
from tests.support.processes import Stage, raised, wait_until

NONCE = b"n" * 16


@pytest.fixture
def wire(daemon: Daemon) -> Iterator[zmq.Socket[bytes]]:
    """Give a bare connection to the daemon."""
    context = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.RCVTIMEO, 10_000)
    sock.connect(daemon.endpoint)
    yield sock
    sock.close()
    context.term()


def ask(wire: zmq.Socket[bytes], message: Any) -> dict[str, Any]:
    """Send a message as it is, and return the answer."""
    wire.send(msgpack.packb(message))
    return protocol.decode(wire.recv())


def hello_of(pid: int, **fields: Any) -> dict[str, Any]:
    """Return the hello of a session of this machine."""
    who = {
        "pid": pid,
        "start": 0,
        "program": "test",
        "holds": [],
        "latest": 0,
        "shm": proc.shared_memory(),
    }
    return {"v": protocol.VERSION, "id": 1, "s": NONCE, "op": "hello", **who, **fields}


def serves(client: arrayd.Client) -> bool:
    """Say whether the daemon does its work still."""
    shared = client.put(np.arange(3))
    return bool(shared.sum() == 3)


def garbage_is(client: arrayd.Client, count: int) -> None:
    """Wait until so many messages were counted as garbage."""
    wait_until(lambda: client.status().garbage == count, f"{count} pieces of garbage")


def test_random_bytes(client: arrayd.Client, wire: zmq.Socket[bytes]) -> None:
    """Frames that are no message are counted and dropped."""
    chance = random.Random(1)
    for length in (0, 1, 2, 7, 100, 5000):
        wire.send(b"\xc1" + chance.randbytes(length))  # c1 begins nothing in msgpack
    for message in (None, 7, "text", [1, 2], {}, {"id": "x"}, {1: 2}):
        wire.send(msgpack.packb(message))
    wire.send_multipart([b"two", b"frames"])  # which costs the connection
    garbage_is(client, 14)
    assert "ok" in ask(wire, hello_of(os.getpid()))
    assert serves(client)


def test_deep_nesting(client: arrayd.Client, wire: zmq.Socket[bytes]) -> None:
    """A message nested a million levels deep, or 25, is garbage; neither costs the daemon."""
    wire.send(b"\x91" * 1_000_000)
    wire.send(b"\x81\x01" * 100_000 + b"\x01")
    deep: Any = 1
    for _ in range(25):
        deep = [deep]
    wire.send(protocol.request(NONCE, 1, "info", source={"x": deep}))
    garbage_is(client, 3)
    assert serves(client)


def test_a_huge_frame(client: arrayd.Client, daemon: Daemon) -> None:
    """A frame above the limit costs its sender the connection, and nobody else anything."""
    context = zmq.Context()
    with context.socket(zmq.DEALER) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        monitor = sock.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        sock.connect(daemon.endpoint)
        sock.send(bytes(protocol.MAX_FRAME + 1))
        assert monitor.poll(10_000), "the daemon does not hang up"
        sock.disable_monitor()
        monitor.close()
    context.term()
    assert serves(client)


def test_bytes_that_are_no_zmq(client: arrayd.Client, daemon: Daemon) -> None:
    """Whatever comes on the socket instead of a handshake is hung up on."""
    path = daemon.endpoint.removeprefix("ipc://")
    greetings = (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"\xff" * 100, b"\x01\x00")
    for greeting in greetings:
        with zmtp.dial(path) as sock:
            sock.sendall(greeting)
            assert zmtp.hung_up(sock), greeting
    with zmtp.join(path) as sock:
        sock.sendall(zmtp.frame(b"part", zmtp.MORE))
        assert zmtp.hung_up(sock), "a message of several frames"
    garbage_is(client, len(greetings) + 1)
    assert serves(client)


def test_a_peer_that_reads_slowly(client: arrayd.Client, daemon: Daemon) -> None:
    """Whoever leaves answers unread is not read from, and gets all of them in the end."""
    count = 20_000
    with zmtp.join(daemon.endpoint.removeprefix("ipc://")) as sock:
        ask_for_all = iter([zmtp.frame(protocol.request(NONCE, n, "status")) for n in range(count)])
        sock.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            for frame in ask_for_all:
                sent += sock.send(frame) == len(frame)
        assert sent < count, "a peer that reads nothing may ask for ever"
        assert serves(client)
        sock.setblocking(True)
        sock.settimeout(10)
        numbers = [protocol.decode(zmtp.read_message(sock))["id"] for _ in range(sent)]
        assert numbers == list(range(sent))


WRONG: list[Any] = [None, True, -1, 1.5, "x", b"x", [], [None], [[]], {}, {"a": 1}, [{"a": 1}]]


def test_wrong_types_in_every_field(
    client: arrayd.Client, daemon: Daemon, wire: zmq.Socket[bytes]
) -> None:
    """For each field of each request, values of the wrong type are answered with an error."""
    assert "ok" in ask(wire, hello_of(os.getpid()))
    number, refused = 1, 0
    for op, fields in FIELDS.items():
        for key, check in fields.items():
            for value in (value for value in WRONG if not check(value)):
                number += 1
                answer = ask(
                    wire,
                    {"v": protocol.VERSION, "id": number, "s": NONCE, "op": op, key: value},
                )
                assert answer["id"] == number
                assert answer["err"]["code"] == "ArraydError"
                assert op in answer["err"]["message"]
                refused += 1
    assert refused > 100
    garbage_is(client, refused)
    assert serves(client)


def test_right_types_without_sense(client: arrayd.Client, wire: zmq.Socket[bytes]) -> None:
    """Requests that are well-formed and mean nothing are answered with errors of arrayd."""
    holds = ["none", "../../etc"]
    welcome = ask(wire, hello_of(os.getpid(), program="x" * 9999, holds=holds))
    assert welcome["ok"]["holds"] == {}
    sources: list[dict[str, Any]] = [
        {},
        {"path": ""},
        {"path": "/x\0y", "format": "npy"},
        {"path": "relative.npy"},
        {"path": "/x.npy", "name": "both"},
        {"path": "/x.npy", "rows": [0, 1]},
        {"path": "/x.npy", "dtype": "what"},
        {"path": "/x.npy", "dtype": "O"},
        {"path": "/x.npy", "dtype": [["a"]]},
        {"path": "/x.npy", "options": [["a", {"b": 1}]]},
        {"path": "/x.npy", "options": 3},
        {"path": "/x.npy", "order": "Q"},
        {"path": "/x.npy", "overflow": "?"},
        {"path": "/x.npy", "format": "exe"},
        {"path": "/x.npy", "surplus": 1},
        {"name": 3},
        {"name": "nobody"},
    ]
    spec = {"order": "C", "name": None, "keep": False, "replace": False, "wait": 0}
    requests: list[tuple[str, dict[str, Any]]] = [
        *(("info", {"source": source}) for source in sources),
        *(
            ("get", {"items": [{"source": source, "stat": None}], "pin": 0, "wait": 0})
            for source in sources
        ),
        *(("evict", {"source": source}) for source in sources),
        ("evict", {"block": "none"}),
        ("evict", {"block": 10**12}),
        ("seal", {"segment": "../../etc/passwd"}),
        ("redeem", {"segment": "none", "token": b""}),
        ("create", {**spec, "shape": [2**62, 2**62], "descr": "f8"}),
        ("create", {**spec, "shape": [3], "descr": "what"}),
        ("create", {**spec, "shape": [3], "descr": "O"}),
        ("create", {**spec, "shape": [3], "descr": []}),
        ("create", {**spec, "shape": [2**60], "descr": "u1"}),
    ]
    for number, (op, fields) in enumerate(requests, 2):
        answer = ask(wire, {"v": protocol.VERSION, "id": number, "s": NONCE, "op": op, **fields})
        assert "err" in answer, (op, fields, answer)
        code, message = answer["err"]["code"], answer["err"]["message"]
        assert code != "DaemonError", (op, fields, message)
        assert "bug" not in message, (op, fields, message)
    assert client.status().blocks == ()
    assert serves(client)


def test_what_strangers_may_say(client: arrayd.Client, wire: zmq.Socket[bytes]) -> None:
    """Before its hello a session is asked to introduce itself, or not answered at all."""
    fields: dict[str, Any] = {"items": [], "pin": 0, "wait": None}
    answer = ask(wire, {"v": protocol.VERSION, "id": 1, "s": NONCE, "op": "get", **fields})
    assert answer["hello"] is True
    for op, body in (
        ("release", {"holds": [["none", 1]]}),
        ("bye", {}),
        ("abort", {"segment": ""}),
    ):
        wire.send(protocol.request(NONCE, 2, op, **body))
    assert ask(wire, {"v": protocol.VERSION, "id": 3, "s": NONCE, "op": "status"})["id"] == 3
    assert serves(client)


def test_a_borrowed_nonce(
    client: arrayd.Client, daemon: Daemon, wire: zmq.Socket[bytes], puppets: Stage
) -> None:
    """A session is its process's: its nonce from another process is AccessDenied."""
    assert "ok" in ask(wire, hello_of(os.getpid()))
    thief = puppets(daemon, "import zmq, arrayd.wire.protocol as p")
    thief(f"sock = zmq.Context().socket(zmq.DEALER); sock.connect({daemon.endpoint!r})")
    for op in ("bye", "status"):
        thief(f"sock.send(p.request({NONCE!r}, 5, {op!r}))")
        assert thief("p.decode(sock.recv())['err']['code']") == "AccessDenied"
    thief("sock.close(0)")
    assert ask(wire, {"v": protocol.VERSION, "id": 2, "s": NONCE, "op": "status"})["ok"]["sessions"]


def test_another_dev_shm(
    client: arrayd.Client, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sees another /dev/shm than the daemon is told so, and how to mend it."""
    with arrayd.connect(daemon.endpoint) as other:
        hello = other._session._hello
        monkeypatch.setattr(other._session, "_hello", lambda: hello() | {"shm": [1, 1]})
        error, seconds = raised(other.status)
        assert isinstance(error, arrayd.DaemonError)
        assert "different /dev/shm" in str(error)
        assert seconds < 2
    assert serves(client)


def test_another_version(
    client: arrayd.Client, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of another protocol is told the daemon's pid, both versions and the remedy."""
    with arrayd.connect(daemon.endpoint) as other:
        monkeypatch.setattr(protocol, "VERSION", 99)
        error, seconds = raised(other.status)
        monkeypatch.undo()
        assert isinstance(error, arrayd.ProtocolMismatch)
        words = (f"pid {daemon.pid}", arrayd.__version__, "protocol 1", "99", "arrayd stop")
        assert [word for word in words if word not in str(error)] == []
        assert seconds < 2
    assert serves(client)


def test_nobody_listens(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that was named and where nobody answers is NoDaemon; none is started there."""
    assert connection.AWAY_TIMEOUT == 10
    monkeypatch.setattr(connection, "AWAY_TIMEOUT", 0.3)
    with arrayd.connect(f"{daemon.endpoint}-elsewhere") as nobody:
        error, seconds = raised(nobody.status)
    assert isinstance(error, arrayd.NoDaemon)
    assert isinstance(error, ConnectionError)
    assert f"{daemon.endpoint}-elsewhere" in str(error)
    assert 0.3 <= seconds < 2
    assert isinstance(error, ArraydError)


@pytest.mark.parametrize("said", [0, 10, 64, 74], ids=["nothing", "some", "greeting", "more"])
def test_an_end_that_comes_with_the_last_words(daemon: Daemon, said: int) -> None:
    """Bytes and an end that the daemon finds together: it reads the bytes, and hangs up."""
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(20)
            peer.connect(daemon.endpoint.removeprefix("ipc://"))
            peer.sendall((zmtp.GREETING + zmtp.ready())[:said])
            peer.shutdown(socket.SHUT_WR)
            os.kill(daemon.pid, signal.SIGCONT)
            while peer.recv(1000):
                pass
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
