"""No loader process can keep the daemon waiting, take its memory, or make it believe nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.common import failpoints
from arrayd.errors import ArraydError, LoaderCrashed, LoadError, LoadTimeout
from arrayd.source import Source
from arrayd_server import identity
from arrayd_server.loading import worker_pool
from arrayd_server.loading.loads import Callbacks, Loads
from arrayd_server.loading.worker_pool import Pool
from tests.faults.impostors import IMPOSTORS, Errand, longest_turn, outcome, pool, program
from tests.faults.impostors import no_forks as fork_server
from tests.support.daemons import Daemon
from tests.support.processes import Stage, leaves_nothing_behind, save, wait_until
from tests.support.processes import workers as loaders

TURN = 0.8
"""Seconds in which the loop comes round on a busy machine, if it waits for nobody."""

SOON = 3.0
"""Seconds in which what takes no time is over, on a busy machine."""


# ---- workers that do everything wrong ---------------------------------------------------------

_LATE = ("half", "other", "silent", "deaf", "stopped")


@pytest.mark.parametrize("name", sorted(IMPOSTORS))
def test_an_impostor(name: str) -> None:
    """It fails its own task, at once or at the deadline, is killed, and the next one works."""

    async def run() -> None:
        late = name in _LATE
        async with pool(timeout=0.7 if late else 20) as one:
            with program(name):
                found = await outcome(one)
            pids = [worker.pid for worker in one.workers + one._ending]
            if name in ("honest", "slow", "spent"):
                assert found == "answer"
            else:
                expected = "LoadTimeout" if late else "LoaderCrashed"
                assert found == ("ProtocolMismatch" if name == "newer" else expected)
                with program("honest"):
                    one._timeout = 20
                    assert (await Errand(one).result())["pid"] not in pids

    asyncio.run(run())


def test_a_task_that_a_stopped_worker_does_not_read() -> None:
    """Megabytes for a worker that reads nothing do not keep the loop: it turns all the time."""

    async def run() -> None:
        async with pool(timeout=1.0) as one:
            with program("deaf"):
                began = time.monotonic()
                errand = Errand(one, size=8 << 20)
                assert time.monotonic() - began < TURN, "submit waits for the worker"
                longest = await longest_turn(until=lambda: errand.done)
            assert longest < TURN
            with pytest.raises(LoadTimeout, match=r"/x.* 1 s .*--load-timeout"):
                await errand.result()

    asyncio.run(run())


def test_a_worker_that_lives_on() -> None:
    """One that closes its stream and lives on is killed, without the loop waiting for it."""

    async def run() -> None:
        async with pool() as one:
            with program("stubborn"):
                errand = Errand(one)
                assert await longest_turn(until=lambda: errand.done) < worker_pool.EXIT_GRACE - 0.05
            with pytest.raises(LoaderCrashed, match="SIGKILL"):
                await errand.result()

    asyncio.run(run())


def test_hung_headers_leave_room_for_parts() -> None:
    """However many looks at files hang, a part finds a worker; and the other way round."""

    async def run(urgent: bool) -> None:
        async with pool(limit=2) as one:
            with program("silent"):
                hung = [Errand(one, urgent=urgent) for _ in range(8)]
                busy = len(one.workers)
            with program("honest"):
                await Errand(one, urgent=not urgent).result()
            assert busy == 2 + urgent
            assert len(one.workers) == busy + 1
            assert not any(errand.done for errand in hung)

    asyncio.run(run(urgent=True))
    asyncio.run(run(urgent=False))


def test_what_waits_has_a_deadline_too() -> None:
    """Tasks behind one that hangs are told in time, once, and the queue is empty."""

    async def run() -> None:
        async with pool(timeout=0.5) as one:
            with program("silent"):
                errands = [Errand(one) for _ in range(5)]
                for errand in errands:
                    with pytest.raises(LoadTimeout):
                        await errand.result()
            assert [errand.told for errand in errands] == [1] * 5
            assert not one._parts

    asyncio.run(run())


def test_a_spent_worker_is_replaced() -> None:
    """One that says that it should be the last is not given another task."""

    async def run() -> None:
        async with pool() as one:
            with program("spent"):
                pids = {(await Errand(one).result())["pid"] for _ in range(3)}
            assert len(pids) == 3

    asyncio.run(run())


def test_no_process_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none can be started it is a LoadError with the system's words; later it works."""

    async def run() -> None:
        async with pool() as one:
            with monkeypatch.context() as patch:

                def fail(*_: Any, **__: Any) -> None:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

                patch.setattr(subprocess, "Popen", fail)
                before = os.listdir("/proc/self/fd")
                with pytest.raises(LoadError, match="no loader process: Too many open files"):
                    await Errand(one).result()
                assert len(os.listdir("/proc/self/fd")) == len(before)
            with program("honest"):
                await Errand(one).result()

    asyncio.run(run())


