"""Names removed or replaced behind the daemon's back, in every state of a block."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd.common import failpoints
from arrayd_server.segments.scope import Scope
from tests.faults.grounds import alive, halted, points, stopped
from tests.support.daemons import Daemon
from tests.support.processes import (
    Puppet,
    Stage,
    block_of,
    is_empty,
    leaves_nothing_behind,
    only_block,
    save,
    wait_until,
)

__all__ = ["points"]

WHICH = pytest.mark.parametrize("which", ["public", "spare", "both"])

TOTAL = float(np.arange(1000.0).sum())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a file of 1000 numbers."""
    save(tmp_path / "x.npy", np.arange(1000.0))
    return tmp_path / "x.npy"


@pytest.fixture
def watched(points: Path, start_daemon: Callable[..., Daemon]) -> Daemon:
    """Give a daemon that can be stopped at failpoints."""
    return start_daemon("--budget", "64M", "--workers", "2")


@pytest.fixture
def user(watched: Daemon) -> Iterator[arrayd.Client]:
    """Give a session with it, in this process."""
    with arrayd.connect(watched.endpoint) as client:
        yield client


@pytest.fixture
def other(daemon: Daemon) -> Iterator[arrayd.Client]:
    """Give one more session, with holds and mappings of its own."""
    with arrayd.connect(daemon.endpoint) as client:
        yield client


def links(daemon: Daemon, segment: str, which: str = "both") -> list[str]:
    """Return the names of a segment, the public one last: its end is heard of at once."""
    public, spare = f"/dev/shm/{segment}", f"{Scope(daemon.endpoint).directory}/{segment}"
    return {"public": [public], "spare": [spare], "both": [spare, public]}[which]


def remove(daemon: Daemon, segment: str, which: str) -> int:
    """Remove names of a segment; return its inode."""
    inode = os.stat(links(daemon, segment)[-1]).st_ino
    for name in links(daemon, segment, which):
        os.unlink(name)
    return inode


def has_room(client: arrayd.Client) -> bool:
    """Say whether nothing is charged: all blocks are gone, by the kernel's word."""
    return client.status().charged == 0


@WHICH
def test_a_held_block(
    daemon: Daemon, client: arrayd.Client, other: arrayd.Client, path: Path, which: str
) -> None:
    """Holders read on; the next has the same block back, or loads it anew; all is charged."""
    mine = client.get(path)
    name, size = block_of(mine).name, only_block(client).size
    inode = remove(daemon, name, which)
    theirs = other.get(path)
    assert theirs.sum() == mine.sum() == TOTAL
    blocks = {b.segment: b.state for b in client.status().blocks}
    if which == "both":
        assert blocks.pop(name) == "leaving"
        assert list(blocks.values()) == ["held"]
        assert client.status().charged == 2 * size
        del mine
        wait_until(lambda: client.status().charged == size, "the last mapping goes")
    else:
        assert blocks == {name: "held"}
        wait_until(
            lambda: (
                [os.stat(p).st_ino for p in links(daemon, name) if os.path.exists(p)]
                == [inode, inode]
            ),
            "both names are back",
        )
        del mine
    del theirs
    wait_until(lambda: only_block(client).state == "idle", "nobody has it")
    assert client.evict(path)["blocks"] == 1
    wait_until(lambda: has_room(client), "nothing is charged")


@WHICH
def test_an_idle_block(daemon: Daemon, client: arrayd.Client, path: Path, which: str) -> None:
    """Nobody asks for it: its names come back, or it is taken off the books."""
    name = block_of(client.get(path)).name
    wait_until(lambda: only_block(client).state == "idle", "it is idle")
    remove(daemon, name, which)
    if which == "both":
        wait_until(lambda: has_room(client), "it is off the books")
    else:
        wait_until(lambda: all(map(os.path.exists, links(daemon, name))), "its names are back")
    assert client.get(path).sum() == TOTAL
    assert client.status().counters["loads"] == (2 if which == "both" else 1)


@WHICH
def test_a_kept_block(daemon: Daemon, client: arrayd.Client, which: str) -> None:
    """A published block whose every name is gone is `NoSuchBlock`, and its name is free."""
    name = block_of(client.put(np.arange(5), name="N", keep=True)).name
    remove(daemon, name, which)
    if which == "both":
        with pytest.raises(arrayd.NoSuchBlock):
            client.get("name:N")
        client.put(np.arange(6), name="N")
    else:
        assert client.get("name:N").tolist() == [0, 1, 2, 3, 4]
        client.evict("name:N")
    wait_until(lambda: has_room(client), "nothing is charged")


