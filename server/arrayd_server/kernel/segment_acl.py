"""Who besides the daemon's user may open a segment: an access control list, which the kernel keeps.

The list goes with the file, so a later run of the daemon finds who was let in. It is written as a
whole each time: a ``chmod`` would change its mask.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection

from arrayd_server.access.policy import pack_acl, parse_acl, readers_of, segment_acl

_NAME = "system.posix_acl_access"


def write(file: int | str, readers: Collection[int], writers: Collection[int] = ()) -> None:
    """Let these users open a segment, and nobody else but its owner.

    Raises
    ------
    OSError
        EOPNOTSUPP: /dev/shm has no access control lists.
    """
    os.setxattr(file, _NAME, pack_acl(segment_acl(readers, writers)))


def clear(file: int | str) -> None:
    """Let nobody but its owner open a segment."""
    try:
        # A list that says no more than a mode is none: in one step, without a moment in which the
        # mask of the old list counts as the mode of the group.
        os.setxattr(file, _NAME, pack_acl(segment_acl(())))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        os.chmod(file, 0o600)


def read(file: int | str) -> frozenset[int] | None:
    """Return who may open a segment; None: others than were let in by `write`, or in doubt.

    Raises
    ------
    OSError
        It cannot be looked at.
    """
    try:
        return readers_of(parse_acl(os.getxattr(file, _NAME)))
    except ValueError:
        return None
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise
