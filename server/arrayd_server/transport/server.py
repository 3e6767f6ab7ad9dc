"""The sockets of the clients in an asyncio loop: bytes become requests, answers become bytes.

Who is heard next, and how much is kept for whom, `fair_queue` decides. Whoever leaves answers
unread is not read from. A client that is hung up on connects again at once (its libzmq does),
and repeats what is unanswered.

Clients speak through libzmq; on this side it cannot be bounded, as experiments showed. It
aborts the process when ``accept`` finds no descriptor; it keeps the parts of a message that
never ends (1.3 GB in seconds) and half frames (700 MB from 200 connections) before anybody
sees them; and it is fair between connections, not processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from arrayd.errors import ArraydError, ProtocolMismatch, to_wire
from arrayd.wire import protocol
from arrayd.wire.requests import Request, parse_request
from arrayd_server.transport import peers, zmtp
from arrayd_server.transport.fair_queue import FairQueue, ProcessQueue
from arrayd_server.transport.listener import Listener

log = logging.getLogger(__name__)

MAX_BUFFERED = 64 << 20
"""Bytes of half messages and of unread answers, over all connections."""

RECEIVE_BYTES = 64 << 10
"""Bytes taken from a socket at a time."""

TURN_TIME = 0.002
"""Seconds until other events of the loop get theirs."""

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a handshake may take."""

LINGER = 0.2
"""Seconds that the last answers have to leave when the daemon ends."""

LARGE_GARBAGE, GARBAGE_PAUSE = 64 << 10, 1.0
"""Bytes of a message that is garbage after which its process is not heard; for so many seconds."""

_IN, _OUT = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET, select.EPOLLOUT
_ENDS = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class PeerConnection:
    """One connection: the way back to whoever asked.

    Parameters
    ----------
    sock
        Accepted.
    address
        Of the peer, by the kernel.
    process
        The queue of its process.
    """

    __slots__ = (
        "address",
        "credentials",
        "ends",
        "process",
        "send_queue",
        "since",
        "sock",
        "stream",
        "unsent",
    )

    def __init__(
        self, sock: socket.socket, address: peers.Address, process: ProcessQueue[PeerConnection]
    ) -> None:
        self.sock, self.address, self.process = sock, address, process
        self.credentials = peers.credentials(sock)
        self.stream = zmtp.ByteStream(protocol.MAX_FRAME)
        self.send_queue: deque[memoryview] = deque()
        self.unsent = 0  # bytes in it
        self.since = time.monotonic()
        self.ends = False  # the peer has ended its half: there is an end to be read

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self.sock.fileno() < 0


Handler = Callable[[Request, PeerConnection, peers.Address], None]


