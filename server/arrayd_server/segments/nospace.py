"""The errors of what does not fit into /dev/shm, with the numbers."""

from __future__ import annotations

import errno
import os

from arrayd.common.bytesize import format_bytes
from arrayd.errors import ArraydError, DaemonError, NoRoom
from arrayd.wire import layout

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)


def no_space_error(what: str, nbytes: int, error: OSError) -> ArraydError:
    """Return the error for `what`, of `nbytes`, that the kernel did not let us make."""
    name = errno.errorcode.get(error.errno or 0, "?")
    if error.errno not in _FULL:
        return DaemonError(
            f"The daemon could not make {what} in {layout.SHM}: {error.strerror} ({name}). Ask "
            "again; its log, and `ls -la /dev/shm`, may tell more."
        )
    facts = os.statvfs(layout.SHM)
    free, total = facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
    files = f" and {facts.f_favail} of {facts.f_files} files" if facts.f_files else ""
    return NoRoom(
        f"{layout.SHM} gave no room for {what} ({format_bytes(nbytes)}, {name}): "
        f"{format_bytes(free)} of {format_bytes(total)}{files} are free. Something else fills "
        "it (`df /dev/shm`, `df -i /dev/shm`), or it is to be enlarged (docker run "
        "--shm-size=…, `mount -o remount,size=…,nr_inodes=… /dev/shm`); if all is free there, the "
        "memory cgroup is full.",
        needed=nbytes,
        free=free,
        total=total,
    )
