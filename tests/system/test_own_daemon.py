"""What a daemon of another user may not read for a user, the user's own one reads, unasked."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.errors import AccessDenied
from arrayd.system import daemon_probe
from tests.support.daemons import PATIENCE, WITHOUT_POWERS, Daemon
from tests.support.open_python import open_python
from tests.support.people import ALLOW, ANN, BOB, People, ancestor, npy, refusals
from tests.support.processes import Puppet, only_block, pids, wait_until

pytestmark = pytest.mark.one_daemon("--allow", ALLOW, wrapper=WITHOUT_POWERS)


@pytest.fixture(scope="module")
def template(session_leaves_nothing: None) -> Iterator[Puppet]:
    """Give what people are forked from; they can start programs."""
    with ancestor(open_python()) as one:
        yield one


@pytest.fixture
def daemon(people: People, module_daemon: Daemon) -> Daemon:
    """Give the module's daemon, which is root's, and may not read what Ann's mode 0600 hides."""
    return people.meet(module_daemon)


@dataclass
class Home:
    """Ann's: what is hers alone, and where her private daemon listens."""

    path: Path
    runtime: Path

    @property
    def endpoint(self) -> str:
        """Return where her private daemon listens."""
        return f"ipc://{self.runtime}/arrayd/sock"

    @contextlib.contextmanager
    def daemon(self) -> Iterator[arrayd.Client]:
        """Give root's session with her private daemon, which runs."""
        with arrayd.connect(self.endpoint, start=False) as client:
            yield client

    def save(self, name: str, start: int) -> str:
        """Write a file that only she may read."""
        path = self.path / name
        path.write_bytes(npy(np.arange(1000) + start))
        os.chown(path, ANN, ANN)
        path.chmod(0o600)
        return str(path)

    def end(self) -> None:
        """End her private daemon, if one runs."""
        if not daemon_probe.alive(self.endpoint):
            return
        with self.daemon() as client:
            pidfd = os.pidfd_open(client.status().pid)
            client.stop()
        assert select.select([pidfd], [], [], PATIENCE)[0], "Ann's daemon does not end"
        os.close(pidfd)


@pytest.fixture
def home(people: People) -> Iterator[Home]:
    """Give Ann's home; her daemon is ended after the test."""
    home = Home(people.home(ANN, "home"), people.home(ANN, "run"))
    yield home
    people.part()
    home.end()


@pytest.fixture
def start_ann(people: People, daemon: Daemon, home: Home) -> Callable[[], Puppet]:
    """Give what starts a process of Ann's, who may have a private daemon."""

    def start() -> Puppet:
        one = people(daemon, ANN)
        one(f"os.environ |= {{'XDG_RUNTIME_DIR': '{home.runtime}', 'HOME': '{home.path}'}}")
        return one

    return start


OWNERS = """
def owners(many):
    return [x._held.owner.endpoint if isinstance(x, np.ndarray) else type(x).__name__ for x in many]
"""


STATUS = """
import contextlib, io, json
from arrayd import cli
from arrayd.cli import doctor
printed = io.StringIO()
with contextlib.redirect_stdout(printed):
    cli.main(["status", "--json"])
json.loads(printed.getvalue())
"""

IN_A_FORK = """
import json
end, begin = os.pipe()
if not (child := os.fork()):
    b = arrayd.get({secret!r}, timeout=20)
    (block,) = b._held.owner.ask("status", None)[0]["ok"]["blocks"]
    mine = [one for one in block["holders"] if one["pid"] in (os.getpid(), os.getppid())]
    os.write(begin, json.dumps([int(a[1]), int(b[1]), len(mine)]).encode())
    os._exit(0)
os.waitpid(child, 0)
json.loads(os.read(end, 99))
"""


