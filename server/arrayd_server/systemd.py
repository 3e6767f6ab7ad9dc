"""The little of systemd's protocols that a service needs: sd_notify(3) and sd_listen_fds(3).

Every function does nothing where systemd did not start us.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import Mapping
from ipaddress import ip_address

from arrayd.errors import DaemonError

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"

SOCKET_NAME = "arrayd"
"""``FileDescriptorName=`` of the socket that clients connect to; others are left alone."""

METRICS_NAME = "metrics"
"""That of the socket that metrics are to be had from."""

_FIRST_PASSED = 3  # SD_LISTEN_FDS_START


def status(text: str) -> str:
    """Return the assignment that shows `text` in ``systemctl status``."""
    return "STATUS=" + " ".join(text.split())  # a line break would begin another assignment


def reloading() -> str:
    """Return the assignments that say: until the next `READY`, options are being read again."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def extend_timeout(seconds: int) -> str:
    """Return the assignment that says: a start that takes longer is no hang, for so long."""
    return f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000}"


def under_systemd() -> bool:
    """Whether a service manager waits for our notifications."""
    return os.environ.get("NOTIFY_SOCKET", "").startswith(("/", "@"))


def notify(*assignments: str) -> bool:
    """Send `assignments` to the service manager; return whether they were sent.

    Examples
    --------
    >>> notify(READY, status("2 blocks, 41.2 of 64.0 GiB"))  # doctest: +SKIP
    True
    """
    if not under_systemd():
        return False
    address = os.environ["NOTIFY_SOCKET"]
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(1.0)  # a manager that is stopped must not stop the loop
            sender.sendto("\n".join(assignments).encode(), address)
    except OSError:
        return False
    return True


def watchdog_interval() -> float | None:
    """Return the seconds between two `WATCHDOG` notifications; None: nobody watches us.

    Half of what the unit's ``WatchdogSec=`` allows, as sd_watchdog_enabled(3) advises.
    """
    try:
        period = int(os.environ.get("WATCHDOG_USEC", "")) / 2e6
        watched = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return period if watched == os.getpid() and period > 0 else None


async def feed_watchdog() -> None:
    """Tell the service manager again and again that the loop turns, if it wants to know."""
    interval = watchdog_interval()
    while interval is not None:
        notify(WATCHDOG)
        await asyncio.sleep(interval)


def passed_descriptors() -> dict[str, list[int]]:
    """Return the descriptors that socket units have for us, by their names.

    The variables that tell of them are removed, for they are not meant for the processes that we
    start.
    """
    told = [os.environ.pop(f"LISTEN_{what}", "") for what in ("PID", "FDS", "FDNAMES")]
    if told[0] != str(os.getpid()) or not told[1].isdecimal():
        return {}
    passed = range(_FIRST_PASSED, _FIRST_PASSED + int(told[1]))
    for fd in passed:
        os.set_inheritable(fd, False)
    # systemd-socket-activate, for trying things out, names nothing unless it is told to.
    names = told[2].split(":") if told[2] else [SOCKET_NAME]
    found: dict[str, list[int]] = {}
    for fd, name in zip(passed, names, strict=False):
        found.setdefault(name, []).append(fd)
    return found


def passed_socket(descriptors: Mapping[str, list[int]], path: str) -> socket.socket | None:
    """Return the listening socket that a socket unit has for us; None: there is none.

    It is the manager's: who may connect, its mode and its group are settings of the unit, and it
    is there when we are not.

    Parameters
    ----------
    descriptors
        Of `passed_descriptors`.
    path
        Where we are to listen.

    Raises
    ------
    DaemonError
        It is no such socket, or one at another path.
    """
    ours = descriptors.get(SOCKET_NAME, [])
    if not ours:
        return None
    if len(ours) > 1 or not _listens(ours[0], socket.AF_UNIX):
        raise DaemonError(
            f"The socket unit must have one line ListenStream={path}, Accept=no, and "
            f"FileDescriptorName={SOCKET_NAME} for nothing else: systemctl cat arrayd.socket."
        )
    listening = socket.socket(fileno=ours[0])
    if _resolved(os.fsdecode(listening.getsockname())) != _resolved(path):
        with listening:
            raise DaemonError(
                f"The socket unit listens at {listening.getsockname()}, and the daemon's "
                f"endpoint is ipc://{path}: make ListenStream= and --endpoint the same."
            )
    return listening


def passed_metrics_sockets(descriptors: Mapping[str, list[int]]) -> list[socket.socket]:
    """Return the listening sockets that a socket unit has for metrics; all are on loopback.

    Raises
    ------
    DaemonError
        One is not: whoever can reach it sees what the machine does.
    """
    ours = descriptors.get(METRICS_NAME, [])
    wrong = [fd for fd in ours if not _listens(fd, socket.AF_INET, socket.AF_INET6)]
    sockets = [socket.socket(fileno=fd) for fd in ours if fd not in wrong]
    far = [one for one in sockets if not ip_address(one.getsockname()[0]).is_loopback]
    if wrong or far:
        for one in sockets:
            one.close()
        raise DaemonError(
            "arrayd-metrics.socket must have ListenStream=127.0.0.1:PORT, or [::1]:PORT, and "
            "Accept=no: metrics are for this machine alone. To have them elsewhere, let a proxy "
            "that asks for a password pass them on."
        )
    return sockets


def _listens(fd: int, *families: socket.AddressFamily) -> bool:
    """Say whether it is a stream socket of one of these families that takes connections."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    with socket.socket(fileno=os.dup(fd)) as one:
        family, kind = one.family, one.type
        takes = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return family in families and kind == socket.SOCK_STREAM and bool(takes)


def _resolved(path: str) -> str:
    """Return a socket's path with the links in its directory resolved, as /var/run is one."""
    directory, name = os.path.split(path)
    return os.path.join(os.path.realpath(directory), name)


def logs_to_journal(fd: int = 2) -> bool:
    """Whether `fd` ends in the journal, as JOURNAL_STREAM of systemd.exec(5) tells."""
    try:
        stat = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"
