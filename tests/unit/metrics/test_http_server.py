"""The HTTP server: what it understands, and what a hostile client cannot do to it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from arrayd.errors import DaemonError
from arrayd_server.metrics import http_server
from arrayd_server.metrics.http_server import HttpAnswer, HttpRequest, HttpServer, listen, parse

ASK = b"GET /x HTTP/1.1\r\nHost: localhost:80\r\n\r\n"


async def echo(request: HttpRequest) -> HttpAnswer:
    """Answer with the path."""
    return HttpAnswer(request.path.encode())


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """Return where a server listens."""
    sock = listen("127.0.0.1", 0)
    server = HttpServer([sock], echo)
    address = sock.getsockname()
    server.start()
    yield address
    server.close()


def everything(sock: socket.socket) -> bytes:
    """Return all until the server hangs up."""
    sock.settimeout(20)
    parts = []
    try:
        while part := sock.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def ask(address: tuple[str, int], request: bytes) -> bytes:
    """Return the answer to these bytes."""
    with socket.create_connection(address) as sock:
        sock.sendall(request)
        return everything(sock)


def test_an_answer(address: tuple[str, int]) -> None:
    """It has strict headers, its length, and ends the connection; HEAD has no body."""
    head, _, body = ask(address, ASK).partition(b"\r\n\r\n")
    assert body == b"/x"
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    wanted = {"Content-Length: 2", "Cache-Control: no-store", "Connection: close"}
    assert wanted | {"Content-Security-Policy: default-src 'self'"} <= set(lines)
    assert ask(address, ASK.replace(b"GET", b"HEAD")).endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 400),
        (b"\xff\xfe / HTTP/1.1", 400),
        (b"GET / HTTP/2", 400),
        (b"GET http://elsewhere/ HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nno header", 400),
        (b"POST / HTTP/1.1", 405),
        (b"GET / HTTP/1.1\r\nHost: evil.example", 421),
        (b"GET / HTTP/1.1\r\nHost: 10.0.0.1:80", 421),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1.evil.example:80", 421),
    ],
)
def test_what_is_refused(head: bytes, status: int) -> None:
    """Other methods, what is no HTTP, and a page of the web whose name leads here."""
    refused = parse(head)
    assert isinstance(refused, HttpAnswer)
    assert refused.status is HTTPStatus(status)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "127.9.9.9", "[::1]"])
def test_local_names(host: str) -> None:
    """A machine has several for itself; what follows a ``?`` is left out."""
    assert parse(f"GET /a?b HTTP/1.1\r\nHost: {host}".encode()) == HttpRequest(
        "GET", "/a", {"host": host}
    )


def test_too_long(address: tuple[str, int]) -> None:
    """A head without an end is not kept."""
    assert b" 431 " in ask(address, b"GET /" + b"x" * http_server.MAX_HEAD)


def test_the_silent_keep_nobody_out(address: tuple[str, int]) -> None:
    """Of those who only connect the oldest go for a new one, which is served."""
    silent = [socket.create_connection(address) for _ in range(3 * http_server.MAX_CONNECTIONS)]
    try:
        assert ask(address, ASK).endswith(b"/x")
        assert everything(silent[0]) == b""
    finally:
        for sock in silent:
            sock.close()


def test_the_slow_are_hung_up_on(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not asked in time gets nothing."""
    monkeypatch.setattr(http_server, "TIMEOUT", 0.05)
    assert ask(address, b"GET / HT") == b""


def test_a_port_that_is_taken(address: tuple[str, int]) -> None:
    """The error names it, and the way out."""
    with pytest.raises(DaemonError, match=f"port {address[1]} cannot be listened at"):
        listen(*address)