def test_files(people: People, daemon: Daemon, home: Home, start_ann: Callable[[], Puppet]) -> None:
    """A closed file and one that refers to another, one by one, and in a list with others."""
    secret, more = home.save("secret.npy", 7), home.save("more.npy", 8)
    public = people.file("public.npy", npy(np.arange(1000)), ANN, 0o644)
    with h5py.File(home.path / "data.h5", "w") as file:
        file["x"] = np.arange(50)
    link = f"{people.folder}/link.h5"
    with h5py.File(link, "w") as file:
        file["y"] = h5py.ExternalLink(f"{home.path}/data.h5", "x")
    ann = start_ann()
    ann(OWNERS)
    ann(f"a = arrayd.get({secret!r})")
    assert ann("int(a[0]), owners([a]), arrayd.api.default_client().endpoint") == [
        *(7, [home.endpoint], daemon.endpoint)
    ]
    assert len(refusals(daemon)) == 1

    # From then on the other daemon is not asked, and the own one only for what it has not.
    ann(f"b = arrayd.get({secret!r}); c = arrayd.get({secret!r}, mode='c'); c[0] = 1")
    ann(f"r = arrayd.get({secret!r}, rows=slice(5, 7)); d = arrayd.get({secret!r}, pin=60)")
    assert ann("{x._held.segment for x in (a, b, c, r, d)} == {a._held.segment}")
    with pytest.raises(arrayd.SpecMismatch, match="int64"):  # what the own one answers, counts
        ann(f"arrayd.get({secret!r}, dtype='f4')")
    assert len(refusals(daemon)) == 1

    # Nor by another process of hers, which finds in the index what is in memory.
    other = start_ann()
    other(f"b = arrayd.get({secret!r}); r = arrayd.get({secret!r}, rows=slice(5, 7))")
    assert other("int(b[0]), int(r[0]), b._held.segment == r._held.segment") == [7, 12, True]
    with home.daemon() as own:
        wait_until(lambda: pids(only_block(own)) == sorted([ann.pid, other.pid]), "it is told")
    other.end()
    assert len(refusals(daemon)) == 1

    # Of a list only what was refused goes there, and progress names the files as the list does.
    ann(f"""
seen, wanted = set(), [{public!r}, {more!r}, '{home.path}/none.npy', '{link}:/y', {secret!r}]
many = arrayd.get_many(wanted, return_errors=True, timeout=30, pin=1,
                       progress=lambda one: seen.add(str(one.source)))
""")
    theirs, hers = daemon.endpoint, home.endpoint
    assert ann("owners(many)") == [theirs, hers, "SourceNotFound", hers, hers]
    assert ann("[int(many[i][9]) for i in (0, 1, 3, 4)]") == [9, 17, 9, 16]
    assert ann("len(seen) > 1 and seen <= set(wanted)")
    assert ann(f"arrayd.info('{link}:/y', timeout=30).files[0].path") == f"{home.path}/data.h5"


def test_holds(home: Home, start_ann: Callable[[], Puppet]) -> None:
    """References, forks, release, eviction and the end of the session are those of any array."""
    secret = home.save("secret.npy", 7)
    ann, other = start_ann(), start_ann()
    ann(f"a = arrayd.get({secret!r}); at = arrayd.api.default_client()")
    message = ann("""
from multiprocessing.reduction import ForkingPickler
bytes(ForkingPickler.dumps(a)).hex()
""")
    other(f"import pickle; x = pickle.loads(bytes.fromhex({message!r}))")
    assert ann(IN_A_FORK.format(secret=secret)) == [8, 8, 2]
    assert other("int(x[1]), len(x)") == [8, 1000]
    with home.daemon() as own:
        both = sorted([ann.pid, other.pid])
        wait_until(lambda: pids(only_block(own)) == both, "the fork's hold ends")
    told = other(STATUS)
    assert (told["private_daemon"], told["uid"]) == (home.endpoint, 0)
    assert [(one["uid"], one["blocks"]) for one in told["elsewhere"]] == [(ANN, 1)]
    assert other("doctor._own(0)[0].state, doctor._own(os.getuid())") == ["ok", []]
    assert other(f"[b.own for b in arrayd.connect(start=False).who({secret!r}).blocks]") == [True]
    with pytest.raises(arrayd.InUse):
        other(f"arrayd.evict({secret!r})")
    other.end()
    with home.daemon() as own:
        wait_until(lambda: pids(only_block(own)) == [ann.pid], "the others' holds end")
    ann("arrayd.release(a); del a")
    assert ann(f"arrayd.evict({secret!r})['blocks']") == 1
    with pytest.raises(arrayd.NoSuchBlock):
        ann(f"arrayd.evict({secret!r})")
    ann(f"at.prefetch({secret!r}); at.close()")
    with home.daemon() as own:
        wait_until(lambda: {s.uid for s in own.status().sessions} == {0}, "her session ends")
        wait_until(lambda: own.status().blocks, "it is loaded all the same")
    with pytest.raises(arrayd.DaemonLost, match="closed"):
        ann(f"at.get({secret!r})")