@pytest.mark.parametrize("which", ["public", "both"])
def test_a_lent_block(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, path: Path, which: str
) -> None:
    """A reference in flight: redeemed as the same block, or loaded again from the same file."""
    one = puppets(daemon)
    one("from multiprocessing.reduction import ForkingPickler")
    sent = one(f"a = arrayd.get({str(path)!r}); r = bytes(ForkingPickler.dumps(a)).hex(); del a; r")
    wait_until(lambda: only_block(client).state == "lent", "it is in flight")
    name = only_block(client).segment
    remove(daemon, name, which)
    other = puppets(daemon)
    load = f"import pickle; a = pickle.loads(bytes.fromhex({sent!r})); a.block.name"
    assert (other(load) == name) == (which != "both")
    assert other("float(a.sum())") == TOTAL
    other("del a")


@WHICH
def test_a_block_that_is_written(
    daemon: Daemon, client: arrayd.Client, other: arrayd.Client, which: str
) -> None:
    """Its writer writes on; the seal links it back, or says that it is gone."""
    context = client.create(1000, name="N")
    out = context.__enter__()
    name, size = only_block(client).segment, only_block(client).size
    remove(daemon, name, which)
    out[:] = np.arange(1000.0)
    if which == "both":
        with pytest.raises(arrayd.NoSuchBlock, match=r"removed|gone"):
            context.__exit__(None, None, None)
        assert out.sum() == TOTAL
        assert client.status().charged == size
        assert other.put(np.ones(3), name="N").sum() == 3
    else:
        context.__exit__(None, None, None)
        assert other.get("name:N").sum() == TOTAL
    del out, context
    gc.collect()
    wait_until(lambda: is_empty(client) and has_room(client), "nothing is left")


@WHICH
@pytest.mark.parametrize(
    ("point", "action"), [("daemon.part", "stop:2"), ("worker.reserving", "stop")]
)
def test_a_block_that_is_loaded(
    watched: Daemon,
    user: arrayd.Client,
    points: Path,
    path: Path,
    which: str,
    point: str,
    action: str,
) -> None:
    """Before a loader opens it, and after: the right data, or an error, and then the right data."""
    failpoints.arm(points, point, action)
    user.prefetch(path)
    with halted(points, point):
        (name,) = watched.segments
        remove(watched, name, which)
    try:
        assert user.get(path).sum() == TOTAL
    except arrayd.LoadError as error:
        assert "somebody removed its file" in str(error)
        assert which != "public"
    assert user.get(path).sum() == TOTAL
    wait_until(lambda: only_block(user).state == "idle", "one block is left")
    assert all(map(os.path.exists, links(watched, only_block(user).segment)))


@pytest.mark.parametrize("which", ["public", "both"])
def test_a_block_at_its_seal(
    watched: Daemon, user: arrayd.Client, puppets: Stage, points: Path, which: str
) -> None:
    """Between the last question to the kernel and the footer: sealed, or an error."""
    one = puppets(watched)
    failpoints.arm(points, "daemon.sealing", "stop")
    one.send("a = arrayd.put(np.arange(1000.), name='N'); float(a.sum())")
    with halted(points, "daemon.sealing"):
        (name,) = watched.segments
        remove(watched, name, which)
    try:
        assert one.reply() == TOTAL
        assert which != "both"
        assert user.get("name:N").sum() == TOTAL
    except arrayd.NoSuchBlock:
        assert which == "both"
    one.end()
    wait_until(lambda: is_empty(user) and has_room(user), "nothing is left")


def whole(daemon: Daemon) -> None:
    """Remove all that the daemon has in /dev/shm, too fast for it to put anything back."""
    with stopped(daemon.pid):
        for name in daemon.segments:
            os.unlink(f"/dev/shm/{name}")
        shutil.rmtree(Scope(daemon.endpoint).directory)


def test_everything(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, path: Path, tmp_path: Path
) -> None:
    """``rm -rf /dev/shm/arrayd-*``: holders read on, the daemon serves on, in a new directory."""
    save(tmp_path / "idle.npy", np.ones(10))
    client.get(tmp_path / "idle.npy")
    mine = client.get(path)
    whole(daemon)
    one = puppets(daemon)
    assert one(f"a = arrayd.get({str(path)!r}); float(a.sum())") == TOTAL
    assert one("arrayd.put(np.ones(4)).tolist()") == [1.0] * 4
    assert client.get(tmp_path / "idle.npy").sum() == 10
    assert mine.sum() == TOTAL
    scope = Scope(daemon.endpoint)
    assert os.stat(scope.directory).st_mode & 0o777 == 0o700
    assert Path(scope.directory, "lock").read_text() == f"{daemon.pid}\n"
    one.end()
    del mine
    wait_until(lambda: {b.state for b in client.status().blocks} == {"idle"}, "the old one goes")


