"""A Ctrl-C at each of the moments of a call at which CPython lets one in.

CPython looks for signals where a function begins, after a call, and where a loop goes back.
The trial runs an act again and again, and has the interrupt pending at the first of these
moments, then at the second, and so on: what a random Ctrl-C finds in hours is found in seconds.

``python -m tests.faults.interrupts ACT STEP`` interrupts an act at every STEP-th moment. It
needs a daemon at ``ARRAYD_ENDPOINT``, and ``a.npy`` and ``b.npy``, ``np.arange(1000)`` each, in
its folder. It prints the moments tried and what stayed after which.
"""

from __future__ import annotations

import _thread
import contextlib
import dis
import faulthandler
import gc
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import arrayd
from arrayd.session import flusher
from arrayd.system import daemon_probe, launch
from arrayd.wire import protocol
from arrayd_server.segments import clean

_LOOKS = {dis.opmap[name] for name in dis.opmap if name.startswith(("CALL", "JUMP_BACKWARD"))}
_PATIENCE = 3.0  # seconds in which what an act left has gone

_SPARE = {"opening": 2, "start": 2}
"""Descriptors that a Ctrl-C may cost until the process ends: as a session begins or ends (which
has eleven) in pyzmq's constructor, or in a `finalize` that is being called; as a daemon is
started in `subprocess`, between a pipe and its name."""

Act = Callable[[], object]


def get() -> None:
    """Get, read, get again by the short way, drop, and ask for something else."""
    array = arrayd.get("a.npy")
    assert array[7] == 7
    again = [arrayd.get("a.npy") for _ in range(2)]
    assert again[1][8] == 8
    del array, again
    arrayd.info("a.npy")


def get_many() -> None:
    """Get a list that takes more than one window of requests, in a mode of one's own."""
    protocol.MAX_ITEMS = 1
    arrays = arrayd.get_many(["a.npy", "b.npy"] * 3, mode="c")
    arrays[0][0] = 1
    assert arrays[5][3] == 3


def opening() -> None:
    """Begin a session, use it, and end it."""
    with arrayd.connect() as client:
        assert client.get("a.npy")[7] == 7


def put() -> None:
    """Publish, read, and release."""
    array = arrayd.put(np.arange(100), "put", replace=True)
    assert array[9] == 9
    arrayd.release(array)


def create() -> None:
    """Write in place and seal."""
    with arrayd.create((100,), "i8", "made", replace=True) as array:
        array[:] = 7
    assert arrayd.get("name:made")[5] == 7


def send() -> None:
    """Send by reference, as a queue does, and receive."""
    array = arrayd.put(np.arange(100))
    received = pickle.loads(bytes(ForkingPickler.dumps(array)))
    assert received[5] == 5


def start() -> None:
    """Have a private daemon started."""
    os.environ["XDG_RUNTIME_DIR"] = os.getcwd()
    assert daemon_probe.alive(launch.find_endpoint("private"))


_ALL = (get, get_many, opening, put, create, send, start)
ACTS: dict[str, Act] = {act.__name__: act for act in _ALL}


def interrupted(moment: int, act: Act) -> str:
    """Run the act with a Ctrl-C at that moment of it; say where, "" if it was over before."""
    seen, where = 0, ""

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen, where
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        code = frame.f_code
        if event == "call" or (event == "opcode" and code.co_code[frame.f_lasti] in _LOOKS):
            seen += 1
            if seen == moment:
                sys.settrace(None)
                where = f"{code.co_filename}:{frame.f_lineno} {code.co_name}"
                # Called by the unpacking, not by a call of this code: the next moment at
                # which a signal is looked for is one of the act's.
                (_,) = map(_thread.interrupt_main, (signal.SIGINT,))
                return None
        return trace

    try:
        sys.settrace(trace)
        act()
        sys.settrace(None)
    except KeyboardInterrupt:
        sys.settrace(None)
    return where


def left(other: arrayd.Client, before: tuple[int, int], spare: int) -> str:
    """Say what an act has left behind; "" once that is nothing, which may take a moment.

    `before` has the descriptors and threads that there were, `spare` descriptors may be added.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        gc.collect()  # a client that was dropped, unclosed
        held = [block.source for block in other.status().blocks if block.holders]
        with open("/proc/self/maps") as maps:
            names = [line.split()[-1] for line in maps if "/arrayd-" in line]
        mapped = [name for name in names if not name.endswith("/index")]  # one for a session
        now = _descriptors_and_threads()
        if not held and not mapped and 0 <= now[0] - before[0] <= spare and now[1] == before[1]:
            return ""
        if time.monotonic() > deadline:
            return f"held {held}, mapped {mapped}, descriptors and threads {before} -> {now}"


def _end_private() -> None:
    """End the private daemons, also one that has only just been started."""
    endpoint = launch.private_endpoint().encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if endpoint in path.read_bytes().split(b"\0"):
                pid = int(path.parent.name)
                os.kill(pid, signal.SIGTERM)
                daemon_probe.wait_ended(pid, _PATIENCE)
    clean.clean(launch.private_endpoint())  # what one left that could not do so itself


def _descriptors_and_threads() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def main(act: Act, step: int) -> None:
    """Interrupt the act at every `step`-th moment."""
    faulthandler.enable()
    flusher.FLUSH_AFTER, flusher.FLUSH_EVERY = 0.0005, 0.5  # sooner: more moments in a minute
    sys.unraisablehook = lambda _: None  # a Ctrl-C within a finalizer: Python prints and forgets
    other = arrayd.connect()
    after: Act = _end_private if act is start else _nothing
    act()
    after()
    other.status()
    _watch()
    moment, found = 1, 0
    before = _descriptors_and_threads()
    while where := interrupted(moment, act):
        _watch()
        after()
        if stays := left(other, before, _SPARE.get(act.__name__, 0)):
            found += 1
            _say(f"moment {moment}, {where}: {stays}")
        before = _descriptors_and_threads()
        moment += step
    after()
    _say(f"{len(range(1, moment, step))} moments, {found} losses")


def _nothing() -> None:
    """Leave it as it is."""


def _watch() -> None:
    """End with a traceback unless this is called again in time; takes one thread."""
    faulthandler.dump_traceback_later(4 * _PATIENCE, exit=True)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(ACTS[sys.argv[1]], int(sys.argv[2]))
