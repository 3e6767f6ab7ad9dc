"""A process that has given up all files but one: what it can open afterwards."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from arrayd.errors import AccessDenied, BadFile, SourceChanged
from arrayd.source import Source
from arrayd_server.kernel import landlock
from arrayd_server.loaders import validation
from arrayd_server.loading import confinement
from arrayd_server.loading.messages import InfoTask

CODE = """
import json, os, socket, sys
from arrayd_server.loading import confinement
path, segment, *others = sys.argv[1:]
info = os.stat(path)
confinement.enter(path, (info.st_dev, info.st_ino), segment)
def outcome(what):
    try:
        what()
    except OSError as error:
        return error.strerror
    return "done"
def write(where):
    with open(where, "r+b") as file:
        file.write(b"x")
tried = {f"read {one}": outcome(lambda: open(one).close()) for one in (path, segment, *others)}
tried |= {f"write {one}": outcome(lambda: write(one)) for one in (path, segment, *others)}
tried["make"] = outcome(lambda: open(os.path.dirname(path) + "/new", "w"))
tried["list"] = outcome(lambda: os.listdir(os.path.dirname(path)))
tried["program"] = outcome(lambda: open("/usr/bin/env", "rb").close())
server = socket.socket()
tried["bind"] = outcome(lambda: server.bind(("127.0.0.1", 0)))
server.close()
import xml.dom.minidom  # Python's own modules are there still
print(json.dumps(tried))
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Give four files, one of them by a link."""
    for name in ("own", "segment", "other"):
        (tmp_path / name).write_bytes(b"12345678")
    os.symlink("other", tmp_path / "link")
    return [str(tmp_path / name) for name in ("own", "segment", "other", "link")]


def test_what_is_left(files: list[str]) -> None:
    """The file for reading, the segment for both, and the code; no other file, and no network."""
    assert landlock.version() > 0, "this kernel has no Landlock: other users get no files"
    done = subprocess.run(
        [sys.executable, "-c", CODE, *files, "/proc/self/environ", "/etc/passwd"],
        capture_output=True,
        text=True,
        check=True,
    )
    tried = json.loads(done.stdout)
    own, segment = files[:2]
    assert {what for what, how in tried.items() if how == "done"} == {
        f"read {own}",
        f"read {segment}",
        f"write {segment}",
    } | ({"bind"} if landlock.version() < 4 else set())
    assert set(tried.values()) == {"done", "Permission denied"}


def test_a_thread_gives_up_the_same(files: list[str]) -> None:
    """It can read its file and write its segment, and nothing else; the others can, all that."""
    info = os.stat(files[0])

    def work() -> list[str]:
        confinement.enter(files[0], (info.st_dev, info.st_ino), files[1])
        Path(files[1]).write_bytes(Path(files[0]).read_bytes())
        for path in (files[2], files[3], "/proc/self/environ"):
            with pytest.raises(PermissionError):
                open(path).close()
        with pytest.raises(PermissionError):
            Path(files[0]).write_bytes(b"x")
        assert validation.reads_one()
        raise SourceChanged("what is raised there arrives")

    with pytest.raises(SourceChanged, match="arrives"):
        confinement.around(confined=True, child=False)(work)
    assert not validation.reads_one()
    assert Path(files[2]).read_bytes()
    assert Path("/proc/self/environ").read_bytes()


def test_a_thread_keeps_the_files_of_a_batch(files: list[str]) -> None:
    """Those that are still what was looked at, and the segment: no other, and no other way."""
    own, segment, other, link = files
    states = {path: os.stat(path) for path in (own, other)}
    inodes = {path: (info.st_dev, info.st_ino) for path, info in states.items()}
    os.replace(segment, f"{segment}2")  # of another inode than was looked at
    Path(segment).write_bytes(b"87654321")
    asked = [(own, inodes[own]), (other, (0, 1)), (f"{own}/absent", (0, 2)), (link, inodes[other])]

    def opens(path: str, flags: int = os.O_RDONLY) -> bool:
        try:
            os.close(os.open(path, flags))
        except PermissionError:
            return False
        return True

    def work() -> None:
        confinement.enter_all(asked[:3], segment)
        assert [opens(path) for path in (own, segment, other, link)] == [True, True, False, False]
        assert [opens(path, os.O_RDWR) for path in (own, segment)] == [False, True]

    confinement.around(confined=True, child=False)(work)

    def by_the_link() -> None:
        confinement.enter_all(asked[3:], segment)
        assert [opens(path) for path in (own, other, link)] == [False, True, True]

    confinement.around(confined=True, child=False)(by_the_link)
    assert opens(own, os.O_RDWR)


def test_whose_files_take_a_child(tmp_path: Path) -> None:
    """All but those that are read without a library; what is called so, and is none, is refused."""
    alone = [
        Source("/a.npy"),
        Source("/a", format="npy"),
        Source("/a.h5", format="raw"),
    ]
    assert not any(confinement.needs_child(source) for source in alone)
    others = [Source("/a.h5"), Source("/a.npz"), Source("/a.csv"), Source("/a.unknown")]
    assert all(confinement.needs_child(source) for source in others)
    path = tmp_path / "x.npy"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)
    task = InfoTask(Source(str(path)), None, confined=True)
    with pytest.raises(BadFile, match="format='hdf5'"):
        confinement.recognised(task, task.source)
    whole = replace(task, source=Source(str(path), format="hdf5"))
    assert confinement.recognised(whole, whole.source).format == "hdf5"
    mine = replace(task, confined=False)
    assert confinement.recognised(mine, mine.source).format == "hdf5"


def test_another_inode_under_the_path(files: list[str]) -> None:
    """The file was replaced since somebody looked at it: nothing is given up, nothing read."""
    info = os.stat(files[0])
    with pytest.raises(SourceChanged, match="replaced"):
        confinement.enter(files[3], (info.st_dev, info.st_ino))
    with pytest.raises(SourceChanged, match="replaced or removed"):
        confinement.enter(files[0] + "s", (info.st_dev, info.st_ino))
    assert Path(files[2]).read_bytes()
    socket.socket(socket.AF_UNIX).close()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSYS, "this kernel has none .*Linux 5.13"),
        (errno.EOPNOTSUPP, "this kernel has none .*Linux 5.13"),
        (errno.EPERM, "a filter of system calls.*@sandbox"),
        (errno.ENOMEM, r"has failed: Cannot allocate memory .ENOMEM.\. Ask again"),
    ],
)
def test_a_kernel_that_does_not_confine(
    files: list[str], monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    """The error says what is missing, or what went wrong; nothing is read unconfined."""

    def restrict(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(landlock, "restrict", restrict)
    info = os.stat(files[0])
    with pytest.raises(AccessDenied, match=said):
        confinement.enter(files[0], (info.st_dev, info.st_ino))
    assert not validation.reads_one()


def test_a_kernel_without_landlock(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that it does not know is told from one that fails."""
    monkeypatch.setattr(landlock, "_CREATE", 9999)  # a number of no call
    info = os.stat(files[0])
    with pytest.raises(AccessDenied, match="Landlock, and this kernel has none"):
        confinement.enter(files[0], (info.st_dev, info.st_ino))


