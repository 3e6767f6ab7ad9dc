"""A path that is looked at for somebody else: what is found, what is refused, and in what words."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from arrayd.errors import AccessDenied, ArraydError, BadFile, SourceNotFound
from arrayd_server.access import files
from arrayd_server.access.files import look
from arrayd_server.access.policy import Acl, Credentials

ME = Credentials(os.geteuid(), os.getegid(), frozenset(os.getgroups()))
OTHER = Credentials(60001, 60001)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a folder that others could reach, with a file that they may read."""
    for one in (tmp_path, *tmp_path.parents):
        if one != Path("/") and one.stat().st_uid == os.geteuid():
            one.chmod(one.stat().st_mode | 0o111)
    (tmp_path / "open").mkdir()
    (tmp_path / "open/x").write_bytes(b"1")
    (tmp_path / "open/x").chmod(0o644)
    (tmp_path / "open").chmod(0o755)
    return tmp_path


def test_what_is_found(tree: Path) -> None:
    """The real path, and the stat, whatever the way."""
    os.symlink("x", tree / "open/link")
    os.symlink(tree / "open", tree / "folder")
    os.symlink("../open/link", tree / "open/again")
    info = os.stat(tree / "open/x")
    expected = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    real = os.path.realpath(tree / "open/x")
    for way in ("open/x", "open/link", "folder/x", "open/again", "folder/../open//./x"):
        assert look(f"{tree}/{way}", OTHER) == (real, expected)


@pytest.mark.parametrize(
    ("way", "error", "words"),
    [
        ("none", SourceNotFound, "No such file"),
        ("open/x/y", SourceNotFound, "Not a directory"),
        ("open/x/../x", SourceNotFound, "Not a directory"),
        ("loop", SourceNotFound, "Too many levels"),
        ("open", BadFile, "directory"),
        ("pipe", BadFile, "no regular file"),
        ("shut/x", AccessDenied, "may not search .*shut"),
        ("through", AccessDenied, "may not search .*shut"),
        ("shut/../open/x", AccessDenied, "may not search .*shut"),
        ("closed", AccessDenied, r"may not read it \(mode 0640, owner"),
        ("kernel", AccessDenied, "the kernel makes"),
        ("magic", AccessDenied, "the kernel makes"),
    ],
)
def test_what_is_refused(tree: Path, way: str, error: type[ArraydError], words: str) -> None:
    """Whoever asks learns why, and nothing of what lies where it may not look."""
    os.symlink("loop", tree / "loop")
    os.mkfifo(tree / "pipe")
    (tree / "shut").mkdir(mode=0o700)
    (tree / "shut/x").write_bytes(b"1")
    os.symlink("shut/x", tree / "through")
    (tree / "closed").write_bytes(b"1")
    (tree / "closed").chmod(0o640)
    os.symlink("/proc/version", tree / "kernel")
    os.symlink("/proc/self/fd/0", tree / "magic")
    with pytest.raises(error, match=words):
        look(f"{tree}/{way}", OTHER)


def test_what_is_not_there_where_nobody_may_look(tree: Path) -> None:
    """Names in a folder that cannot be searched are not told apart."""
    (tree / "shut").mkdir(mode=0o700)
    (tree / "shut/x").write_bytes(b"1")
    told = []
    for name in ("x", "y"):
        with pytest.raises(AccessDenied) as denied:
            look(f"{tree}/shut/{name}", OTHER)
        told.append(str(denied.value).replace(f"/{name}", "/?"))
    assert told[0] == told[1]


def test_roots(tree: Path) -> None:
    """What lies outside is refused, by its real path."""
    inside = str(Path(os.path.realpath(tree)) / "open")
    assert look(f"{tree}/open/x", ME, [inside])
    with pytest.raises(AccessDenied, match="outside the directories"):
        look(f"{tree}/open/x", ME, [inside + "s"])


@pytest.mark.parametrize("path", ["", "x", "/x\0y"])
def test_names_that_no_file_has(path: str) -> None:
    """A relative path means nothing to the daemon."""
    with pytest.raises(SourceNotFound):
        look(path, ME)


def test_a_long_way(tree: Path) -> None:
    """A path of links to links ends, too."""
    with pytest.raises(SourceNotFound, match="too long"):
        look(f"{tree}" + "/." * 5000, ME)


def test_no_descriptor_is_left(tree: Path) -> None:
    """Whatever it comes to."""
    before = os.listdir("/proc/self/fd")
    os.symlink("/", tree / "root")
    for way in ("open/x", "open/none", f"root{tree}/open/x"):
        with contextlib.suppress(ArraydError):
            look(f"{tree}/{way}", OTHER)
    assert os.listdir("/proc/self/fd") == before


def nfs4(*entries: tuple[int, bytes]) -> bytes:
    """Return an NFSv4 list of so many entries: type and whom it is about."""
    packed = [
        struct.pack(">IIII", kind, 0, 1, len(who)) + who + bytes(-len(who) % 4)
        for kind, who in entries
    ]
    return struct.pack(">I", len(entries)) + b"".join(packed)


