"""While a load is under way: progress, timeouts, Ctrl-C, and who still waits for it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayd
from arrayd.session import local
from arrayd.session.call import MAX_IN_FLIGHT
from arrayd.wire import protocol
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import (
    SLOW,
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
from tests.support.shared_daemon import counters

pytestmark = pytest.mark.one_daemon

SUM = 6.0 * SLOW_ROWS


def getting(path: Path, options: str = "") -> str:
    """Return the code by which a puppet gets the slow file, and its sum."""
    return f"a = arrayd.get({str(path)!r}, quotechar=chr(34), {options}); float(a.sum())"


def test_progress(client: arrayd.Client, slow_file: Path) -> None:
    """The function is told of growing numbers of rows, in this thread, ten times a second."""
    seen: list[tuple[float, arrayd.Progress, int]] = []

    def note(progress: arrayd.Progress) -> None:
        seen.append((time.monotonic(), progress, threading.get_ident()))

    got = client.get(slow_file, progress=note, **SLOW)
    done = [progress.done for _, progress, _ in seen]
    assert len(seen) >= 2
    assert done == sorted(done)
    assert done.count(len(got)) <= 1  # only at the end are all rows there
    assert {progress.total for _, progress, _ in seen} == {len(got)}
    assert {str(progress.source) for _, progress, _ in seen} == {str(slow_file)}
    assert {thread for _, _, thread in seen} == {threading.get_ident()}
    times = [at for at, _, _ in seen]
    assert min(np.diff(times)) >= 0.1
    del got


def test_progress_as_a_bar(
    client: arrayd.Client, slow_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """progress=True shows a bar on standard error, and nothing on standard output."""
    assert client.get(slow_file, progress=True, **SLOW).sum() == SUM
    shown = capsys.readouterr()
    assert "slow.txt" in shown.err
    assert "%|" in shown.err
    assert "%/s" not in shown.err
    assert shown.out == ""


def test_an_exception_in_progress_cancels(client: arrayd.Client, slow_file: Path) -> None:
    """What the function raises comes out of get, and no load, block or hold remains."""

    def stop(progress: arrayd.Progress) -> None:
        raise ZeroDivisionError(f"at {progress.done}")

    with pytest.raises(ZeroDivisionError, match="at "):
        client.get(slow_file, progress=stop, **SLOW)
    leaves_nothing_behind(client)
    assert counters(client)["loads"] == 0


def test_ctrl_c_cancels(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, slow_file: Path
) -> None:
    """Ctrl-C ends the wait and the load; the same session goes on to get other things."""
    one = puppets(daemon)
    one.send(getting(slow_file))
    with frozen_load(daemon, client):
        one.interrupt()
        with pytest.raises(KeyboardInterrupt):
            one.reply()
    leaves_nothing_behind(client)
    assert one("float(arrayd.put(np.ones(3)).sum())") == 3


def test_timeout(client: arrayd.Client, daemon: Daemon, slow_file: Path, tmp_path: Path) -> None:
    """timeout= ends a wait in time with LoadTimeout, and the load with it."""
    save(tmp_path / "x.npy", np.ones(3))
    client.get(tmp_path / "x.npy")
    client.evict(tmp_path / "x.npy")
    error, seconds = raised(lambda: client.get(slow_file, timeout=0.1, **SLOW))
    assert isinstance(error, arrayd.LoadTimeout)
    assert "slow.txt" in str(error)
    assert "0.1" in str(error)
    assert 0.1 <= seconds < 2
    leaves_nothing_behind(client)


def test_the_first_asker_dies(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, slow_file: Path
) -> None:
    """A load goes on for those who joined it when the one who began it is killed."""
    first, second = puppets(daemon), puppets(daemon)
    first.send(getting(slow_file))
    wait_until(lambda: client.status().jobs or client.status().blocks, "the first has asked")
    second.send(getting(slow_file))
    with frozen_load(daemon, client):
        wait_until(lambda: len(only_block(client).waiters) == 2, "both wait")
        first.kill()
        wait_until(lambda: len(only_block(client).waiters) == 1, "one waits")
    assert second.reply() == SUM
    counted = counters(client)
    assert counted | {"requests": 2, "joins": 1, "loads": 1} == counted
    assert pids(only_block(client)) == [second.pid]


def test_the_last_waiter_dies(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, slow_file: Path
) -> None:
    """A load that nobody waits for any more is cancelled, and leaves nothing."""
    one = puppets(daemon)
    one.send(getting(slow_file))
    with frozen_load(daemon, client):
        one.kill()
    leaves_nothing_behind(client)
    assert counters(client)["loads"] == 0


def test_a_cancelled_load_can_be_asked_for_again(
    client: arrayd.Client, daemon: Daemon, puppets: Stage, slow_file: Path
) -> None:
    """A get that comes while the cancelled load is still being stopped makes a new one."""
    one, two = puppets(daemon), puppets(daemon)
    one.send(getting(slow_file))
    with frozen_load(daemon, client):
        first = only_block(client).segment
        one.kill()
        wait_until(lambda: not client.status().blocks or only_block(client).state == "leaving", "")
        two.send(getting(slow_file))
        wait_until(lambda: client.status().jobs, "the second asks for it")
    assert two.reply() == SUM
    assert two("a.block.name") != first
    assert counters(client)["loads"] == 1


def test_a_long_list_is_asked_for_bit_by_bit(client: arrayd.Client, daemon: Daemon) -> None:
    """Of a long list a few hundred sources are under way at a time; each gets its answer."""
    names = [f"name:{i}" for i in range(300)]
    got: list[list[arrayd.SharedArray]] = []
    waiter = threading.Thread(target=lambda: got.append(client.get_many(names, timeout=120)))
    waiter.start()

    def awaited() -> int:
        status = client.status()
        return len(status.jobs) + status.jobs_more

    window = MAX_IN_FLIGHT * protocol.MAX_ITEMS
    with arrayd.connect(daemon.endpoint) as other:
        wait_until(lambda: awaited() == window, "a window of them is under way")
        kept = [other.put([i], name=str(i)) for i in range(window, 300)]
        assert awaited() == window
        kept += [other.put([i], name=str(i)) for i in range(window)]
        waiter.join()
    assert [int(array[0]) for array in got[0]] == list(range(300))
    del kept, got[:]
    leaves_nothing_behind(client)


def maps(pid: int, array: arrayd.SharedArray) -> bool:
    """Say whether a process maps the block of an array."""
    return f"/dev/shm/{block_of(array).name}" in Path(f"/proc/{pid}/maps").read_text()


def test_what_is_there_is_attached_while_the_rest_is_waited_for(
    client: arrayd.Client, daemon: Daemon, puppets: Stage
) -> None:
    """A list is not attached only when all of it is there; Ctrl-C gives back what was."""
    one, two = puppets(daemon), puppets(daemon)
    first = client.put(np.arange(5), name="first")
    for puppet in (one, two):
        puppet.send("arrayd.get_many(['name:first', 'name:last'], timeout=60)[1].tolist()")
    wait_until(lambda: maps(one.pid, first) and maps(two.pid, first), "the first is attached")
    one.interrupt()
    with pytest.raises(KeyboardInterrupt):
        one.reply()
    wait_until(lambda: sorted(pids(only_block(client))) == sorted([os.getpid(), two.pid]), "")
    assert not maps(one.pid, first)
    last = client.put(np.ones(3), name="last")
    assert two.reply() == [1, 1, 1]
    assert one.pid not in [pid for block in client.status().blocks for pid in pids(block)]
    del last


def test_threads_share_a_session(client: arrayd.Client, slow_file: Path, tmp_path: Path) -> None:
    """Threads of one client wait side by side: a short load does not wait for a long one."""
    wanted = [save(tmp_path / f"{i}.npy", np.full(1000, i)).sum() for i in range(8)]
    sums: dict[int, float] = {}

    def get(number: int) -> None:
        sums[number] = float(client.get(tmp_path / f"{number}.npy").sum())

    def get_slow() -> None:
        sums[-1] = float(client.get(slow_file, **SLOW).sum())

    slow = threading.Thread(target=get_slow)
    slow.start()
    wait_until(lambda: client.status().jobs or client.status().blocks, "the long load is on")
    threads = [threading.Thread(target=get, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sums[i] for i in range(8)] == wanted
    slow.join()
    assert sums[-1] == SUM
    assert len(client.status().sessions) == 1


def test_close_ends_the_calls_of_other_threads(
    client: arrayd.Client, daemon: Daemon, slow_file: Path
) -> None:
    """Closing a client does not wait for the loads its threads wait for: they are told."""
    other = arrayd.connect(daemon.endpoint)
    errors: list[Exception] = []

    def wait() -> None:
        try:
            other.get(slow_file, **SLOW)
        except arrayd.ArraydError as error:
            errors.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    with frozen_load(daemon, client):
        other.close()
        for thread in threads:
            thread.join(PATIENCE)
    assert [type(error) for error in errors] == [arrayd.DaemonLost] * 3
    leaves_nothing_behind(client)


def test_the_first_are_asked_for_while_the_others_are_looked_at(
    client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long list costs its daemon no wait: what it has of the files loads meanwhile."""
    paths = [tmp_path / f"{number}.npy" for number in range(200)]
    for number, path in enumerate(paths):
        save(path, np.array([number]))
    client.get(paths[-1])
    events: list[str] = []
    known, request = local.known, protocol.request

    def looked(*call: Any) -> Any:
        events.append("look")
        return known(*call)

    def asked(nonce: bytes, number: int, op: str, **fields: Any) -> bytes:
        events.append(op)
        return request(nonce, number, op, **fields)

    monkeypatch.setattr(local, "known", looked)
    monkeypatch.setattr(protocol, "request", asked)
    arrays = client.get_many(paths)
    assert [array[0] for array in arrays] == list(range(200))
    assert events.count("look") == 200
    assert events[: events.index("get")].count("look") == protocol.MAX_ITEMS
