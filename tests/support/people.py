"""Processes of other users, for tests that run as root.

`conftest.py` imports the fixture `people`.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.daemons import Daemon
from tests.support.processes import Puppet, Stage

ANN, BOB = 60001, 60002
"""Two users whom no file of the system belongs to."""

ALLOW = f"{ANN},{BOB}"

SECRET = 77_000
"""Above all values of files that anybody may read."""

TEAM = 60010
"""A group of theirs, now and then."""

IMPORTS = """
import os, pkgutil, importlib, secrets
import arrayd, numpy as np
# The interpreter may lie where only root may look: all is imported first.
for found in pkgutil.walk_packages(arrayd.__path__, "arrayd."):
    if not found.name.startswith(("arrayd.torch", "arrayd.cli", "arrayd.__main__")):
        importlib.import_module(found.name)
import encodings.ascii, encodings.idna, concurrent.futures, ctypes.util, difflib, queue, zmq
"""

BECOME = """
os.environ["ARRAYD_ENDPOINT"] = {endpoint!r}
os.environ["XDG_RUNTIME_DIR"] = "/nowhere"  # no daemon of their own, unless a test says so
os.setgroups({groups!r}); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})
"""


def npy(values: npt.ArrayLike) -> bytes:
    """Return the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


def refusals(daemon: Daemon) -> list[str]:
    """Return the records of what was refused, in the daemon's log."""
    return [line for line in daemon.log.splitlines() if "refused uid=" in line]


class People:
    """Starts daemons that other users can reach, and processes of these users."""

    def __init__(self, start_daemon: Callable[..., Daemon], template: Puppet, folder: Path) -> None:
        self._start, self._template, self.folder = start_daemon, template, folder
        self._processes: list[Puppet] = []
        os.chmod(folder, 0o755)

    def daemon(self, *flags: str, allow: str = ALLOW) -> Daemon:
        """Start a daemon that is open to these users."""
        daemon = self._start("--budget", "64M", "--workers", "2", "--allow", allow, *flags)
        os.chmod(daemon.directory, 0o755)
        return daemon

    def meet(self, daemon: Daemon) -> Daemon:
        """Let other users reach a daemon that somebody else has started; its log begins here."""
        for folder in (daemon.directory, daemon.directory.parent):
            os.chmod(folder, 0o755)
        daemon.forget_log()
        return daemon

    def home(self, uid: int, name: str) -> Path:
        """Make a folder that only a user can enter."""
        path = self.folder / name
        path.mkdir(mode=0o700)
        os.chown(path, uid, uid)
        return path

    def __call__(self, daemon: Daemon, uid: int, groups: Iterable[int] = ()) -> Puppet:
        """Start a process of a user."""
        one = self._template.fork()
        self._processes.append(one)
        one(BECOME.format(endpoint=daemon.endpoint, uid=uid, groups=list(groups)))
        return one

    def file(self, name: str, data: bytes, owner: int, mode: int, group: int = 0) -> str:
        """Write a file of a user; return its path."""
        path = self.folder / name
        path.write_bytes(data)
        os.chown(path, owner, group or owner)
        os.chmod(path, mode)
        return str(path)

    def part(self) -> None:
        """End all processes."""
        while self._processes:
            self._processes.pop().dismiss()


@contextlib.contextmanager
def ancestor(wrapper: tuple[str, ...] = ()) -> Iterator[Puppet]:
    """Start a process that has imported all; what people are forked from."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it becomes several users")
    with tempfile.TemporaryDirectory(prefix="ad", dir="/tmp") as folder:
        stage = Stage(f"{folder}/stage")
        yield stage.start({}, IMPORTS, wrapper)
        stage.close()


@pytest.fixture(scope="module")
def template(session_leaves_nothing: None) -> Iterator[Puppet]:
    """Give what people are forked from."""
    with ancestor() as one:
        yield one


@pytest.fixture
def people(
    start_daemon: Callable[..., Daemon], template: Puppet, short_directory: Path
) -> Iterator[People]:
    """Give ``people``; only root can be several users."""
    people = People(start_daemon, template, short_directory)
    yield people
    people.part()


@pytest.fixture
def ann(people: People, daemon: Daemon) -> Puppet:
    """Give a process of Ann's, which holds a file of hers that only she may read."""
    people.file("secret.npy", npy(np.arange(1000) + SECRET), ANN, 0o600)
    ann = people(daemon, ANN)
    ann(f"a = arrayd.get('{people.folder}/secret.npy')")
    ann("p = arrayd.put(np.arange(500) + 88_000, name='results')")
    return ann


@pytest.fixture
def bob(people: People, daemon: Daemon, ann: Puppet) -> Puppet:
    """Give a process of Bob's, who knows the names of all segments."""
    bob = people(daemon, BOB)
    bob("def segments(): return sorted(n for n in os.listdir('/dev/shm') if n.count('-') == 3)")
    return bob


def segment_of(puppet: Puppet, variable: str) -> str:
    """Return the segment of an array in a process."""
    return str(puppet(f"{variable}._held.segment"))


def let_in(segment: str) -> set[int]:
    """Return the other users whom the access control list of a segment names."""
    try:
        data = os.getxattr(f"/dev/shm/{segment}", "system.posix_acl_access")
    except OSError:
        return set()
    entries = [data[i : i + 8] for i in range(4, len(data), 8)]
    return {int.from_bytes(e[4:], "little") for e in entries if e[0] == 2}
