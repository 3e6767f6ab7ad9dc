"""Users who do not trust each other share a daemon: what each may have, and what nobody gets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.errors import AccessDenied, ArraydError, InUse, NoSuchBlock
from tests.support.daemons import Daemon
from tests.support.people import (
    ALLOW,
    ANN,
    BOB,
    SECRET,
    TEAM,
    People,
    let_in,
    npy,
    refusals,
    segment_of,
)
from tests.support.processes import Puppet, PuppetError, wait_until

pytestmark = pytest.mark.one_daemon("--allow", ALLOW)


@pytest.fixture
def daemon(people: People, module_daemon: Daemon) -> Daemon:
    """Give the module's daemon, which serves Ann and Bob."""
    return people.meet(module_daemon)


def test_one_copy_for_users_who_may_both_read(
    people: People, daemon: Daemon, ann: Puppet, bob: Puppet
) -> None:
    """Two users and the daemon's own get one block, and each sees the same values."""
    path = people.file("shared.npy", npy(np.arange(3000)), ANN, 0o644)
    for one in (ann, bob):
        assert one(f"s = arrayd.get({path!r}); int(s.sum())") == 2999 * 1500
    assert segment_of(ann, "s") == segment_of(bob, "s")
    with arrayd.connect(daemon.endpoint) as own:
        array = own.get(path)
        assert array._held is not None and array._held.segment == segment_of(bob, "s")
        (block,) = [b for b in own.status().blocks if b.segment == segment_of(bob, "s")]
        assert {holder.uid for holder in block.holders} == {0, ANN, BOB}
        del array


@pytest.mark.parametrize("kind", ["npy", "hdf5", "text"])
def test_a_file_of_which_the_mode_says_no(
    people: People, daemon: Daemon, ann: Puppet, bob: Puppet, kind: str
) -> None:
    """Bob gets AccessDenied: fresh, and when Ann has it in memory; one record of each."""
    path = people.file(f"more.{kind}", b"", ANN, 0o600)
    if kind == "npy":
        Path(path).write_bytes(npy(np.arange(10.0)))
    elif kind == "text":
        Path(path).write_text("1\n2\n")
    else:
        with h5py.File(path, "w") as file:
            file["x"] = np.arange(10)
    options = "" if kind == "npy" else f", format={kind!r}"
    for _ in range(2):
        before = len(refusals(daemon))
        with pytest.raises(AccessDenied, match=f"user {BOB} may not read it .mode 0600"):
            bob(f"arrayd.get({path!r}{options})")
        assert len(refusals(daemon)) == before + 1
        assert f"uid={BOB} pid={bob.pid} op=get source={path!r}" in refusals(daemon)[-1]
        ann(f"m = arrayd.get({path!r}{options}); None")
    for call in (f"arrayd.info({path!r}{options})", f"arrayd.prefetch({path!r}{options})"):
        with pytest.raises(AccessDenied):
            bob(call)


def test_a_segment_opens_to_its_holders_alone(people: People, ann: Puppet, bob: Puppet) -> None:
    """By its name Bob can open what he holds, for reading, and for as long as he holds it."""
    path = people.file("shared.npy", npy(np.arange(3000)), ANN, 0o644)
    bob("def opens(n, how=os.O_RDONLY): os.close(os.open('/dev/shm/' + n, how))")
    for name in ("a", "p"):
        for how in ("os.O_RDONLY", "os.O_RDWR"):
            with pytest.raises(PuppetError, match="PermissionError"):
                bob(f"opens({segment_of(ann, name)!r}, {how})")
    bob(f"s = arrayd.get({path!r})")
    segment = segment_of(bob, "s")
    bob(f"opens({segment!r})")
    with pytest.raises(PuppetError, match="PermissionError"):
        bob(f"opens({segment!r}, os.O_RDWR)")
    ann(f"s = arrayd.get({path!r})")  # keeps it
    bob("arrayd.release(s)")
    wait_until(lambda: BOB not in let_in(segment), "Bob is let out")
    with pytest.raises(PuppetError, match="PermissionError"):
        bob(f"opens({segment!r})")
    ann("del s")
    wait_until(lambda: not let_in(segment), "an idle block lets nobody in")
    assert stat.S_IMODE(os.stat(f"/dev/shm/{segment}").st_mode) == 0o600


