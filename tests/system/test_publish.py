"""`put` and `create`: blocks that a process writes, their names, and their ends."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd.session.fetch import redeemed
from arrayd.session.sealing import seal
from tests.support.daemons import Daemon
from tests.support.processes import (
    Stage,
    block_of,
    leaves_nothing_behind,
    only_block,
    pids,
    raised,
    wait_until,
)

pytestmark = pytest.mark.one_daemon


def test_put_is_had_by_name_elsewhere(
    client: arrayd.Client, daemon: Daemon, puppets: Stage
) -> None:
    """Another process gets the published values by name; the block goes with its last holder."""
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    mine = client.put(values, name="N")
    values[:] = 0  # a copy was published
    one = puppets(daemon)
    assert one("a = arrayd.get('name:N'); [a.tolist(), a.flags.f_contiguous]") == [
        [[0, 1, 2], [3, 4, 5]],
        True,
    ]
    assert one("arrayd.get('name:N', rows=slice(1, 2)).tolist()") == [[3, 4, 5]]
    assert pids(only_block(client)) == sorted([os.getpid(), one.pid])
    assert not mine.flags.writeable
    del mine
    wait_until(lambda: pids(only_block(client)) == [one.pid], "our hold ends")
    one("del a")
    leaves_nothing_behind(client)
    with pytest.raises(arrayd.NoSuchBlock, match="'N'"):
        client.get("name:N")


def test_a_unit_is_not_dropped(client: arrayd.Client) -> None:
    """A unit, which no block carries, is an error that says how to put the values."""

    class Quantity(np.ndarray):
        unit = "m"

    with pytest.raises(arrayd.SpecMismatch, match=r"the unit of this array \(m\)"):
        client.put(np.ones(2).view(Quantity))


def test_keep_until_evicted(client: arrayd.Client) -> None:
    """keep=True keeps a published block without a holder; evict by its name frees it."""
    client.put(np.arange(3), name="K", keep=True)
    wait_until(lambda: only_block(client).state == "idle", "the hold ends")
    assert client.get("name:K").tolist() == [0, 1, 2]
    assert client.evict("name:K")["blocks"] == 1
    leaves_nothing_behind(client)


def test_a_name_is_taken_or_replaced(client: arrayd.Client) -> None:
    """A name in use is NameTaken; replace=True rebinds it, and old holders keep their values."""
    old = client.put(np.arange(3), name="N", keep=True)
    error, _ = raised(lambda: client.put(np.ones(2), name="N"))
    assert isinstance(error, arrayd.NameTaken)
    assert "replace=True" in str(error)
    new = client.put(np.ones(2), name="N", replace=True)
    assert client.get("name:N").tolist() == [1, 1]
    assert old.tolist() == [0, 1, 2]
    assert block_of(old).name != block_of(new).name
    del old
    wait_until(lambda: len(client.status().blocks) == 1, "keep went with the name")
    del new
    leaves_nothing_behind(client)


def test_create_seals_at_the_end(client: arrayd.Client, daemon: Daemon) -> None:
    """In the with the array is zero, writeable and unseen; after it final, for old views too."""
    with arrayd.connect(daemon.endpoint) as other:
        with client.create((2, 3), "i4", name="C") as out:
            assert out.tolist() == [[0] * 3] * 2
            out[0] = 7
            view = out[1]
            assert only_block(client).state == "writing"
            with pytest.raises(arrayd.NoSuchBlock):
                other.get("name:C")
        assert not out.flags.writeable
        view[:] = 9  # writes to pages that are ours alone by now
        assert other.get("name:C").tolist() == [[7] * 3, [0] * 3]
        del out, view
        leaves_nothing_behind(client)


def test_an_exception_gives_the_block_up(client: arrayd.Client) -> None:
    """What is raised in the with comes out, the block goes, and the name is free again."""
    with pytest.raises(ZeroDivisionError), client.create(4, name="C") as out:
        1 / 0  # noqa: B018 - it is to raise
    del out
    leaves_nothing_behind(client)
    assert client.put(np.ones(1), name="C").sum() == 1


def test_a_dead_writer_leaves_nothing(
    client: arrayd.Client, daemon: Daemon, puppets: Stage
) -> None:
    """A writer that is killed in its with leaves neither the block nor the name."""
    one = puppets(daemon)
    one("context = arrayd.create(1000, name='C'); out = context.__enter__()")
    assert only_block(client).state == "writing"
    one.kill()
    leaves_nothing_behind(client)
    assert client.put(np.ones(1), name="C").sum() == 1


def test_a_name_is_waited_for(client: arrayd.Client, daemon: Daemon, puppets: Stage) -> None:
    """get("name:N", timeout=…) returns when somebody publishes N, or says that nobody did."""
    one = puppets(daemon)
    one.send("a = arrayd.get('name:N', timeout=20); a.tolist()")
    wait_until(lambda: client.status().jobs, "it waits")
    published = client.put(np.arange(3), name="N")
    assert one.reply() == [0, 1, 2]
    del published
    one("del a")
    error, seconds = raised(lambda: client.get("name:M", timeout=0.2))
    assert isinstance(error, arrayd.LoadTimeout)
    assert "name:M" in str(error)
    assert 0.2 <= seconds < 2
    leaves_nothing_behind(client)


def test_what_cannot_be_published(client: arrayd.Client) -> None:
    """Objects have no fixed size, a name takes no options, a daemon has no infinite room."""
    with pytest.raises(arrayd.SpecMismatch, match=r"Python objects.*fixed size"):
        client.put(np.array([{}], object))
    with pytest.raises(arrayd.SpecMismatch, match="only rows="):
        client.get("name:N", cast="f4")
    error, seconds = raised(lambda: client.put(np.ones(9 << 20), timeout=20))
    assert isinstance(error, arrayd.NoRoom)
    assert "more than the whole budget of 64.0 MiB" in str(error)
    assert seconds < 2
    assert client.status().blocks == ()


def test_nobody_else_seals(client: arrayd.Client, daemon: Daemon) -> None:
    """Only the session that created a block may seal it, and it still can afterwards."""
    with arrayd.connect(daemon.endpoint) as other, client.create(3, name="C") as out:
        shared = redeemed(other._session, block_of(out).name, b"x" * 8, "r")
        with pytest.raises(arrayd.NotOwner):
            seal(other._session, shared, {})
        del shared
    assert client.get("name:C").tolist() == [0, 0, 0]


def test_a_second_writer_must_let_go(client: arrayd.Client, daemon: Daemon) -> None:
    """A block that another process can still write to is NotSealed, and given up."""
    with arrayd.connect(daemon.endpoint) as other:
        with (
            pytest.raises(arrayd.NotSealed, match="drop its array first"),
            client.create(3, name="C") as out,
        ):
            mine = redeemed(other._session, block_of(out).name, b"x" * 8, "w")
        del out, mine
        leaves_nothing_behind(client)


def test_a_second_writer_that_lets_go_in_time(client: arrayd.Client, daemon: Daemon) -> None:
    """Sealing waits for writers that are about to drop the array, and keeps what they wrote."""
    with arrayd.connect(daemon.endpoint) as other:
        with client.create(3, name="C") as out:
            theirs = [redeemed(other._session, block_of(out).name, b"x" * 8, "w")]
            theirs[0][1] = 5
            later = threading.Timer(0.2, theirs.clear)
            later.start()
        later.join()
        assert out.tolist() == [0, 5, 0]
        del out


def test_ctrl_c_in_the_with(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, tmp_path: Path
) -> None:
    """Ctrl-C gives the block up like any exception."""
    one = puppets(daemon, "import time, arrayd")
    flag = tmp_path / "inside"
    one.send(
        f"with arrayd.create(10, name='C') as out:\n open({str(flag)!r}, 'w').close()\n"
        " time.sleep(60)"
    )
    wait_until(flag.exists, "it is in the with")
    one.interrupt()
    with pytest.raises(KeyboardInterrupt):
        one.reply()
    one("del out")
    leaves_nothing_behind(client)


def test_a_path_is_bytes(client: arrayd.Client, tmp_path: Path) -> None:
    """A file whose name is no UTF-8 is loaded like any other."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.npy")
    np.save(path, np.arange(5))
    np.testing.assert_array_equal(client.get(path), np.arange(5))
