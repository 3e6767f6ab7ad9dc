"""What comes too late: grants that nobody waits for any more, and looks at a file that changed."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayd
from arrayd.session.fetch import redeemed
from tests.support.daemons import Daemon
from tests.support.processes import Stage, block_of, only_block, pids, save, wait_until


def test_a_late_grant_is_given_back(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, tmp_path: Path
) -> None:
    """A get that timed out just as it was granted leaves no hold, though its client idles on."""
    save(tmp_path / "x.npy", np.ones(1000))
    mine = client.get(tmp_path / "x.npy")
    one = puppets(daemon)
    one("arrayd.status()")
    os.kill(daemon.pid, signal.SIGSTOP)
    with pytest.raises(arrayd.LoadTimeout):
        one(f"arrayd.get({str(tmp_path / 'x.npy')!r}, timeout=0.1, pin=0.01)")
    os.kill(daemon.pid, signal.SIGCONT)
    wait_until(lambda: client.status().counters["requests"] == 2, "the late request is handled")
    wait_until(lambda: pids(only_block(client)) == [os.getpid()], "the late grant is given back")
    del mine


def test_a_file_replaced_meanwhile_is_read_anew(
    daemon: Daemon, client: arrayd.Client, puppets: Stage, tmp_path: Path
) -> None:
    """A file that is replaced between the client's look at it and the daemon's is the new one."""
    save(tmp_path / "x.npy", np.ones(1000))
    one = puppets(daemon)
    one("arrayd.status()")
    os.kill(daemon.pid, signal.SIGSTOP)
    one.send(f"float(arrayd.get({str(tmp_path / 'x.npy')!r}).sum())")
    state = Path(f"/proc/{one.pid}/wchan")
    wait_until(lambda: "poll" in state.read_text(), "it has looked at the file, and waits")
    save(tmp_path / "new.npy", np.full(1000, 2.0))
    os.rename(tmp_path / "new.npy", tmp_path / "x.npy")
    os.kill(daemon.pid, signal.SIGCONT)
    assert one.reply() == 2000


def overtake(
    client: arrayd.Client, monkeypatch: pytest.MonkeyPatch, another: Callable[[], object]
) -> None:
    """Let another thread have and drop what a call was granted, before that call attaches it."""
    attach = client._session.blocks.attach

    def late(*granted: Any) -> arrayd.SharedArray:
        monkeypatch.undo()
        another()
        gc.collect()
        client._session.send_releases()
        client.status()  # the daemon has heard of it
        return attach(*granted)

    monkeypatch.setattr(client._session.blocks, "attach", late)


@pytest.mark.parametrize("explicit", [False, True], ids=["dropped", "released"])
def test_a_hold_that_another_thread_ends(
    daemon: Daemon,
    client: arrayd.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    explicit: bool,
) -> None:
    """What one thread was granted later, and drops at once, another has yet to attach: it stays."""
    values = save(tmp_path / "x.npy", np.arange(1000))

    def another() -> None:
        array = client.get(tmp_path / "x.npy")
        if explicit:
            client.release(array)

    overtake(client, monkeypatch, another)
    array = client.get(tmp_path / "x.npy")
    assert pids(only_block(client)) == [os.getpid()]
    assert (array == values).all()
    del array
    wait_until(lambda: only_block(client).state == "idle", "both are given back")


def test_a_reference_that_another_thread_ends(
    daemon: Daemon, client: arrayd.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published block that came by two references is not lost with the first array dropped."""
    with arrayd.connect(daemon.endpoint) as sender:
        array = sender.put(np.arange(1000))
        name = block_of(array).name
        first, second = sender._session.lend(name), sender._session.lend(name)
        del array
    overtake(client, monkeypatch, lambda: redeemed(client._session, name, second, "r"))
    assert redeemed(client._session, name, first, "r").sum() == 499_500
    gc.collect()
    wait_until(lambda: not client.status().blocks, "it is freed with its last user")


def test_a_release_is_not_put_off_by_another_call(
    daemon: Daemon, client: arrayd.Client, tmp_path: Path
) -> None:
    """While a thread waits, what others have had, lent and dropped is given back at once."""
    save(tmp_path / "x.npy", np.arange(1000))
    with client._session.blocks.attaching():
        array = client.get(tmp_path / "x.npy")
        client._session.lend(block_of(array).name)
        del array
        wait_until(lambda: not pids(only_block(client)), "the hold ends")
