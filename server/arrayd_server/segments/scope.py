"""One daemon per scope: the lock, and the names that follow from the endpoint."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import secrets
import stat
import threading
from types import TracebackType
from typing import Self

from arrayd.common import endpoints
from arrayd.errors import DaemonError
from arrayd.wire import index, layout
from arrayd_server.segments.nospace import no_space_error


class ScopeTaken(DaemonError):
    """Another daemon serves this endpoint."""


TOKEN_DIGITS = 12
"""Of each segment's name, which nobody can guess: see `Scope.name`."""


class Scope:
    """The family of segments that a daemon of this uid and endpoint may adopt.

    Entering takes the lock, which is the kernel's (``flock``): it goes with the process,
    however that ends. It is taken *before* the socket is bound: of two daemons that start at
    once, both would find the old socket dead, and the second would remove the first one's.

    Parameters
    ----------
    endpoint
        As the daemon binds it. Two spellings of one path are one scope.
    """

    def __init__(self, endpoint: str) -> None:
        uid = os.geteuid()
        self.id = endpoints.scope_id(endpoint, uid)
        self.family = f"{layout.PREFIX}{self.id}-"
        self.run = secrets.token_hex(4)
        self.directory = endpoints.scope_directory(endpoint, uid)
        self._secret = secrets.token_bytes(32)
        self._lock = -1
        self._mutex = threading.Lock()

    @property
    def prefix(self) -> str:
        """What the names of this run's segments begin with."""
        return f"{self.family}{self.run}"

    def name(self, number: int) -> str:
        """Return the name of this run's segment of a number.

        Everybody may make files in /dev/shm, and whoever knew the names to come could make them
        first: no load would succeed any more. So each ends in digits that depend on a secret.
        (Digits, for that is all that earlier versions of arrayd take for a segment's name.)
        """
        digest = hashlib.blake2b(number.to_bytes(8, "little"), key=self._secret, digest_size=8)
        token = int.from_bytes(digest.digest(), "little") % 10**TOKEN_DIGITS
        return f"{self.prefix}-{number}{token:0{TOKEN_DIGITS}}"

    def __enter__(self) -> Self:
        """Take the lock.

        Raises
        ------
        ScopeTaken
            Another daemon has it.
        DaemonError
            The directory is not ours.
        NoRoom
            /dev/shm has no inode left for the directory or the lock.
        """
        self._lock = self._take()
        return self

    def regain(self) -> bool:
        """Say whether the scope is still ours; make again what somebody removed of it.

        Whoever holds the lock in the directory has the scope. After a ``rm -r`` that may be
        another daemon: then this one must go, and touch nothing.

        Raises
        ------
        DaemonError, NoRoom
            As on entering.
        """
        with self._mutex:
            if self._intact():
                return True
            try:
                lock = self._take()
            except ScopeTaken:
                return False
            os.close(self._lock)
            self._lock = lock
            return True

    def _take(self) -> int:
        """Return the locked file."""
        try:
            while (lock := self._try()) < 0:
                pass  # the daemon before us has just removed it
        except OSError as error:
            raise no_space_error(f"the daemon's own {self.directory}", layout.PAGE, error) from None
        return lock

    def _try(self) -> int:
        """Return the locked file; -1 if the daemon before us removed it in between."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.directory, 0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            _check_private(self.directory)
            lock = os.open(self._path, flags, 0o600)
        except FileNotFoundError:
            return -1
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 32, 0).decode(errors="replace").strip() or "?"
            os.close(lock)
            raise ScopeTaken(f"Another arrayd daemon (pid {pid}) serves this endpoint.") from None
        if not _same(lock, self._path):
            os.close(lock)
            return -1
        self._sign(lock)
        return lock

    def _sign(self, lock: int) -> None:
        """Write who has the lock, for messages only: a full /dev/shm may have no page for it."""
        text = f"{os.getpid()}\n".encode()
        with contextlib.suppress(OSError):
            os.pwrite(lock, text, 0)
            os.ftruncate(lock, len(text))

    def _intact(self) -> bool:
        """Say whether directory and lock are still ours; a changed mode is set back."""
        with contextlib.suppress(OSError):
            info = os.lstat(self.directory)
            ours = stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid()
            if ours and stat.S_IMODE(info.st_mode) != 0o700:
                os.chmod(self.directory, 0o700)
            return ours and _same(self._lock, self._path)
        return False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lock back; remove the directory, and the index, if no segment is left in it."""
        with contextlib.suppress(OSError):  # somebody else removes it at the same time
            if self._intact() and set(os.listdir(self.directory)) <= {"lock", index.NAME}:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.index_path)
                os.unlink(self._path)
                os.rmdir(self.directory)
        os.close(self._lock)
        self._lock = -1

    @property
    def index_path(self) -> str:
        """Where clients find the index."""
        return f"{self.directory}/{index.NAME}"

    @property
    def _path(self) -> str:
        return f"{self.directory}/lock"


def _same(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _check_private(directory: str) -> None:
    """Refuse what others could write to, or what they have made in the place of our directory.

    Its name follows from the endpoint, for the next run must find it: so everybody can know it,
    and make it before the daemon starts.
    """
    info = os.lstat(directory)
    mode, own = stat.S_IMODE(info.st_mode), os.geteuid()
    if stat.S_ISDIR(info.st_mode) and info.st_uid == own and not mode & 0o077:
        return
    kind = "directory" if stat.S_ISDIR(info.st_mode) else "file"
    raise DaemonError(
        f"{directory} is to be a directory of ours (user {_named(own)}) with mode 0700, and it is "
        f"a {kind} of user {_named(info.st_uid)} with mode {mode:04o}. Who made it may want to "
        f"keep this daemon from starting: have that user, or root, remove it (`rm -rf "
        f"{directory}`), or choose another endpoint."
    )


def _named(uid: int) -> str:
    """Return a user's number and name, if there is one."""
    try:
        return f"{uid}, {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return str(uid)
