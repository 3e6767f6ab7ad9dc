"""The fork server: what it forks is as if the daemon had exec'ed it, and the daemon needs none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd_server.loading import early_start, fork_server, own_process, worker_pool
from arrayd_server.loading.fork_server import ForkServer
from arrayd_server.loading.own_process import OwnProcess, cause
from tests.support.daemons import Daemon
from tests.support.processes import children_named, save, wait_until, workers

MEMORY = 700 << 20
PATIENCE = 10.0


class Bench:
    """A fork server in the running loop, and what it forks."""

    def __init__(self) -> None:
        self.forks = ForkServer(asyncio.get_running_loop(), (early_start.LOADER,))
        self.ends: asyncio.Queue[int | OSError] = asyncio.Queue()
        self.all: list[OwnProcess] = []
        self.over: list[OwnProcess] = []

    def process(self) -> OwnProcess:
        """Ask for a loader."""
        self.all.append(
            OwnProcess(
                self.forks,
                worker_pool.PROGRAM,
                MEMORY,
                on_readable=lambda process: process.detach(),
                on_exit=self._note,
            )
        )
        return self.all[-1]

    def _note(self, process: OwnProcess, how: int | OSError) -> None:
        self.over.append(process)
        self.ends.put_nowait(how)

    async def end(self) -> int | OSError:
        """Return how the next one ends."""
        return await asyncio.wait_for(self.ends.get(), PATIENCE)

    async def until(self, holds: Callable[[], object]) -> None:
        """Let the loop run until something holds."""
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end
            await asyncio.sleep(0.002)

    async def idle(self, process: OwnProcess) -> Path:
        """Wait until a process waits for tasks; return its /proc."""
        await self.until(lambda: process.pid)
        proc = Path(f"/proc/{process.pid}")
        await self.until(lambda: (proc / "comm").read_text() == "arrayd-loader\n")
        await self.until(lambda: "unix_stream" in (proc / "wchan").read_text())
        return proc

    def close(self) -> None:
        """End all."""
        for one in self.all:
            if one not in self.over:
                one.kill()
                if not one.detached:
                    one.detach()
                assert one.reap(time.monotonic() + PATIENCE)
        self.forks.close()


@contextlib.asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """Give a fork server."""
    one = Bench()
    try:
        yield one
    finally:
        one.close()


def forked(proc: Path) -> bool:
    """Say whether a process is from a fork server: its command line is still that one's."""
    return b"fork_program" in (proc / "cmdline").read_bytes()


def number(proc: Path, name: str) -> int:
    """Return a number of /proc/PID/status."""
    lines = (proc / "status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")), 16)


@pytest.mark.parametrize("modules", [early_start.MODULES, (early_start.LOADER,)])
def test_it_may_have_been_started_early(modules: tuple[str, ...]) -> None:
    """One that was begun before the daemon was imported is the daemon's, if it is what it wants."""

    async def run() -> None:
        early_start.begin()
        ((process, requests),) = early_start._begun
        forks = ForkServer(asyncio.get_running_loop(), modules)
        try:
            forks.start()
            same = modules == early_start.MODULES
            assert (forks.pid == process.pid) == same
            assert bool(early_start._begun) != same
            ours = forks.fork(early_start.LOADER, MEMORY)
            assert ours is not None
            with ours:
                assert select.select([ours], [], [], PATIENCE)[0]
                pid = int.from_bytes(ours.recv(8), "little")
            assert os.waitpid(pid, 0)[0] == pid
        finally:
            forks.close()
            early_start._begun.clear()
            requests.close()
            process.kill()
            process.wait()

    asyncio.run(run())


def test_none_is_started_early_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine of which no number of clone(2) is known a daemon would not use it."""
    monkeypatch.setattr(early_start, "CLONE", {})
    early_start.begin()
    assert early_start._begun == []


def test_a_daemon_that_does_not_come_to_be(tmp_path: Path) -> None:
    """What it has started early ends with it."""
    script = (
        "import os, sys; from arrayd_server.loading import early_start; early_start.begin(); "
        "print(early_start._begun[0][0].pid, flush=True); os._exit(2)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    proc = Path(f"/proc/{int(done.stdout)}/cmdline")
    wait_until(lambda: not (proc.exists() and b"fork_program" in _read(proc)), "it ends, too")


def _read(path: Path) -> bytes:
    """Return what is in a file; nothing, if it has gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_process_is_as_if_it_had_been_started() -> None:
    """It is our child, alone with its socket, with limits, signals and threads of its own."""

    async def run() -> None:
        async with bench() as one:
            first = await one.idle(one.process())
            second = await one.idle(one.process())
            for proc in (first, second):
                assert forked(proc)
                assert (proc / "stat").read_text().rpartition(") ")[2].split()[
                    1
                ] == f"{os.getpid()}"
                links = [os.readlink(link) for link in (proc / "fd").iterdir()]
                assert len([link for link in links if link.startswith("socket:")]) == 1
                assert len(links) == 4  # and the standard ones
                assert os.readlink(proc / "cwd") == "/"
                limits = (proc / "limits").read_text().splitlines()
                (limit,) = (line for line in limits if "data size" in line)
                assert int(limit.split()[3]) == MEMORY
                assert (proc / "oom_score_adj").read_text() == "800\n"
                assert number(proc, "SigBlk") == 0
                ignored = number(proc, "SigIgn")
                assert all(ignored >> sig - 1 & 1 for sig in (signal.SIGINT, signal.SIGIO))
                assert len(list((proc / "task").iterdir())) == 1
                assert "/dev/shm" not in (proc / "maps").read_text()

    asyncio.run(run())


