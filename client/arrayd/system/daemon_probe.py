"""Is a daemon there: does it listen, is its directory ours alone, has it ended."""

from __future__ import annotations

import os
import select
import stat

from arrayd.common.endpoints import SCHEME
from arrayd.system.signal_safe import descriptors, open_atomically


def alive(endpoint: str) -> bool:
    """Return whether somebody listens at `endpoint` and admits this process."""
    import socket  # slow to import, and needless for who says where the daemon is

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a connection to a Unix socket is made at once, or not
        try:
            probe.connect(endpoint.removeprefix(SCHEME))
        except BlockingIOError:  # so many are connecting that the queue is full
            return True
        except OSError:
            return False
    return True


def is_ours(directory: str) -> bool:
    """Return whether it is a directory (no link to one) that only this user can enter."""
    try:
        info = os.lstat(directory)
    except OSError:
        return False
    private = info.st_uid == os.geteuid() and not stat.S_IMODE(info.st_mode) & 0o077
    return private and stat.S_ISDIR(info.st_mode)


def wait_ended(pid: int, timeout: float) -> bool:
    """Return whether a daemon, no child of this process, ends within `timeout` seconds."""
    with descriptors() as opened:
        try:
            pidfd = open_atomically(opened, os.pidfd_open, pid)
        except ProcessLookupError:
            return True
        # poll, for select refuses descriptors from 1024 up
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
