"""What happens to the sessions of a process when it forks, and when it ends."""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
import weakref
from typing import Protocol


class _Blocks(Protocol):
    @property
    def lock(self) -> threading.RLock: ...


class _Session(Protocol):
    @property
    def blocks(self) -> _Blocks: ...

    def close(self) -> None: ...

    def forked(self) -> None: ...


sessions: weakref.WeakSet[_Session] = weakref.WeakSet()
_locked: list[threading.RLock] = []  # during a fork; another session may come meanwhile


def keep_for_ever(connection: object) -> None:
    """Never free a connection whose descriptors are no longer its own.

    In a forked child they are the parent's, which a close would end. Where a program has closed
    them behind our back, their numbers are other files', and libzmq aborts.
    """
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
    for session in list(sessions):
        session.close()


def _lock_all() -> None:
    """Before a fork: let no thread be in the middle of a change of the tables."""
    for session in list(sessions):
        session.blocks.lock.acquire()
        _locked.append(session.blocks.lock)


def _unlock_all() -> None:
    while _locked:
        _locked.pop().release()


def _forked_all() -> None:
    _locked.clear()
    for session in list(sessions):
        session.forked()


atexit.register(_close_all)
os.register_at_fork(before=_lock_all, after_in_parent=_unlock_all, after_in_child=_forked_all)
