"""The ROUTER socket in an asyncio loop: frames in, frames out, garbage counted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from arrayd import protocol
from arrayd.errors import ArraydError, ProtocolMismatch, to_wire
from arrayd_server import peers

_POLLIN = int(zmq.POLLIN)

_BATCH = 64
"""Messages handled before other events of the loop get their turn."""

Handler = Callable[[protocol.Request, bytes, peers.Address, zmq.Frame], None]


class Wire:
    """The daemon's end of the protocol.

    The socket's descriptor is edge-triggered: it must be drained until EAGAIN, and its
    EVENTS looked at again after every send, or a message stays unnoticed.

    Parameters
    ----------
    loop
        Where messages are noticed.
    endpoint
        To bind; its lock is taken already.
    handle
        Called with each good request, the route back, the peer, and the frame.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: str, handle: Handler) -> None:
        self.garbage = 0
        self._loop = loop
        self._handle = handle
        self._scheduled = False
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.setsockopt(zmq.MAXMSGSIZE, protocol.MAX_FRAME)
        self._socket.setsockopt(zmq.SNDHWM, 100_000)
        self._socket.setsockopt(zmq.BACKLOG, 1024)
        umask = os.umask(0o077)
        try:
            self._socket.bind(endpoint)
        finally:
            os.umask(umask)
        loop.add_reader(self._socket.fileno(), self._drain)
        self._schedule()

    def send(self, route: bytes, number: int, index: int = 0, **body: Any) -> None:
        """Answer a request; that the asker is gone, or we are ending, is no error."""
        if self._socket.closed:
            return
        frame = protocol.answer(number, index, **body)
        try:
            self._socket.send_multipart([route, frame], zmq.NOBLOCK)
        except zmq.Again:
            return
        if self._readable():
            self._schedule()

    def send_error(self, route: bytes, number: int, error: ArraydError, index: int = 0) -> None:
        """Answer a request with an error."""
        self.send(route, number, index, err=to_wire(error))

    def close(self) -> None:
        """Stop receiving; what was sent has 0.2 s to leave."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._context.term()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._scheduled = False
        if self._socket.closed:
            return
        for _ in range(_BATCH):
            if not self._readable():
                return
            self._receive(self._socket.recv_multipart(zmq.NOBLOCK, copy=False))
        self._schedule()

    def _readable(self) -> bool:
        # Asking costs 1 us; the exception of an empty receive, 15.
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & _POLLIN)

    def _receive(self, frames: list[zmq.Frame]) -> None:
        peer = peers.address(frames[-1])
        if len(frames) != 2 or peer is None:
            self.garbage += 1
            return
        route = frames[0].bytes
        message: Mapping[str, Any] = {}
        try:
            message = protocol.decode(frames[1].buffer)
            request = protocol.parse_request(message)
        except ProtocolMismatch as error:
            self.send_error(route, message["id"], error)
        except protocol.Garbage as error:
            self.garbage += 1
            number = message.get("id")
            if type(number) is int and abs(number) < 1 << 63:
                self.send_error(route, number, ArraydError(f"Garbage on the socket: {error}."))
        else:
            self._handle(request, route, peer, frames[1])
