"""``python -m arrayd_server.segments.clean [ENDPOINT]``: remove what killed daemons have left.

A scope whose lock nobody holds has no living daemon. Of its segments those are removed that the
kernel says nobody maps; everything else stays, and is listed with the reason.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from arrayd.common.bytesize import format_bytes
from arrayd.common.endpoints import private_socket
from arrayd.errors import ArraydError
from arrayd.wire import layout
from arrayd_server.kernel import leases, segment_users
from arrayd_server.segments import adoption, block_metadata
from arrayd_server.segments.scope import Scope, ScopeTaken

_DIRECTORY = re.compile(rf"{layout.PREFIX}{os.geteuid()}-([0-9a-f]{{10}})")


@dataclass
class Report:
    """What was done: names removed, bytes that came free, and name -> why it was left."""

    removed: set[str] = field(default_factory=set)
    freed: int = 0
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"removed {name}" for name in sorted(self.removed)]
        lines += [f"left {name}: {why}" for name, why in sorted(self.left.items())]
        sums = f"{format_bytes(self.freed)} freed, {len(self.removed)} names removed"
        return "\n".join([*lines, f"{sums}, {len(self.left)} left"])


class _ScopeOfId(Scope):
    """A scope whose endpoint is unknown: only the id in its names is known."""

    def __init__(self, scope_id: str) -> None:
        super().__init__("ipc:///")
        self.id = scope_id
        self.family = f"{layout.PREFIX}{scope_id}-"
        self.directory = f"{layout.SHM}/{layout.PREFIX}{os.geteuid()}-{scope_id}"

    def paths(self) -> Iterator[str]:
        """Yield both links of each segment: those that clients open, then the spares."""
        for directory in (layout.SHM, self.directory):
            for name in _listed(directory):
                match = re.fullmatch(layout.SEGMENT_NAME, name)
                if match and match[1] == self.id:
                    yield f"{directory}/{name}"


def _listed(directory: str) -> list[str]:
    """Return the names in a directory; none if it is not there."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(os.listdir(directory))
    return []


class Remains(NamedTuple):
    """What a scope of this user has in /dev/shm.

    Parameters
    ----------
    pid
        Of the daemon that owns it; 0 if its lock does not say; None: it is gone.
    segments, size
        Their number, and the bytes that they take.
    """

    pid: int | None
    segments: int
    size: int


def survey() -> dict[str, Remains]:
    """Return what is there, by the id of its scope; nothing is changed."""
    return {scope_id: _surveyed(_ScopeOfId(scope_id)) for scope_id in sorted(_scopes())}


def _surveyed(scope: _ScopeOfId) -> Remains:
    sizes: dict[int, int] = {}
    for path in scope.paths():
        with contextlib.suppress(FileNotFoundError):
            info = os.lstat(path)
            sizes[info.st_ino] = info.st_blocks * 512
    return Remains(_daemon_of(scope), len(sizes), sum(sizes.values()))


def _daemon_of(scope: _ScopeOfId) -> int | None:
    """Return the process that has a scope's lock, 0 if it is not known; None: nobody has it."""
    try:
        with open(f"{scope.directory}/lock", "rb") as lock:
            try:
                # Shared and for a moment: a daemon that starts in it says that another one lives.
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = lock.read(32).decode(errors="replace").strip()
                return int(pid) if pid.isdecimal() else 0
    except OSError:  # no lock, no daemon
        return None
    return None


def clean(endpoint: str | None = None) -> Report:
    """Remove what dead daemons have left, and say what that was.

    Parameters
    ----------
    endpoint
        ``ipc:///path`` of the daemon whose remains are meant; None: of all of this user's.
    """
    leases.ignore_sigio()
    report = Report()
    found = _scopes()
    scopes = found if endpoint is None else found & {Scope(endpoint).id}
    for scope_id in sorted(scopes):
        _clean_scope(_ScopeOfId(scope_id), report)
    socket_path = private_socket() if endpoint is None else endpoint
    _clean_socket(Path(socket_path.removeprefix("ipc://")), report)
    return report


def _scopes() -> set[str]:
    """Return the ids of the scopes that have anything of this user in /dev/shm."""
    with os.scandir(layout.SHM) as entries:
        names = [entry.name for entry in entries if _is_mine(entry.path)]
    matches = (
        re.fullmatch(layout.SEGMENT_NAME, name) or _DIRECTORY.fullmatch(name) for name in names
    )
    return {match[1] for match in matches if match}


def _is_mine(path: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.lstat(path).st_uid == os.geteuid()
    return False


def _clean_scope(scope: _ScopeOfId, report: Report) -> None:
    try:
        with scope:
            for path in scope.paths():
                with contextlib.suppress(FileNotFoundError):
                    _free(path, report)
    except ScopeTaken:
        pid = Path(scope.directory, "lock").read_text().strip()
        report.left[f"{scope.family}*"] = f"the daemon that owns it lives (pid {pid or '?'})"
    except (ArraydError, OSError) as error:
        report.left[f"{scope.family}*"] = str(error)


def _free(path: str, report: Report) -> None:
    """Remove one link of a segment, unless somebody has the segment open or mapped."""
    name = os.path.basename(path)
    if not (_is_mine(path) and stat.S_ISREG(os.lstat(path).st_mode)):
        report.left[name] = "not a file of this user"
        return
    if (newer := _newer(path, name)) is not None:
        report.left[name] = f"{newer} (`arrayd clean` of the arrayd that made it removes it)"
        return
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not leases.alone(fd):
            report.left[name] = f"mapped by {_users(name)}"
            return
        os.unlink(path)
        report.removed.add(name)
        now = os.fstat(fd)
        report.freed += now.st_blocks * 512 if now.st_nlink == 0 else 0
    except OSError as error:
        report.left[name] = f"the kernel does not tell whether anybody maps it ({error.strerror})"
    finally:
        os.close(fd)


def _newer(path: str, name: str) -> str | None:
    """Return why a segment is a newer arrayd's affair; None: it is ours, or none at all."""
    try:
        block_metadata.read(adoption.read(path, name))
    except layout.NewerSegment as error:
        return str(error)
    except Exception:  # whoever wrote it may have written anything: it is removed unread
        return None
    return None


def _users(name: str) -> str:
    """Return the processes that use a segment, as far as we may see."""
    others = (process for process in segment_users.users(name) if process.name != str(os.getpid()))
    words = [f"{process.name} {_program(process)}" for process in others]
    return ", ".join(words) or "a process that we may not see"


def _program(process: Path) -> str:
    with contextlib.suppress(OSError):
        return (process / "comm").read_text().strip()
    return "?"


def _clean_socket(path: Path, report: Report) -> None:
    """Remove a socket if nobody listens there."""
    if not path.is_socket() or not _is_mine(str(path)):
        return
    # With the scope's lock, for a daemon that is about to listen holds it.
    with contextlib.suppress(ScopeTaken), Scope(f"ipc://{path}"):
        with socket.socket(socket.AF_UNIX) as probe:
            dead = probe.connect_ex(str(path)) != 0
        if dead:
            path.unlink(missing_ok=True)
            report.removed.add(str(path))


def main() -> int:
    """Clean and print the report."""
    try:
        sys.stdout.write(f"{clean(*sys.argv[1:2])}\n")
    except (ArraydError, OSError) as error:
        sys.stderr.write(f"arrayd: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
