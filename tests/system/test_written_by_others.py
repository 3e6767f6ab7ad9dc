"""Blocks that other users write, and what is left of their holds by a crash of the daemon."""

from __future__ import annotations

import os

import numpy as np
import pytest

import arrayd
from arrayd.errors import AccessDenied
from tests.support.daemons import Daemon
from tests.support.people import ALLOW, ANN, BOB, SECRET, People, let_in, npy, segment_of
from tests.support.processes import Puppet, PuppetError, wait_until

pytestmark = pytest.mark.one_daemon("--allow", ALLOW)


@pytest.fixture
def daemon(people: People, module_daemon: Daemon) -> Daemon:
    """Give the module's daemon, which serves Ann and Bob."""
    return people.meet(module_daemon)


def test_a_writer_that_cuts_its_block_off(daemon: Daemon, bob: Puppet) -> None:
    """What Bob makes smaller before the seal is no block: readers would die of it."""
    with pytest.raises(arrayd.NotSealed, match="cut it off"):
        bob("""
with arrayd.create(100_000, "f8", name="short") as out:
    os.truncate("/dev/shm/" + out._held.segment, 4096)
""")
    assert daemon.process is not None


def test_what_is_sealed_is_no_file_that_a_user_could_write(ann: Puppet, bob: Puppet) -> None:
    """Pages that the writer keeps by ways that no lease sees are not those that others read."""
    before = bob("""
with arrayd.create(1000, "i8", name="x", share="all") as out:
    segment, out[...] = "/dev/shm/" + out._held.segment, 7
    r, w = os.pipe()
    fd = os.open(segment, os.O_RDWR)
    spliced, before = os.splice(fd, w, 4096), os.fstat(fd).st_ino
    os.close(fd)
x = arrayd.get("name:x")
before
""")
    assert bob("os.stat(segment).st_ino") != before
    assert ann(f"x = arrayd.get('name:~{BOB}/x'); int(x.sum())") == 7000
    with pytest.raises(PuppetError, match="PermissionError"):
        bob("os.open(segment, os.O_RDWR)")


def test_a_forged_block_is_not_adopted(daemon: Daemon, ann: Puppet, bob: Puppet) -> None:
    """Bob writes into his unsealed block that it is another, sealed: a restart removes it."""
    forged = bob("""
import zlib
from arrayd.wire import layout
writing = arrayd.create(1000, "i8", name="x")
out = writing.__enter__()
path = "/dev/shm/" + out._held.segment
with open(path, "r+b") as file:
    size = os.fstat(file.fileno()).st_size
    file.seek(size - layout.FOOTER_BYTES)
    footer = layout.unpack_footer(file.read())
    file.seek(footer.meta_offset)
    raw = file.read(footer.meta_bytes)
    sealed = layout.Footer(out._held.segment, footer.data_bytes, footer.meta_offset,
                           len(raw), zlib.crc32(raw), True)
    file.seek(size - layout.FOOTER_BYTES)
    file.write(sealed.pack())
out._held.segment
""")
    daemon.kill()
    daemon.start()
    with arrayd.connect(daemon.endpoint) as own:
        assert forged not in {block.segment for block in own.status().blocks}
    assert not os.path.exists(f"/dev/shm/{forged}")
    assert ann("int(a[0])") == SECRET


def test_a_restart_of_the_daemon(people: People, daemon: Daemon, ann: Puppet, bob: Puppet) -> None:
    """After kill -9 each holds again what it held, and nobody more; the arrays stay readable."""
    path = people.file("shared.npy", npy(np.arange(3000)), ANN, 0o644)
    bob(f"s = arrayd.get({path!r})")
    small = [people.file(f"{n}.npy", npy(np.arange(100) + n), ANN, 0o644) for n in range(5)]
    bob(f"small = arrayd.get_many({small!r})")
    daemon.kill()
    assert ann("int(a[3])") == SECRET + 3
    assert bob("int(s[3])") == 3
    daemon.start()
    assert bob(f"arrayd.get({path!r})._held.segment") == segment_of(bob, "s")
    ann("arrayd.status(); None")
    with pytest.raises(AccessDenied):
        bob(f"arrayd.get('{people.folder}/secret.npy')")

    def held() -> dict[str, set[int]]:
        with arrayd.connect(daemon.endpoint) as own:
            blocks = own.status().blocks
        return {b.segment: {h.uid for h in b.holders} for b in blocks}

    hers, his, both = segment_of(ann, "a"), segment_of(bob, "s"), segment_of(bob, "small[3]")
    wait_until(lambda: held().get(hers) == {ANN} and held().get(his) == {BOB}, "both hold theirs")
    assert (let_in(hers), let_in(his), let_in(both)) == ({ANN}, {BOB}, {BOB})
    again = people(daemon, BOB)  # asks for what he holds, in a process that has nothing yet
    assert again(f"a = arrayd.get_many({small!r}); [int(x[0]) for x in a]") == [0, 1, 2, 3, 4]
    assert segment_of(again, "a[3]") == both == segment_of(again, "a[0]")
    assert os.stat(f"/dev/shm/{hers}").st_mode & 0o007 == 0
