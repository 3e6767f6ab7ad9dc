"""One DEALER socket to the daemon, for any number of threads, across the daemon's restarts.

Theory of operation
-------------------
*The pump.* No thread of its own serves the socket. Whoever waits for an answer tries to take the
pump: with it, it sends what all have put into the outbox and hands out what comes in; without
it, it waits to be woken, by its last answer or to take the pump over. So a call usually costs no
switch of threads, and nobody waits behind another's long load.

*Recovery* is one mechanism: say hello again, and repeat what is unanswered. It begins when the
daemon dies (a pidfd), when it answers that it does not know us, or with silence: it may have
dropped our answers, or be stopped. Repeating a request changes nothing. Until the daemon has
welcomed us nothing but hello, and bye, is sent.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary, finalize

import zmq

from arrayd.errors import ArraydError, DaemonLost, NoDaemon, from_wire
from arrayd.session.call import MAX_IN_FLIGHT, CallState, DeadlinePassed, PendingCall, requests
from arrayd.system import launch
from arrayd.system.process_watch import ProcessWatch
from arrayd.system.signal_safe import TryLock, drain, open_atomically
from arrayd.wire import protocol

if TYPE_CHECKING:
    from arrayd.results.progress import Reporter
    from arrayd.session.call import Answer, Answers, PendingRequest, Taker

AWAY_TIMEOUT = 10.0
"""Seconds that a daemon may be away before a call gives up."""

# Arithmetic on zmq's enums is slow.
_POLLIN, _POLLOUT = int(zmq.POLLIN), int(zmq.POLLOUT)
_AT_ONCE = (int(zmq.NOBLOCK),)
_SILENCE_TIMEOUT = 2.0  # seconds without an answer before a daemon without a pidfd may be gone
_STOPPED_TIMEOUT = 5.0  # the same for one that lives
_HELLO_EVERY = 0.5
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
        Called with every answer, as it comes, for a grant that nobody attaches must be undone;
        returns the answer for whoever waits.
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
        granted: Callable[[Answer], Answer],
        revive: Callable[[], None],
    ) -> None:
        self.endpoint = endpoint
        self.unknown_since = time.monotonic()  # since when the daemon has not known us; 0: it does
        # Closed with the last thread that may still write to it.
        opened: list[int] = []
        self._end = finalize(self, deque, map(os.close, opened), 0)
        self._end.atexit = False
        self._wakefd = open_atomically(opened, os.eventfd, 0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._nonce, self._hello, self._welcome, self._granted = nonce, hello, welcome, granted
        self._revive, self._revive_after = revive, 0.0
        self._numbers = itertools.count(1)
        self._hello_number = 0  # number of the hello that is under way
        self._hello_after = 0.0
        self._known = False  # a daemon has welcomed us before
        self._refusal: ArraydError | None = None
        # A Ctrl-C can leave none here.
        self._pending: WeakValueDictionary[int, PendingRequest] = WeakValueDictionary()
        self._outbox: deque[bytes] = deque()
        self._inbox: deque[bytes] = deque()
        self._pump = TryLock()
        self._daemon = ProcessWatch()
        self._last_heard = 0.0  # when the daemon last said anything
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing piles up for an absent daemon
        self._socket.set_hwm(0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        self._socket.setsockopt(zmq.MAXMSGSIZE, protocol.MAX_ANSWER)
        self._socket.connect(endpoint)

    @property
    def pidfd(self) -> int:
        """Readable when the daemon has died; -1: none."""
        return self._daemon.fd

    def why_silent(self, seconds: float) -> str:
        """Return what there is to say of a daemon that has not answered for so long."""
        return launch.why_silent(self.endpoint, seconds, self._daemon.watched)

    # ---- for callers ---------------------------------------------------------------------

    def ask(
        self,
        op: str,
        deadline: float | None,
        *,
        revives: bool = False,
        ahead: bytes | None = None,
        report: Reporter | None = None,
        take: Taker | None = None,
        **fields: Any,
    ) -> Answers:
        """Send a request, wait for its answers, and return those that came.

        There is one, or one for each of the `items`, which are asked for as they are made. It gives
        up at `deadline` (monotonic). Whatever ends the wait early (that, Ctrl-C, an exception in
        `items`, `report` or `take`) cancels the request in the daemon.

        Raises
        ------
        NoDaemon, DaemonLost
            The daemon has been away for `AWAY_TIMEOUT` seconds.
        """
        state = CallState(revives=revives, takes=take is not None, ends=op == "stop")
        call, complete = PendingCall(state, deadline, report, take), False
        try:
            if ahead is not None:
                self._outbox.append(ahead)
            for request in requests(self._nonce, self._numbers, state, op, fields):
                self._wait_for(call, MAX_IN_FLIGHT - 1)
                self._check_health(time.monotonic(), deadline)  # to make it may have taken long
                self._pending[request.number] = request
                call.add(request)
                self._outbox.append(request.frame)
                if request.count == protocol.MAX_ITEMS:  # others are still to be made
                    self.nudge()
            self._wait_for(call, 0)
            complete = True
        except BaseException as error:
            for request in call.open:
                self.tell("cancel", request=request.number)
            if not isinstance(error, DeadlinePassed):
                raise
        finally:
            for request in call.made:
                self._pending.pop(request.number, None)
        call.pass_on()
        return call.answers(complete=complete)

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
        """Send the outbox, and check the daemon's health, now; nothing if it is closed."""
        if not self._try_pump(lambda: self._closing or self._step(0)):
            self.wake()

    def wake(self) -> None:
        """Wake the thread that holds the pump."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._wakefd, 1)

    def close(self) -> None:
        """Say goodbye and close; threads that wait for an answer get `DaemonLost`."""
        self._closing = True
        self.wake()
        with self._pump.lock:
            if not self._pump.depth:  # in a signal handler amid a call: that call closes
                self._shut_down()
        for request in self._requests():
            request.call.woken.set()

    def _shut_down(self) -> None:
        if not self._socket.closed:
            self._outbox.clear()  # the session's end says it all, welcomed or not yet
            self._outbox.append(self.frame("bye"))
            self._send_outbox()
        self._socket.close()
        self._daemon.close()
        self._context.term()

    def abandon(self) -> None:
        """Close what a forked child inherited; the sockets are the parent's."""
        self._closing = True  # for a call that was forked amid its progress
        self._end()
        self._daemon.close()

    # ---- the pump ------------------------------------------------------------------------

    def _try_pump(self, work: Callable[[], object]) -> bool:
        """Do the work with the pump; False: another thread has it, and nothing was done.

        A `close` during the work is finished at its end.
        """
        done = True  # if it raises, that was in the work
        try:
            done = self._pump.take(work, self._finish_close)
            return done
        finally:
            if done:
                self._wake_next()

    def _finish_close(self) -> None:
        if self._closing:
            self._shut_down()

    def _wait_for(self, call: PendingCall, most: int) -> None:
        """Wait until at most so many requests of a call are unanswered."""
        began, state = time.monotonic(), call.state
        while call.left() > most:
            if self._should_revive(state):
                self._check_health(began, call.deadline)
                self._revive()  # if it fails, the next call tries again
                self._revive_after = time.monotonic() + _REVIVE_EVERY
            if not self._try_pump(lambda: self._pump_until(call, most, began)):
                self._check_health(began, call.deadline)
                self.wake()  # there is something in the outbox
                state.woken.wait(self._poll_timeout(call.deadline))
            state.woken.clear()
            call.pass_on()

    def _pump_until(self, call: PendingCall, most: int, began: float) -> None:
        """With the pump held: send and receive until the call has something to do or to report."""
        state, deadline = call.state, call.deadline
        while not (call.left() <= most or state.has_news or self._should_revive(state)):
            self._check_health(began, deadline)
            came = self._step(self._poll_timeout(deadline))  # maybe only another thread's wake
            silent = time.monotonic() - max(began, self._last_heard)
            if silent > _STOPPED_TIMEOUT or not (came or self._daemon.fd >= 0):
                self._start_recovery()

    def _should_revive(self, state: CallState) -> bool:
        return state.revives and self.unknown_since > 0.0 and time.monotonic() >= self._revive_after

    def _requests(self) -> list[PendingRequest]:
        # `values` would stumble over other threads' changes.
        return [one for ref in self._pending.valuerefs() if (one := ref()) is not None]

    def _wake_next(self) -> None:
        """Wake one thread that still waits, to take the pump over."""
        for other in self._requests():
            if not other.done:
                other.call.woken.set()
                return

    def _poll_timeout(self, deadline: float | None) -> float:
        """Return the seconds until the deadline or the next check of the daemon's health."""
        left = _SILENCE_TIMEOUT
        if deadline is not None:
            left = min(deadline - time.monotonic(), left)
        return max(0.0, min(left, 0.1) if self.unknown_since else left)

    def _check_health(self, began: float, deadline: float | None) -> None:
        now = time.monotonic()
        if self._closing:
            raise DaemonLost("This client was closed while a call waited for the daemon.")
        if self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            raise refusal
        if self.unknown_since and now - max(began, self.unknown_since) > AWAY_TIMEOUT:
            raise (DaemonLost if self._known else NoDaemon)(self.why_silent(AWAY_TIMEOUT))
        if deadline is not None and now >= deadline:
            raise DeadlinePassed

    def _step(self, timeout: float) -> bool:
        """Send, wait for the socket or a wake-up, and handle it; say whether anything came.

        With the pump held.
        """
        if self._inbox:  # a Ctrl-C came between
            drain(self._inbox, self._dispatch)
            return True
        if not self.unknown_since:
            self._send_outbox()
        known = not self.unknown_since or self._say_hello()
        interest = _POLLIN if known else _POLLIN | _POLLOUT
        watched: list[tuple[Any, int]] = [(self._socket, interest), (self._wakefd, _POLLIN)]
        if self._daemon.fd >= 0:
            watched.append((self._daemon.fd, _POLLIN))
        ready = dict(zmq.zmq_poll(watched, math.ceil(timeout * 1000)))
        if self._wakefd in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wakefd)
        if self._daemon.fd in ready:
            self._daemon.close()
            for request in self._requests():
                request.call.lost = request.call.ends
            self._start_recovery()
        if ready.get(self._socket, 0) & _POLLIN:
            self._receive()
        return bool(ready)

    def _send_outbox(self) -> None:
        try:
            drain(self._outbox, lambda frame: self._socket.send(frame, *_AT_ONCE))
        except zmq.Again:  # the connection has just gone
            self._start_recovery()

    def _receive(self) -> None:
        # In one step: what a Ctrl-C cut off between two would be lost.
        with contextlib.suppress(zmq.Again):  # that was all
            self._inbox.extend(map(self._socket.recv, itertools.repeat(*_AT_ONCE)))
        self._last_heard = time.monotonic()
        drain(self._inbox, self._dispatch)

    def _dispatch(self, frame: bytes) -> None:
        with contextlib.suppress(protocol.Garbage):
            self._on_answer(protocol.decode(frame, answer=True))

    def _on_answer(self, answer: Answer) -> None:
        number, index = answer.get("id"), answer.get("i", 0)
        if number == self._hello_number:
            self._on_welcome(answer)
            return
        request = self._pending.get(number) if isinstance(number, int) else None
        if answer.get("hello"):
            self._start_recovery()
        elif "starting" in answer:  # the daemon is there: it is no time without one that passes
            self.unknown_since = self.unknown_since and time.monotonic()
        elif request is None:
            self._granted(answer)
        elif "again" in answer:
            self._outbox.append(request.frame)
        elif "progress" in answer:
            request.call.reported(request.first + index, *answer["progress"][:2])
        elif index not in request.answers:
            request.answered(index, self._granted(answer))
        else:
            self._granted(answer)  # a repeated request was answered twice: the hold is renewed

    # ---- recovery ------------------------------------------------------------------------

    def _start_recovery(self) -> None:
        """Begin to say hello again: the daemon may not know us any more."""
        if not self.unknown_since:
            self.unknown_since = time.monotonic()
            self._hello_after = self._revive_after = 0.0

    def _say_hello(self) -> bool:
        """Introduce ourselves where we are not known; False: there is no connection yet."""
        now = time.monotonic()
        if not self.unknown_since or now < self._hello_after:
            return True
        self._hello_number = next(self._numbers)
        frame = protocol.request(self._nonce, self._hello_number, "hello", **self._hello())
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._hello_after = now + _HELLO_EVERY
        return True

    def _on_welcome(self, answer: Answer) -> None:
        if "err" in answer:
            self._refusal = from_wire(answer["err"])
            return
        self.unknown_since, self._known = 0.0, True
        if self._welcome(answer["ok"]):
            self._start_recovery()
        self._daemon.watch(answer["ok"]["pid"])
        waiting = {id(frame) for frame in self._outbox}
        for request in self._requests():
            if not request.done and id(request.frame) not in waiting:
                self._outbox.append(request.frame)
