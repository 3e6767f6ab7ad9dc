"""Floods: ``python -m tests.faults.floods KIND ENDPOINT FILE`` floods until it is killed.

Each kind is one way to make a daemon keep, or do, too much. Every process opens a number of
connections and writes "on" when they stand.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from arrayd.wire import protocol
from tests.faults import zmtp
from tests.faults.wild import hello

Frames = Iterator[bytes]


class Flooder:
    """What one hostile process does.

    Parameters
    ----------
    path
        Of the daemon's socket.
    file
        One that is there.
    """

    def __init__(self, path: str, file: str) -> None:
        self.path = path
        self.file = file

    # ---- messages ------------------------------------------------------------------------

    def statuses(self) -> Frames:
        """Ask for all there is, again and again."""
        return self._session("status")

    def gets(self) -> Frames:
        """Get what is there."""
        return self._session("get", **_get(self.file))

    def infos(self) -> Frames:
        """Ask what missing files hold, each another."""
        return self._session("info", lambda n: {"source": {"path": f"/x{n}.npy"}, "stat": None})

    def missing(self) -> Frames:
        """Get missing files, each another."""
        return self._session("get", lambda n: _get(*(f"/x{n}-{i}.npy" for i in range(200))))

    def prefetches(self) -> Frames:
        """Prefetch missing files, each another."""
        return self._session("prefetch", lambda n: _get(f"/x{n}.npy"))

    def names(self) -> Frames:
        """Wait for names that nobody will publish."""
        return self._session("get", lambda n: {**_get(), "items": [_named(n)], "wait": 1e300})

    def name(self) -> Frames:
        """Wait for one name that nobody will publish."""
        fields = _get() | {"items": [_named(0)] * protocol.MAX_ITEMS, "wait": 1e300}
        return self._session("get", lambda _: fields)

    def creates(self) -> Frames:
        """Make blocks and never seal them."""
        fields: dict[str, Any] = {"shape": [1], "descr": "<f8", "order": "C", "name": None}
        fields |= {"keep": True, "replace": False, "wait": 0}
        return self._session("create", lambda _: fields)

    def lends(self) -> Frames:
        """Lend a block that we hold, under one token after another."""
        segments = [name for name in os.listdir("/dev/shm") if name.startswith("arrayd-")]
        for segment in segments:  # only those of this daemon can be held
            nonce = secrets.token_bytes(16)
            yield _request(nonce, "hello", **hello(holds=[segment]))
            for _ in range(20_000):
                yield _request(nonce, "lend", segment=segment, token=secrets.token_bytes(8))
        yield from self.lends()

    def hellos(self) -> Frames:
        """Open one session after another."""
        while True:
            yield _request(secrets.token_bytes(16), "hello", **hello())

    def garbage(self) -> Frames:
        """Send large frames of bytes that mean nothing."""
        return itertools.repeat(zmtp.frame(b"\xc1" * (protocol.MAX_FRAME - 100)))

    def lists(self) -> Frames:
        """Send frames that unpack to a million things."""
        size = (protocol.MAX_FRAME - 100).to_bytes(4, "big")
        body = b"\x81\xa2id\xdd" + size + b"\x90" * (protocol.MAX_FRAME - 100)
        return itertools.repeat(zmtp.frame(body))

    def releases(self) -> Frames:
        """Release a hundred thousand holds at a time that we do not have."""
        return self._session("release", holds=[["none", 1]] * 100_000)

    def greetings(self) -> Frames:
        """State a hundred thousand holds at a time that we cannot have."""
        return itertools.repeat(_request(bytes(16), "hello", **hello(holds=["none"] * 100_000)))

    def endless(self) -> Frames:
        """Send one message that never ends."""
        return itertools.repeat(zmtp.frame(bytes(100_000), zmtp.MORE))

    def crumbs(self) -> Frames:
        """Send one message that never ends, of empty frames."""
        return itertools.repeat(zmtp.frame(b"", zmtp.MORE) * 10_000)

    def halves(self) -> Frames:
        """Send a frame without its last byte."""
        return iter([zmtp.header(protocol.MAX_FRAME) + bytes(protocol.MAX_FRAME - 1)])

    def pings(self) -> Frames:
        """Have libzmq itself answer."""
        return itertools.repeat(zmtp.command(b"PING", b"\0\0" + b"x" * 16) * 100)

    def silence(self) -> Frames:
        """Say hello, and no more."""
        return iter([_request(secrets.token_bytes(16), "hello", **hello())])

    def _session(
        self, op: str, vary: Callable[[int], dict[str, Any]] | None = None, **fields: Any
    ) -> Frames:
        """Say hello, then the same for ever."""
        nonce = secrets.token_bytes(16)
        yield _request(nonce, "hello", **hello())
        same = None if vary else _request(nonce, op, **fields)
        for number in itertools.count(secrets.randbits(40)):
            yield same or _request(nonce, op, number, **(vary(number) if vary else {}))

    # ---- ways to send --------------------------------------------------------------------

    def run(self, kind: str) -> None:
        """Flood."""
        how, what, connections = KINDS[kind]
        how(self, what, connections)

    def pour(self, what: Callable[[Flooder], Frames], connections: int, sip: int = 1 << 16) -> None:
        """Send over each connection as much as it takes, and read `sip` bytes at a time."""
        flows: dict[socket.socket, _Flow] = {}
        with contextlib.suppress(OSError):  # as many as we are let in
            while len(flows) < connections:
                self._join(flows, what)
        _tell_on()
        while True:
            pouring = [sock for sock, flow in flows.items() if not flow.dry]
            ready = select.select(flows if sip else [], pouring, [], 1.0)
            for sock in {*ready[0], *ready[1]}:
                if not _exchange(sock, flows[sock], sip):
                    sock.close()
                    del flows[sock]
            with contextlib.suppress(OSError):
                if len(flows) < connections:
                    self._join(flows, what)
            if sip == 1:
                time.sleep(1.0)  # the pace of a slow reader

    def _join(self, flows: dict[socket.socket, _Flow], what: Callable[[Flooder], Frames]) -> None:
        sock = zmtp.join(self.path, 1.0)
        sock.setblocking(False)
        flows[sock] = _Flow(what(self))

    def deaf(self, what: Callable[[Flooder], Frames], connections: int) -> None:
        """Send over each connection as much as it takes, and never read."""
        self.pour(what, connections, sip=0)

    def slow(self, what: Callable[[Flooder], Frames], connections: int) -> None:
        """Read a byte a second of what was asked for."""
        self.pour(what, connections, sip=1)

    def knock(self, what: Callable[[Flooder], Frames], connections: int) -> None:
        """Connect and hang up, at every stage of a handshake."""
        stages = (b"", zmtp.GREETING[:10], zmtp.GREETING, zmtp.GREETING + zmtp.ready())
        _tell_on()
        for stage in itertools.cycle(stages):
            with contextlib.suppress(OSError), zmtp.dial(self.path) as sock:
                sock.sendall(stage)

    def mute(self, what: Callable[[Flooder], Frames], connections: int) -> None:
        """Connect and say nothing, as often as can be, and stay."""
        socks: list[socket.socket] = []
        with contextlib.suppress(OSError):
            while len(socks) < connections:
                socks.append(zmtp.dial(self.path, 1.0))
        _tell_on()
        time.sleep(3600)

    def burn(self, what: Callable[[Flooder], Frames], connections: int) -> None:
        """Use a CPU, and leave the daemon alone: the yardstick."""
        _tell_on()
        while True:
            pass


class _Flow:
    """What is still to be sent over a connection."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._rest = memoryview(b"")
        self.dry = False

    def send(self, sock: socket.socket) -> None:
        """Send as much as goes."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(50):
                if not self._rest:
                    self._rest = memoryview(next(self._frames, b""))
                    if not self._rest:
                        self.dry = True
                        return
                self._rest = self._rest[sock.send(self._rest) :]


def _exchange(sock: socket.socket, flow: _Flow, sip: int) -> bool:
    """Send and read; False: the daemon has hung up."""
    try:
        flow.send(sock)
        if sip:
            return bool(sock.recv(sip))
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _request(nonce: bytes, op: str, number: int = 1, **fields: Any) -> bytes:
    return zmtp.frame(protocol.request(nonce, number, op, **fields))


def _get(*paths: str) -> dict[str, Any]:
    items = [{"source": {"path": path}, "stat": None} for path in paths]
    return {"items": items, "pin": None, "wait": None, "progress": True}


def _named(number: int) -> dict[str, Any]:
    return {"source": {"name": f"n{number}"}, "stat": None}


def _tell_on() -> None:
    sys.stdout.write("on\n")
    sys.stdout.flush()


_F = Flooder
KINDS: dict[str, tuple[Any, Callable[[Flooder], Frames], int]] = {
    "statuses": (_F.pour, _F.statuses, 4),
    "gets": (_F.pour, _F.gets, 4),
    "infos": (_F.pour, _F.infos, 4),
    "missing files": (_F.pour, _F.missing, 4),
    "prefetches": (_F.pour, _F.prefetches, 4),
    "names": (_F.pour, _F.names, 4),
    "one name": (_F.pour, _F.name, 4),
    "creates": (_F.pour, _F.creates, 4),
    "lends": (_F.pour, _F.lends, 1),
    "hellos": (_F.pour, _F.hellos, 4),
    "unread statuses": (_F.deaf, _F.statuses, 50),
    "unread gets": (_F.deaf, _F.gets, 50),
    "unread infos": (_F.deaf, _F.infos, 50),
    "slow readers": (_F.slow, _F.statuses, 200),
    "large garbage": (_F.pour, _F.garbage, 4),
    "large lists": (_F.pour, _F.lists, 4),
    "large releases": (_F.pour, _F.releases, 4),
    "large hellos": (_F.pour, _F.greetings, 4),
    "endless message": (_F.deaf, _F.endless, 4),
    "endless crumbs": (_F.deaf, _F.crumbs, 4),
    "half frames": (_F.deaf, _F.halves, 200),
    "pings": (_F.deaf, _F.pings, 4),
    "connections": (_F.pour, _F.silence, 1000),
    "mute connections": (_F.mute, _F.silence, 1000),
    "knocks": (_F.knock, _F.silence, 1),
    "burnt CPU": (_F.burn, _F.silence, 0),
}
"""For each kind the way to send, what, and over how many connections."""


if __name__ == "__main__":
    kind, endpoint, file = sys.argv[1:]
    Flooder(endpoint.removeprefix("ipc://"), file).run(kind)
