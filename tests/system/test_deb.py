"""The Debian package: what is in it, and its life under a real systemd.

It has the arrayd of this checkout, and for the rest uses what the tests use. With
``ARRAYD_WHOLE_DEB=1`` it is built as for users, by pip, which takes minutes.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import arrayd
import arrayd_server
from arrayd.wire.protocol import PACKAGE_VERSION
from arrayd_server import events
from deploy.deb import build
from tests.support.processes import save
from tests.support.real_systemd import (
    SHARED,
    Readers,
    RealSystemd,
    booted,
    skip_unless_possible,
)

WHOLE = bool(os.environ.get("ARRAYD_WHOLE_DEB"))

NEXT = f"{PACKAGE_VERSION}.next"

PYTHON = "/usr/bin/python3" if WHOLE else os.path.realpath(sys.executable)

OPTIONS = build.CONFFILES[0]

DAEMON = "(lambda s: [s.version, s.pid])(arrayd.status())"

PROGRAM = """\
#!{python}
import sys
from arrayd.cli import main
sys.exit(main())
"""


def packages_of(python: Path) -> Path:
    """Return where a venv has its packages."""
    (folder,) = python.parents[1].glob("lib/python3*/site-packages")
    return folder


def install(python: Path) -> None:
    """Put this arrayd into a venv, which sees the other packages of ours."""
    folder = packages_of(python)
    for package in (arrayd, arrayd_server):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    program = python.with_name("arrayd")
    program.write_text(PROGRAM.format(python=python))
    program.chmod(0o700)  # it is the package's to set modes


def repacked(package: Path, folder: Path) -> Path:
    """Return the same package with another version, of itself and of what is in it."""
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(folder)], check=True)
    (protocol,) = folder.glob("opt/venvs/arrayd/lib/*/site-packages/arrayd/wire/protocol.py")
    for compiled in protocol.parent.glob("__pycache__/protocol.*"):
        compiled.unlink()  # it would be believed
    for path in (protocol, folder / "DEBIAN" / "control"):
        text = path.read_text()
        assert text.count(PACKAGE_VERSION) == 1
        path.write_text(text.replace(PACKAGE_VERSION, NEXT))
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(folder), f"{folder}.deb"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return Path(f"{folder}.deb")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the package of this version."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    how = build.pip_install if WHOLE else install
    folder = tmp_path_factory.mktemp("deb")
    return build.build(folder, PYTHON, compression="none", install=how)


@pytest.fixture(scope="module")
def contents(package: Path) -> dict[str, tarfile.TarInfo]:
    """Return the files in it by their paths."""
    with _files(package) as files:
        return {one.name.removeprefix("."): one for one in files.getmembers()}


def _files(package: Path) -> tarfile.TarFile:
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True)
    return tarfile.open(fileobj=io.BytesIO(done.stdout))


def _text(package: Path, path: str) -> str:
    with _files(package) as files:
        file = files.extractfile(f".{path}")
        assert file is not None
        return file.read().decode()


def _control(package: Path, what: str) -> str:
    command = ["dpkg-deb", "--info", str(package), what]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_it_depends_on_what_it_was_built_with(package: Path) -> None:
    """The minor version of Python, and a C library that has what its libraries use."""
    field = dict(re.findall(r"(?m)^([A-Z][\w-]*): (.*)$", _control(package, "control")))
    minor = sys.version_info.minor
    assert f"python3 (>= 3.{minor}), python3 (<< 3.{minor + 1})," in field["Depends"]
    assert re.search(r"libc6 \(>= 2\.\d+\), systemd, passwd$", field["Depends"])
    assert field["Version"] == PACKAGE_VERSION
    assert int(field["Installed-Size"]) > 1000
    assert _control(package, "conffiles").split() == list(build.CONFFILES)


def test_everything_has_its_place(package: Path, contents: dict[str, tarfile.TarInfo]) -> None:
    """All files are root's and nobody else writes them; the program is the venv's."""
    assert {(one.uid, one.gid) for one in contents.values()} == {(0, 0)}
    modes = {one.mode for one in contents.values() if not one.issym()}
    assert modes == {0o644, 0o755}
    assert contents["/usr/bin/arrayd"].linkname == "/opt/venvs/arrayd/bin/arrayd"
    for path in build.PLAIN.values():
        assert contents[f"/{path}"].isfile()
    assert "/usr/share/man/man5/arrayd.toml.5.gz" in contents
    unit = _text(package, "/usr/lib/systemd/system/arrayd.service")
    assert "ExecStart=/opt/venvs/arrayd/bin/arrayd serve" in unit
    assert "/opt/arrayd" not in unit
    assert "/usr/share/doc/arrayd/changelog.gz" in contents
    assert '\nallow = "@arrayd"\n' in _text(package, "/etc/arrayd/arrayd.toml")


def test_it_says_where_it_will_be(package: Path, contents: dict[str, tarfile.TarInfo]) -> None:
    """Nothing names the folder in which it was built; every module is compiled."""
    with _files(package) as files:
        for path, one in contents.items():
            file = files.extractfile(one) if one.isfile() else None
            assert file is None or b"arrayd-deb-" not in file.read(), path
    modules = [path for path in contents if re.search(r"packages/arrayd\w*/.*\.py$", path)]
    assert modules
    for path in modules:
        folder, _, name = path.rpartition("/")
        tag = sys.implementation.cache_tag if not WHOLE else "cpython-3"
        assert any(p.startswith(f"{folder}/__pycache__/{name[:-3]}.{tag}") for p in contents)


def test_the_c_library_is_looked_up(tmp_path: Path) -> None:
    """The newest version that a library asks for counts, by number."""
    (tmp_path / "a.so").write_bytes(b"\0GLIBC_2.4\0GLIBC_2.28\0GLIBC_2.9\0")
    (tmp_path / "b.so.1").write_bytes(b"\0GLIBC_2.17\0")
    (tmp_path / "c.txt").write_bytes(b"\0GLIBC_2.99\0")
    assert build.newest_libc(sorted(tmp_path.iterdir())) == (2, 28)


# ---- its life ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSystemd]:
    """Give a systemd on which the package is installed, and two users who may use it."""
    skip_unless_possible()
    second = repacked(package, tmp_path_factory.mktemp("next") / "package")
    with tempfile.TemporaryDirectory(dir="/tmp") as place, booted(Path(place)) as one:
        shutil.copy(package, one.shared / "first.deb")
        shutil.copy(second, one.shared / "second.deb")
        save(one.shared / "a.npy", np.arange(1000))
        save(one.shared / "b.npy", np.arange(2000))
        (one.shared / "users.conf").write_text("u alice -\nu bob -\n")
        one.run("systemctl", "start", "systemd-journald.service")
        dpkg(one, "--install", "first.deb")
        users = f"""chmod a+r {SHARED}/*.npy; systemd-sysusers {SHARED}/users.conf
            gpasswd -a alice arrayd; gpasswd -a bob arrayd
            sed -i 's/^#budget.*/budget = "64M"/; s/^#workers.*/workers = 1/' {OPTIONS}"""
        one.run("sh", "-ec", users)
        yield one