class Nonsense(Pool):
    """A pool whose workers answer with maps that mean nothing."""

    def submit(self, task: Any) -> None:
        """Answer at once."""
        task.finish({"shape": 5, "rows": []})


def test_an_answer_without_meaning() -> None:
    """A probe's answer that describes no array is LoaderCrashed, not a KeyError in the loop."""

    async def run() -> list[ArraydError]:
        failed: list[ArraydError] = []
        one = Nonsense(fork_server(), 1, timeout=9, memory=1 << 30)
        never: Any = lambda *_: pytest.fail("it means something")  # noqa: E731 - three times
        calls = Callbacks(
            never, never, never, never, lambda _, error: failed.append(error), never, never
        )
        Loads(one, calls).probe(1, identity.of_source(Source.of("/x.npy"), None))
        return failed

    (error,) = asyncio.run(run())
    assert isinstance(error, LoaderCrashed)
    assert "/x.npy" in str(error)


def test_questions_of_those_who_are_gone() -> None:
    """What is cancelled is worked on no more, be it with a worker or in the queue."""

    async def run() -> None:
        async with pool() as one:
            loads = Loads(one, Callbacks(*7 * [lambda *_: None]))
            source = identity.of_source(Source.of("/x.npy"), None)
            with program("silent"):
                for job in (1, 2, 3, 4):
                    loads.describe(job, source)
            tasks = [worker.task for worker in one.workers] + list(one._urgent)
            assert len(tasks) == 4
            for job in (1, 2, 4):
                loads.cancel(job)
            assert sum(task is not None and not task.over for task in tasks) == 1
            loads.cancel(3)
            assert not one._urgent

    asyncio.run(run())


def patiently(call: Callable[[], Any]) -> Any:
    """Return what a call returns; a new loader may need more than its second on a busy machine."""
    for _ in range(10):
        with contextlib.suppress(LoadTimeout):
            return call()
    return call()


def first_loader(daemon: Daemon, client: arrayd.Client, path: Path) -> int:
    """Have a daemon look at a file; return the pid of the loader that did, its only one."""
    patiently(lambda: client.info(path))
    wait_until(lambda: len(loaders(daemon)) == 1, "those that were too slow are gone")
    return loaders(daemon)[0]


# ---- a process that nothing ends --------------------------------------------------------------

FREEZER = Path("/sys/fs/cgroup/freezer")

needs_freezer = pytest.mark.skipif(
    not os.access(FREEZER, os.W_OK) or not (FREEZER / "cgroup.procs").exists(),
    reason="a process that survives SIGKILL needs root and the freezer of cgroup v1",
)


@pytest.fixture
def unkillable() -> Iterator[Callable[[int], None]]:
    """Give a function that freezes a process as a dead NFS would: not even SIGKILL ends it."""
    group = FREEZER / f"arrayd-test-{os.getpid()}"
    group.mkdir()

    def freeze(pid: int) -> None:
        (group / "cgroup.procs").write_text(str(pid))
        (group / "freezer.state").write_text("FROZEN")
        wait_until(lambda: "FROZEN" in (group / "freezer.state").read_text(), "it is frozen")

    try:
        yield freeze
    finally:
        (group / "freezer.state").write_text("THAWED")
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "its processes end")
        group.rmdir()


@needs_freezer
def test_a_pool_with_an_unkillable_worker(unkillable: Callable[[int], None]) -> None:
    """Its task fails in time, others are served meanwhile, and close() does not wait for it."""

    async def run() -> None:
        async with pool(timeout=1.0) as one:
            with program("silent"):
                errand = Errand(one)
                (worker,) = one.workers
                unkillable(worker.pid)
                assert await longest_turn(until=lambda: errand.done) < TURN
            with pytest.raises(LoadTimeout):
                await errand.result()
            with program("honest"):
                one._timeout = 20
                for _ in range(3):
                    await Errand(one).result()
            began = time.monotonic()
        assert time.monotonic() - began < worker_pool.CLOSE_TIMEOUT + 1
        assert os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOHANG) is None, "it was killable"
        unfrozen.append(worker.pid)

    unfrozen: list[int] = []
    asyncio.run(run())
    (FREEZER / f"arrayd-test-{os.getpid()}" / "freezer.state").write_text("THAWED")
    assert os.waitpid(unfrozen[0], 0)[1] == signal.SIGKILL


@needs_freezer
def test_a_daemon_with_an_unkillable_loader(
    start_daemon: Callable[..., Daemon], unkillable: Callable[[int], None], tmp_path: Path
) -> None:
    """Its asker gets LoadTimeout, others are served, and SIGTERM still ends the daemon."""
    daemon = start_daemon("--budget", "64M", "--workers", "1", "--load-timeout", "1")
    values = save(tmp_path / "x.npy", np.arange(9.0))
    with arrayd.connect(daemon.endpoint) as client:
        loader = first_loader(daemon, client, tmp_path / "x.npy")
        unkillable(loader)
        with pytest.raises(LoadTimeout, match=r"x\.npy"):
            client.info(tmp_path / "x.npy")
        array = patiently(lambda: client.get(tmp_path / "x.npy"))
        assert array.sum() == values.sum()
        assert loader in loaders(daemon)
        del array
        client.evict(tmp_path / "x.npy")
        leaves_nothing_behind(client)
    began = time.monotonic()
    daemon.stop()
    assert time.monotonic() - began < worker_pool.CLOSE_TIMEOUT + SOON


