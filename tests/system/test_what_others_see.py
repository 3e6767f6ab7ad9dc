"""What a user cannot see it cannot distinguish either: whether it is there, and how large it is."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.errors import ArraydError, InUse, NoSuchBlock
from tests.support.daemons import Daemon
from tests.support.people import ALLOW, ANN, BOB, People, npy, segment_of
from tests.support.processes import Puppet

pytestmark = pytest.mark.one_daemon("--allow", ALLOW)


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