def dpkg(machine: RealSystemd, action: str, what: str) -> str:
    """Run dpkg inside, where packages may start services, and no other packages are looked at."""
    words = f"rm -f /usr/sbin/policy-rc.d; dpkg --no-triggers --force-depends {action} {what}"
    return machine.run("sh", "-ec", f"cd {SHARED}; {words}")


@pytest.fixture(scope="module")
def readers(machine: RealSystemd) -> Iterator[Readers]:
    """Give two clients of this version, of users of their own, that hold ``a.npy`` all the time."""
    assert machine.show("arrayd", "ActiveState") == "inactive"
    both = Readers(machine)
    yield both
    both.end()


def test_installed_it_serves(machine: RealSystemd, readers: Readers) -> None:
    """Its socket is enabled; the first request has started it; dpkg finds its files whole."""
    assert machine.show("arrayd.socket", "UnitFileState") == "enabled"
    assert machine.show("arrayd", "ActiveState") == "active"
    assert readers("int(a.sum())") == sum(range(1000))
    assert machine.run("arrayd", "--version").split() == ["arrayd", PACKAGE_VERSION]
    # The one difference is that of the options above.
    assert machine.run("dpkg", "--verify", "arrayd").split()[1:] == ["c", OPTIONS]


def test_an_upgrade_drops_nothing(machine: RealSystemd, readers: Readers) -> None:
    """Two users read on; the next version has the blocks; clients of the one before still work."""
    block, before = readers("a.block.name"), readers(DAEMON)
    dpkg(machine, "--install", "second.deb")
    after = readers(DAEMON)
    assert (before[0], after[0]) == (PACKAGE_VERSION, NEXT)
    assert before[1] != after[1]
    assert readers("int(a.sum())") == sum(range(1000))
    assert readers(f"arrayd.get('{SHARED}/a.npy').block.name") == block
    assert readers("arrayd.status().counters['loads']") == 0
    assert readers(f"int(arrayd.get('{SHARED}/b.npy').sum())") == sum(range(2000))
    assert readers("arrayd.__version__") == PACKAGE_VERSION
    assert 'budget = "64M"' in machine.run("cat", OPTIONS)
    assert machine.show("arrayd", "NRestarts") == "0"