# ---- through a daemon -------------------------------------------------------------------------


def test_a_look_that_hangs(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """An info past --load-timeout is LoadTimeout, its loader is killed, the next is answered."""
    daemon = start_daemon("--budget", "64M", "--workers", "1", "--load-timeout", "1")
    save(tmp_path / "x.npy", np.arange(9.0))
    with arrayd.connect(daemon.endpoint) as client:
        loader = first_loader(daemon, client, tmp_path / "x.npy")
        os.kill(loader, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(LoadTimeout, match=r"x\.npy.* 1 s .*--load-timeout"):
            client.info(tmp_path / "x.npy")
        assert time.monotonic() - began < 1 + SOON
        assert patiently(lambda: client.info(tmp_path / "x.npy")).shape == (9,)
        wait_until(lambda: loader not in loaders(daemon), "it is killed")


def test_looks_of_killed_clients(
    start_daemon: Callable[..., Daemon],
    puppets: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that is killed while its question hangs takes the question with it."""
    points = tmp_path / "points"
    points.mkdir()
    monkeypatch.setenv(failpoints.VARIABLE, str(points))
    daemon = start_daemon("--budget", "64M", "--workers", "1")
    save(tmp_path / "x.npy", np.arange(9.0))
    code = f"arrayd.info({str(tmp_path / 'x.npy')!r})"
    several = [puppets(daemon), puppets(daemon)]
    several[0](f"{code}.shape[0]")
    (loader,) = loaders(daemon)
    os.kill(loader, signal.SIGSTOP)
    failpoints.arm(points, "daemon.part", "sleep:0")
    several[0].send(code)
    wait_until(lambda: not (points / "daemon.part").exists(), "the loader is asked")
    several[0].kill()
    assert several[1](f"{code}.shape[0]") == 9
    wait_until(lambda: loader not in loaders(daemon), "it is killed, long before the hour is over")


def gzip_chunk(path: Path, size: int) -> None:
    """Write one compressed chunk of `size` bytes, as people do who know no better."""
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.ones(size, "u1"), chunks=(size,), compression="gzip")


def test_the_limit_of_memory(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A chunk beyond --loader-memory is LoadError, naming the option; with more, it is loaded."""
    size = 70 << 20
    gzip_chunk(tmp_path / "x.h5", size)
    small, large = (
        start_daemon("--budget", "256M", "--workers", "1", "--loader-memory", memory)
        for memory in ("128M", "1G")
    )
    with arrayd.connect(small.endpoint) as client:
        for _ in range(3):
            with pytest.raises(LoadError, match=r"x\.h5.*128\.0 MiB.*70\..*--loader-memory"):
                client.get(tmp_path / "x.h5")
        values = save(tmp_path / "x.npy", np.arange(9.0))
        assert client.get(tmp_path / "x.npy").sum() == values.sum()
        client.evict(tmp_path / "x.npy")
        leaves_nothing_behind(client)
    assert "Traceback" not in small.log
    with arrayd.connect(large.endpoint) as client:
        assert client.get(tmp_path / "x.h5").sum(dtype="i8") == size


def test_the_block_does_not_count(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A transposing load maps its whole segment, which may be larger than the limit."""
    daemon = start_daemon("--budget", "512M", "--workers", "1", "--loader-memory", "128M")
    save(tmp_path / "x.npy", np.ones((4000, 5000)))
    with arrayd.connect(daemon.endpoint) as client:
        array = client.get(tmp_path / "x.npy", order="F")
        assert array.flags.f_contiguous
        assert array.sum() == 20e6
        del array
        client.evict(tmp_path / "x.npy")


def test_what_a_loader_may(client: arrayd.Client, daemon: Daemon, tmp_path: Path) -> None:
    """The limit is the kernel's, the OOM killer would take it first, and it has one thread."""
    save(tmp_path / "x.npy", np.arange(9.0))
    client.get(tmp_path / "x.npy")
    loader = Path(f"/proc/{loaders(daemon)[0]}")
    (limit,) = [x for x in (loader / "limits").read_text().splitlines() if "data size" in x]
    assert 256 << 20 <= int(limit.split()[3]) <= 2 << 30
    mine = int(Path(f"/proc/{daemon.pid}/oom_score_adj").read_text())
    assert int((loader / "oom_score_adj").read_text()) > mine
    assert len(os.listdir(loader / "task")) == 1
    client.evict(tmp_path / "x.npy")
