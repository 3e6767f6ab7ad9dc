"""Failpoints: named places in the code where a test lets a process die, stop or fail.

After fail(9) of FreeBSD and fail-rs of TiKV. They are for the tests in `tests/faults` and off
otherwise: `hit` is then an empty function, which costs some 50 ns. No option and no request
of arrayd turns them on, only the environment of the process itself, in one of two forms::

    ARRAYD_FAILPOINTS="daemon.linked=kill:3;worker.chunk=stop"
    ARRAYD_FAILPOINTS=/a/directory

The first arms points for the whole life of each process that inherits it; a point acts once
in each. With the second a test arms points of running processes: a point is armed
by a file of its name that holds the action (`arm`). The first process that passes it renames the
file to ``NAME.PID``, so that only one acts, and the test learns which.

An action is ``kill``, ``term``, ``int``, ``stop`` (a signal to the thread itself), ``exit``
(at once, status 1), ``sleep:SECONDS``, or the name of an errno (``ENOSPC``), which is raised as
an `OSError`. After it may come ``:N``, from the N-th hit in the process on, and ``:P%``, with
that probability. Of an unknown name or action the
import of arrayd fails (ImportError).
"""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from arrayd.errors import ArraydError

VARIABLE = "ARRAYD_FAILPOINTS"

POINTS = {
    # what the daemon has just done, or is about to do (…ing)
    "daemon.bound": "what was left is adopted, and who waited for that was welcomed; not ready yet",
    "daemon.request": "a request was received, nothing is decided",
    "daemon.welcomed": "a session was opened or restated, and the answer is sent",
    "daemon.probed": "a worker has found out what a file holds, nothing is decided",
    "daemon.truncated": "a new segment has its size, and no footer",
    "daemon.described": "a new segment has its footer, and no public name",
    "daemon.linked": "a new segment has its public name, and no pages",
    "daemon.reserving": "a client's segment is linked, its pages are to be had",
    "daemon.spawning": "a worker is to be started",
    "daemon.part": "a worker is to be given a task",
    "daemon.filled": "all parts are written, the seal has not begun",
    "daemon.sealing": "no writer is left, the final metadata is to be written",
    "daemon.half_written": "metadata is written, the footer that fits it is not (2nd: at the seal)",
    "daemon.sealed": "the final footer is written, the registry does not know",
    "daemon.granting": "a hold is decided, its grant not sent",
    "daemon.granted": "a grant was sent",
    "daemon.releasing": "a release was received, the hold stands",
    "daemon.claiming": "a claim was received, nothing is decided",
    "daemon.evicting": "an eviction was asked for, nothing is decided",
    "daemon.asking": "the kernel is to be asked whether anybody maps a segment",
    "daemon.unlinking": "a segment has lost its public name, and has the spare one",
    "daemon.unlinked": "a segment has lost both names, and is charged",
    "daemon.lending": "a lend was received",
    "daemon.redeeming": "a reference was redeemed, nothing is decided",
    "daemon.status": "a status was asked for",
    "daemon.adopting": "some of the segments of an earlier run are adopted",
    "daemon.examining": "a segment of an earlier run has both its names, and was not read yet",
    "daemon.ending": "the loaders are dead, unfinished segments and the socket are there",
    "daemon.freeing": "a stop is to unlink a segment",
    # a loader process
    "worker.probing": "a probe was received",
    "worker.reserving": "a part was received, its pages are to be had",
    "worker.reading": "a chunk was read from the file, nothing of it is written",
    "worker.chunk": "a chunk is written, more may come",
    "worker.answering": "a part is written, the daemon does not know",
    "worker.answered": "the message that a part is written was sent",
    # a process that uses arrayd
    "client.forked": "a child was forked, and has no session yet",
    "client.opening": "the socket is to be opened",
    "client.welcomed": "the answer to hello was received, the session does not have it yet",
    "client.granted": "a grant was received, nothing is mapped",
    "client.opening_segment": "a segment is to be opened for mapping",
    "client.mapped": "a block is mapped, the session does not have it yet",
    "client.indexed": "the index has led to a block, nothing is mapped",
    "client.claiming": "a block was attached by the index, the daemon does not know",
    "client.releasing": "a hold has ended, the daemon does not know",
    "client.written": "a block of ours is written, the seal has not begun",
    "client.sealing": "our own mapping is read-only, the seal is not asked for",
    "client.sealed": "a block of ours is sealed, the session does not know",
    "client.aborting": "a block of ours is to be given up, the daemon does not know",
    "client.packing": "a reference is to be made, its block is not lent",
    "client.lent": "the daemon was sent a lend, and has not confirmed it",
    "client.redeemed": "a reference was redeemed, nothing is mapped",
    "client.collecting": "a piece is written to the file that is collected",
    "client.appended": "rows are written behind those that a file's header counts",
    "client.counted": "a file's header counts the rows that were appended",
    "client.saving": "rows of a pack are on the disk, its note does not count them",
    "client.packed": "a pack has its name, and its note is there still",
    "client.renaming": "a collected file is whole, and has a name of its own",
}
"""Every point, and what has happened when it is passed."""

