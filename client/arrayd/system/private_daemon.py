"""Starts the private daemon of this user, and waits until it listens.

It lives in a directory of its user alone: ``$XDG_RUNTIME_DIR/arrayd``, or ``/tmp/arrayd-<uid>``
without that variable. Beside its socket lie its log, its standard error, and a lock: of several
processes that need a daemon one starts it, and the others wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from arrayd.common.endpoints import SCHEME
from arrayd.errors import NoDaemon
from arrayd.system import daemon_probe
from arrayd.system.signal_safe import descriptors, open_atomically

IDLE_EXIT = "600"
"""Seconds without a user after which a private daemon ends; ``ARRAYD_IDLE_EXIT`` overrules."""

# The shell starts Python in the background and ends: the daemon becomes a child of init, which
# reaps it. Forking twice here would be unsafe, for this process may have threads.
_DETACH = 'exec "$@" >/dev/null & echo $!'

# Variables by which the daemon would report to the caller's supervisor, or listen elsewhere.
_SCRUBBED = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "JOURNAL_STREAM", "ARRAYD_ENDPOINT")

# The last words of a daemon whose predecessor has not ended yet: worth another try.
_OUTGOING = "serves this endpoint"


def ensure(endpoint: str, timeout: float) -> None:
    """Return once the private daemon listens; start it, unless another process does so.

    Parameters
    ----------
    endpoint
        Where it is to listen.
    timeout
        Seconds in which it must begin to.

    Raises
    ------
    NoDaemon
        It could not be started, or its directory is not this user's alone.
    """
    deadline = time.monotonic() + timeout
    directory = Path(endpoint.removeprefix(SCHEME)).parent
    _make_directory(directory)
    if daemon_probe.alive(endpoint):
        return
    with _locked(directory / "lock", deadline):
        for wait in _waits(deadline):
            if daemon_probe.alive(endpoint) or _start(directory, endpoint, deadline):
                return
            time.sleep(wait)
    raise NoDaemon(
        f"The daemon that was at {endpoint} is ending, and has not made room for a new one in "
        f"{timeout:.0f} s. It is freeing memory; ask again."
    )


def _make_directory(directory: Path) -> None:
    """Make the directory, or check that it is ours: its owner could put another daemon there."""
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(0o700)
        ours = daemon_probe.is_ours(str(directory))
    except OSError as error:
        raise NoDaemon(
            f"{directory} cannot be used for a private daemon: {error.strerror}. "
            "Set XDG_RUNTIME_DIR to a directory of yours, or unset it to use /tmp."
        ) from None
    if not ours:
        raise NoDaemon(
            f"{directory} is not a directory of yours with mode 0700, so what listens in it may "
            f"be somebody else. Look at it (`ls -ld {directory}`), then remove it or "
            f"`chmod 700` it, or set XDG_RUNTIME_DIR to another place."
        )


@contextlib.contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    """Hold the launch lock; the kernel releases it if the process dies."""
    with descriptors() as opened:
        fd = _open(opened, path, os.O_RDWR)
        for wait in _waits(deadline):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(wait)
        else:
            raise NoDaemon(
                f"Another process has been starting the daemon for too long: it holds {path} "
                f"(`fuser {path}` names it). End it, or ask again."
            )
        yield


def _open(opened: list[int], path: Path, flags: int) -> int:
    """Open a file in the private directory, made if need be, and add it to `opened`."""
    flags |= os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return open_atomically(opened, os.open, path, flags, 0o600)
    except OSError as error:
        raise NoDaemon(f"{path} cannot be written for a daemon: {error.strerror}.") from None


def _waits(deadline: float) -> Iterator[float]:
    """Yield growing waits, in seconds, until the deadline (monotonic); at least one."""
    wait = 0.002
    while True:
        yield wait
        left = deadline - time.monotonic()
        if left <= 0:
            return
        wait = min(wait * 1.5, 0.05, left)


def _start(directory: Path, endpoint: str, deadline: float) -> bool:
    """Start the daemon; False: an earlier one has not ended yet.

    Raises
    ------
    NoDaemon
        It ended at once, or does not listen in time; the error has the last line of its log.
    """
    errors = directory / "stderr"
    pid = _spawn(_command(directory, endpoint), errors)
    for wait in _waits(deadline):
        if daemon_probe.alive(endpoint):
            return True
        if daemon_probe.wait_ended(pid, wait):
            words = _last_line(errors) or _last_line(directory / "log") or "it said nothing"
            if _OUTGOING in words:
                return False
            raise NoDaemon(f"The private daemon ended as soon as it was started: {words}")
    words = _last_line(errors) or _last_line(directory / "log") or "it has said nothing yet."
    raise NoDaemon(
        f"The private daemon (pid {pid}) was started but does not listen at {endpoint} yet: "
        f"{words} Its log is {directory / 'log'}.",
        pid=pid,
    )


def _command(directory: Path, endpoint: str) -> list[str]:
    if not sys.executable:
        raise NoDaemon(
            "This program embeds Python and does not say where the interpreter is "
            "(sys.executable is empty), so no daemon can be started. Run `arrayd serve`."
        )
    options = {
        "--endpoint": endpoint,
        "--idle-exit": os.environ.get("ARRAYD_IDLE_EXIT") or IDLE_EXIT,
        "--log-file": str(directory / "log"),
    }
    flags = [word for option in options.items() for word in option]
    return [sys.executable, "-m", "arrayd_server", "--private", *flags]


def _spawn(command: list[str], errors: Path) -> int:
    """Run a command that outlives this process and is not its child; return its pid.

    A session of its own keeps it from the terminal's Ctrl-C and hang-up.
    """
    with descriptors() as opened:
        try:
            shell = subprocess.run(
                ["/bin/sh", "-c", _DETACH, "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=_open(opened, errors, os.O_WRONLY | os.O_TRUNC),
                env=_environment(),
                cwd="/",
                umask=0o077,
                start_new_session=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoDaemon(f"A private daemon could not be started: {error}.") from None
    return int(shell.stdout)


def _environment() -> dict[str, str]:
    """Return the daemon's environment; it works in ``/``, so relative paths are made absolute."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_SCRUBBED)}
    if "PYTHONPATH" in kept:
        parts = kept["PYTHONPATH"].split(os.pathsep)
        kept["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, parts))
    if kept.get("ARRAYD_CONFIG", "-") not in ("", "-"):
        kept["ARRAYD_CONFIG"] = os.path.abspath(os.path.expanduser(kept["ARRAYD_CONFIG"]))
    return kept


def _last_line(path: Path) -> str:
    """Return the last line of a file, which may be missing or empty."""
    with contextlib.suppress(OSError):
        lines = path.read_text(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""
