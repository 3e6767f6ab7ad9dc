"""One DEALER socket to the daemon, for any number of threads, across the daemon's restarts.

Whoever waits for an answer drives the socket: one thread at a time holds the *pump*, sends
what all have posted and hands out what comes in; the others wait to be woken. So a call
costs no switch of threads in the usual case, and nobody waits behind another's long load.

Recovery is one mechanism: say hello again, and repeat what is unanswered. It is set off by
the daemon's death (a pidfd), by an answer from a daemon that does not know us, and by silence:
it may have dropped our answers, or be stopped. Repeating a request changes nothing. Until
the daemon has welcomed us nothing but a hello, and a goodbye, is sent.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary, finalize

import zmq

from arrayd.errors import ArraydError, DaemonLost, NoDaemon, from_wire
from arrayd.results.progress import Reporter
from arrayd.session.call import WINDOW, Answer, Call, Flight, OutOfTime, Waiter, requests
from arrayd.system import launch
from arrayd.system.signal_safe import Turns, open_into, work_off
from arrayd.wire import protocol

AWAY = 10.0
"""Seconds that a daemon may be away before a call gives up."""

_POLLIN, _POLLOUT = int(zmq.POLLIN), int(zmq.POLLOUT)  # arithmetic on zmq's enums is slow
_SILENCE = 2.0  # seconds without an answer before a daemon without a pidfd may be gone
_STILLNESS = 5.0  # the same for one that lives
_GREET_EVERY = 0.5
_REVIVE_EVERY = 2.0  # a daemon that just dies may seem to listen still


class Connection:
    """The client's end of the protocol.

    Parameters
    ----------
    endpoint, nonce
        Where to, and as whom.
    hello
        Returns the fields of a hello, with the holds as they are now.
    welcome
        Called with the daemon's answer to it; says whether to say hello again.
    granted
        Called with every answer, as it comes: a grant that nobody attaches must be undone.
    revive
        Called in a thread that waits, at a loss of the daemon and now and then until it is back:
        it may start one.
    """

    def __init__(
        self,
        endpoint: str,
        nonce: bytes,
        hello: Callable[[], dict[str, Any]],
        welcome: Callable[[Answer], bool],
        granted: Callable[[Answer], None],
        revive: Callable[[], None],
    ) -> None:
        self.endpoint = endpoint
        self.lost_at = time.monotonic()  # since when the daemon has not known us; 0: it does
        # Closed with the last thread that may still ring it.
        opened: list[int] = []
        self._end = finalize(self, deque, map(os.close, opened), 0)
        self._end.atexit = False
        self.wake = open_into(opened, os.eventfd, 0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._nonce = nonce
        self._hello, self._welcome, self._granted = hello, welcome, granted
        self._revive = revive
        self._revive_after = 0.0
        self._numbers = itertools.count(1)
        self._greeting = 0  # number of the hello that is under way
        self._greet_after = 0.0
        self._known = False  # a daemon has welcomed us before
        self._refusal: ArraydError | None = None
        self._waiters = WeakValueDictionary[int, Waiter]()  # a Ctrl-C can leave none here
        self._outbox: deque[bytes] = deque()
        self._inbox: deque[bytes] = deque()
        self._pump = Turns()
        self._pid, self._pidfd = 0, -1
        self._heard = 0.0  # when the daemon last said anything
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing piles up for an absent daemon
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        self._socket.setsockopt(zmq.MAXMSGSIZE, protocol.MAX_ANSWER)
        self._socket.connect(endpoint)

    @property
    def pidfd(self) -> int:
        """Readable when the daemon has died; -1: none."""
        return self._pidfd

    # ---- for callers ---------------------------------------------------------------------

    def ask(
        self,
        op: str,
        deadline: float | None,
        *,
        count: int = 1,
        revives: bool = False,
        ahead: bytes | None = None,
        report: Reporter | None = None,
        **fields: Any,
    ) -> dict[int, Answer]:
        """Send a request and wait for its `count` answers, until `deadline` (monotonic).

        Whatever ends the wait early (the deadline, Ctrl-C, an exception in `report`) cancels
        the request in the daemon.

        Returns
        -------
        dict
            The answers that came in time, by their number.

        Raises
        ------
        NoDaemon, DaemonLost
            The daemon has been away for `AWAY` seconds.
        """
        flight, waiters = Flight(Call(revives), deadline, report), list[Waiter]()
        try:
            if ahead is not None:
                self._outbox.append(ahead)
            for waiter in requests(self._nonce, self._numbers, flight.call, op, count, fields):
                self._drive(flight, WINDOW - 1)
                self._waiters[waiter.number] = waiter
                waiters.append(waiter)
                flight.open.append(waiter)
                self._outbox.append(waiter.frame)
            self._drive(flight, 0)
        except BaseException as error:
            for waiter in flight.open:
                self.tell("cancel", request=waiter.number)
            if not isinstance(error, OutOfTime):
                raise
        finally:
            for waiter in waiters:
                self._waiters.pop(waiter.number, None)
        return {one.first + i: answer for one in waiters for i, answer in one.answers.items()}

    def tell(self, op: str, **fields: Any) -> None:
        """Send a request that has no answer."""
        self.post(self.frame(op, **fields))

    def frame(self, op: str, **fields: Any) -> bytes:
        """Return the frame of a request that has no answer, to be sent ahead of another."""
        return protocol.request(self._nonce, next(self._numbers), op, **fields)

    def post(self, frame: bytes) -> None:
        """Send a frame, or have it sent by the thread that holds the pump."""
        self._outbox.append(frame)
        self.nudge()

    def nudge(self) -> None:
        """Have the outbox sent and the daemon's health looked at, now."""
        if self._closing:
            return
        if not self._pumped(lambda: self._step(0)):
            self.ring()

    def ring(self) -> None:
        """Wake the thread that holds the pump."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self.wake, 1)

    def close(self) -> None:
        """Say goodbye and close; threads that wait for an answer get `DaemonLost`."""
        self._closing = True
        self.ring()
        with self._pump.lock:
            if not self._pump.depth:  # in a signal handler amid a call: that call closes
                self._shut()
        for waiter in self._waiting():
            waiter.call.woken.set()

    def _shut(self) -> None:
        if not self._socket.closed:
            self._outbox.clear()  # the session's end says it all, welcomed or not yet
            self._outbox.append(self.frame("bye"))
            self._send_outbox()
        self._socket.close()
        self._drop_pidfd()
        self._context.term()

    def abandon(self) -> None:
        """Close what a forked child inherited; the sockets are the parent's."""
        self._closing = True  # for a call that was forked amid its progress
        self._end()
        if self._pidfd >= 0:
            os.close(self._pidfd)

    # ---- the pump ------------------------------------------------------------------------

    def _pumped(self, work: Callable[[], object]) -> bool:
        """Do the work, unless another thread has the pump; say whether it was done.

        If the connection was closed meanwhile, that was put off till the end.
        """
        done = True  # if it raises, that was in the work
        try:
            done = self._pump.take(work, self._close_late)
            return done
        finally:
            if done:
                self._pass_on()

    def _close_late(self) -> None:
        if self._closing:
            self._shut()

    def _drive(self, flight: Flight, most: int) -> None:
        """Wait until at most so many requests of a call are unanswered."""
        began, call = time.monotonic(), flight.call
        while flight.left() > most:
            self._check_health(began, flight.deadline)
            if self._to_revive(call):
                self._revive()  # if it fails, the next call tries again
                self._revive_after = time.monotonic() + _REVIVE_EVERY
            if not self._pumped(lambda: self._lead(flight, most, began)):
                self.ring()  # there is something in the outbox
                call.woken.wait(self._patience(flight.deadline))
            call.woken.clear()
            flight.tell()

    def _lead(self, flight: Flight, most: int, began: float) -> None:
        call, deadline = flight.call, flight.deadline
        while not (flight.left() <= most or call.reports or self._to_revive(call)):
            self._check_health(began, deadline)
            if not self._step(self._patience(deadline)):
                silent = time.monotonic() - max(began, self._heard)
                if self._pidfd < 0 or silent > _STILLNESS:
                    self._lose()

    def _to_revive(self, call: Call) -> bool:
        return call.revives and self.lost_at > 0.0 and time.monotonic() >= self._revive_after

    def _waiting(self) -> list[Waiter]:  # `values` would stumble over other threads' changes
        return [one for ref in self._waiters.valuerefs() if (one := ref()) is not None]

    def _pass_on(self) -> None:
        """Let another waiting thread have the pump."""
        for other in self._waiting():
            if not other.done:
                other.call.woken.set()
                return

    def _patience(self, deadline: float | None) -> float:
        """Seconds until the next look around."""
        left = _SILENCE if deadline is None else min(deadline - time.monotonic(), _SILENCE)
        return max(0.0, min(left, 0.1) if self.lost_at else left)

    def _check_health(self, began: float, deadline: float | None) -> None:
        now = time.monotonic()
        if self._closing:
            raise DaemonLost("This client was closed while a call waited for the daemon.")
        if self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            raise refusal
        if self.lost_at and now - max(began, self.lost_at) > AWAY:
            pid = self._pid if self._pidfd >= 0 else None
            why = launch.why_silent(self.endpoint, AWAY, pid)
            raise (DaemonLost if self._known else NoDaemon)(why)
        if deadline is not None and now >= deadline:
            raise OutOfTime

    def _step(self, timeout: float) -> bool:
        """Send, wait for something to happen, and see to it; say whether anything did.

        With the pump held.
        """
        if self._inbox:  # a Ctrl-C came between
            work_off(self._inbox, self._dispatch)
            return True
        if not self.lost_at:
            self._send_outbox()
        interest = _POLLIN if self._greet() else _POLLIN | _POLLOUT
        watched: list[tuple[Any, int]] = [(self._socket, interest), (self.wake, _POLLIN)]
        if self._pidfd >= 0:
            watched.append((self._pidfd, _POLLIN))
        ready = dict(zmq.zmq_poll(watched, math.ceil(timeout * 1000)))
        if self.wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.wake)
        if self._pidfd in ready:
            self._drop_pidfd()
            self._lose()
        if ready.get(self._socket, 0) & _POLLIN:
            self._receive()
        return bool(ready)

    def _send_outbox(self) -> None:
        try:
            work_off(self._outbox, lambda frame: self._socket.send(frame, zmq.NOBLOCK))
        except zmq.Again:  # the connection has just gone
            self._lose()

    def _receive(self) -> None:
        while int(self._socket.getsockopt(zmq.EVENTS)) & _POLLIN:
            # In one step: what a Ctrl-C cut off between two would be lost.
            self._inbox.extend(map(self._socket.recv, (zmq.NOBLOCK,)))
            self._heard = time.monotonic()
            work_off(self._inbox, self._dispatch)

    def _dispatch(self, frame: bytes) -> None:
        with contextlib.suppress(protocol.Garbage):
            self._on_answer(protocol.decode(frame, answer=True))

    def _on_answer(self, answer: Answer) -> None:
        number, index = answer.get("id"), answer.get("i", 0)
        if number == self._greeting:
            self._on_greeted(answer)
            return
        waiter = self._waiters.get(number) if isinstance(number, int) else None
        if answer.get("hello"):
            self._lose()
        elif waiter is None:
            self._granted(answer)
        elif "again" in answer:
            self._outbox.append(waiter.frame)
        elif "progress" in answer:
            waiter.call.reports.append((waiter.first + index, *answer["progress"][:2]))
            waiter.call.woken.set()
        elif index not in waiter.answers:
            self._granted(answer)
            waiter.answers[index] = answer
            if waiter.done:
                waiter.call.woken.set()
        else:
            self._granted(answer)  # a repeated request was answered twice: the hold is renewed

    # ---- recovery ------------------------------------------------------------------------

    def _lose(self) -> None:
        """Take note that the daemon may not know us any more."""
        if not self.lost_at:
            self.lost_at = time.monotonic()
            self._greet_after = self._revive_after = 0.0

    def _greet(self) -> bool:
        """Introduce ourselves where we are not known; False: there is no connection yet."""
        now = time.monotonic()
        if not self.lost_at or now < self._greet_after:
            return True
        self._greeting = next(self._numbers)
        frame = protocol.request(self._nonce, self._greeting, "hello", **self._hello())
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._greet_after = now + _GREET_EVERY
        return True

    def _on_greeted(self, answer: Answer) -> None:
        if "err" in answer:
            self._refusal = from_wire(answer["err"])
            return
        self.lost_at, self._known = 0.0, True
        if self._welcome(answer["ok"]):
            self._lose()
        self._watch_daemon(answer["ok"]["pid"])
        waiting = {id(frame) for frame in self._outbox}
        for waiter in self._waiting():
            if not waiter.done and id(waiter.frame) not in waiting:
                self._outbox.append(waiter.frame)

    def _watch_daemon(self, pid: int) -> None:
        self._drop_pidfd()
        self._pid = pid
        opened: list[int] = []
        try:
            open_into(opened, os.pidfd_open, pid)
        except OSError:
            return  # it is not in our PID namespace, or has just died
        finally:
            if opened:
                self._pidfd = opened[0]

    def _drop_pidfd(self) -> None:
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)