def test_chance_is_its_own() -> None:
    """Two processes do not draw the same numbers."""
    code = (
        "import os, random, signal, sys\n"
        "from arrayd_server.loading.fork_program import fork_for_parent\n"
        "random.seed(1)\n"
        "for _ in range(2):\n"
        "    if fork_for_parent() == 0:\n"
        "        os.write(1, f'{random.getrandbits(64)} {os.getppid()}\\n'.encode())\n"
        "        os._exit(7)\n"
    )
    program = [sys.executable, "-c", code]
    told = [line.split() for line in subprocess.check_output(program, text=True).splitlines()]
    assert [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)] == [7, 7]
    assert len({draw for draw, _ in told}) == 2
    assert {int(parent) for _, parent in told} == {os.getpid()}


@pytest.mark.parametrize("sig", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_is_told_by_its_signal(sig: signal.Signals) -> None:
    """The daemon hears which signal ended a forked process."""

    async def run() -> None:
        async with bench() as one:
            process = one.process()
            await one.idle(process)
            os.kill(process.pid, sig)
            how = await one.end()
            assert isinstance(how, int)
            assert cause(how) == sig.name

    asyncio.run(run())


def test_a_killed_fork_server() -> None:
    """Those it has forked live on; the next ones are exec'ed, and after a while forked again."""

    async def run() -> None:
        async with bench() as one:
            before = await one.idle(one.process())
            killed = one.forks.pid
            os.kill(killed, signal.SIGKILL)
            during = await one.idle(one.process())
            assert not forked(during)
            await one.until(lambda: one.forks.pid == 0)
            assert not forked(await one.idle(one.process()))
            one.forks._not_before = 0.0
            assert forked(await one.idle(one.process()))
            assert one.forks.pid != killed
            assert before.exists()

    asyncio.run(run())


def test_a_stopped_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for it for long: it is killed, and what it was asked for is exec'ed."""

    async def run() -> None:
        async with bench() as one:
            await one.idle(one.process())
            stopped = one.forks.pid
            os.kill(stopped, signal.SIGSTOP)
            monkeypatch.setattr(fork_server, "ANSWER_TIMEOUT", 0.05)
            began = time.monotonic()
            late, given_up = one.process(), one.process()
            given_up.kill()
            given_up.detach()
            assert time.monotonic() - began < 1
            assert await one.end() == -signal.SIGKILL
            assert not forked(await one.idle(late))
            assert one.forks.pid != stopped

    asyncio.run(run())


def test_no_process_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it can be neither forked nor exec'ed, that is told, and nothing is left."""

    def none(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    async def run() -> None:
        async with bench() as one:
            await one.idle(one.process())
            os.kill(one.forks.pid, signal.SIGSTOP)
            monkeypatch.setattr(fork_server, "ANSWER_TIMEOUT", 0.05)
            monkeypatch.setattr(own_process, "execute", none)
            one.process()
            how = await one.end()
            assert isinstance(how, OSError)
            with pytest.raises(OSError, match="temporarily"):
                one.process()

    asyncio.run(run())


def test_another_arrayd_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has no parts of two versions: the fork server ends, and the new one is exec'ed."""
    installed = tmp_path / "protocol.py"
    installed.touch()
    code = (
        "from arrayd.wire import protocol\n"
        "from arrayd_server.loading import fork_program\n"
        f"protocol.__file__ = {str(installed)!r}\n"
        "fork_program.main()"
    )
    monkeypatch.setattr(early_start, "PROGRAM", ("-c", code))

    async def run() -> None:
        async with bench() as one:
            assert forked(await one.idle(one.process()))
            os.utime(installed, (1, 1))
            assert not forked(await one.idle(one.process()))
            await one.until(lambda: one.forks.pid == 0)

    asyncio.run(run())


def test_the_daemon_is_killed(daemon: Daemon, tmp_path: Path) -> None:
    """Its fork server and all that was forked end with it."""
    save(tmp_path / "x.npy", np.arange(9.0))
    with arrayd.connect(daemon.endpoint) as client:
        client.get(tmp_path / "x.npy")
        own = [*children_named(daemon, "arrayd-forks"), *workers(daemon)]
        assert len(own) >= 2
        assert all(forked(Path(f"/proc/{pid}")) for pid in own)
        pidfds = [os.pidfd_open(pid) for pid in own]
    daemon.kill()
    try:
        for pid in own:
            stat = Path(f"/proc/{pid}/stat")
            wait_until(lambda: not stat.exists() or ") Z " in stat.read_text(), "it is dead")  # noqa: B023
    finally:
        for fd in pidfds:
            os.close(fd)
    daemon.start()


def test_what_a_fork_server_costs() -> None:
    """A process from it has few pages of its own, and uses the time of a fork, not of an import."""

    async def run() -> None:
        async with bench() as one:
            proc = await one.idle(one.process())
            sizes = {
                line.split(":")[0]: int(line.split()[1]) << 10
                for line in (proc / "smaps_rollup").read_text().splitlines()[1:]
            }
            assert sizes["Private_Dirty"] < resource.getpagesize() * 1500
            ticks = (proc / "stat").read_text().rpartition(") ")[2].split()
            assert (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK") <= 0.1

    asyncio.run(run())


def test_nobody_waits_any_more() -> None:
    """A process that is there when the daemon has just ended goes without a word in its log."""
    code = """
import os
from arrayd_server.loading import fork_program
reading, writing = os.pipe()
os.close(reading)
fork_program._become("none", writing, os.getpid(), "1")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
