"""The connections in an asyncio loop: who is heard next, and what is kept for whom.

Fairness is between *processes*: whoever has used the loop least is heard first, so a flood
waits behind everybody else, and what others wait for is at most one message of it. (Start-time
fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996.) What one sends half and what it does not read
is counted, and whoever has most is hung up on; whoever leaves answers unread is not read from.
libzmq, at the clients' ends, connects again at once, and clients repeat what is unanswered.

Clients speak through libzmq; on this side it cannot be bounded, as experiments showed. It
aborts the process when ``accept`` finds no descriptor; it keeps the parts of a message that
never ends (1.3 GB in seconds) and half frames (700 MB from 200 connections) before anybody
sees them; and it is fair between connections, not processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from arrayd.errors import ArraydError, ProtocolMismatch, to_wire
from arrayd.wire import protocol
from arrayd_server.transport import peers, zmtp
from arrayd_server.transport.listener import Door

log = logging.getLogger(__name__)

MAX_KEPT = 64 << 20
"""Bytes of half messages and of unread answers, over all connections."""

_IN, _OUT = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET, select.EPOLLOUT
_CHUNK = 64 << 10
_TURN = 0.002  # seconds until other events of the loop get theirs
_SHAKEN = 10.0  # seconds that a handshake may take
_LINGER = 0.2  # seconds that the last answers have to leave
_COSTLY = 0.002  # seconds of the loop after which a process pauses as long, if others are there
_OTHERS = 1.0  # seconds since another process was heard
_LARGE, _DEAFNESS = 64 << 10, 1.0  # bytes of garbage after which we do not listen; seconds


class Connection:
    """One connection: the way back to whoever asked.

    Parameters
    ----------
    sock
        Accepted.
    account
        Of its process.
    """

    __slots__ = (
        "account",
        "address",
        "kept",
        "queued",
        "since",
        "sock",
        "stream",
        "unread",
        "unsent",
    )

    def __init__(self, sock: socket.socket, address: peers.Address, account: Account) -> None:
        self.sock, self.address, self.account = sock, address, account
        self.stream = zmtp.Stream(protocol.MAX_FRAME)
        self.unread: deque[memoryview] = deque()
        self.unsent = 0  # bytes of them
        self.kept = 0  # bytes: of half a message, and unread
        self.queued = False
        self.since = time.monotonic()

    @property
    def closed(self) -> bool:
        """It is over."""
        return self.sock.fileno() < 0

    def count(self) -> int:
        """Bring the number of bytes that are kept up to date; return the difference."""
        kept = len(self.stream) + self.unsent
        change, self.kept = kept - self.kept, kept
        self.account.kept += change
        return change


class Account:
    """What one process has used of the loop, and its connections that may have something."""

    __slots__ = ("connections", "kept", "key", "paused_until", "ready", "used")

    def __init__(self, key: object) -> None:
        self.key = key
        self.used = 0.0  # seconds; as much as the least user's when it comes back
        self.kept = 0
        self.connections: set[Connection] = set()
        self.ready: deque[Connection] = deque()
        self.paused_until = 0.0


Handler = Callable[[protocol.Request, Connection, peers.Address], None]


class Wire:
    """The daemon's end of the protocol.

    Parameters
    ----------
    loop
        Where messages are noticed.
    endpoint
        To listen at; its lock is taken already.
    handle
        Called with each good request, the way back and the peer.
    gone
        Called with each connection that is over.

    Raises
    ------
    DaemonError
        Somebody listens there already.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: str,
        handle: Handler,
        gone: Callable[[Connection], None],
    ) -> None:
        self.garbage = 0
        self._loop = loop
        self._handle, self._gone = handle, gone
        self._kept = 0
        self._used = 0.0  # of the account that was last served, before
        self._last: Account | None = None
        self._changed = 0.0  # when the turn last went from one process to another
        self._timer: asyncio.Handle | None = None
        self._connections: dict[int, Connection] = {}
        self._accounts: dict[object, Account] = {}
        self._active: set[Account] = set()
        self._chunk = bytearray(_CHUNK)
        self._epoll = select.epoll()
        self._door = Door(endpoint.removeprefix("ipc://"), loop, self._came)
        loop.add_reader(self._epoll.fileno(), self._turn)
        self._sweeper = loop.call_later(_SHAKEN, self._sweep)

    def send(self, to: Connection, number: int, index: int = 0, **body: Any) -> None:
        """Answer a request; that the asker is gone, or we are ending, is no error."""
        if not to.closed:
            self._put(to, zmtp.frame(protocol.answer(number, index, **body)))

    def send_error(self, to: Connection, number: int, error: ArraydError, index: int = 0) -> None:
        """Answer a request with an error."""
        self.send(to, number, index, err=to_wire(error))

    def close(self) -> None:
        """Stop receiving; what was sent has 0.2 s to leave."""
        self._door.close()
        self._sweeper.cancel()
        self._cancel()
        self._loop.remove_reader(self._epoll.fileno())
        end = time.monotonic() + _LINGER
        for connection in list(self._connections.values()):
            if connection.unread:
                connection.sock.settimeout(max(0.001, end - time.monotonic()))
                with contextlib.suppress(OSError):
                    connection.sock.sendall(b"".join(connection.unread))
            self._drop(connection)
        self._epoll.close()

    # ---- connections ---------------------------------------------------------------------

    def _came(self, sock: socket.socket) -> None:
        """Welcome a connection, unless its process has too many."""
        address = peers.of(sock)
        key = address.pid or sock  # those of no known process stand alone
        account = self._accounts.setdefault(key, Account(key))
        if len(account.connections) >= self._door.share():
            sock.close()
            return
        connection = Connection(sock, address, account)
        account.connections.add(connection)
        self._connections[sock.fileno()] = connection
        self._epoll.register(sock.fileno(), _IN)
        self._put(connection, zmtp.GREETING)

    def _drop(self, connection: Connection) -> None:
        if connection.closed:
            return
        account = connection.account
        connection.stream = zmtp.Stream(0)
        connection.unread.clear()
        connection.unsent = 0
        self._kept += connection.count()
        account.connections.discard(connection)
        del self._connections[connection.sock.fileno()]
        connection.sock.close()  # which takes it out of the epoll set
        self._gone(connection)

    def _sweep(self) -> None:
        """Hang up on those who do not finish their handshake."""
        late = time.monotonic() - _SHAKEN
        for connection in list(self._connections.values()):
            if not connection.stream.ready and connection.since < late:
                self._drop(connection)
        # Not at once: who comes again is the same as before.
        self._accounts = {k: a for k, a in self._accounts.items() if a.connections}
        self._sweeper = self._loop.call_later(_SHAKEN, self._sweep)

    def _count(self, connection: Connection) -> None:
        """Hang up on whoever makes us keep most, when it is too much."""
        self._kept += connection.count()
        while self._kept > MAX_KEPT:
            worst = max(self._accounts.values(), key=lambda account: account.kept)
            self._drop(max(worst.connections, key=lambda one: one.kept))
            log.warning("process %s sends half messages or reads no answers: hung up", worst.key)

    # ---- out -----------------------------------------------------------------------------

    def _put(self, to: Connection, data: bytes) -> None:
        rest = memoryview(data)
        if not to.unread:
            try:
                rest = rest[to.sock.send(rest) :]
            except BlockingIOError:
                pass
            except OSError:  # it hung up; reading will tell
                return
            if not rest:
                return
            self._epoll.modify(to.sock.fileno(), _IN | _OUT)
        to.unread.append(rest)
        to.unsent += len(rest)
        self._count(to)

    def _flush(self, to: Connection) -> None:
        """Send what waits; when all is gone, listen again."""
        try:
            while to.unread:
                sent = to.sock.send(to.unread[0])
                to.unsent -= sent
                rest = to.unread[0][sent:]
                if rest:
                    to.unread[0] = rest
                else:
                    to.unread.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._drop(to)
            return
        self._count(to)
        if not to.closed and not to.unread:
            self._epoll.modify(to.sock.fileno(), _IN)
            self._wake(to)

    # ---- in ------------------------------------------------------------------------------

    def _poll(self) -> None:
        for fd, events in self._epoll.poll(0):
            connection = self._connections.get(fd)
            if connection is None:
                continue
            if events & select.EPOLLOUT:
                self._flush(connection)
            if events & ~select.EPOLLOUT and not connection.closed:
                self._wake(connection)

    def _wake(self, connection: Connection) -> None:
        """Let a connection be heard in its turn."""
        if connection.queued:
            return
        connection.queued = True
        account = connection.account
        account.ready.append(connection)
        if account not in self._active:
            account.used = max(account.used, self._used)
            self._active.add(account)

    def _turn(self) -> None:
        """Hear some, who has used least first; then let other events of the loop come."""
        self._cancel()
        now = time.perf_counter()
        end = now + _TURN
        while now < end:
            self._poll()
            account = self._next(now)
            if account is None:
                return
            self._used = account.used
            # By the processor's time: that others were scheduled meanwhile is not its fault.
            began = time.thread_time()
            self._hear(account)
            cost, now = time.thread_time() - began, time.perf_counter()
            self._charge(account, cost, now)
        self._again(0)

    def _next(self, now: float) -> Account | None:
        """Return whose turn it is; None: nobody's, for now."""
        heard = [account for account in self._active if account.paused_until <= now]
        if heard:
            return min(heard, key=lambda account: account.used)
        if self._active:
            self._again(min(account.paused_until for account in self._active) - now)
        return None

    def _again(self, delay: float) -> None:
        self._cancel()
        if delay:
            self._timer = self._loop.call_later(delay, self._turn)
        else:
            self._timer = self._loop.call_soon(self._turn)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _charge(self, account: Account, cost: float, now: float) -> None:
        account.used += cost
        if account is not self._last:
            self._last, self._changed = account, now
        if cost > _COSTLY and now - self._changed < _OTHERS:
            account.paused_until = max(account.paused_until, now + cost)

    def _hear(self, account: Account) -> None:
        """Take one message of a process, its connections in turn."""
        connection = account.ready.popleft()
        connection.queued = False
        if not account.ready:
            self._active.discard(account)
        if connection.closed or connection.unread:
            return  # `_flush` wakes it
        try:
            message, reply = connection.stream.next()
            if message is None and not reply:
                size = connection.sock.recv_into(self._chunk)
                if not size:
                    self._drop(connection)
                    return
                with memoryview(self._chunk) as chunk:
                    connection.stream.feed(chunk[:size])
                message, reply = connection.stream.next()
        except BlockingIOError:
            return
        except (zmtp.Violation, OSError) as error:
            self.garbage += isinstance(error, zmtp.Violation)
            self._drop(connection)
            return
        self._wake(connection)  # there may be more
        if reply:
            self._put(connection, reply)
        if len(connection.stream) or connection.kept:
            self._count(connection)
        if message is not None:
            self._receive(message, connection)

    def _receive(self, frame: bytes, connection: Connection) -> None:
        message: Mapping[str, Any] = {}
        try:
            message = protocol.decode(frame)
            request = protocol.parse_request(message)
        except ProtocolMismatch as error:
            self.send_error(connection, message["id"], error)
        except protocol.Garbage as error:
            self.garbage += 1
            if len(frame) > _LARGE:
                connection.account.paused_until = time.perf_counter() + _DEAFNESS
            number = message.get("id")
            if type(number) is int:
                self.send_error(connection, number, ArraydError(f"Garbage on the socket: {error}."))
        else:
            self._handle(request, connection, connection.address)
