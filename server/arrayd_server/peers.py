"""Who is at the other end, by the kernel's word, and when they die.

The peer of an ``ipc://`` message is in its ``Peer-Address`` metadata, written by the
kernel at connect. A pidfd becomes readable when its process dies, even as a zombie;
``kill(pid, 0)`` would call a zombie alive, and a pid alone may be somebody else's by now.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from arrayd.errors import ArraydError, DaemonError
from arrayd.process import start_time

_SO_PEERPIDFD = 77
_UCRED = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class Address:
    """uid, gid and pid of a peer; pid 0: in a PID namespace that is none of ours."""

    uid: int
    gid: int
    pid: int


@dataclass(slots=True)
class _Process:
    pidfd: int
    nonces: set[bytes] = field(default_factory=set)


def address(frame: zmq.Frame) -> Address | None:
    """Return who sent a message (received with ``copy=False``); None: not to be told."""
    with contextlib.suppress(zmq.ZMQError, ValueError):
        # "localhost:0:0:13714" or ":0:0:13714": only the right end is fixed.
        _, uid, gid, pid = str(frame.get("Peer-Address")).rsplit(":", 3)
        return Address(int(uid), int(gid), int(pid))
    return None


class Peers:
    """The processes that have sessions, each with one pidfd.

    Parameters
    ----------
    loop
        Where the deaths are noticed.
    limit
        Processes served at once: libzmq aborts when descriptors run out.
    on_death
        Called with the nonce of each session of a process that died.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limit: int, on_death: Callable[[bytes], None]
    ) -> None:
        self._loop = loop
        self._limit = limit
        self._on_death = on_death
        self._processes: dict[int, _Process] = {}

    def watch(self, nonce: bytes, pid: int, start: int, frame: zmq.Frame) -> None:
        """Report the death of a session's process.

        Raises
        ------
        ArraydError
            The process is dead already, or there are too many.
        """
        known = self._processes.get(pid)
        if known is not None and _dead(known.pidfd):
            self._died(pid)
            known = None
        if known is not None:
            known.nonces.add(nonce)
        elif pid > 0:  # 0: rule 2 and the lease test must do
            self._add(nonce, pid, start, frame)

    def forget(self, nonce: bytes, pid: int) -> None:
        """Take note that a session said goodbye."""
        process = self._processes.get(pid)
        if process is not None:
            process.nonces.discard(nonce)
            if not process.nonces:
                self._close(pid)

    def close(self) -> None:
        """Close all pidfds."""
        for pid in list(self._processes):
            self._close(pid)

    def _add(self, nonce: bytes, pid: int, start: int, frame: zmq.Frame) -> None:
        if len(self._processes) >= self._limit:
            raise DaemonError(
                f"The daemon serves {self._limit} processes already, as many as its limit of "
                "descriptors allows. Raise it (LimitNOFILE=, ulimit -n) or --max-clients."
            )
        pidfd = _open(pid, start, frame)
        self._processes[pid] = _Process(pidfd, {nonce})
        self._loop.add_reader(pidfd, self._died, pid)

    def _died(self, pid: int) -> None:
        nonces = self._processes[pid].nonces
        self._close(pid)
        for nonce in nonces:
            self._on_death(nonce)

    def _close(self, pid: int) -> None:
        process = self._processes.pop(pid)
        self._loop.remove_reader(process.pidfd)
        os.close(process.pidfd)


def _dead(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def _open(pid: int, start: int, frame: zmq.Frame) -> int:
    """Return a pidfd of the very process that connected."""
    pidfd = _of_connection(pid, frame)
    if pidfd is not None:
        return pidfd
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise _gone(pid) from None
    if start and start_time(pid) != start:  # the number was given to another process
        os.close(pidfd)
        raise _gone(pid)
    return pidfd


def _of_connection(pid: int, frame: zmq.Frame) -> int | None:
    """Ask the connection's own socket, free of races (Linux 6.5); None: not to be had."""
    try:
        fd = os.dup(frame.get(zmq.SRCFD))
    except (zmq.ZMQError, OSError, TypeError, ValueError):
        return None
    # libzmq's I/O thread may have closed that number and used it again: check whose it is.
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None
    with sock, contextlib.suppress(OSError):
        cred = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        if _UCRED.unpack(cred)[0] == pid:
            return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    return None


def _gone(pid: int) -> ArraydError:
    return DaemonError(f"Process {pid} ended before its session began.")