SWAPPED = """
import json, os, sys
from arrayd.errors import ArraydError
from arrayd.source import Source
from arrayd_server.loaders import file_identity, formats
from arrayd_server.loading import confinement, probing
path = sys.argv[1]
info, stat = os.stat(path), file_identity.identity(path)[1:]
source = Source(path=path, format="npy")
confinement.enter(path, (info.st_dev, info.st_ino))
def told(work):
    try:
        work()
    except ArraydError as error:
        return f"{type(error).__name__}: {error} {error.details}"
for _ in sys.stdin:
    print(json.dumps([told(work) for work in (
        lambda: probing._same_file(source, file_identity.identity(path), stat),
        lambda: formats.recognised(Source(path=path)), lambda: formats.probe(source))]), flush=True)
"""
"""Says for each line what becomes of the file that it may read, in each of three steps."""


def test_a_path_that_is_swapped_later(files: list[str], tmp_path: Path) -> None:
    """Whatever the path leads to once the file is all that is left, the answer is the same."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".zarray").touch()
    os.mkfifo(tmp_path / "pipe")
    os.symlink("loop", tmp_path / "loop")
    np.save(tmp_path / "array.npy", np.arange(3))
    command, path = [sys.executable, "-c", SWAPPED, files[0]], Path(files[0])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdin is not None and process.stdout is not None
        told = []
        for number, target in enumerate(("other", "absent", "folder", "pipe", "loop", "array.npy")):
            if not number:  # else it would be swapped before it is entered
                process.stdin.write("\n")
                process.stdin.flush()
                assert json.loads(process.stdout.readline())[0] is None
            path.unlink()
            path.symlink_to(target)
            process.stdin.write("\n")
            process.stdin.flush()
            told.append(json.loads(process.stdout.readline()))
        process.stdin.close()
    assert len({one for line in told for one in line}) == 1, told
    assert "was replaced or removed" in told[0][0]
