"""`Session`: the connection, the flusher, and the holds of one process."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from arrayd.array import Held
from arrayd.common import failpoints, proc
from arrayd.errors import ArraydError, DaemonLost, LoadTimeout, ProtocolMismatch, from_wire
from arrayd.session import fork_and_exit
from arrayd.session.block_index import BlockIndex
from arrayd.session.call import Answer, Answers, Taker
from arrayd.session.connection import Connection
from arrayd.session.flusher import ReleaseFlusher
from arrayd.session.held_blocks import HeldBlocks
from arrayd.session.holds import Release
from arrayd.system import launch, libzmq_guard
from arrayd.system.libzmq_guard import DescriptorCanary
from arrayd.wire import protocol
from arrayd.wire.grant import Grant
from arrayd.wire.records import REMEDY, Record, received

if TYPE_CHECKING:
    from arrayd.results.progress import Reporter

_R = TypeVar("_R", bound=Record)

# These ask about a daemon that is there.
_NEVER_START = frozenset({"status", "evict", "stop", "who", "health", "kick", "drain"})
_GRACE = 0.1  # seconds that the daemon's own, better worded timeout has to arrive


class Session:
    """A session with the daemon, opened at the first call of each process; owns its holds.

    Parameters and errors are those of `arrayd.Client`.
    """

    def __init__(self, endpoint: str | None = None, *, start: bool = True) -> None:
        self.endpoint = launch.find_endpoint(endpoint, start=start)
        self.daemon: dict[str, Any] = {}  # what it said of itself in its welcome
        self.blocks = HeldBlocks(self, self.wake_flusher)
        self.index: BlockIndex | None = None  # of the daemon that has welcomed us
        self._start = start
        self._closed = False
        self._opening = threading.RLock()  # a signal handler may ask while we are opening
        self._nonce = b""
        self._claiming = threading.RLock()  # held while claims are sent: no release overtakes one
        self._said: list[str] = []  # the holds that the latest hello stated
        self._to_tell: deque[tuple[str, dict[str, Any]]] = deque()
        self._dropped: list[bytes] = []  # earlier nonces; see `_drop_foreign_descriptors`
        self._canary: DescriptorCanary | None = None
        self._connection: Connection | None = None
        self._flusher: ReleaseFlusher | None = None
        fork_and_exit.sessions.add(self)

    def close(self) -> None:
        """End the session: all its holds end. Arrays stay readable until they are dropped."""
        try:
            self._close()
        except BaseException:  # a Ctrl-C; each step may be done twice
            self._close()
            raise

    def _close(self) -> None:
        self._closed = True
        with self._opening:
            self._drop_foreign_descriptors()
        for part in (self._flusher, self._connection, self._canary):
            if part is not None:
                part.close()
        self._flusher = self._connection = self._canary = None

    @property
    def state(self) -> str:
        """What a `repr` says of it."""
        return "closed" if self._closed else f"daemon {self.daemon.get('pid', 'not met yet')}"

    @property
    def is_open(self) -> bool:
        """Whether this process has opened it, and not closed it."""
        return self._connection is not None and not self._closed

    # ---- holds ---------------------------------------------------------------------------

    def tell_soon(self, op: str, **fields: Any) -> None:
        """Have the flusher `tell` the daemon; allowed inside a garbage collection."""
        self._to_tell.append((op, fields))
        self.wake_flusher()

    def send_claims(self) -> None:
        """Tell the daemon what was attached without asking, before anything that builds on it."""
        if not self.blocks.has_claims:
            return
        with self._claiming:
            claims, used = self.blocks.claims_due()
            if claims or used:
                failpoints.hit("client.claiming")
                self.tell("claim", holds=claims, used=used, count=self.blocks.claims)
                self.blocks.claims_sent(claims, used)

    def send_releases(self) -> None:
        """Send what was to be told soon, and what is due; the flusher calls this."""
        self.send_claims()
        while self._to_tell:
            op, fields = self._to_tell.popleft()
            self.tell(op, **fields)
        releases = self.blocks.releases_due()
        if releases:
            self.tell("release", holds=releases)
            self.blocks.sent(releases)

    def release(self, held: Held) -> None:
        """End a hold now, whatever arrays lie in its block."""
        try:
            self.blocks.release(held)
            self.send_releases()
        except BaseException:
            self.wake_flusher()
            raise

    def lend(self, segment: str) -> bytes:
        """Have the daemon keep a block for a reference; return the reference's token.

        When it returns, the daemon knows. A lend has no answer of its own, and the daemon may
        hear of our death before it reads what we sent last, or of the reference's receiver.

        Raises
        ------
        NoSuchBlock
            The daemon has no such block.
        """
        token = os.urandom(protocol.TOKEN_BYTES)
        self.send_claims()
        self.tell("lend", segment=segment, token=token)
        failpoints.hit("client.lent")
        self.renew(segment)
        return token

    def renew(self, segment: str) -> Grant:
        """Have the daemon answer for a block we hold, after all that was sent before.

        Raises
        ------
        NoSuchBlock
            The daemon has no such block.
        """
        with self.blocks.attaching():
            grant = unwrap_as(Grant, self.ask("redeem", None, segment=segment, token=b"")[0])
            self.blocks.renewed(grant)
            return grant

    def wake_flusher(self, _: object = None) -> None:
        """Have the releases that are due sent soon; allowed inside a garbage collection."""
        flusher = self._flusher
        if flusher is not None:
            flusher.wake()

    # ---- the connection ------------------------------------------------------------------

    def connect(self) -> Connection:
        """Return the connection; open it at the first call of this process.

        Raises
        ------
        DaemonLost
            The session is closed.
        """
        with self._opening:
            if self._closed:
                raise DaemonLost("This client is closed.")
            self._drop_foreign_descriptors()
            if self._connection is None:
                self._open()
            assert self._connection is not None
            return self._connection

    def _open(self) -> None:
        failpoints.hit("client.opening")
        libzmq_guard.check_descriptors(libzmq_guard.DESCRIPTORS)
        libzmq_guard.check_threads(libzmq_guard.THREADS)
        nonce = os.urandom(16)
        me = weakref.proxy(self)  # dropped unclosed by a program, it ends; see `ReleaseFlusher`
        canary = DescriptorCanary()
        connection = Connection(
            self.endpoint,
            nonce,
            lambda: me._hello(),  # noqa: PLW0108  # the bound method would keep the session
            lambda answer: me._welcome(answer),  # noqa: PLW0108  # the same
            lambda answer: me._granted(answer),  # noqa: PLW0108  # the same
            lambda: launch.ensure(me.endpoint),
        )
        flusher = ReleaseFlusher(connection, self.send_releases, canary.intact)
        try:
            flusher.start()
            # In one step, for no call is in these lines.
            self._nonce, self._canary = nonce, canary
            self._flusher, self._connection = flusher, connection
        except BaseException as error:
            for part in (flusher, connection, canary):
                part.close()
            if isinstance(error, RuntimeError):  # libzmq's have just taken the memory for it
                raise libzmq_guard.no_threads(1, error) from None
            raise
        # Sent after the new session's hello, which states the same holds again: so there is no
        # moment in which a block has no holder.
        for earlier in self._dropped:
            connection.post(protocol.request(earlier, 0, "bye"))

    def _drop_foreign_descriptors(self) -> None:
        """Give up a connection whose descriptors somebody has closed: their numbers are others'.

        A daemonizing program closes all (`os.closerange`); what opens files next gets the same
        numbers. The next call opens another connection.
        """
        if self._canary is None or self._canary.intact():
            return
        assert self._connection is not None
        assert self._flusher is not None
        self._flusher.drop_descriptors()
        fork_and_exit.keep_for_ever(self._connection)
        self._dropped.append(self._nonce)
        self._connection = self._flusher = self._canary = None

    def ask(
        self, op: str, timeout: float | None, *, label: str = "", **fields: Any
    ) -> list[Answer]:
        """Send a request and wait for all its answers.

        Raises
        ------
        LoadTimeout
            They are not there in `timeout` seconds.
        """
        came = self.ask_until(op, timeout, **fields)
        if not came.complete:
            raise timed_out(label or op, timeout, self)
        return [came.found[i] for i in range(came.asked)]

    def ask_until(
        self,
        op: str,
        timeout: float | None,
        *,
        report: Reporter | None = None,
        take: Taker | None = None,
        **fields: Any,
    ) -> Answers:
        """Send a request, the releases that are due ahead of it; return what comes in time.

        With ``items=``, an iterable, it is several requests, each sent as soon as its items are
        made; the answer to each item has its number. Else there is one answer, with number 0.
        `take` is called with each of these answers, mostly while others are still waited for.
        """
        connection = self.connect()
        self.send_claims()
        releases: list[Release] = self.blocks.releases_due()
        ahead = connection.frame("release", holds=releases) if releases else None
        deadline = None if timeout is None else time.monotonic() + timeout + _GRACE
        came: Answers | None = None
        try:
            came = connection.ask(
                op,
                deadline,
                revives=self._start and op not in _NEVER_START,
                ahead=ahead,
                report=report,
                take=take,
                **fields,
            )
        finally:
            if came is None or not came.complete:
                self._drain_late_answers()
        if releases and came.complete:
            self.blocks.sent(releases)
        return came

    def silence(self, timeout: float) -> str:
        """Return why no daemon has answered a call whose timeout has just ended; ``""``: one has.

        A daemon that is starting answers now and then that it is.
        """
        connection = self._connection
        if connection is None or not connection.unknown_since:
            return ""
        away = time.monotonic() - connection.unknown_since
        if away >= min(timeout, 1.0):
            with contextlib.suppress(OSError):  # no descriptor is left to look with
                return connection.why_silent(min(away, timeout))
        return ""

    def _drain_late_answers(self) -> None:
        """After a request that was given up: let the flusher read, and release, late grants."""
        flusher = self._flusher
        if flusher is not None:
            flusher.drain_late_answers()

    def tell(self, op: str, **fields: Any) -> None:
        """Send a request that has no answer; nothing if the session is closed."""
        with contextlib.suppress(DaemonLost):  # closed: the session's end says it all
            self.connect().tell(op, **fields)

    def _granted(self, answer: Answer) -> Answer:
        """Note what an answer grants; return it with the grant parsed."""
        body = answer.get("ok")
        if isinstance(body, dict) and "segment" in body:
            try:
                grant = unwrap_as(Grant, answer)
            except ArraydError:  # `unwrap_as` raises it for who waits
                return answer
            self.blocks.granted(grant)
            return {**answer, "ok": grant}
        return answer

    def _hello(self) -> dict[str, Any]:
        pid, self._said = os.getpid(), self.blocks.stated()
        return {
            "pid": pid,
            "start": proc.start_time(pid),
            "program": proc.program(),
            "version": protocol.PACKAGE_VERSION,
            "shm": proc.shared_memory(),
            "holds": self._said,
            "latest": self.blocks.highest_seq,
            "members": True,
        }

    def _welcome(self, answer: Answer) -> bool:
        failpoints.hit("client.welcomed")
        late = self.blocks.welcomed(self._said, answer["holds"])
        self.daemon = {key: answer[key] for key in ("pid", "version", "run", "leases")}
        self.daemon["uid"] = answer.get("uid")  # an older daemon does not say
        path = answer.get("index")  # an older daemon has none
        if self.index is None or self.index.path != path:
            self.index = BlockIndex(path) if isinstance(path, str) else None
        return late

    def forked(self) -> None:
        """In the child: the session is the parent's; the arrays are ours as well."""
        if self._connection is not None:
            self._connection.abandon()
            fork_and_exit.keep_for_ever(self._connection)  # its sockets are the parent's
        if self._flusher is not None:
            self._flusher.abandon()
        if self._canary is not None:
            self._canary.close()
        self._connection = self._flusher = self._canary = None
        self._opening, self._claiming = threading.RLock(), threading.RLock()
        self._dropped.clear()
        self._to_tell.clear()
        self.blocks.forked()
        failpoints.hit("client.forked")


def timed_out(what: object, timeout: float | None, session: Session | None = None) -> LoadTimeout:
    """Return the error for what is not there in time; of a session without a daemon, it says so."""
    silence = "" if session is None else session.silence(timeout or 0.0)
    words = f"{what}: not there in time (timeout={timeout or 0:.3g} s)."
    return LoadTimeout(f"{words} {silence}".rstrip())


def unwrap(answer: Answer) -> Any:
    """Return the result in an answer, or raise the error.

    Raises
    ------
    ProtocolMismatch
        There is neither.
    """
    if "err" in answer:
        raise from_wire(answer["err"])
    if "ok" not in answer:
        raise ProtocolMismatch(f"The daemon answers in a way of a newer arrayd. {REMEDY}")
    return answer["ok"]


def unwrap_as(kind: type[_R], answer: Answer) -> _R:
    """Return what an answer says as a record, or raise the error in it.

    Raises
    ------
    ProtocolMismatch
        It says nothing that this version understands.
    """
    result = unwrap(answer)
    if isinstance(result, kind):  # a grant, parsed as it came in
        return result
    return received(kind, result, "The daemon's answer")