def test_the_journal_has_it_all(machine: RealSystemd, readers: Readers) -> None:
    """The confined service reaches the journal, which has its events with their facts."""
    wanted = {"started": 2, "sealed": 2, "granted": 4, "adopted": 1, "ended": 1}
    machine.run("journalctl", "--sync")
    lines = machine.run("journalctl", "-o", "json", "_SYSTEMD_UNIT=arrayd.service").splitlines()
    entries = [json.loads(line) for line in lines]
    names = Counter(one["ARRAYD_EVENT"] for one in entries if "ARRAYD_EVENT" in one)
    assert {name: names[name] for name in wanted} == wanted
    adopted = next(one for one in entries if one.get("ARRAYD_EVENT") == "adopted")
    assert adopted["MESSAGE_ID"] == events.ADOPTED.message_id
    assert "took over blocks: 1 " in adopted["MESSAGE"]
    granted = next(one for one in entries if one.get("ARRAYD_EVENT") == "granted")
    assert granted["ARRAYD_BLOCK"] == readers("a.block.name")
    assert f"{SHARED}/a.npy" in granted["ARRAYD_SOURCE"]
    users = {one["ARRAYD_UID"] for one in entries if one.get("ARRAYD_EVENT") == "granted"}
    assert users == {machine.run("id", "-u", user).strip() for user in ("alice", "bob")}


def test_removed_it_keeps_the_options(machine: RealSystemd, readers: Readers) -> None:
    """Daemon, socket and files are gone; the administrator's own file is there, and arrays are."""
    dpkg(machine, "--remove", "arrayd")
    assert machine.show("arrayd.socket", "LoadState") == "not-found"
    assert not machine.succeeds("pgrep", "-u", "arrayd")
    assert not machine.succeeds("test", "-e", "/opt/venvs")
    assert 'budget = "64M"' in machine.run("cat", OPTIONS)
    assert readers("int(a.sum())") == sum(range(1000))


def test_purged_it_leaves_nothing(machine: RealSystemd, readers: Readers) -> None:
    """No file, no user, no group, no segment; who has mapped one reads on."""
    left = machine.run("ls", "/dev/shm")
    dpkg(machine, "--purge", "arrayd")
    assert readers("a.block.name") in left
    places = ("/etc", "/run", "/var", "/dev/shm", "/tmp", "/usr", "/opt")
    assert machine.run("find", *places, "-xdev", "-name", "*arrayd*").split() == []
    assert not machine.succeeds("id", "arrayd")
    assert not machine.succeeds("getent", "group", "arrayd")
    assert readers("int(a.sum())") == sum(range(1000))
