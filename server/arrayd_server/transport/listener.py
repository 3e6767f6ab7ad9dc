"""The socket that clients connect to; connections are accepted while descriptors are free.

Clients that are not accepted wait in the kernel's queue, as they would for a busy daemon.
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
_RETRY_AFTER = 0.05  # seconds until a listener that has paused looks for free descriptors again
_MAX_PER_PROCESS = 1024  # connections


class Listener:
    """A listening Unix socket that accepts connections while descriptors are free.

    Parameters
    ----------
    path
        Of the socket; a stale one there is replaced.
    on_accept
        Called with the socket of each new connection.
    passed
        The socket, if it listens already: it is a socket unit's, and stays as it is.
    mode
        Of the socket: whoever may write to it may connect.

    Raises
    ------
    DaemonError
        Somebody listens there, or something else than a socket is in the way.
    """

    def __init__(
        self,
        path: str,
        loop: asyncio.AbstractEventLoop,
        on_accept: Callable[[socket.socket], None],
        passed: socket.socket | None = None,
        *,
        mode: int = 0o600,
    ) -> None:
        self._loop = loop
        self._on_accept = on_accept
        self._retry: asyncio.TimerHandle | None = None
        self._warned = False
        self._socket = passed or _bound(path, mode)
        self._socket.setblocking(False)
        loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Accept no more connections."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def max_per_process(self) -> int:
        """Return how many connections one process may have."""
        return max(1, min((limit() - reserve()) // 4, _MAX_PER_PROCESS))

    def _accept(self) -> None:
        """Accept one connection, or pause."""
        try:
            if spare() > reserve():
                sock = self._socket.accept()[0]
                sock.setblocking(False)
                self._warned = False
                self._on_accept(sock)
                return
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("nobody can be let in: %s", error)
        if not self._warned:
            self._warned = True
            log.warning(
                "%d of %d descriptors are open: new clients wait. Raise LimitNOFILE= (ulimit -n)",
                limit() - spare(),
                limit(),
            )
        self._loop.remove_reader(self._socket)
        self._retry = self._loop.call_later(_RETRY_AFTER, self._resume)

    def _resume(self) -> None:
        self._loop.add_reader(self._socket, self._accept)


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


def _bound(path: str, mode: int) -> socket.socket:
    """Return a socket of our own that listens at `path`."""
    _clear(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o777 & ~mode)
    try:
        made.bind(path)
    finally:
        os.umask(umask)
    made.listen(_BACKLOG)
    return made


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
