"""The door: the socket that clients connect to, open while descriptors are free.

Those who find it closed wait in the kernel's queue, as they would for a busy daemon.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import stat
from collections.abc import Callable

from arrayd.errors import DaemonError

log = logging.getLogger(__name__)

RESERVE = 128
"""Descriptors (at most a quarter of the limit) that connections leave to the daemon's work."""

_BACKLOG = 1024
_AGAIN = 0.05  # seconds until a closed door looks for free descriptors again
_MOST = 1024  # connections of one process


class Door:
    """A listening Unix socket that lets a peer in while descriptors are free.

    Parameters
    ----------
    path
        Of the socket; a stale one there is replaced.

    Raises
    ------
    DaemonError
        Somebody listens there, or something else than a socket is in the way.
    """

    def __init__(
        self, path: str, loop: asyncio.AbstractEventLoop, came: Callable[[socket.socket], None]
    ) -> None:
        _clear(path)
        self._loop = loop
        self._came = came
        self._retry: asyncio.TimerHandle | None = None
        self._told = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        umask = os.umask(0o077)
        try:
            self._socket.bind(path)
        finally:
            os.umask(umask)
        self._socket.listen(_BACKLOG)
        loop.add_reader(self._socket, self._knock)

    def close(self) -> None:
        """Let nobody in any more."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def share(self) -> int:
        """Return how many connections one process may have."""
        return max(1, min((limit() - reserve()) // 4, _MOST))

    def _knock(self) -> None:
        """Let one in, or look again later."""
        try:
            if spare() > reserve():
                sock = self._socket.accept()[0]
                sock.setblocking(False)
                self._told = False
                self._came(sock)
                return
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("nobody can be let in: %s", error)
        if not self._told:
            self._told = True
            log.warning(
                "%d of %d descriptors are open: new clients wait. Raise LimitNOFILE= (ulimit -n)",
                limit() - spare(),
                limit(),
            )
        self._loop.remove_reader(self._socket)
        self._retry = self._loop.call_later(_AGAIN, self._look_again)

    def _look_again(self) -> None:
        self._loop.add_reader(self._socket, self._knock)


def limit() -> int:
    """Return how many descriptors this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def spare() -> int:
    """Return how many more descriptors this process may open."""
    # The size of this directory is their number (Linux 6.2); before that it is 0.
    return limit() - (os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd")))


def reserve() -> int:
    """Return how many descriptors are kept for the daemon's own work."""
    return min(RESERVE, limit() // 4)


def _clear(path: str) -> None:
    """Remove a socket that nobody serves any more."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise DaemonError(
            f"{path} is in the way: it is no socket. Remove it, or choose another endpoint."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # somebody does, and is busy
    raise DaemonError(
        f"Another process listens at {path}: a daemon that was started with another spelling "
        "of the path, or another program. End it, or choose another endpoint."
    )
