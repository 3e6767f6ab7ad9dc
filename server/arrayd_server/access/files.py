"""`look`: whether a user may read the file at a path, found out one component at a time.

Each directory is opened from the one before (``openat``, O_PATH), and looked at by its descriptor:
what is decided on is what is opened, whatever is renamed meanwhile. Symbolic links are followed as
the kernel does, each component of what they say being looked at too. This runs in a thread, for a
file server that is away answers to no ``stat``.

The answer holds for the inode and the time stamps that `look` returns. Whoever reads the file
later compares them with those of what was opened: a file that was replaced is another inode, and
one whose permissions were changed has another ctime.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from arrayd.errors import AccessDenied, ArraydError, BadFile, SourceNotFound
from arrayd.wire.protocol import Stat
from arrayd_server.access.policy import (
    READ,
    SEARCH,
    Acl,
    Credentials,
    Inode,
    allows,
    is_under,
    parse_acl,
)

MAX_LINKS = 40
"""Symbolic links that are followed for one path, as by the kernel."""

MAX_COMPONENTS = 512
"""Components of a path, those of its links included: each takes a thread 10 microseconds."""

_ACL, _NFS4_ACL = "system.posix_acl_access", "system.nfs4_acl"

_KERNELS_OWN = {
    *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts"),
    *("devtmpfs", "efivarfs", "fusectl", "mqueue", "nsfs", "pipefs", "proc", "pstore"),
    *("securityfs", "selinuxfs", "sockfs", "sysfs", "tracefs"),
}
"""File systems that hold no data, but what the kernel tells the process that asks: the daemon."""


@dataclass(slots=True)
class _Walk:
    """A path on its way: the directories that are open, by name, and what is left to go."""

    path: str  # as was asked for
    who: Credentials
    todo: deque[str]
    known: Known
    fds: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    links: int = 0
    steps: int = 0

    def close(self) -> None:
        """Go nowhere from here."""
        while self.fds:
            os.close(self.fds.pop())


@dataclass(slots=True)
class Known:
    """What was found out about a user just now, for the next files of one request; see `look`.

    Of many files in one folder the way to that is gone once: it stays open until `close`.

    Parameters
    ----------
    allowed
        What the user may do: device, inode and ctime of a file, and the permission. Whoever changes
        a mode, an owner or a list changes the ctime.
    kernels_own
        Of devices, whether they hold no data.
    without_nfs4
        Devices whose file system knows no NFSv4 lists.
    folder, walk
        The folder of the last file, by the path to it, and the way there.
    """

    allowed: set[tuple[int, int, int, int]] = field(default_factory=set)
    kernels_own: dict[int, bool] = field(default_factory=dict)
    without_nfs4: set[int] = field(default_factory=set)
    folder: str | None = None
    walk: _Walk | None = None

    def close(self) -> None:
        """Forget the way to the folder."""
        if self.walk is not None:
            self.walk.close()
        self.folder, self.walk = None, None


def look(
    path: str, who: Credentials, roots: Sequence[str] = ("/",), known: Known | None = None
) -> tuple[str, Stat]:
    """Return the real path of a file that a user may read, and the ``stat`` of what is there.

    Parameters
    ----------
    path
        Absolute.
    roots
        Directories, each a real path, outside which nothing is read.
    known
        What was found out about this user just now, by looks at other paths: it is added to, and
        the caller closes it.

    Raises
    ------
    AccessDenied
        The user may not read it, or not search a directory on the way; or it is outside the roots.
    SourceNotFound
        There is none.
    BadFile
        It is no regular file.
    """
    if not path.startswith("/") or "\0" in path:
        raise SourceNotFound(f"{path!r}: no file can have this name.")
    if known is None:
        with contextlib.closing(Known()) as known:
            return look(path, who, roots, known)
    try:
        real, found = _found(path, who, known)
    except Exception as error:
        known.close()
        if isinstance(error, ArraydError) or not isinstance(error, OSError):
            raise  # some of arrayd's are OSErrors too
        raise _refused(path, error) from None
    if not is_under(real, roots):
        raise AccessDenied(
            f"{path} is outside the directories that this daemon serves to other users "
            f"({', '.join(roots)}). Its administrator can add one: the option roots."
        )
    return real, found


def _found(path: str, who: Credentials, known: Known) -> tuple[str, Stat]:
    """Return the real path and the ``stat`` of a file, whose folder is where `known` stays."""
    folder, _, name = path.rpartition("/")
    walk = known.walk
    if walk is None or known.folder != folder or name in ("", ".", ".."):
        known.close()
        whole = name in ("", ".", "..")
        way = deque((path if whole else folder).split("/"))
        walk = known.walk = _Walk(path, who, way, known)
        walk.fds.append(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        _walk(walk)
        if whole:
            real, found = _real(walk), _end(walk)
            known.close()
            return real, found
        if not stat.S_ISDIR(os.fstat(walk.fds[-1]).st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        known.folder = folder
    walk.path, walk.todo = path, deque([name])
    links, steps = walk.links, walk.steps
    _walk(walk)
    real, found = _real(walk), _end(walk)
    if walk.links > links:  # it may have led to another folder
        known.close()
    else:
        os.close(walk.fds.pop())
        walk.names.pop()
        walk.steps = steps
    return real, found


def _real(walk: _Walk) -> str:
    return "/" + "/".join(walk.names)


def _walk(walk: _Walk) -> None:
    """Go to the end of the path; leave the names of the real one in `walk`."""
    while walk.todo:
        name = walk.todo.popleft()
        walk.steps += 1
        if walk.steps > MAX_COMPONENTS:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if name in ("", "."):
            continue
        _may(walk, walk.fds[-1], os.fstat(walk.fds[-1]), SEARCH)
        if name == "..":
            if walk.names:
                walk.names.pop()
                os.close(walk.fds.pop())
            continue
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=walk.fds[-1])
        info = os.fstat(fd)
        if stat.S_ISLNK(info.st_mode):
            _follow(walk, fd)
            continue
        walk.fds.append(fd)
        walk.names.append(name)
        if not stat.S_ISDIR(info.st_mode) and any(rest not in ("", ".") for rest in walk.todo):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def _follow(walk: _Walk, fd: int) -> None:
    """Put what a symbolic link says in front of what is left of the path."""
    try:
        walk.links += 1
        if walk.links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        # /proc/self/fd/3: no path, but a way to anything
        if _is_kernels_own(os.fstat(fd).st_dev, walk.known):
            raise AccessDenied(f"{walk.path} leads through a link that the kernel makes up.")
        target = os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)
    if target.startswith("/"):
        while len(walk.fds) > 1:
            os.close(walk.fds.pop())
        walk.names.clear()
    walk.todo.extendleft(reversed(target.split("/")))


def _end(walk: _Walk) -> Stat:
    fd = walk.fds[-1]
    info = os.fstat(fd)
    if stat.S_ISDIR(info.st_mode):
        raise BadFile(f"{walk.path} is a directory: a source is a file.")
    if not stat.S_ISREG(info.st_mode):
        raise BadFile(f"{walk.path} is no regular file (a pipe, socket or device): copy it to one.")
    if _is_kernels_own(info.st_dev, walk.known):
        raise AccessDenied(f"{walk.path} is no file of data: the kernel makes it up.")
    _may(walk, fd, info, READ)
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _may(walk: _Walk, fd: int, info: os.stat_result, wanted: int) -> None:
    """Raise AccessDenied unless the user may do what is wanted with an open file or directory."""
    key = (info.st_dev, info.st_ino, info.st_ctime_ns, wanted)
    if key in walk.known.allowed:
        return
    acl = _acl_of(fd, info.st_dev, walk.known.without_nfs4)
    inode = Inode(info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), acl)
    if allows(inode, walk.who, wanted):
        walk.known.allowed.add(key)
        return
    what = "read it" if wanted == READ else f"search {_real(walk)}"
    raise AccessDenied(
        f"{walk.path}: user {walk.who.uid} may not {what} (mode {inode.mode:04o}, owner "
        f"{inode.uid}, group {inode.gid}). Its owner can allow it (chmod, setfacl)."
    )


class _UnknownList(OSError):
    """A list says who may read a file, and we do not know how to read it."""


def _acl_of(fd: int, device: int, without_nfs4: set[int]) -> Acl | None:
    """Return the access control list of an open file, if it has one.

    A device whose file system says that it knows no lists of NFSv4 is added to `without_nfs4`, and
    not asked for them again.

    Raises
    ------
    _UnknownList
        It has one that is not understood: permission is in doubt.
    OSError
        Whether it has one cannot be told.
    """
    here = f"/proc/self/fd/{fd}"  # an O_PATH descriptor has no attributes of its own
    if device not in without_nfs4 and _has_nfs4_list(here, device, without_nfs4):
        raise _UnknownList(errno.EACCES, "an NFSv4 access control list names users")
    try:
        return parse_acl(os.getxattr(here, _ACL))
    except ValueError:
        raise _UnknownList(errno.EACCES, "an access control list is not understood") from None
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def _has_nfs4_list(here: str, device: int, without_nfs4: set[int]) -> bool:
    try:
        return named_in_nfs4_acl(os.getxattr(here, _NFS4_ACL))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            without_nfs4.add(device)
        elif error.errno != errno.ENODATA:
            raise
        return False


def named_in_nfs4_acl(data: bytes) -> bool:
    """Say whether an NFSv4 list (RFC 7530, 6.2.1, as XDR) says more than a mode does."""
    count, at = int.from_bytes(data[:4], "big"), 4
    for _ in range(count):
        kind = int.from_bytes(data[at : at + 4], "big")
        length = int.from_bytes(data[at + 12 : at + 16], "big")
        who = data[at + 16 : at + 16 + length]
        if who not in (b"OWNER@", b"GROUP@", b"EVERYONE@") or kind > 1:
            return True
        at += 16 + -(-length // 4) * 4
    return at != len(data)


def _is_kernels_own(device: int, known: Known) -> bool:
    if device not in known.kernels_own:
        known.kernels_own[device] = _file_system(device) in _KERNELS_OWN
    return known.kernels_own[device]


def _file_system(device: int) -> str:
    """Return the type of the file system with this ``st_dev``; empty: it is mounted nowhere."""
    if os.major(device):
        return "of a disk"  # what has no device of its own has major number 0
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
        for line in table:  # see proc_pid_mountinfo(5)
            words = line.split(" ")
            if words[2] == wanted:
                return words[words.index("-") + 1]
    return ""


def _refused(path: str, error: OSError) -> ArraydError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return SourceNotFound(f"{path}: {error.strerror}.")
    if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
        return SourceNotFound(f"{path}: {error.strerror}.")
    if isinstance(error, _UnknownList):
        return AccessDenied(
            f"{path}: whether you may read it cannot be told, for {error.strerror}, on it or on "
            "its way, and the daemon goes by modes and POSIX lists. A private daemon of yours can "
            "read it: ARRAYD_ENDPOINT=private."
        )
    return AccessDenied(
        f"{path}: whether you may read it cannot be told, for the daemon (user {os.geteuid()}) "
        f"cannot look at it itself ({error.strerror}). Its administrator can let it: "
        "CAP_DAC_READ_SEARCH, see deploy/README.md."
    )