def test_everything_of_an_idle_daemon(daemon: Daemon, path: Path) -> None:
    """Its books are put right without being asked, and it can end."""
    with arrayd.connect(daemon.endpoint) as client:
        client.get(path)
        whole(daemon)
        wait_until(lambda: has_room(client), "the books are right")
    whole(daemon)  # what it has made anew


@pytest.mark.parametrize("what", ["link", "file", "copy", "directory"])
def test_a_name_that_is_replaced(
    daemon: Daemon, client: arrayd.Client, other: arrayd.Client, path: Path, what: str
) -> None:
    """Something else of ours under a public name: it gives way, or the block is loaded anew."""
    mine = client.get(path)
    name = block_of(mine).name
    public = Path("/dev/shm", name)
    content = bytearray(public.read_bytes())
    content[8:16] = np.float64(1e9).tobytes()  # its footer is right, its data are not
    with stopped(daemon.pid):
        public.unlink()
        if what == "link":
            public.symlink_to(path)
        elif what == "directory":
            public.mkdir()
        else:
            public.write_bytes(b"no segment" if what == "file" else content)
            public.chmod(0o600)
    theirs = None
    try:
        theirs = other.get(path)
        assert theirs.sum() == TOTAL
        assert block_of(theirs).name == name
    except arrayd.ArraydError as error:
        assert what == "directory", error
        assert name in str(error)
    finally:
        if what == "directory":
            public.rmdir()
    theirs = other.get(path)
    assert theirs.sum() == mine.sum() == TOTAL
    del mine, theirs


def test_a_writers_name_that_is_replaced(
    daemon: Daemon, client: arrayd.Client, other: arrayd.Client
) -> None:
    """A copy under the name of a block that is written: the real one is sealed and shown."""
    with client.create(1000, name="N") as out:
        public = Path("/dev/shm", only_block(client).segment)
        copy = public.read_bytes()
        with stopped(daemon.pid):
            public.unlink()
            public.write_bytes(copy)
        out[:] = np.arange(1000.0)
    assert out.sum() == other.get("name:N").sum() == TOTAL
    del out


_GIVEN_AWAY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")


@pytest.mark.parametrize("what", ["chmod", "link", pytest.param("stranger", marks=_GIVEN_AWAY)])
def test_the_directory_is_tampered_with(
    daemon: Daemon, client: arrayd.Client, path: Path, tmp_path: Path, what: str
) -> None:
    """A changed mode is set right; a link or a stranger's directory is an error, and no more."""
    mine = client.get(path)
    directory = Path(Scope(daemon.endpoint).directory)
    save(tmp_path / "y.npy", np.ones(10))
    moved = directory.with_name(f"{directory.name}-moved")
    if what == "chmod":
        directory.chmod(0o777)
    else:
        directory.rename(moved)
        directory.symlink_to(tmp_path) if what == "link" else directory.mkdir()
        if what == "stranger":
            os.chown(directory, 12345, -1)
    try:
        if what == "chmod":
            assert client.get(tmp_path / "y.npy").sum() == 10
            assert directory.stat().st_mode & 0o777 == 0o700
        else:
            with pytest.raises(arrayd.DaemonError, match=str(directory)):
                client.get(tmp_path / "y.npy")
        assert client.get(path).sum() == TOTAL
        assert alive(daemon)
    finally:
        if what != "chmod":
            directory.unlink() if what == "link" else directory.rmdir()
            moved.rename(directory)
    assert client.get(tmp_path / "y.npy").sum() == 10
    assert mine.sum() == TOTAL
    del mine


def test_an_outsider(client: arrayd.Client, daemon: Daemon, puppets: Stage, path: Path) -> None:
    """A program that only maps a segment is counted also after its names are gone."""
    name = block_of(client.get(path)).name
    one: Puppet = puppets(
        daemon, f"import os, numpy as np; m = np.memmap('/dev/shm/{name}', 'u1', 'r')"
    )
    with pytest.raises(arrayd.InUse):
        client.evict(path)
    assert only_block(client).state == "stray"
    remove(daemon, name, "both")
    wait_until(lambda: only_block(client).state == "leaving", "the loss is seen")
    assert not has_room(client)
    one.kill()
    leaves_nothing_behind(client)
