"""Answers on their way out: all of one event by one call of the kernel, in their order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from arrayd.wire import protocol
from arrayd.wire.requests import Request
from arrayd_server.transport.server import PeerConnection, Server

NONCE = bytes(16)


class CountingSocket(socket.socket):
    """A socket that remembers the bytes of each send."""

    sends: list[int]

    def send(self, *args: Any) -> int:
        """Send, and take note."""
        sent = super().send(*args)
        self.sends.append(sent)
        return sent


class Bench:
    """A server in a loop of its own, and a client of libzmq."""

    def __init__(self, path: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.routes: list[PeerConnection] = []
        self.endpoint = f"ipc://{path}/sock"
        self.server = Server(self.loop, self.endpoint, self._heard, lambda _: None)
        self.context = zmq.Context()
        self.client = self.context.socket(zmq.DEALER)
        self.client.connect(self.endpoint)

    def _heard(self, request: Request, route: PeerConnection, _: Any) -> None:
        self.routes.append(route)

    def route(self) -> PeerConnection:
        """Let the client ask; return the way back to it, whose sends are counted."""
        self.client.send(protocol.request(NONCE, 1, "status"))
        while not self.routes:
            self.step()
        route = self.routes.pop()
        counting = CountingSocket(fileno=route.sock.detach())
        counting.sends = []
        counting.setblocking(False)
        route.sock = counting
        return route

    def step(self) -> None:
        """Run the loop for a moment."""
        self.loop.run_until_complete(asyncio.sleep(0.001))

    def answers(self, count: int) -> list[dict[str, Any]]:
        """Return so many answers as the client gets them."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            if self.client.poll(1):
                found.append(protocol.decode(self.client.recv(), answer=True))
            else:
                self.step()
        return found

    def close(self) -> None:
        """End both."""
        self.client.close(0)
        self.context.term()
        self.server.close()
        self.loop.close()


@pytest.fixture
def bench(short_directory: Path) -> Iterator[Bench]:
    """Give a server and its client."""
    made = Bench(short_directory)
    yield made
    made.close()


def test_what_was_posted_is_sent_by_one_call(bench: Bench) -> None:
    """Nothing goes before; then each answer is a message of its own, as any client takes it."""
    route = bench.route()
    sends = route.sock.sends  # type: ignore[attr-defined]
    for index in range(64):
        bench.server.post(route, 7, index, ok={"text": "x" * index * 10})
    assert sends == []
    bench.server.flush()
    assert len(sends) == 1
    found = bench.answers(64)
    assert [answer["i"] for answer in found] == list(range(64))
    assert [len(answer["ok"]["text"]) for answer in found] == [10 * i for i in range(64)]
    bench.server.flush()
    assert len(sends) == 1  # there is nothing left


def test_an_answer_at_once_comes_after_what_was_posted(bench: Bench) -> None:
    """Answers keep their order, whichever way they go."""
    route = bench.route()
    bench.server.post(route, 7, ok=1)
    bench.server.send(route, 8, ok=2)
    assert [answer["id"] for answer in bench.answers(2)] == [7, 8]


def test_nobody_is_there_for_what_was_posted(bench: Bench) -> None:
    """Who has hung up before the flush gets nothing, and others get theirs."""
    gone = bench.route()
    bench.server.post(gone, 7, ok=1)
    bench.server._drop(gone)
    bench.client.close(0)
    bench.client = bench.context.socket(zmq.DEALER)
    bench.client.connect(bench.endpoint)
    route = bench.route()
    bench.server.post(route, 8, ok=2)
    bench.server.flush()
    assert [answer["id"] for answer in bench.answers(1)] == [8]


def test_more_than_the_socket_takes_is_sent_later(bench: Bench) -> None:
    """A reader that is slow gets every byte; until then it is not heard."""
    route = bench.route()
    sends = route.sock.sends  # type: ignore[attr-defined]
    for index in range(100):
        bench.server.post(route, 7, index, ok="y" * 50_000)
    bench.server.flush()
    assert route.send_queue
    assert len(sends) == 1
    found = bench.answers(100)
    assert [answer["i"] for answer in found] == list(range(100))
    assert {len(answer["ok"]) for answer in found} == {50_000}
    assert not route.send_queue
    assert route.unsent == 0