def test_names_that_bob_takes_first(people: People, ann: Puppet, bob: Puppet) -> None:
    """He makes the files in /dev/shm that come next, as far as he can tell: loads go on."""
    path = people.file("next.npy", npy(np.arange(30)), ANN, 0o644)
    taken = bob(f"""
start, number = {segment_of(ann, "p")!r}.rsplit("-", 1)
taken = ["/dev/shm/%s-%d" % (start, int(number) + i) for i in range(1, 40)]
for name in taken: open(name, "x").close()
len(taken)""")
    assert taken == 39
    try:
        for cast in ("f4", "f8", "i4"):
            assert ann(f"int(arrayd.get({path!r}, cast={cast!r}).sum())") == 435
        assert bob("int(arrayd.put(np.arange(4))[3])") == 3
    finally:
        bob("for name in taken: os.unlink(name)")


def test_what_bob_says_of_ann_changes_nothing(
    people: People, daemon: Daemon, ann: Puppet, bob: Puppet
) -> None:
    """He releases, evicts, claims, seals, lends, redeems and states her blocks: all in vain."""
    segment = segment_of(ann, "a")
    bob("c = arrayd.connect(); s = c._session; n = " + repr(segment))
    bob("s.connect(); s.tell('release', holds=[[n, 10**6, 10**6]])")
    bob("s.tell('claim', holds=[[n, 1]], used=[n], count=1); s.tell('abort', segment=n)")
    bob("s.tell('lend', segment=n, token=bytes(8))")
    for call in (
        "s.ask('redeem', None, segment=n, token=bytes(8))",
        "s.ask('seal', None, segment=n)",
    ):
        assert "NoSuchBlock" in str(bob(f"{call}[0]"))
    for how in ("block=n", f"{str(people.folder)!r} + '/secret.npy'"):
        with pytest.raises(NoSuchBlock):
            bob(f"c.evict({how})")
    bob("""
from arrayd.wire import protocol
from arrayd.common import proc
hello = dict(pid=1, start=1, program="ann", version=protocol.PACKAGE_VERSION, latest=0,
             shm=list(proc.shared_memory()), holds=segments(), members=True)
x = zmq.Context(); d = x.socket(zmq.DEALER); d.connect(os.environ["ARRAYD_ENDPOINT"])
d.send(protocol.request(secrets.token_bytes(16), 1, "hello", **hello))
welcome = protocol.decode(d.recv(), answer=True)["ok"]
""")
    assert bob("(welcome['holds'], 'index' in welcome)") == [{}, False]
    bob("d.close(0); x.term(); c.close()")
    assert let_in(segment) == {ANN}
    with arrayd.connect(daemon.endpoint) as own:
        status = own.status()
        assert not [s for s in status.sessions if s.program == "ann" and s.uid != BOB]
        (block,) = [b for b in status.blocks if b.segment == segment]
        assert [h.uid for h in block.holders] == [ANN]
    assert ann("int(a[3])") == SECRET + 3


def test_published_blocks_are_their_users(daemon: Daemon, ann: Puppet, bob: Puppet) -> None:
    """Each user has names of its own; Bob's does not lead to Ann's, nor does hers go with his."""
    with pytest.raises(NoSuchBlock, match="published as 'results'"):
        bob("arrayd.get('name:results')")
    bob("p = arrayd.put(np.arange(3), name='results')")
    assert bob("int(arrayd.get('name:results')[2])") == 2
    assert ann("int(arrayd.get('name:results')[2])") == 88_002
    with pytest.raises(arrayd.NameTaken, match="published as 'results'"):
        bob("arrayd.put(np.arange(3), name='results')")
    with pytest.raises(NoSuchBlock):
        bob(f"arrayd.evict('name:~{ANN}/results')")
    bob("arrayd.release(p); del p")
    assert ann("int(p[1])") == 88_001


