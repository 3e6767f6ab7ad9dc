"""What a user cannot see it cannot distinguish either: whether it is there, and how large it is.

Nor does it lie in memory beside what the user has asked for: many small files in one block.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.common import failpoints
from arrayd.errors import AccessDenied, ArraydError, InUse, NoSuchBlock
from tests.faults.grounds import halted, points
from tests.support.daemons import Daemon
from tests.support.people import (
    ALLOW,
    ANN,
    BOB,
    SECRET,
    People,
    let_in,
    npy,
    refusals,
    segment_of,
)
from tests.support.processes import Puppet, PuppetError, wait_until

__all__ = ["points"]

pytestmark = pytest.mark.one_daemon("--allow", ALLOW)


MANY = """
def many(paths, **how):
    global got
    got = arrayd.get_many(paths, return_errors=True, **how)
    return [type(a).__name__ if isinstance(a, Exception) else int(a[0]) for a in got]
def segments_of(): return sorted({a._held.segment for a in got if not isinstance(a, Exception)})
"""


@pytest.fixture
def daemon(people: People, module_daemon: Daemon) -> Daemon:
    """Give the module's daemon, which serves Ann and Bob."""
    return people.meet(module_daemon)


def answer(puppet: Puppet, call: str) -> str:
    """Return the error that a call in a process ends with."""
    with pytest.raises(ArraydError) as caught:
        puppet(f"str({call})")
    return f"{type(caught.value).__name__}: {caught.value}"


def test_what_a_file_of_bobs_refers_to(people: People, daemon: Daemon, bob: Puppet) -> None:
    """It names a file of Ann's in a folder of hers, and one that is not there: one answer."""
    hidden = people.folder / "hidden"
    hidden.mkdir()
    with h5py.File(hidden / "is.h5", "w") as file:
        file["x"] = np.arange(10)
    os.chown(hidden, ANN, ANN)
    os.chmod(hidden, 0o700)
    his = people.folder / "his.h5"
    with h5py.File(his, "w") as file:
        file["own"] = np.arange(7)
        for name in ("is", "isnt"):
            target = str(hidden / f"{name}.h5")
            layout = h5py.VirtualLayout((10,), "i8")
            layout[:] = h5py.VirtualSource(target, "x", (10,))
            file[f"link_{name}"] = h5py.ExternalLink(target, "x")
            file.create_virtual_dataset(f"virtual_{name}", layout)
            file.create_dataset(f"raw_{name}", (8,), "i8", external=[(target, 0, 64)])
    os.chown(his, BOB, BOB)
    for kind in ("link", "virtual", "raw"):
        for call in ("get", "info"):
            there, absent = (
                answer(bob, f"arrayd.{call}('{his}:{kind}_{name}')") for name in ("is", "isnt")
            )
            assert there.replace("_isnt", "_is") == absent.replace("_isnt", "_is"), (kind, call)
            assert there.startswith("AccessDenied") and "refers to other files" in there
    problems = bob(f"{{m.name: m.problem for m in arrayd.info('{his}').members}}")
    assert problems["own"] is None
    for kind in ("link", "virtual", "raw"):
        assert problems.get(f"{kind}_is") == problems.get(f"{kind}_isnt"), kind