class Server:
    """The daemon's end of the protocol.

    Parameters
    ----------
    loop
        That runs it.
    endpoint
        To listen at; its lock is taken already.
    handle
        Called with each good request, the way back and the peer.
    on_close
        Called with each connection that has ended, whoever ended it.
    passed
        The socket there, if a socket unit has made it.
    mode
        Of the socket.

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
        on_close: Callable[[PeerConnection], None],
        passed: socket.socket | None = None,
        *,
        mode: int = 0o600,
    ) -> None:
        self.garbage = 0
        self._loop = loop
        self._handle, self._on_close = handle, on_close
        self._timer: asyncio.Handle | None = None
        self._connections: dict[int, PeerConnection] = {}
        self._of_user: Counter[int] = Counter()  # how many there are
        self._queue: FairQueue[PeerConnection] = FairQueue(MAX_BUFFERED)
        self._posted: dict[PeerConnection, list[bytes]] = {}  # until `flush`
        self._chunk = bytearray(RECEIVE_BYTES)
        self._epoll = select.epoll()
        path = endpoint.removeprefix("ipc://")
        self._listener = Listener(path, loop, self._on_accept, passed, mode=mode)
        loop.add_reader(self._epoll.fileno(), self._turn)
        self._sweeper = loop.call_later(HANDSHAKE_TIMEOUT, self._sweep)

    def post(self, to: PeerConnection, number: int, index: int = 0, **body: Any) -> None:
        """Answer a request, with the next `flush`; if the asker is gone, nothing happens."""
        frame = zmtp.frame(protocol.answer(number, index, **body))
        self._posted.setdefault(to, []).append(frame)

    @contextlib.contextmanager
    def counted(self, connection: PeerConnection) -> Iterator[None]:
        """Count as a turn of a connection's process what is done for it later than in its turn."""
        began = time.thread_time()
        yield
        cost = time.thread_time() - began
        self._queue.charge(connection.process, cost, time.perf_counter())

    def flush(self) -> None:
        """Send what was posted: all for one connection by one call of the kernel.

        Each call that finds its reader asleep wakes it, which costs more than the answer itself.
        """
        posted, self._posted = self._posted, {}
        for to, frames in posted.items():
            if not to.closed:
                self._put(to, b"".join(frames))

    def send(self, to: PeerConnection, number: int, index: int = 0, **body: Any) -> None:
        """Answer a request at once, after what was posted; if the asker is gone, do nothing."""
        self.post(to, number, index, **body)
        self.flush()

    def send_error(
        self, to: PeerConnection, number: int, error: ArraydError, index: int = 0
    ) -> None:
        """Answer a request with an error."""
        self.send(to, number, index, err=to_wire(error))

    def close(self) -> None:
        """Stop receiving; answers that are queued have `LINGER` to leave."""
        self._listener.close()
        self._sweeper.cancel()
        self._cancel()
        self._loop.remove_reader(self._epoll.fileno())
        end = time.monotonic() + LINGER
        for connection in list(self._connections.values()):
            if connection.send_queue:
                connection.sock.settimeout(max(0.001, end - time.monotonic()))
                with contextlib.suppress(OSError):
                    connection.sock.sendall(b"".join(connection.send_queue))
            self._drop(connection)
        self._epoll.close()

    # ---- connections ---------------------------------------------------------------------

    def _on_accept(self, sock: socket.socket) -> None:
        """Welcome a connection, unless its process has too many."""
        address = peers.of(sock)
        process = self._queue.process(address.pid or sock, address.uid)  # pid 0: each stands alone
        if len(process.buffered) >= self._listener.max_per_process() or self._is_full(address.uid):
            sock.close()
            return
        connection = PeerConnection(sock, address, process)
        self._queue.join(process, connection)
        self._connections[sock.fileno()] = connection
        self._of_user[address.uid] += 1
        self._epoll.register(sock.fileno(), _IN)
        self._put(connection, zmtp.GREETING)

    def _is_full(self, uid: int) -> bool:
        """Say whether another user than the daemon's has half of all connections."""
        return uid != os.geteuid() and self._of_user[uid] >= 2 * self._listener.max_per_process()

    def _drop(self, connection: PeerConnection) -> None:
        if connection.closed:
            return
        connection.stream = zmtp.ByteStream(0)
        connection.send_queue.clear()
        connection.unsent = 0
        self._queue.leave(connection.process, connection)
        del self._connections[connection.sock.fileno()]
        self._of_user[connection.address.uid] -= 1
        connection.sock.close()  # which takes it out of the epoll set
        self._on_close(connection)

    def _sweep(self) -> None:
        """Hang up on those who do not finish their handshake."""
        late = time.monotonic() - HANDSHAKE_TIMEOUT
        for connection in list(self._connections.values()):
            if not connection.stream.ready and connection.since < late:
                self._drop(connection)
        self._queue.prune()
        self._sweeper = self._loop.call_later(HANDSHAKE_TIMEOUT, self._sweep)

    def _count(self, connection: PeerConnection) -> None:
        """Note what is kept for a connection; above the limit, hang up on the largest."""
        nbytes = len(connection.stream) + connection.unsent
        self._queue.buffer(connection.process, connection, nbytes)
        while (worst := self._queue.excess()) is not None:
            self._drop(worst)
            log.warning(
                "process %s sends half messages or reads no answers: hung up",
                worst.address.pid,
                extra={"uid": worst.address.uid},
            )

    # ---- out -----------------------------------------------------------------------------

    def _put(self, to: PeerConnection, data: bytes) -> None:
        rest = memoryview(data)
        if not to.send_queue:
            try:
                rest = rest[to.sock.send(rest) :]
            except BlockingIOError:
                pass
            except OSError:  # it hung up; reading will notice
                return
            if not rest:
                return
            self._epoll.modify(to.sock.fileno(), _IN | _OUT)
        to.send_queue.append(rest)
        to.unsent += len(rest)
        self._count(to)

    def _flush(self, to: PeerConnection) -> None:
        """Send what is queued; when all is sent, read from the connection again."""
        try:
            while to.send_queue:
                sent = to.sock.send(to.send_queue[0])
                to.unsent -= sent
                rest = to.send_queue[0][sent:]
                if rest:
                    to.send_queue[0] = rest
                else:
                    to.send_queue.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._drop(to)
            return
        self._count(to)
        if not to.closed and not to.send_queue:
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
                connection.ends |= bool(events & _ENDS)
                self._wake(connection)

    def _wake(self, connection: PeerConnection) -> None:
        """Let a connection be heard in its turn."""
        self._queue.wake(connection.process, connection)

    def _turn(self) -> None:
        """Handle messages for `TURN_TIME`, in the order of the fair queue; then go on later."""
        self._cancel()
        now = time.perf_counter()
        end = now + TURN_TIME
        while now < end:
            self._poll()
            process = self._queue.next(now)
            if process is None:
                resume_at = self._queue.resume_at()
                if resume_at is not None:
                    self._turn_after(resume_at - now)
                return
            # Processor time, for what else the machine did meanwhile is not this process's doing.
            began = time.thread_time()
            self._hear(self._queue.take(process))
            cost, now = time.thread_time() - began, time.perf_counter()
            self._queue.charge(process, cost, now)
        self._turn_after(0)

    def _turn_after(self, delay: float) -> None:
        self._cancel()
        if delay:
            self._timer = self._loop.call_later(delay, self._turn)
        else:
            self._timer = self._loop.call_soon(self._turn)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hear(self, connection: PeerConnection) -> None:
        """Read and handle one message of a connection, if it has one."""
        if connection.closed or connection.send_queue:
            return  # `_flush` wakes it again
        # Fewer bytes than were asked for: the socket is empty, and epoll reports what comes then.
        # But what was reported before we read, an end, is not reported again.
        more = True
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
                more = size == RECEIVE_BYTES or len(connection.stream) > 0 or connection.ends
        except BlockingIOError:
            return
        except (zmtp.Violation, OSError) as error:
            self.garbage += isinstance(error, zmtp.Violation)
            self._drop(connection)
            return
        if more:
            self._wake(connection)
        if reply:
            self._put(connection, reply)
        if len(connection.stream) or connection.process.buffered.get(connection):
            self._count(connection)
        if message is not None:
            self._receive(message, connection)

    def _receive(self, frame: bytes, connection: PeerConnection) -> None:
        message: Mapping[str, Any] = {}
        try:
            message = protocol.decode(frame)
            request = parse_request(message)
        except ProtocolMismatch as error:
            self.send_error(connection, message["id"], error)
        except protocol.Garbage as error:
            self.garbage += 1
            if len(frame) > LARGE_GARBAGE:
                connection.process.paused_until = time.perf_counter() + GARBAGE_PAUSE
            number = message.get("id")
            if type(number) is int:
                self.send_error(connection, number, ArraydError(f"Garbage on the socket: {error}."))
        else:
            self._handle(request, connection, connection.address)