def test_what_is_shared_by_name(people: People, daemon: Daemon, ann: Puppet, bob: Puppet) -> None:
    """With all, or with a group; nobody else learns that it is there; her name is in front."""
    member = people(daemon, BOB, [TEAM])
    ann("every = arrayd.put(np.arange(5), name='every', share='all')")
    ann(f"team = arrayd.put(np.arange(6), name='team', share='group:{TEAM}')")
    assert bob(f"int(arrayd.get('name:~{ANN}/every')[4])") == 4
    assert bob(f"arrayd.info('name:~{ANN}/every').shape") == [5]
    assert member(f"int(arrayd.get('name:~{ANN}/team')[5])") == 5
    for name in ("team", "results", "none"):
        for call in ("get", "info", "prefetch"):
            with pytest.raises(NoSuchBlock):
                bob(f"arrayd.{call}('name:~{ANN}/{name}')")
    with pytest.raises(NoSuchBlock):
        bob("arrayd.get('name:every')")  # a name of his own
    with pytest.raises(NoSuchBlock):
        bob(f"arrayd.evict('name:~{ANN}/every')")
    with arrayd.connect(daemon.endpoint) as own:
        array = own.put(np.arange(7), name="own", share="all")
        assert bob("int(arrayd.get('name:~0/own')[6])") == 6
        assert bob("int(arrayd.get('name:~root/own')[6])") == 6
        del array


def test_a_name_that_is_waited_for(daemon: Daemon, ann: Puppet, bob: Puppet) -> None:
    """Who waits for a name of another user gets it if it is shared, else the usual error."""
    for number, share in enumerate(("all", None)):
        bob.send(f"int(arrayd.get('name:~{ANN}/n{number}', timeout=20)[2])")
        with arrayd.connect(daemon.endpoint) as own:
            wait_until(lambda: any("/n" in job.source for job in own.status().jobs), "Bob waits")
        ann(f"n = arrayd.put(np.arange(3), name='n{number}', share={share!r})")
        if share is None:
            with pytest.raises(NoSuchBlock):
                bob.reply()
        else:
            assert bob.reply() == 2


def test_who_is_told_what(people: People, daemon: Daemon, ann: Puppet, bob: Puppet) -> None:
    """Bob's status has his own blocks and sessions, and everybody's sums; he may not stop it."""
    bob("p = arrayd.put(np.arange(3), name='mine'); st = arrayd.status()")
    assert bob("[b.source for b in st.blocks], {s.uid for s in st.sessions} == {os.getuid()}") == [
        ["name:mine"],
        True,
    ]
    assert bob("st.charged > sum(b.size for b in st.blocks), st.blocks_more") == [True, 2]
    assert bob("[(u.uid, u.blocks) for u in st.users]") == [[BOB, 1], [None, 2]]
    with pytest.raises(AccessDenied, match="may not stop"):
        bob("arrayd.connect().stop()")
    assert f"refused uid={BOB} pid={bob.pid} op=stop" in daemon.log
    with arrayd.connect(daemon.endpoint) as own:
        assert {s.uid for s in own.status().sessions} >= {ANN, BOB, 0}
        assert {user.uid for user in own.status().users} >= {ANN, BOB, 0}
        with pytest.raises(InUse, match=str(ann.pid)):
            own.evict(f"{people.folder}/secret.npy")


def test_a_list_in_the_way(people: People, ann: Puppet, bob: Puppet) -> None:
    """An access control list lets Bob read what the mode does not; one without him does not."""
    path = people.file("listed.npy", npy(np.arange(9)), ANN, 0o600)
    with pytest.raises(AccessDenied):
        bob(f"arrayd.get({path!r})")
    _allow(path, BOB)
    assert bob(f"int(arrayd.get({path!r})[8])") == 8
    os.removexattr(path, "system.posix_acl_access")
    os.chmod(path, 0o600)
    with pytest.raises(AccessDenied):
        bob(f"arrayd.get({path!r})")


def _allow(path: str, uid: int) -> None:
    from arrayd_server.access import policy

    acl = policy.pack_acl(policy.segment_acl([uid]))
    os.setxattr(path, "system.posix_acl_access", acl)