def test_a_list_of_files_that_bob_has(
    people: People, daemon: Daemon, bob: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dataset says of other files how large they are: none is looked at, one answer for all."""
    monkeypatch.setenv("ARRAYD_CACHE", str(people.folder / "cache"))
    rows = people.file("rows.npy", npy(np.zeros((50, 4))), ANN, 0o644)
    with arrayd.connect(daemon.endpoint) as own:
        dataset = arrayd.dataset(rows, client=own)
        next(iter(dataset.stream(5)))
        (path,) = {b.path for b in own.status().blocks if "cache" in b.path}
    manifest = people.file("list", Path(path).read_bytes(), BOB, 0o600)
    call = f"arrayd.get({manifest!r}, format='dataset')"
    there = answer(bob, call)
    assert there.startswith("AccessDenied") and "refers to other files" in there
    Path(rows).write_bytes(b"more")
    assert answer(bob, call) == there
    os.unlink(rows)
    assert answer(bob, call) == there


def test_by_which_path_each_has_asked(people: People, daemon: Daemon, bob: Puppet) -> None:
    """Ann gets a file by a link in a folder of hers, Bob by another path: he is not told."""
    ann = people(daemon, ANN)
    path = people.file("both.npy", npy(np.arange(3000)), ANN, 0o644)
    hers = people.folder / "private"
    hers.mkdir()
    os.chown(hers, ANN, ANN)
    os.chmod(hers, 0o700)
    ann(f"os.symlink({path!r}, '{hers}/link.npy'); a = arrayd.get('{hers}/link.npy', cast='f4')")
    bob(f"b = arrayd.get({path!r}, cast='f4')")
    assert segment_of(ann, "a") == segment_of(bob, "b")
    seen = bob("[b.block.source, [[x.source, x.path] for x in arrayd.status().blocks]]")
    assert seen == [f"{path} (cast=float32)", [[f"{path} (cast=float32)", path]]]
    assert ann("a.block.source") == f"{hers}/link.npy (cast=float32)"
    whose = f"arrayd.connect().who('{path}')"
    assert path in bob(f"str({whose})") and "private" not in bob(f"str({whose})")
    assert str(ann.pid) not in bob(f"str({whose})")
    assert bob(f"arrayd.connect().who('{hers}/link.npy').blocks") == []
    for one, other in ((ann, bob), (bob, ann)):
        with pytest.raises((InUse, NoSuchBlock)) as caught:
            one(f"arrayd.connect().evict({segment_of(ann, 'a')!r})")
        assert str(other.pid) not in str(caught.value)
    ann("import gc; gc.collect(); p = arrayd.put(np.arange(9), name='theirs', share='all')")
    bob(f"q = arrayd.get('name:~{ANN}/theirs')")
    assert bob("q.block.source") == f"name:~{ANN}/theirs"
    with pytest.raises(InUse, match="1 of other users, ") as caught:
        ann("arrayd.evict('name:theirs')")
    assert str(bob.pid) not in str(caught.value) and str(ann.pid) in str(caught.value)


def files(people: People, count: int, start: int = 0) -> list[str]:
    """Write files of Ann's that all may read, of different values; return their paths."""
    kept = [npy(np.arange(1000) + start + number) for number in range(count)]
    return [people.file(f"{start + n}.npy", data, ANN, 0o644) for n, data in enumerate(kept)]


def one_of(people: People, daemon: Daemon, uid: int) -> Puppet:
    """Start a process of a user that knows how to ask for many."""
    one = people(daemon, uid)
    one(MANY)
    return one


def test_one_among_many_that_bob_may_not_read(people: People, daemon: Daemon) -> None:
    """He gets the others, in one block that is open to him alone, and one refusal is recorded."""
    paths = files(people, 50)
    os.chmod(paths[20], 0o600)
    bob = one_of(people, daemon, BOB)
    expected = [*range(20), "AccessDenied", *range(21, 50)]
    for _ in range(2):  # fresh, and from memory
        assert bob(f"many({paths!r})") == expected
        (segment,) = bob("segments_of()")
        assert let_in(segment) == {BOB}
    assert len([line for line in refusals(daemon) if paths[20] in line]) == 2
    granted = [line for line in daemon.log.splitlines() if "granted uid=" in line]
    what = f"segment={segment} source={paths[0]!r} and 48 others"
    assert f"granted uid={BOB} pid={bob.pid} {what}" in granted[0]
    with arrayd.connect(daemon.endpoint) as own:
        (block,) = own.status().blocks
        assert block.members == 49
    assert bob("[(b.members, b.source) for b in arrayd.status().blocks]") == [
        [49, f"49 files in {people.folder}/"]
    ]
    assert bob(f"[b.members for b in arrayd.connect().who({paths[3]!r}).blocks]") == [49]
    os.chmod(paths[3], 0o600)  # what he holds already he keeps, and gets no more
    with pytest.raises(AccessDenied):
        bob(f"arrayd.get({paths[3]!r})")
    bob("del got")
    wait_until(lambda: not let_in(segment), "an idle block lets nobody in")


def test_two_users_and_the_same_files(people: People, daemon: Daemon) -> None:
    """Each has a block of its own, and so has the daemon's user; nobody opens another's."""
    paths = files(people, 30)
    ann, bob = (one_of(people, daemon, uid) for uid in (ANN, BOB))
    ann.send(f"many({paths!r})")
    assert bob(f"many({paths!r})") == ann.reply() == list(range(30))
    (hers,), (his,) = ann("segments_of()"), bob("segments_of()")
    assert hers != his and let_in(hers) == {ANN} and let_in(his) == {BOB}
    with pytest.raises(PuppetError, match="PermissionError"):
        bob(f"open('/dev/shm/{hers}', 'rb')")
    with pytest.raises(NoSuchBlock):
        bob(f"arrayd.connect().evict({hers!r})")
    with arrayd.connect(daemon.endpoint) as own:
        mine = own.get_many(paths)
        assert mine[7]._held is not None and mine[7]._held.segment not in (hers, his)
        del mine
    assert (let_in(hers), let_in(his)) == ({ANN}, {BOB})
    assert bob(f"arrayd.get({paths[3]!r})._held.segment") == his
    assert ann(f"arrayd.get({paths[3]!r}, rows=slice(2, 5)).tolist()") == [5, 6, 7]


def test_what_befalls_a_batch(points: Path, people: People) -> None:
    """Paths lead elsewhere when they have been looked at; then its reader dies, by kill -9."""
    secret = people.file("secret.npy", npy(np.arange(1000) + SECRET), ANN, 0o600)
    place = people.folder / "bobs"
    place.mkdir()
    paths = [people.file(f"bobs/{n}.npy", npy(np.arange(1000) + n), BOB, 0o644) for n in range(40)]
    daemon = people.daemon()
    bob = one_of(people, daemon, BOB)
    failpoints.arm(points, "daemon.part", "stop")
    bob.send(f"many({paths!r})")
    with halted(points, "daemon.part"):
        for number, target in ((3, secret), (5, paths[6]), (8, f"{place}/absent")):
            os.unlink(paths[number])
            os.symlink(target, paths[number])
        os.replace(people.file("bobs/new", npy(np.arange(1000) + 900), ANN, 0o600), paths[12])
        os.unlink(paths[15])
    got = bob.reply()
    # As when he asks again, which he does where there is something to ask for.
    moved = {3: "AccessDenied", 5: 6, 8: "SourceChanged", 12: "AccessDenied", 15: "SourceChanged"}
    assert got == [moved.get(n, n) for n in range(40)]
    assert "replaced" in daemon.log
    held = b"".join(Path(f"/dev/shm/{name}").read_bytes() for name in bob("segments_of()"))
    assert len(bob("segments_of()")) == 2, "the others lie together"
    for strange in (SECRET, 900):
        assert np.arange(strange, strange + 1000).tobytes() not in held
    ann, others = one_of(people, daemon, ANN), files(people, 20, 1000)
    failpoints.arm(points, "worker.probing", "kill")
    bob.send(f"many({paths[16:]!r}, cast='f4')")
    wait_until(lambda: any(points.glob("worker.probing.*")), "it is killed")
    assert ann(f"many({others!r})") == list(range(1000, 1020))
    assert bob.reply() == list(range(16, 40))
    assert {uid for name in bob("segments_of()") for uid in let_in(name)} == {BOB}
    for one in (ann, bob):
        one("del got")