def test_datasets_and_daemons_that_end(
    daemon: Daemon, home: Home, start_ann: Callable[[], Puppet]
) -> None:
    """Two trainings share a stream of closed files; hers is killed, the other daemon restarted."""
    secret = home.save("secret.npy", 7)
    for number in range(4):
        home.save(f"part{number}.npy", 1000 * number)
    trainings = [start_ann(), start_ann()]
    trainings[0](f"ds = arrayd.dataset('{home.path}/part*.npy', budget='12K')")
    message = trainings[0]("import pickle; pickle.dumps(ds).hex()")  # as to a loader's worker
    trainings[1](f"import pickle; ds = pickle.loads(bytes.fromhex({message!r}))")
    for one in trainings:
        one(f"a = arrayd.get({secret!r}); s = ds.stream(50, consumers=2, plan='row-random')")
        one.send("seen = [int(value) for value in next(s)['x']]")
    assert [one.reply() for one in trainings] == [None, None]
    with home.daemon() as own:
        (stream,) = own.status().streams
        assert {consumer.pid for consumer in stream.consumers} == {one.pid for one in trainings}
        os.kill(own.status().pid, signal.SIGKILL)
    for one in trainings:
        one.send("seen + [int(value) for batch in s for value in batch['x']]")
    first, second = (one.reply() for one in trainings)
    assert first == second
    assert sorted(first) == list(range(4000))
    for one in trainings:
        assert one(f"b = arrayd.get({secret!r}); b._held.segment == a._held.segment")
    daemon.stop()
    daemon.start()
    os.chmod(daemon.directory, 0o755)
    more = home.save("more.npy", 8)
    assert trainings[0](f"int(arrayd.get({more!r})[0]), int(a[0])") == [8, 7]
    assert len(refusals(daemon)) == 2  # the second training found it in memory


def test_what_stays_refused(
    people: People, daemon: Daemon, home: Home, start_ann: Callable[[], Puppet]
) -> None:
    """What she may not read, what is no file, and all where no daemon may be started for her."""
    secret = home.save("secret.npy", 7)
    hidden = people.file("hidden.npy", npy(np.arange(3)), 0, 0o600)
    ann = start_ann()
    for call in (f"get({hidden!r})", f"info({hidden!r})", f"prefetch({hidden!r})"):
        with pytest.raises(AccessDenied, match=r"may not read it \(mode 0600.*setfacl\)\.$"):
            ann(f"arrayd.{call}")
    with pytest.raises(arrayd.NoSuchBlock):
        ann("arrayd.get('name:none')")
    with pytest.raises(arrayd.NoRoom):
        ann("arrayd.put(np.zeros(70 << 20, 'u1'))")
    ann("c = arrayd.connect(start=False)")
    both = "cannot look at it itself .* Your own daemon .* No arrayd daemon runs at "
    for call in (f"get({secret!r})", f"prefetch({secret!r})", f"info({secret!r})"):
        with pytest.raises(AccessDenied, match=both):
            ann(f"c.{call}")
    with pytest.raises(AccessDenied, match=r"reads no dataset .* Your own daemon .* No arrayd"):
        ann(f"arrayd.dataset({secret!r}, client=c).plan()")
    with pytest.raises(arrayd.NoSuchBlock):
        ann(f"c.evict({secret!r})")
    (home.runtime / "arrayd").touch()
    assert ann("from arrayd.cli import doctor; doctor._own(0)[0].state") == "warn"
    with pytest.raises(
        AccessDenied, match=r"cannot look at it itself .* is not a directory of yours"
    ):
        ann(f"arrayd.get({secret!r})")
    assert not daemon_probe.alive(home.endpoint)


def test_who_is_not_served_at_all(people: People, home: Home) -> None:
    """Her own daemon reads all, says who uses it, and frees it; how to see it all is said."""
    secret, daemon = home.save("secret.npy", 7), people.daemon(allow=str(BOB))
    ann = people(daemon, ANN)
    ann(f"os.environ |= {{'XDG_RUNTIME_DIR': '{home.runtime}', 'HOME': '{home.path}'}}")
    ann(f"a = arrayd.get({secret!r}, timeout=30)")
    assert ann("a._held.owner.endpoint") == home.endpoint
    assert ann(f"[b.own for b in arrayd.connect().who({secret!r}).blocks]") == [True]
    with pytest.raises(AccessDenied, match=f"you are user {ANN}.* status --endpoint private"):
        ann("arrayd.status()")
    ann("arrayd.release(a); del a")
    assert ann(f"arrayd.connect().evict({secret!r})['blocks']") == 1


def test_the_daemons_own_user(
    daemon: Daemon, home: Home, client: arrayd.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon of one's own is believed: root's is refused what root's daemon may not read."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home.runtime))
    with pytest.raises(AccessDenied, match=r"loaders .user 0. may not read this file"):
        client.get(home.save("secret.npy", 7))
    assert os.listdir(home.runtime) == []
