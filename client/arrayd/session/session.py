"""`Session`: the connection, the keeper, and what happens to them in a fork or at exit."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import secrets
import sys
import threading
import time
import weakref
from types import TracebackType
from typing import Any, Self, TypeVar

from arrayd.common import failpoints, proc
from arrayd.errors import ArraydError, DaemonLost, LoadTimeout, ProtocolMismatch, from_wire
from arrayd.results.progress import Reporter
from arrayd.session.call import Answer
from arrayd.session.connection import Connection
from arrayd.session.flusher import Keeper
from arrayd.session.holds import Holdings, Release
from arrayd.system import launch, libzmq_guard
from arrayd.system.libzmq_guard import Canary
from arrayd.wire import protocol
from arrayd.wire.grant import Grant
from arrayd.wire.records import REMEDY, Record, received

_R = TypeVar("_R", bound=Record)

_NEVER_START = frozenset({"status", "evict", "stop"})  # these ask about a daemon that is there
_GRACE = 0.1  # seconds that the daemon's own, better worded timeout has to arrive


class Session:
    """A session with the daemon, opened at the first call of each proc.

    Parameters
    ----------
    endpoint
        Of the daemon, ``ipc://…``; None: found as `arrayd.connect` says.
    start
        Whether a private daemon may be started.

    Raises
    ------
    NoDaemon
        None answers.
    """

    def __init__(self, endpoint: str | None = None, *, start: bool = True) -> None:
        self.endpoint = launch.find_endpoint(endpoint, start=start)
        self.daemon: dict[str, Any] = {}
        self.holdings = Holdings(self, self._ring)
        self._start = start
        self._closed = False
        self._opening = threading.RLock()  # a signal handler may ask while we are opening
        self._nonce = b""
        self._said: list[str] = []  # the holds that the latest hello stated
        self._deserted: list[bytes] = []  # earlier nonces; see `_desert`
        self._canary: Canary | None = None
        self._connection: Connection | None = None
        self._keeper: Keeper | None = None
        _clients.add(self)

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
            self._desert()
        for part in (self._keeper, self._connection, self._canary):
            if part is not None:
                part.close()
        self._keeper = self._connection = self._canary = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"daemon {self.daemon.get('pid', 'not met yet')}"
        return f"<arrayd.Client {self.endpoint}, {state}>"

    def collect(self) -> None:
        """Give back the holds whose last array is gone; the keeper calls this."""
        releases = self.holdings.finished()
        if releases:
            self._tell("release", holds=releases)
            self.holdings.told(releases)

    def _session(self) -> Connection:
        """Return the connection; open it at the first call of this proc."""
        with self._opening:
            if self._closed:
                raise DaemonLost("This client is closed.")
            self._desert()
            if self._connection is None:
                self._open()
            assert self._connection is not None
            return self._connection

    def _open(self) -> None:
        failpoints.hit("client.opening")
        libzmq_guard.need_descriptors(libzmq_guard.DESCRIPTORS)
        libzmq_guard.need_threads(libzmq_guard.THREADS)
        nonce = secrets.token_bytes(16)
        me = weakref.proxy(self)  # a session that a program drops unclosed ends; see `Keeper`
        canary = Canary()
        connection = Connection(
            self.endpoint,
            nonce,
            lambda: me._hello(),  # noqa: PLW0108  # the bound method would keep the session
            lambda answer: me._welcome(answer),  # noqa: PLW0108  # the same
            lambda answer: me._granted(answer),  # noqa: PLW0108  # the same
            lambda: launch.ensure(me.endpoint),
        )
        keeper = Keeper(connection, self.collect, canary.lives)
        try:
            keeper.start()
            # In one step, for no call is in these lines.
            self._nonce, self._canary = nonce, canary
            self._keeper, self._connection = keeper, connection
        except BaseException as error:
            for part in (keeper, connection, canary):
                part.close()
            if isinstance(error, RuntimeError):  # libzmq's have just taken the memory for it
                raise libzmq_guard.no_threads(1, error) from None
            raise
        for earlier in self._deserted:  # when it is heard the new session has stated its holds
            connection.post(protocol.request(earlier, 0, "bye"))

    def _desert(self) -> None:
        """Leave the connection alone, for good, if its descriptors are not ours any more."""
        if self._canary is None or self._canary.lives():
            return
        assert self._connection is not None
        assert self._keeper is not None
        self._keeper.desert()
        _never_end(self._connection)
        self._deserted.append(self._nonce)
        self._connection = self._keeper = self._canary = None

    def _ask(
        self, op: str, timeout: float | None, *, label: str = "", count: int = 1, **fields: Any
    ) -> list[Answer]:
        """Send a request and wait for all its answers.

        Raises
        ------
        LoadTimeout
            They are not there in `timeout` seconds.
        """
        answers = self._ask_until(op, timeout, count=count, **fields)
        if len(answers) < count:
            raise late(label or op, timeout)
        return [answers[i] for i in range(count)]

    def _ask_until(
        self,
        op: str,
        timeout: float | None,
        *,
        count: int,
        report: Reporter | None = None,
        **fields: Any,
    ) -> dict[int, Answer]:
        """Send a request, the pending releases ahead of it; return what answers come in time."""
        connection = self._session()
        releases: list[Release] = self.holdings.finished()
        ahead = connection.frame("release", holds=releases) if releases else None
        deadline = None if timeout is None else time.monotonic() + timeout + _GRACE
        answers: dict[int, Answer] = {}
        try:
            answers = connection.ask(
                op,
                deadline,
                count=count,
                revives=self._start and op not in _NEVER_START,
                ahead=ahead,
                report=report,
                **fields,
            )
        finally:
            if len(answers) < count:
                self._fall_behind()
        if len(answers) == count:
            self.holdings.told(releases)
        return answers

    def _fall_behind(self) -> None:
        """Have the keeper read what is granted late: a hold that nobody knows would stay."""
        keeper = self._keeper
        if keeper is not None:
            keeper.catch_up()

    def _tell(self, op: str, **fields: Any) -> None:
        with contextlib.suppress(DaemonLost):  # closed: the session's end says it all
            self._session().tell(op, **fields)

    def _ring(self, _: object = None) -> None:
        keeper = self._keeper
        if keeper is not None:
            keeper.ring()

    def _granted(self, answer: Answer) -> None:
        body = answer.get("ok")
        if isinstance(body, dict) and "segment" in body:
            with contextlib.suppress(ArraydError):  # whoever waits for it is told
                self.holdings.granted(told(Grant, answer))

    def _hello(self) -> dict[str, Any]:
        pid, self._said = os.getpid(), self.holdings.stated()
        return {
            "pid": pid,
            "start": proc.start_time(pid),
            "program": proc.program(),
            "version": protocol.PACKAGE_VERSION,
            "shm": proc.shared_memory(),
            "holds": self._said,
            "latest": self.holdings.latest,
        }

    def _welcome(self, answer: Answer) -> bool:
        failpoints.hit("client.welcomed")
        late = self.holdings.welcomed(self._said, answer["holds"])
        self.daemon = {key: answer[key] for key in ("pid", "version", "run", "leases")}
        return late

    def _forked(self) -> None:
        """In the child: the session is the parent's; the arrays are ours as well."""
        if self._connection is not None:
            self._connection.abandon()
            _inherited.append(self._connection)
        if self._keeper is not None:
            self._keeper.abandon()
        if self._canary is not None:
            self._canary.close()
        self._connection = self._keeper = self._canary = None
        self._opening = threading.RLock()
        self._deserted.clear()
        self.holdings.forked()
        failpoints.hit("client.forked")


