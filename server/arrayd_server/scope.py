"""One daemon per scope: the lock, and the names that follow from the endpoint."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
from types import TracebackType
from typing import Self

from arrayd import layout
from arrayd.errors import DaemonError


class ScopeTaken(DaemonError):
    """Another daemon serves this endpoint."""


class Scope:
    """The family of segments that a daemon of this uid and endpoint may adopt.

    Entering takes the lock, which is the kernel's (``flock``): it goes with the process,
    however that ends. Taken *before* the socket is bound, because a second bind of an
    ``ipc://`` endpoint silently steals it.

    Parameters
    ----------
    endpoint
        As the daemon binds it.
    """

    def __init__(self, endpoint: str) -> None:
        uid = os.geteuid()
        self.id = hashlib.blake2b(f"{uid} {endpoint}".encode(), digest_size=5).hexdigest()
        self.family = f"{layout.PREFIX}{self.id}-"
        self.run = secrets.token_hex(4)
        self.directory = f"{layout.SHM}/{layout.PREFIX}{uid}-{self.id}"
        self._lock = -1

    @property
    def prefix(self) -> str:
        """What the names of this run's segments begin with."""
        return f"{self.family}{self.run}"

    def __enter__(self) -> Self:
        """Take the lock.

        Raises
        ------
        ScopeTaken
            Another daemon has it.
        DaemonError
            The directory is not ours.
        """
        while True:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.directory, 0o700)
            _check_private(self.directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                self._lock = os.open(f"{self.directory}/lock", flags, 0o600)
            except FileNotFoundError:
                continue  # the daemon before us has just removed the directory
            if self._locked():
                return self

    def _locked(self) -> bool:
        """Lock the file; False if the daemon before us removed it in between."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "?"
            self._close()
            raise ScopeTaken(f"Another arrayd daemon (pid {pid}) serves this endpoint.") from None
        try:
            same = os.path.samestat(os.fstat(self._lock), os.stat(f"{self.directory}/lock"))
        except FileNotFoundError:
            same = False
        if not same:
            self._close()
            return False
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        return True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lock back; remove the directory if no segment is left in it."""
        if all(entry.name == "lock" for entry in os.scandir(self.directory)):
            os.unlink(f"{self.directory}/lock")
            with contextlib.suppress(OSError):
                os.rmdir(self.directory)
        self._close()

    def _close(self) -> None:
        os.close(self._lock)
        self._lock = -1


def _check_private(directory: str) -> None:
    info = os.lstat(directory)
    private = info.st_uid == os.geteuid() and not stat.S_IMODE(info.st_mode) & 0o077
    if not (private and stat.S_ISDIR(info.st_mode)):
        raise DaemonError(
            f"{directory} is not a directory of ours with mode 0700. Somebody else made it: "
            "remove it, or choose another endpoint."
        )
