"""Daemons that start on forgeries: soon, with all that is real, and nothing that is not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

import arrayd
from arrayd.wire.grant import Spec
from arrayd_server.segments import block_metadata
from arrayd_server.segments.scope import Scope
from tests.faults.forgery import HONEST, SPEC, Image
from tests.faults.grounds import NEEDS_ROOT
from tests.support.daemons import Daemon
from tests.support.processes import Stage, block_of, only_block, save, wait_until


def start_on(daemon: Daemon, forge: Callable[[str], None]) -> float:
    """Kill a daemon, forge files under its prefix, start it; return how long that took."""
    family = Scope(daemon.endpoint).family
    daemon.kill()
    forge(family)
    began = time.monotonic()
    daemon.start()
    return time.monotonic() - began


def test_thousands(daemon: Daemon, client: arrayd.Client, tmp_path: Path) -> None:
    """2,000 forgeries of five kinds: the start takes seconds, and the real block is there."""
    save(tmp_path / "x.npy", np.arange(100.0))
    mine = client.get(tmp_path / "x.npy")

    def forge(family: str) -> None:
        for number in range(0, 2000, 5):
            image = Image(f"{family}00000000-{number}")
            path = f"/dev/shm/{image.name}"
            image.write(path, sparse=True)
            replace(image, crc=1).write(f"{path}1")
            Path(f"{path}2").touch(0o600)
            os.symlink("/etc/passwd", f"{path}3")
            image.write(f"{path}4")  # says that it is another

    assert start_on(daemon, forge) < 10
    assert client.get(tmp_path / "x.npy").block == mine.block
    assert daemon.segments == [block_of(mine).name]
    assert client.status().counters["loads"] == 0
    del mine


def test_a_sparse_giant(daemon: Daemon, client: arrayd.Client, tmp_path: Path) -> None:
    """A terabyte that nobody has paid for is removed: it pushes nothing out of the budget."""
    save(tmp_path / "x.npy", np.arange(100.0))
    client.get(tmp_path / "x.npy")
    size = only_block(client).size
    spec = Spec((1 << 37,), "<f8", "C", 8)
    plan = block_metadata.planned(spec, HONEST.identity)
    meta = block_metadata.metadata(replace(HONEST, spec=spec))

    def forge(family: str) -> None:
        name = f"{family}00000000-1"
        for sealed in (True, False):
            image = Image(f"{name}{int(sealed)}", meta, sealed=sealed)
            image = replace(image, data_bytes=spec.nbytes, meta_offset=plan.meta_offset)
            replace(image, size=plan.size).write(f"/dev/shm/{image.name}", sparse=True)

    start_on(daemon, forge)
    assert [b.size for b in client.status().blocks] == [size]
    assert client.status().charged == size
    assert client.get(tmp_path / "x.npy").sum() == 4950
    assert "it has holes" in daemon.log


def test_one_link_is_junk(daemon: Daemon, client: arrayd.Client, tmp_path: Path) -> None:
    """Junk under one of the two names of a real block: the real one stands under both."""
    save(tmp_path / "x.npy", np.arange(100.0))
    blocks = [client.get(tmp_path / "x.npy"), client.put(np.arange(3), name="N")]
    names = [block_of(block).name for block in blocks]
    directory = Scope(daemon.endpoint).directory
    paths = [f"/dev/shm/{names[0]}", f"{directory}/{names[1]}"]

    def forge(_: str) -> None:
        for path in paths:
            os.unlink(path)
            Path(path).write_bytes(b"junk")

    start_on(daemon, forge)
    assert client.get(tmp_path / "x.npy").block == blocks[0].block
    assert client.get("name:N").block == blocks[1].block
    for name in names:
        assert os.path.samefile(f"/dev/shm/{name}", f"{directory}/{name}")
    del blocks


def test_two_of_one_name(daemon: Daemon, client: arrayd.Client, puppets: Stage) -> None:
    """A replaced block that is held through a restart does not take its name back."""
    one = puppets(daemon)
    one("b = [arrayd.put(np.full(9, n), name='N', replace=True, keep=True) for n in range(12)]")
    for _ in range(2):
        daemon.kill()
        daemon.start()
        assert client.get("name:N")[0] == 11
        assert one("[int(a[0]) for a in b]") == list(range(12))
    wait_until(lambda: len(client.status().blocks) == 12, "all are held")
    one("del b")
    wait_until(lambda: [b.name for b in client.status().blocks] == ["N"], "the old ones go")
    client.evict("name:N")


def test_two_claim_one_name(daemon: Daemon, client: arrayd.Client) -> None:
    """Where two segments say that they have a name, the one made later has it."""
    source = replace(HONEST.identity, source=None, words="name:N", stat=None)
    block = replace(HONEST, identity=source, name="N", published=True, keep=True, aliases=[])
    plan = block_metadata.planned(SPEC, source)

    def forge(family: str) -> None:
        for number in (9, 10):  # by name the tenth is before the ninth
            name = f"{family}00000000-{number}"
            image = Image(name, block_metadata.metadata(block), meta_offset=plan.meta_offset)
            replace(image, size=plan.size).write(f"/dev/shm/{name}")

    start_on(daemon, forge)
    assert block_of(client.get("name:N")).name.endswith("-10")
    wait_until(lambda: len(client.status().blocks) == 1, "the other is nobody's")
    client.evict("name:N")


@NEEDS_ROOT
def test_strangers_in_the_own_directory(daemon: Daemon, client: arrayd.Client) -> None:
    """Directories, pipes and others' files among the spares: a start leaves or removes them."""
    directory = Path(Scope(daemon.endpoint).directory)

    def forge(family: str) -> None:
        (directory / f"{family}00000000-1").mkdir()
        os.mkfifo(directory / f"{family}00000000-2", 0o600)
        (directory / f"{family}00000000-3").write_bytes(b"theirs")
        os.chown(directory / f"{family}00000000-3", 12345, -1)

    start_on(daemon, forge)
    assert client.put(np.arange(3)).tolist() == [0, 1, 2]
    left = sorted(directory.glob("*00000000*"))
    assert [path.name[-1] for path in left] == ["1", "3"]
    left[0].rmdir()
    left[1].unlink()
