"""Who may read a file: the kernel's rules for permissions, as pure functions.

The daemon may be able to read what its client may not, so it decides as the kernel would for the
client itself: search permission on each directory of the path, read permission on the file. The
rules are those of acl(5), "Access Check Algorithm", which for a file without an access control list
are the three classes of chmod(1). In doubt the answer is no.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

READ, SEARCH = 4, 1
"""Permissions, as in a mode; SEARCH is that of a directory."""

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
"""Tags of entries, as in <linux/posix_acl.h>."""

NOBODY = 0xFFFFFFFF
"""The id in an entry that names nobody."""

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user as the kernel sees the process: ids, and the supplementary groups."""

    uid: int
    gid: int
    groups: frozenset[int] = frozenset()

    def is_in(self, group: int) -> bool:
        """Say whether the process is of a group."""
        return group == self.gid or group in self.groups


class AclEntry(NamedTuple):
    """One line of an access control list."""

    tag: int
    permissions: int
    id: int = NOBODY


Acl = tuple[AclEntry, ...]


class Inode(NamedTuple):
    """What decides on access to a file or directory; `acl` is None if it has none."""

    uid: int
    gid: int
    mode: int
    acl: Acl | None = None


def parse_acl(data: bytes) -> Acl:
    """Return the list in the extended attribute ``system.posix_acl_access``.

    Raises
    ------
    ValueError
        It is none, or of a later version.
    """
    if data[:4] != _VERSION or (len(data) - 4) % _ENTRY.size:
        raise ValueError(f"no access control list: {data[:16]!r}")
    return tuple(AclEntry(*entry) for entry in _ENTRY.iter_unpack(data[4:]))


def pack_acl(acl: Sequence[AclEntry]) -> bytes:
    """Return the value of ``system.posix_acl_access``; the kernel wants entries in order of tag."""
    return _VERSION + b"".join(_ENTRY.pack(*entry) for entry in sorted(acl, key=_order))


def _order(entry: AclEntry) -> tuple[int, int]:
    return entry.tag, entry.id


def allows(inode: Inode, who: Credentials, wanted: int) -> bool:
    """Say whether the kernel would let a process read a file, or search a directory.

    Root may do both. It is taken at its word: what it lacks are capabilities that it has given up,
    and with them it could have read the file.
    """
    if who.uid == 0:
        return True
    # The bits of the group are the list's mask; where there are none the kernel looks at no list
    # (fs/namei.c, acl_permission_check).
    acl = inode.acl
    if acl is None or not inode.mode & 0o070:
        return bool(_class_of(inode, who) & wanted)
    mask = next((entry.permissions for entry in acl if entry.tag == MASK), 7)
    if who.uid == inode.uid:
        return any(e.tag == USER_OBJ and e.permissions & wanted for e in acl)
    for entry in acl:
        if entry.tag == USER and entry.id == who.uid:
            return bool(entry.permissions & mask & wanted)
    groups = [e for e in acl if _is_of(e, inode, who)]
    if groups:
        return any(e.permissions & mask & wanted for e in groups)
    return any(e.tag == OTHER and e.permissions & wanted for e in acl)


def _is_of(entry: AclEntry, inode: Inode, who: Credentials) -> bool:
    """Say whether an entry is that of a group that the process is in."""
    if entry.tag == GROUP_OBJ:
        return who.is_in(inode.gid)
    return entry.tag == GROUP and who.is_in(entry.id)


def _class_of(inode: Inode, who: Credentials) -> int:
    """Return the permissions in a mode of the class that a process belongs to."""
    if who.uid == inode.uid:
        return inode.mode >> 6
    return inode.mode >> 3 if who.is_in(inode.gid) else inode.mode


def segment_acl(readers: Collection[int], writers: Collection[int] = ()) -> Acl:
    """Return the list of a segment: its owner, and other users by name; no group, nobody else."""
    named = [AclEntry(USER, 6 if uid in writers else READ, uid) for uid in sorted(set(readers))]
    mask = [AclEntry(MASK, 6 if writers else READ)] if named else []
    return (AclEntry(USER_OBJ, 6), *named, AclEntry(GROUP_OBJ, 0), *mask, AclEntry(OTHER, 0))


def readers_of(acl: Acl) -> frozenset[int] | None:
    """Return the users who may read a segment; None: others may, or somebody may write to it."""
    named = frozenset(e.id for e in acl if e.tag == USER and e.permissions == READ)
    if len(named) < sum(entry.tag == USER for entry in acl):
        return None  # somebody may write to it, and so may have written anything
    classes = {entry.tag: entry.permissions for entry in acl if entry.tag not in (USER, MASK)}
    return named if classes == {USER_OBJ: 6, GROUP_OBJ: 0, OTHER: 0} else None


def is_under(path: str, roots: Sequence[str]) -> bool:
    """Say whether a real path lies in one of these directories, or is one."""
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)