_SIGNALS = ("kill", "term", "int", "stop")


class Action(NamedTuple):
    """What a point does: from its `nth` hit on, each time with probability `chance`."""

    what: str
    seconds: float = 0.0
    nth: int = 1
    chance: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Action:
        """Return the action that a text describes.

        Raises
        ------
        ArraydError
            There is no such action.
        """
        what, *words = text.strip().split(":")
        try:
            seconds = float(words.pop(0)) if what == "sleep" else 0.0
            nth = int(words.pop(0)) if words and not words[0].endswith("%") else 1
            chance = float(words.pop(0).removesuffix("%")) / 100 if words else 1.0
        except (ValueError, IndexError):
            words, nth, seconds, chance = [text], 1, 0.0, 1.0
        known = what in _SIGNALS or what in ("exit", "sleep") or what in errno.errorcode.values()
        if words or not known:
            raise ArraydError(
                f"{VARIABLE}: {text!r} is no action. It is one of kill, term, int, stop, exit, "
                "sleep:SECONDS or an errno (ENOSPC), with :N for the N-th hit and :P% for chance."
            )
        return cls(what, seconds, nth, chance)

    def due(self, hits: int) -> bool:
        """Return whether to do it at the hit of that number."""
        # Any random number will do for a fault.
        return hits >= self.nth and (self.chance >= 1 or random.random() < self.chance)  # noqa: S311

    def perform(self, name: str) -> None:
        """Do it.

        Raises
        ------
        OSError
            The action is an errno.
        """
        if self.what in _SIGNALS:
            import signal  # here, for every client imports this, and few have a point armed

            # To this very thread: it takes effect before the next line, not a little later.
            signal.pthread_kill(threading.get_ident(), signal.Signals[f"SIG{self.what.upper()}"])
        elif self.what == "exit":
            os._exit(1)
        elif self.what == "sleep":
            time.sleep(self.seconds)
        else:
            code = int(getattr(errno, self.what))
            raise OSError(code, os.strerror(code), f"failpoint {name}")


class _Listed:
    """Points armed by the variable itself."""

    def __init__(self, text: str) -> None:
        self._hits: Counter[str] = Counter()
        self._actions: dict[str, Action] = {}
        for item in filter(None, map(str.strip, text.split(";"))):
            name, _, action = item.partition("=")
            self._actions[_known(name.strip())] = Action.parse(action)

    def hit(self, name: str) -> None:
        action = self._actions.get(name)
        if action is not None:
            self._hits[name] += 1
            if action.due(self._hits[name]) and self._actions.pop(name, None) is not None:
                action.perform(name)


class _Folder:
    """Points armed by files, also in processes that run."""

    def __init__(self, path: str) -> None:
        self._hits: Counter[str] = Counter()
        self._path = path
        for name in os.listdir(path) if os.path.isdir(path) else ():
            if not name.rpartition(".")[2].isdecimal():
                _known(name)

    def hit(self, name: str) -> None:
        path = f"{self._path}/{name}"
        try:
            with open(path, encoding="ascii") as file:
                action = Action.parse(file.read())
            self._hits[name] += 1
            if not action.due(self._hits[name]):
                return
            os.rename(path, f"{path}.{os.getpid()}")
        except FileNotFoundError:  # not armed, or another process was first
            return
        del self._hits[name]
        action.perform(name)


def hit(name: str, /) -> None:
    """Pass a point: nothing happens, unless it is armed."""


def arm(folder: str | os.PathLike[str], name: str, action: str) -> None:
    """Arm a point in all processes whose variable names `folder`, which exists.

    Raises
    ------
    ArraydError
        There is no such point or action.
    """
    Action.parse(action)
    fresh = f"{os.fspath(folder)}/{_known(name)}.0"
    with open(fresh, "x", encoding="ascii") as file:
        file.write(action)
    os.rename(fresh, fresh.removesuffix(".0"))  # never seen half written


def _known(name: str) -> str:
    if name not in POINTS:
        raise ArraydError(f"{VARIABLE}: there is no failpoint {name!r}; see {__name__}.POINTS.")
    return name


def _armed(setting: str) -> Callable[[str], None]:
    return _Folder(setting).hit if setting.startswith("/") else _Listed(setting).hit


if os.environ.get(VARIABLE):
    try:
        hit = _armed(os.environ[VARIABLE])
    except ArraydError as error:
        raise ImportError(error.message) from None
