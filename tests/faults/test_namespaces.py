"""Clients in other mount namespaces: another file under one path, and another /dev/shm."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import arrayd
from tests.faults.grounds import NEEDS_ROOT
from tests.support.daemons import Daemon
from tests.support.processes import Puppet, Stage, leaves_nothing_behind, save

pytestmark = NEEDS_ROOT

OWN_TMPFS = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
OTHER_ROOT = 'mkdir "$0" && mount --bind "$0" /dev/shm && exec "$@"'


def within(script: str, *words: object) -> tuple[str, ...]:
    """Return a wrapper: a mount namespace set up by a shell script, with words from $0 on."""
    return ("unshare", "-m", "sh", "-c", script, *map(str, words))


def bound(one: Path, over: Path) -> tuple[str, ...]:
    """Return a wrapper in whose mount namespace one file stands in the place of another."""
    return within('mount --bind "$0" "$1" && shift && exec "$@"', one, over)


def another_file(puppet: Puppet, code: str) -> None:
    """Assert that code ends with the error for a file that is another one for the daemon."""
    with pytest.raises(
        arrayd.SourceNotFound, match=r"another file for the daemon .* mount namespa"
    ):
        puppet(code)


def test_another_file_under_the_path(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, tmp_path: Path
) -> None:
    """A bind mount in the client's namespace: an error on a miss, on a hit and for a window."""
    path = tmp_path / "x.npy"
    save(tmp_path / "other.npy", np.zeros(1000))
    save(path, np.ones(1000))
    one = puppets(daemon, wrapper=bound(tmp_path / "other.npy", path))
    assert one(f"float(np.load({str(path)!r}).sum())") == 0
    another_file(one, f"arrayd.get({str(path)!r})")
    mine = client.get(path)
    another_file(one, f"arrayd.get({str(path)!r})")
    another_file(one, f"arrayd.get({str(path)!r}, rows=slice(0, 10))")
    assert one(f"float(arrayd.get({str(tmp_path / 'other.npy')!r}).sum())") == 0
    assert mine.sum() == 1000
    del mine


def test_the_file_of_another_device(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, tmp_path: Path
) -> None:
    """Same path, inode number, size and time, on another device: another file all the same."""
    place = tmp_path / "mount"
    place.mkdir()
    script = f'{OWN_TMPFS.partition(" && ")[0]} && exec "$@"'
    write = "np.save(path, np.full(1000, value)); os.utime(path, ns=(10**18, 10**18))"
    shows = "s = os.stat(path); [s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns]"
    seen = []
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)
    try:
        for value, wrapper in ((1, ()), (2, within(script, place))):
            one = puppets(daemon, wrapper=wrapper)
            one(f"path = {str(place / 'x.npy')!r}; value = {value}; {write}")
            seen.append((one, one(shows)))
        (outer, outside), (inner, inside) = seen
        assert (outside[0] != inside[0], outside[1:]) == (True, inside[1:])
        assert outer("float(arrayd.get(path).sum())") == 1000
        another_file(inner, "arrayd.get(path)")
        assert outer("float(arrayd.get(path).sum())") == 1000
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_file_that_only_the_client_has(daemon: Daemon, puppets: Stage, tmp_path: Path) -> None:
    """What the daemon does not see at all is not found."""
    place = tmp_path / "mount"
    place.mkdir()
    one = puppets(daemon, wrapper=within(OWN_TMPFS, place))
    one(f"path = {str(place / 'x.npy')!r}; np.save(path, np.ones(5))")
    with pytest.raises(arrayd.SourceNotFound):
        one("arrayd.get(path)")


def test_another_shm(daemon: Daemon, puppets: Stage, tmp_path: Path) -> None:
    """A client with a /dev/shm of its own is told so by every call."""
    save(tmp_path / "x.npy", np.ones(5))
    one = puppets(daemon, wrapper=within(OWN_TMPFS, "/dev/shm"))
    for code in (f"arrayd.get({str(tmp_path / 'x.npy')!r})", "arrayd.put(np.ones(3))"):
        with pytest.raises(arrayd.DaemonError, match="different /dev/shm"):
            one(code)


def test_a_part_of_the_same_shm(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, tmp_path: Path
) -> None:
    """A directory of the daemon's /dev/shm as the client's: same device, and no shared names."""
    save(tmp_path / "x.npy", np.ones(5))
    place = f"/dev/shm/{tmp_path.name}"
    one = puppets(daemon, wrapper=within(OTHER_ROOT, place))
    try:
        for code in (f"arrayd.get({str(tmp_path / 'x.npy')!r})", "arrayd.put(np.ones(3))"):
            with pytest.raises(arrayd.DaemonError, match="different /dev/shm"):
                one(code)
        one.end()
        assert os.listdir(place) == []
    finally:
        os.rmdir(place)
    leaves_nothing_behind(client)