@pytest.mark.parametrize(
    "path", ["/etc/shadow", "/proc/self/environ", "/proc/self/fd/0", "/dev/null", "/dev/shm"]
)
def test_what_is_no_file_of_data(people: People, daemon: Daemon, path: str) -> None:
    """What the kernel makes up, devices and folders are refused to other users."""
    bob = people(daemon, BOB)
    with pytest.raises((AccessDenied, arrayd.BadFile, arrayd.SourceNotFound)):
        bob(f"arrayd.get({path!r}, format='text')")


def test_a_link_that_is_swapped_all_the_time(
    people: People, daemon: Daemon, ann: Puppet, bob: Puppet
) -> None:
    """Between the look and the reading the path leads to a secret now and then: never read."""
    place = people.folder / "bobs"
    place.mkdir()
    os.chown(place, BOB, BOB)
    people.file("bobs/own.npy", npy(np.arange(1000)), BOB, 0o600)
    found = bob(f"""
import random, threading, time
over = False
def swap():
    while not over:
        for target in ("own.npy", "../secret.npy"):
            os.symlink(target, "{place}/new"); os.replace("{place}/new", "{place}/link")
            time.sleep(random.random() / 50)  # a get takes as long
swap_it = threading.Thread(target=swap)
os.symlink("own.npy", "{place}/link")
swap_it.start()
seen, begin = {{}}, time.monotonic()
while (since := time.monotonic() - begin) < 3 or (since < 60 and 0 not in seen):
    try:
        kind = np.random.choice(["f8", "f4"])
        value = int(arrayd.get("{place}/link", format="npy", cast=kind)[0])
    except arrayd.ArraydError as error:
        value = type(error).__name__
    seen[value] = seen.get(value, 0) + 1
over = True; swap_it.join()
seen
""")
    assert set(found) <= {"0", "AccessDenied", "SourceChanged", "SourceNotFound"}, found
    assert found.get("0"), found


def test_what_a_file_refers_to(people: People, daemon: Daemon, ann: Puppet, bob: Puppet) -> None:
    """Bob's HDF5 file refers to Ann's: what the daemon could read for him it does not."""
    hers, his = people.folder / "hers.h5", people.folder / "his.h5"
    with h5py.File(hers, "w") as file:
        file["x"] = np.arange(1000) + SECRET
    os.chown(hers, ANN, ANN)
    os.chmod(hers, 0o600)
    layout = h5py.VirtualLayout((1000,), "i8")
    layout[:] = h5py.VirtualSource(str(hers), "x", (1000,))
    with h5py.File(his, "w") as file:
        file["link"] = h5py.ExternalLink(str(hers), "x")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset(
            "raw", (100,), "i8", external=[(f"{people.folder}/secret.npy", 128, 800)]
        )
        file["own"] = np.arange(7)
    with arrayd.connect(daemon.endpoint) as own:  # the daemon's own user may
        assert int(own.get(f"{his}:link")[0]) == SECRET
    for member in ("link", "virtual", "raw"):
        for call in ("get", "info"):
            try:
                got = bob(f"str(arrayd.{call}('{his}:{member}'))")
            except ArraydError:
                continue
            assert str(SECRET)[:2] not in got, (member, call, got)
    assert bob(f"int(arrayd.get('{his}:own')[6])") == 6


def test_a_dataset_refers_to_files(people: People, daemon: Daemon) -> None:
    """A dataset is made of files that nobody has looked at for Bob: they are not read for him."""
    people.file("rows.npy", npy(np.zeros((50, 4))), ANN, 0o644)
    cache = people.folder / "cache"
    cache.mkdir()
    os.chown(cache, BOB, BOB)
    bob = people(daemon, BOB)
    bob(f"os.environ['ARRAYD_CACHE'] = {str(cache)!r}")
    bob(f"d = arrayd.dataset('{people.folder}/rows.npy')")
    with pytest.raises(AccessDenied, match="no file but the one that is asked for"):
        bob("arrayd.get(arrayd.Source(path=d._path, member='x', format='dataset'))")
    with pytest.raises(AccessDenied, match="Streams are served to the daemon's own user only"):
        bob("""
from arrayd.session.session import unwrap
unwrap(d._given._session.ask("stream.wait", None, consumer=1, cursor=0)[0])
""")