def late(what: object, timeout: float | None) -> LoadTimeout:
    """Return the error for what is not there in time."""
    return LoadTimeout(f"{what}: not there in time (timeout={timeout or 0:.3g} s).")


def good(answer: Answer) -> Any:
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


def told(kind: type[_R], answer: Answer) -> _R:
    """Return what an answer says as a record, or raise the error in it.

    Raises
    ------
    ProtocolMismatch
        It says nothing that this version understands.
    """
    return received(kind, good(answer), "The daemon's answer")


_clients: weakref.WeakSet[Session] = weakref.WeakSet()
_locked: list[threading.RLock] = []  # during a fork; another client may come meanwhile
_inherited: list[Connection] = []  # a child must not close its parent's sockets


def _never_end(connection: Connection) -> None:
    """Keep a connection for ever: at its end libzmq would find its descriptors gone, and abort."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _close_all() -> None:
    """At exit: say goodbye. Pages stay mapped, for views of them may still be alive.

    Only when all is sent: what a program put into a queue a thread of multiprocessing pickles,
    even now, and each array in it has to be lent. Its own exit function, which waits for that
    (and for the children), runs after us where multiprocessing was imported first: in children
    that were spawned always, from Python 3.13 on. Called twice, it does nothing.
    """
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._exit_function()
    for client in list(_clients):
        client.close()


def _lock_all() -> None:
    """Before a fork: let no thread be in the middle of a change of the tables."""
    for client in list(_clients):
        client.holdings.lock.acquire()
        _locked.append(client.holdings.lock)


def _unlock_all() -> None:
    while _locked:
        _locked.pop().release()


def _forked_all() -> None:
    _locked.clear()
    for client in list(_clients):
        client._forked()


atexit.register(_close_all)
os.register_at_fork(before=_lock_all, after_in_parent=_unlock_all, after_in_child=_forked_all)
