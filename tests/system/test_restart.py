"""The daemon is killed, or hands over, and starts again: same blocks, no reload, nobody minds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

import arrayd
from arrayd.results.status import BlockStatus
from arrayd.session import connection
from arrayd.wire import protocol
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import (
    SLOW_ROWS,
    Stage,
    block_of,
    frozen_load,
    leaves_nothing_behind,
    only_block,
    pids,
    raised,
    save,
    wait_until,
)

ENDINGS = pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGUSR1], ids=["killed", "handed over"]
)


def restart(daemon: Daemon, number: int) -> None:
    """End the daemon with a signal, and start it again on its endpoint."""
    if number == signal.SIGKILL:
        daemon.kill()
    else:
        daemon.stop(number)
    daemon.start()


@ENDINGS
def test_blocks_survive(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, tmp_path: Path, number: int
) -> None:
    """Same blocks under the same names, nothing is loaded again, holders are known again."""
    values = save(tmp_path / "x.npy", np.arange(1000.0))
    save(tmp_path / "idle.npy", np.ones(10))
    client.get(tmp_path / "idle.npy")
    mine = client.get(tmp_path / "x.npy")
    one = puppets(daemon)
    one(f"path = {str(tmp_path / 'x.npy')!r}; a = arrayd.get(path)")
    before = {b.segment for b in client.status().blocks}
    restart(daemon, number)
    np.testing.assert_array_equal(mine, values)
    assert one("float(a.sum())") == values.sum()
    assert {b.segment for b in client.status().blocks} == before
    block = block_of(mine).name

    def holders() -> list[int]:
        return next(pids(b) for b in client.status().blocks if b.segment == block)

    wait_until(lambda: holders() == sorted([os.getpid(), one.pid]), "all holds are restated")
    other = puppets(daemon)
    assert other(f"a = arrayd.get({str(tmp_path / 'x.npy')!r}); a.block.name") == block
    assert other(f"float(arrayd.get({str(tmp_path / 'idle.npy')!r}).sum())") == 10
    expected = {"loads": 0, "adopted": 2, "hits": 2}
    wait_until(
        lambda: client.status().counters | expected == client.status().counters,
        "both hits are told",
    )
    del mine
    one("del a")
    other.end()
    wait_until(lambda: {b.state for b in client.status().blocks} == {"idle"}, "all is idle")


@ENDINGS
def test_hits_go_on_without_a_daemon(
    daemon: Daemon, client: arrayd.Client, tmp_path: Path, number: int
) -> None:
    """Between two runs of the daemon its index serves; the next run knows who holds what."""
    values = save(tmp_path / "x.npy", np.arange(1000.0))
    save(tmp_path / "y.npy", np.ones(1))
    mine = client.get(tmp_path / "x.npy")
    with arrayd.Client(daemon.endpoint, start=False) as other:
        other.get(tmp_path / "y.npy")  # so that it has met the daemon
        daemon.end(number)
        theirs = other.get(tmp_path / "x.npy")
        np.testing.assert_array_equal(theirs, values)
        daemon.start()
        wait_until(lambda: len(pids(only_held(other))) == 2, "both holds are stated")
        assert other.status().counters["loads"] == 0
        del theirs
    del mine


def only_held(client: arrayd.Client) -> BlockStatus:
    """Return the one block that is held."""
    (block,) = (b for b in client.status().blocks if b.state == "held")
    return block


def test_a_stopped_daemon_leaves_no_index(
    daemon: Daemon, client: arrayd.Client, tmp_path: Path
) -> None:
    """`arrayd stop` removes it, with all that nobody uses."""
    save(tmp_path / "x.npy", np.ones(1000))
    client.get(tmp_path / "x.npy")
    assert client._session.index is not None
    index = client._session.index.path
    assert os.path.exists(index)
    client.close()
    daemon.stop()
    assert not os.path.exists(index)


@ENDINGS
def test_the_same_client_goes_on(
    daemon: Daemon, client: arrayd.Client, tmp_path: Path, number: int
) -> None:
    """After a restart the same Client object asks for new things as if nothing had been."""
    for name in ("x", "y"):
        save(tmp_path / f"{name}.npy", np.ones(1000))
    first = client.get(tmp_path / "x.npy")
    for _ in range(2):
        restart(daemon, number)
        assert client.get(tmp_path / "y.npy", rows=slice(0, 10)).sum() == 10
        wait_until(lambda: client._session.daemon["pid"] == daemon.pid, "it has come back to us")
    assert client.get(tmp_path / "x.npy").block == first.block
    del first


@ENDINGS
def test_published_names_survive(daemon: Daemon, client: arrayd.Client, number: int) -> None:
    """Published blocks keep their names and their keep; unkept ones still go with their holder."""
    held = client.put(np.arange(3), name="held")
    client.put(np.arange(4), name="kept", keep=True)
    restart(daemon, number)
    assert client.get("name:kept").tolist() == [0, 1, 2, 3]
    assert client.get("name:held").block == held.block
    with pytest.raises(arrayd.NameTaken):
        client.put(np.ones(1), name="held")
    del held
    wait_until(lambda: [b.name for b in client.status().blocks] == ["kept"], "held goes")
    assert client.evict("name:kept")["blocks"] == 1
    leaves_nothing_behind(client)


@ENDINGS
def test_a_waiting_get_survives(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, slow_file: Path, number: int
) -> None:
    """A get that waits for a load when the daemon goes is repeated, and answered by the next."""
    one = puppets(daemon)
    one.send(f"a = arrayd.get({str(slow_file)!r}, quotechar=chr(34)); float(a.sum())")
    with frozen_load(daemon, client):
        restart(daemon, number)
    assert one.reply() == 6 * SLOW_ROWS
    assert client.status().counters["loads"] == 1
    assert pids(only_block(client)) == [one.pid]


@ENDINGS
def test_an_unsealed_block_survives(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, number: int
) -> None:
    """Who writes a block writes on through the restart, and seals it with the next daemon."""
    one = puppets(daemon)
    one("context = arrayd.create(1000, name='C'); out = context.__enter__(); out[:500] = 1")
    restart(daemon, number)
    one("out[500:] = 2; context.__exit__(None, None, None)")
    assert client.get("name:C").sum() == 1500
    one.end()
    leaves_nothing_behind(client)


def test_an_unsealed_block_without_its_writer_goes(
    daemon: Daemon, client: arrayd.Client, puppets: Stage
) -> None:
    """The writer dies while there is no daemon: the next one removes what it left."""
    one = puppets(daemon)
    one("context = arrayd.create(1000, name='C'); out = context.__enter__()")
    daemon.kill()
    one.kill()
    daemon.start()
    leaves_nothing_behind(client)


def test_a_holder_that_dies_meanwhile(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, tmp_path: Path
) -> None:
    """A holder that dies while there is no daemon holds nothing afterwards."""
    save(tmp_path / "x.npy", np.ones(1000))
    one = puppets(daemon)
    one(f"a = arrayd.get({str(tmp_path / 'x.npy')!r})")
    daemon.kill()
    one.kill()
    daemon.start()
    wait_until(lambda: only_block(client).state == "idle", "the block is idle")


def test_foreign_files_are_not_adopted(daemon: Daemon, client: arrayd.Client) -> None:
    """Files under a segment's name that are none are removed at the start, never served."""
    mine = client.put(np.arange(3), name="N")
    name = block_of(mine).name
    daemon.kill()
    scope = name.rsplit("-", 2)[0]
    planted = [f"/dev/shm/{scope}-00000000-{n}" for n in (1, 2)]
    Path(planted[0]).write_bytes(b"\0" * 8192)
    Path(planted[1]).write_bytes(Path(f"/dev/shm/{name}").read_bytes())  # a copy is no segment
    for path in planted:
        os.chmod(path, 0o600)
    daemon.start()
    assert [b.segment for b in client.status().blocks] == [name]
    assert [os.path.exists(path) for path in planted] == [False, False]
    del mine


