"""Who is at the other end, as the kernel says, and when their processes die.

The kernel writes down who connects (``SO_PEERCRED``). A pidfd becomes readable when its
process dies, even as a zombie; ``kill(pid, 0)`` would call a zombie alive, and a pid alone
may be somebody else's by now.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from arrayd.common.proc import start_time
from arrayd.errors import ArraydError, DaemonError
from arrayd_server.access.policy import Credentials
from arrayd_server.transport import listener

_MAX_PER_PROCESS = 128  # sessions; a process needs one, and `arrayd status` lists each
_SO_PEERGROUPS, _SO_PEERPIDFD = 59, 77
_MAX_GROUPS = 65536  # NGROUPS_MAX
_libc = ctypes.CDLL(None)
_UCRED = struct.Struct("iII")  # pid, uid, gid


@dataclass(frozen=True, slots=True)
class Address:
    """uid, gid and pid of a peer. Pid 0: it is in a PID namespace that we cannot see."""

    uid: int
    gid: int
    pid: int


@dataclass(slots=True)
class _Process:
    pidfd: int
    uid: int
    nonces: set[bytes] = field(default_factory=set)


def of(sock: socket.socket) -> Address:
    """Return who connected."""
    pid, uid, gid = _UCRED.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    return Address(uid, gid, pid)


def credentials(sock: socket.socket) -> Credentials:
    """Return the ids of who connected, and the supplementary groups, as they were at that moment.

    In doubt there are no groups: with them a process may do more. The daemon's user needs none.
    """
    address = of(sock)
    if address.uid == os.geteuid():
        return Credentials(address.uid, address.gid)
    groups = (ctypes.c_uint32 * _MAX_GROUPS)()
    size = ctypes.c_uint32(ctypes.sizeof(groups))
    # Python's own takes 1024 bytes at most: 256 groups.
    failed = _libc.getsockopt(
        sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(size)
    )
    found = [] if failed else groups[: size.value // 4]
    return Credentials(address.uid, address.gid, frozenset(found))


def group_of(pid: int) -> int:
    """Return the process group of a peer: what was started as one job. 0: unknown."""
    try:
        return os.getpgid(pid) if pid > 0 else 0
    except OSError:
        return 0


def group_lives(group: int) -> bool:
    """Say whether any process of a group is left; a zombie counts."""
    if group <= 0:
        return False
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's by now, but there
    return True


class Peers:
    """The processes that have sessions, each with one pidfd.

    Parameters
    ----------
    loop
        Where the deaths are noticed.
    limit
        Sessions at a time; one process may have a quarter of them, and `_MAX_PER_PROCESS`; one
        user, other than the daemon's, half, if no quota says otherwise.
    on_death
        Called with the nonce of each session of a process that died.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limit: int, on_death: Callable[[bytes], None]
    ) -> None:
        self._loop = loop
        self.limit = limit
        self._on_death = on_death
        self._processes: dict[int, _Process] = {}

    def watch(
        self, nonce: bytes, address: Address, start: int, sock: socket.socket, *, share: bool = True
    ) -> None:
        """Watch the process of a session: `on_death` is called when it dies.

        Parameters
        ----------
        address
            Who it is, by the kernel's word.
        start
            When the process began, in clock ticks since boot (`common.proc.start_time`);
            0: unknown. It tells the process from a later one with the same pid.
        sock
            The connection, of which newer kernels give the pidfd themselves.
        share
            No quota limits the sessions of the user: it may have half of all.

        Raises
        ------
        ArraydError
            The process is dead already, or there are too many sessions.
        """
        pid = address.pid
        known = self._processes.get(pid)
        if known is not None and _dead(known.pidfd):
            self._died(pid)
            known = None
        if known is not None and nonce in known.nonces:
            return
        self._check_room(address, known, share=share)
        if known is None:
            pidfd = self._watched(pid, start, sock)
            known = self._processes[pid] = _Process(pidfd, address.uid)
        known.nonces.add(nonce)

    def forget(self, nonce: bytes, pid: int) -> None:
        """Stop watching for a session, which has said goodbye."""
        process = self._processes.get(pid)
        if process is not None:
            process.nonces.discard(nonce)
            if not process.nonces:
                self._close(pid)

    def close(self) -> None:
        """Close all pidfds."""
        for pid in list(self._processes):
            self._close(pid)

    def _check_room(self, address: Address, known: _Process | None, *, share: bool) -> None:
        pid = address.pid
        own = len(known.nonces) if known is not None else 0
        most = max(1, min(self.limit // 4, _MAX_PER_PROCESS))
        if own >= most:
            raise DaemonError(
                f"Process {pid} has {own} sessions, as many as one process may have. Close some "
                "(arrayd.connect returns one each time), or raise --max-clients."
            )
        if share:
            self._check_share(address.uid)
        total = sum(len(process.nonces) for process in self._processes.values())
        if total >= self.limit or listener.spare() < listener.reserve() // 2:
            raise DaemonError(
                f"The daemon has {total} sessions and {listener.spare()} descriptors left: it "
                "takes no more. Raise its limit of descriptors (LimitNOFILE=, ulimit -n) or "
                f"--max-clients ({self.limit})."
            )

    def _check_share(self, uid: int) -> None:
        """Refuse a user, other than the daemon's, that has half of all sessions."""
        of_user = sum(len(p.nonces) for p in self._processes.values() if p.uid == uid)
        if uid != os.geteuid() and of_user >= max(1, self.limit // 2):
            raise DaemonError(
                f"User {uid} has {of_user} sessions, half of the {self.limit} that the daemon "
                "takes (--max-clients). End some of your processes."
            )

    def _watched(self, pid: int, start: int, sock: socket.socket) -> int:
        """Return a watched pidfd of the process; -1 if it is in a namespace that we cannot see."""
        if pid == 0:  # that nobody maps its blocks will show in the lease test
            return -1
        pidfd = _open(pid, start, sock)
        self._loop.add_reader(pidfd, self._died, pid)
        return pidfd

    def _died(self, pid: int) -> None:
        nonces = self._processes[pid].nonces
        self._close(pid)
        for nonce in nonces:
            self._on_death(nonce)

    def _close(self, pid: int) -> None:
        process = self._processes.pop(pid)
        if process.pidfd >= 0:
            self._loop.remove_reader(process.pidfd)
            os.close(process.pidfd)


def _dead(pidfd: int) -> bool:
    if pidfd < 0:
        return False
    poll = select.poll()  # select(2) takes no descriptor above 1023
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _open(pid: int, start: int, sock: socket.socket) -> int:
    """Return a pidfd of the very process that connected."""
    pidfd, checked = _of_connection(sock), True
    if pidfd is None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise _gone(pid) from None
        checked = not start or start_time(pid) == start  # or the number is another process's
    # What a crowd has sent before it was killed is read for a while: no session is begun for it.
    if not checked or _dead(pidfd):
        os.close(pidfd)
        raise _gone(pid)
    return pidfd


def _of_connection(sock: socket.socket) -> int | None:
    """Return the pidfd that the socket gives, without a race (Linux 6.5); None: it gives none."""
    with contextlib.suppress(OSError):
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    return None


def _gone(pid: int) -> ArraydError:
    return DaemonError(f"Process {pid} ended before its session began.")
