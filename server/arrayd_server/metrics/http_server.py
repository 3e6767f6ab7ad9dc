"""A small HTTP server on loopback: what is measured, for Prometheus and for browsers.

Every user of the machine can connect to loopback, so whoever does is a stranger. It has a thread
and an event loop of its own: a client that is slow, or sends nothing, costs the daemon nothing.
There are `MAX_CONNECTIONS` at a time, of which the oldest goes for a new one, so that those who
only connect keep nobody out; each lasts `TIMEOUT` at most, brings one request of `MAX_HEAD` bytes,
and the next is accepted after `ACCEPT_PAUSE`, which bounds what a flood takes of the interpreter.
The standard library's servers, and those of prometheus-client, which are made of them, have
neither bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address

from arrayd.errors import DaemonError

MAX_CONNECTIONS = 16
MAX_HEAD = 8192
TIMEOUT = 5.0
ACCEPT_PAUSE = 0.002

HEADERS = (
    "Connection: close",
    "Cache-Control: no-store",
    "Content-Security-Policy: default-src 'self'",
    "X-Content-Type-Options: nosniff",
    "X-Frame-Options: DENY",
    "Referrer-Policy: no-referrer",
    "Cross-Origin-Resource-Policy: same-origin",
)
"""Of every answer."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What somebody asks for; the names of headers are in small letters."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What is answered."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK

    def to_wire(self, *, body: bool) -> bytes:
        """Return the bytes, with or without the body."""
        head = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            *HEADERS,
        ]
        return "\r\n".join([*head, "", ""]).encode() + (self.body if body else b"")


def refusal(status: HTTPStatus, why: str) -> HttpAnswer:
    """Return an answer that says why there is no other."""
    return HttpAnswer(f"{why}\n".encode(), status=status)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there.

    Raises
    ------
    DaemonError
        It cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise DaemonError(
            f"metrics_listen: {host} port {port} cannot be listened at: {error.strerror}. Name "
            "another port, or use arrayd-metrics.socket, if a unit forbids it."
        ) from None


Respond = Callable[[HttpRequest], Awaitable[HttpAnswer]]


def parse(head: bytes) -> HttpRequest | HttpAnswer:
    """Return the request of these bytes, which end with an empty line; or what is wrong with it."""
    try:
        first, *lines = head.decode("ascii").split("\r\n")
        method, target, version = first.split(" ")
        pairs = [line.split(":", 1) for line in lines if line]
        headers = {name.lower(): value.strip() for name, value in pairs}
    except ValueError:
        return refusal(HTTPStatus.BAD_REQUEST, "This is not HTTP/1.1.")
    if version not in ("HTTP/1.0", "HTTP/1.1") or not target.startswith("/"):
        return refusal(HTTPStatus.BAD_REQUEST, "This is not HTTP/1.1.")
    if method not in ("GET", "HEAD"):
        return refusal(HTTPStatus.METHOD_NOT_ALLOWED, "Here is only something to GET.")
    if not _is_local(headers.get("host", "localhost")):
        # A page on the web may have a name that leads here, and a browser that lets it read this.
        return refusal(HTTPStatus.MISDIRECTED_REQUEST, "Ask for localhost, or 127.0.0.1.")
    return HttpRequest(method, target.partition("?")[0], headers)


def _is_local(host: str) -> bool:
    """Say whether a Host header, with a port or without, means this machine by its own name."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return name.lower() == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


@dataclass(slots=True)
class HttpServer:
    """Serves until it is closed.

    Parameters
    ----------
    sockets
        That listen; they are closed at the end.
    respond
        Returns the answer to a request; called in this server's thread and loop.
    """

    sockets: Sequence[socket.socket]
    respond: Respond
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _talks: dict[asyncio.Task[None], None] = field(default_factory=dict)  # oldest first
    _thread: threading.Thread = field(init=False)
    _main: asyncio.Task[None] = field(init=False)

    def start(self) -> None:
        """Begin."""
        for sock in self.sockets:
            sock.setblocking(False)
        self._main = self._loop.create_task(self._serve())
        self._thread = threading.Thread(target=self._run, name="arrayd-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End, at once."""
        self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join(TIMEOUT)

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._main)
        self._loop.close()

    async def _serve(self) -> None:
        accepting = [self._loop.create_task(self._accept(sock)) for sock in self.sockets]
        try:
            await asyncio.gather(*accepting)
        finally:
            tasks = [*accepting, *self._talks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for sock in self.sockets:
                sock.close()

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, _ = await self._loop.sock_accept(listening)
            except OSError:  # there is no descriptor to spare
                await asyncio.sleep(1.0)
                continue
            if len(self._talks) >= MAX_CONNECTIONS:
                oldest = next(iter(self._talks))
                del self._talks[oldest]
                oldest.cancel()
            task = self._loop.create_task(self._talk(sock))
            self._talks[task] = None
            task.add_done_callback(lambda task: self._talks.pop(task, None))
            await asyncio.sleep(ACCEPT_PAUSE)

    async def _talk(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(TIMEOUT):
                request = await self._request(sock)
                if isinstance(request, HttpRequest):
                    answer, body = await self.respond(request), request.method != "HEAD"
                else:
                    answer, body = request, True
                await self._loop.sock_sendall(sock, answer.to_wire(body=body))

    async def _request(self, sock: socket.socket) -> HttpRequest | HttpAnswer:
        head = b""
        while b"\r\n\r\n" not in head:
            if len(head) >= MAX_HEAD:
                return refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "That is too long.")
            received = await self._loop.sock_recv(sock, MAX_HEAD)
            if not received:
                raise ConnectionError("it has said nothing")
            head += received
        return parse(head.partition(b"\r\n\r\n")[0])