def test_lists_of_nfs() -> None:
    """One that says what a mode says is a mode; else permission is in doubt."""
    plain = [(0, b"OWNER@"), (1, b"GROUP@"), (0, b"EVERYONE@")]
    assert not files.named_in_nfs4_acl(nfs4(*plain))
    assert files.named_in_nfs4_acl(nfs4(*plain, (1, b"ann@lab.org")))
    assert files.named_in_nfs4_acl(nfs4(*plain, (2, b"OWNER@")))
    assert files.named_in_nfs4_acl(nfs4(*plain) + b"????")
    assert files.named_in_nfs4_acl(nfs4(*plain)[:-3])


def test_what_was_found_out_just_now(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is looked at once for many files of it, and again when its mode has changed."""
    asked: list[int] = []
    real = files._acl_of

    def acl_of(fd: int, *how: Any) -> Acl | None:
        asked.append(fd)
        return real(fd, *how)

    monkeypatch.setattr(files, "_acl_of", acl_of)
    (tree / "open/y").write_bytes(b"1")
    (tree / "open/y").chmod(0o644)
    known = files.Known()
    look(str(tree / "open/x"), OTHER, known=known)
    first = len(asked)
    look(str(tree / "open/y"), OTHER, known=known)
    assert (first > 2, len(asked)) == (True, first + 1)
    (tree / "open").chmod(0o700)
    with pytest.raises(AccessDenied, match="may not search"):
        look(str(tree / "open/y"), OTHER, known=known)
    known.close()


def test_many_files_on_one_way(tree: Path) -> None:
    """Each is looked at as if it were alone, whatever was found before it, and nothing is left."""
    for name in ("a", "b", "closed"):
        (tree / "open" / name).write_bytes(name.encode())
        (tree / "open" / name).chmod(0o600 if name == "closed" else 0o644)
    (tree / "shut").mkdir(mode=0o700)
    (tree / "shut/x").write_bytes(b"1")
    for name, target in (("link", "../open/a"), ("up", "../shut/x"), ("away", "/"), ("round", ".")):
        os.symlink(target, tree / "open" / name)
    names = [
        "a",
        "b",
        "link",
        "a",
        "closed",
        "b",
        "up",
        "away",
        "round/b",
        "..",
        "",
        ".",
        "b/",
        "b/c",
    ]
    names += ["none", "a", "round/../open/a", "b"]
    before = os.listdir("/proc/self/fd")

    def told(known: files.Known | None) -> list[object]:
        found: list[object] = []
        for name in names:
            try:
                found.append(look(f"{tree}/open/{name}", OTHER, known=known))
            except ArraydError as error:
                found.append(f"{type(error).__name__}: {error}")
        return found

    with contextlib.closing(files.Known()) as known:
        together = told(known)
    assert together == told(None)
    assert sum(isinstance(one, tuple) for one in together) == 10
    assert os.listdir("/proc/self/fd") == before


def test_the_root_after_another_way(tree: Path) -> None:
    """Whatever was looked at before, and however that ended, ``/x`` is looked for in the root."""
    for way in ("open/x/", "open/x", "none/x", "open/\udcff\ud800/x", "open/\ud800"):
        with contextlib.closing(files.Known()) as known:
            with contextlib.suppress(ArraydError, ValueError):
                look(f"{tree}/{way}", OTHER, known=known)
            with pytest.raises(SourceNotFound, match="No such file"):
                look("/x", OTHER, known=known)


def test_a_folder_that_is_moved_meanwhile(tree: Path) -> None:
    """The way to it is gone once: what was found holds for inodes, which who reads compares."""
    with contextlib.closing(files.Known()) as known:
        _, first = look(f"{tree}/open/x", OTHER, known=known)
        os.rename(tree / "open", tree / "moved")
        assert look(f"{tree}/open/x", OTHER, known=known)[1] == first


def test_a_list_of_nfs_that_names_somebody(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it lets the user read is in doubt: it does not."""
    lists = {"system.nfs4_acl": nfs4((0, b"ann@lab.org"))}
    real = os.getxattr
    monkeypatch.setattr(os, "getxattr", lambda path, name: lists.get(name) or real(path, name))
    with pytest.raises(AccessDenied, match=r"names users, .*private daemon of yours"):
        look(f"{tree}/open/x", OTHER)


def test_a_list_that_cannot_be_had(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error is no proof that there is no list."""

    def fail(path: str, name: str) -> bytes:
        raise OSError(errno.EIO if "nfs4" in name else errno.ENODATA, "Input/output error")

    monkeypatch.setattr(os, "getxattr", fail)
    with pytest.raises(AccessDenied, match="cannot be told"):
        look(f"{tree}/open/x", OTHER)


def test_a_path_of_too_many_components(tree: Path) -> None:
    """It is refused before it has cost much, however it goes round in circles."""
    path = str(tree / "open") + "/../open" * files.MAX_COMPONENTS + "/x"
    with pytest.raises(SourceNotFound, match="too long"):
        look(path, OTHER)
