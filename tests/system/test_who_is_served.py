"""Options for other users: who may connect, what is read for them, and how much they may have."""

from __future__ import annotations

import os

import numpy as np
import pytest

import arrayd
from arrayd.errors import AccessDenied, NoRoom
from tests.support.people import ANN, BOB, TEAM, People, npy, refusals
from tests.support.processes import wait_until

EVE = 60003
"""A user whom no daemon here lets in."""


def test_who_may_connect(people: People) -> None:
    """A user whom the option does not name is refused, and told how to go on; one record."""
    daemon = people.daemon()
    eve = people(daemon, EVE)
    with pytest.raises(AccessDenied, match=f"serves user 0 .* you are user {EVE}"):
        eve("arrayd.connect().status()")
    assert all(f"uid={EVE}" in line and "op=connect" in line for line in refusals(daemon))
    assert refusals(daemon)


def test_groups_are_those_of_the_process(people: People) -> None:
    """A group lets in who is in it, and opens its files, by the credentials of the connection."""
    daemon = people.daemon(allow=f"@{TEAM}")
    path = people.file("team.npy", npy(np.arange(9)), ANN, 0o640, group=TEAM)
    inside, outside = people(daemon, BOB, [TEAM]), people(daemon, BOB)
    assert inside(f"int(arrayd.get({path!r})[8])") == 8
    with pytest.raises(AccessDenied):
        outside(f"arrayd.get({path!r})")
    other = people.file("other.npy", npy(np.arange(9)), ANN, 0o640, group=TEAM + 1)
    with pytest.raises(AccessDenied, match="may not read it"):
        inside(f"arrayd.get({other!r})")


def test_a_users_budget(people: People) -> None:
    """Bob has a share: his own idle blocks make room, else he is told; Ann gets hers."""
    daemon = people.daemon("--user-budget", "9M")
    ann, bob = people(daemon, ANN), people(daemon, BOB)
    path = people.file("four.npy", npy(np.zeros(1 << 19)), BOB, 0o644)
    bob("kept = arrayd.put(np.zeros(1 << 19))")
    bob(f"arrayd.get({path!r}); None")
    with pytest.raises(NoRoom, match=f"user {BOB} has .* may have 9.0 MiB"):
        bob("more = arrayd.put(np.zeros(5 << 17))")
    bob("del kept")
    wait_until(lambda: bob("len(arrayd.status().blocks)") <= 1, "it is gone")
    bob("more = arrayd.put(np.zeros(7 << 17))")  # the idle one goes for it
    ann("her = arrayd.put(np.zeros(7 << 17)); None")
    assert ann("int(her.sum())") == 0


def test_sessions_of_a_user(people: People) -> None:
    """Bob's processes have half of all sessions at most; Ann finds one."""
    daemon = people.daemon("--max-clients", "8")
    crowd = [people(daemon, BOB) for _ in range(3)]
    for one in crowd[:2]:
        one("cs = [arrayd.connect(), arrayd.connect()]; [c.put([1]).size for c in cs]")
    with pytest.raises(arrayd.DaemonError, match=f"User {BOB} has 4 sessions"):
        crowd[2]("arrayd.put(np.arange(3))")
    assert people(daemon, ANN)("int(arrayd.put(np.arange(3))[2])") == 2


def test_links_and_roots(people: People) -> None:
    """A link leads where its user could go, and nowhere outside the roots."""
    inside, outside = people.folder / "in", people.folder / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "x.npy").write_bytes(npy(np.arange(5)))
    os.chown(inside, BOB, BOB)
    daemon = people.daemon("--roots", str(inside))
    bob = people(daemon, BOB)
    bob(f"os.symlink('{outside}/x.npy', '{inside}/link'); os.symlink('x.npy', '{inside}/own')")
    assert bob(f"int(arrayd.get('{inside}/own', format='npy')[4])") == 4
    for path in (outside / "x.npy", inside / "link", inside / ".." / "out" / "x.npy"):
        with pytest.raises(AccessDenied, match="outside the directories"):
            bob(f"arrayd.get({str(path)!r}, format='npy')")
