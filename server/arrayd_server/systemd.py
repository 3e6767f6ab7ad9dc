"""The little of systemd's protocol that a service needs: sd_notify(3), one datagram each.

Every function does nothing, and never raises, where systemd did not start us.
"""

from __future__ import annotations

import os
import socket

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"


def status(text: str) -> str:
    """Return the assignment that shows `text` in ``systemctl status``."""
    return "STATUS=" + " ".join(text.split())  # a line break would begin another assignment


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


def logs_to_journal(fd: int = 2) -> bool:
    """Whether `fd` ends in the journal, as JOURNAL_STREAM of systemd.exec(5) tells."""
    try:
        stat = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"