def test_a_call_without_a_daemon_gives_up(
    daemon: Daemon, client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that does not come back is DaemonLost after a while; its arrays stay readable."""
    for name in ("x", "y"):
        save(tmp_path / f"{name}.npy", np.ones(1000))
    mine = client.get(tmp_path / "x.npy")
    daemon.kill()
    monkeypatch.setattr(connection, "AWAY_TIMEOUT", 0.3)
    error, seconds = raised(lambda: client.get(tmp_path / "y.npy"))
    assert isinstance(error, arrayd.DaemonLost)
    assert daemon.endpoint in str(error)
    assert 0.3 <= seconds < 3
    assert mine.sum() == 1000
    daemon.start()
    assert client.get(tmp_path / "y.npy", rows=slice(3)).sum() == 3
    del mine


def starting(router: zmq.Socket[bytes], hellos: int) -> None:
    """Answer as a daemon that takes over many blocks: until so many hellos it is starting."""
    for done in range(hellos):
        route, _ = router.recv_multipart()
        router.send_multipart([route, protocol.answer(0, starting=[done, hellos])])
    answered = False
    while not answered:
        route, frame = router.recv_multipart()
        request = protocol.decode(frame)
        answered = request["op"] == "health"
        about_us = {"version": "1", "run": "r", "leases": True, "holds": {}}
        ok = {"healthy": 1} if answered else {"pid": os.getpid(), **about_us}
        router.send_multipart([route, protocol.answer(request["id"], ok=ok)])


def test_a_daemon_that_takes_over_is_waited_for(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it says that it is starting, a client waits, however many blocks there are."""
    monkeypatch.setattr(connection, "AWAY_TIMEOUT", 0.5)
    monkeypatch.setattr(connection, "_HELLO_EVERY", 0.05)
    endpoint = f"ipc://{short_directory}/sock"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(endpoint)
        stub = threading.Thread(target=starting, args=(router, 20))
        stub.start()
        with arrayd.connect(endpoint) as client:
            began = time.monotonic()
            assert client.health() == {"healthy": 1}
            assert time.monotonic() - began > connection.AWAY_TIMEOUT
        stub.join()


def test_one_daemon_per_endpoint(daemon: Daemon, client: arrayd.Client) -> None:
    """A second daemon on the endpoint exits with 1 and names the first, which serves on."""
    second = subprocess.run(
        [sys.executable, "-m", "arrayd_server", "--endpoint", daemon.endpoint],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert second.returncode == 1
    assert f"pid {daemon.pid}" in second.stderr
    assert "serves this endpoint" in second.stderr
    assert second.stdout == ""
    assert client.status().pid == daemon.pid


def hello_too_early(client: arrayd.Client) -> None:
    """Say hello, and be welcomed, as before there was anything to hold."""
    line = client._session._connection
    assert line is not None
    hello = line._hello

    def without_holds() -> dict[str, object]:
        line._hello = hello
        fields = hello()
        client._session._said = []
        return {**fields, "holds": []}

    def welcomed() -> bool:
        line.nudge()
        return not line.unknown_since

    line._hello = without_holds
    line._start_recovery()
    wait_until(welcomed, "the daemon's welcome")


def test_what_was_attached_during_a_hello(
    daemon: Daemon, client: arrayd.Client, tmp_path: Path
) -> None:
    """A hello states all holds; one that was attached while it travelled is stated after it."""
    values = save(tmp_path / "a.npy", np.arange(1000))
    a = client.get(tmp_path / "a.npy")
    hello_too_early(client)
    wait_until(lambda: client.status().blocks[0].holders, "the hold is known again")
    assert (a == values).all()
    assert client.status().blocks[0].state == "held"


def test_what_was_granted_during_a_hello(
    daemon: Daemon, client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that is granted, and attached only after the welcome, is stated too."""
    values = save(tmp_path / "a.npy", np.arange(1000))
    attach = client._session.blocks.attach

    def late(*granted: Any) -> arrayd.SharedArray:
        hello_too_early(client)
        return attach(*granted)

    monkeypatch.setattr(client._session.blocks, "attach", late)
    a = client.get(tmp_path / "a.npy")
    wait_until(lambda: client.status().blocks[0].holders, "the hold is known")
    assert (a == values).all()
    assert client.status().blocks[0].state == "held"
    del a
    wait_until(lambda: client.status().blocks[0].state == "idle", "it is given back")


def test_a_release_of_an_earlier_run(daemon: Daemon, client: arrayd.Client, tmp_path: Path) -> None:
    """What was granted by a daemon that is no more ends no hold of the next one's."""
    save(tmp_path / "a.npy", np.arange(1000))
    a = client.get(tmp_path / "a.npy")
    for _ in range(20):
        client._session.renew(block_of(a).name)  # each is a grant with a higher number
    earlier = client._session.blocks.highest_seq
    restart(daemon, signal.SIGKILL)
    assert client.status().pid == daemon.pid
    client._session.tell("release", holds=[[block_of(a).name, earlier]])
    assert client.status().blocks[0].state == "held"
