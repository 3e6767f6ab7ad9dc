"""What is decoded apart: in a process that has read no other file, and that ends with it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.errors import BadFile, LoadError
from arrayd_server.loading.own_process import OwnProcess
from arrayd_server.loading.tasks import Task
from arrayd_server.loading.worker_pool import Pool
from tests.faults.impostors import pool, program
from tests.support.daemons import Daemon
from tests.support.processes import wait_until

VALUES = 4096
MARKER = b"SECRET-OF-A-FILE"


# ---- the child -------------------------------------------------------------------------------


def python(code: str, **options: Any) -> subprocess.Popen[str]:
    """Run code that has `apart`."""
    prelude = "import os, signal, sys, time\nfrom arrayd_server.loading.apart import apart\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code], stdout=subprocess.PIPE, text=True, **options
    )


def test_nothing_of_it_stays_but_its_modules() -> None:
    """What the child reads is not in the parent; what of a loader it imported is."""
    code = (
        "seen = []\n"
        "def work():\n"
        "    import colorsys, arrayd_server.loaders.npz\n"
        "    seen.append(1)\n"
        "    print(os.getpid(), flush=True)\n"
        "apart(work)\n"
        "names = 'colorsys', 'arrayd_server.loaders.npz'\n"
        "print(os.getpid(), seen, [name in sys.modules for name in names])"
    )
    told, _ = python(code).communicate(timeout=60)
    child, parent = told.splitlines()
    assert child not in parent
    assert parent.endswith("[] [False, True]")


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("raise SystemExit(3)", 1),
        ("pass", 0),
    ],
)
def test_it_ends_as_its_child(end: str, code: int) -> None:
    """A signal that ends the child ends the loader too, so that the daemon hears which."""
    process = python(f"def work():\n    {end}\napart(work)", stderr=subprocess.DEVNULL)
    process.communicate(timeout=60)
    assert process.returncode == code


def test_the_child_dies_with_its_parent() -> None:
    """Who kills the loader kills what it does."""
    with python("apart(lambda: (print(os.getpid(), flush=True), time.sleep(600)))") as process:
        assert process.stdout is not None
        child = Path(f"/proc/{int(process.stdout.readline())}/stat")
        process.kill()
        wait_until(lambda: not child.exists() or ") Z " in child.read_text(), "the child is dead")


# ---- the pool --------------------------------------------------------------------------------


class Watched:
    """A pool, and what each of its processes was given to do, in order."""

    def __init__(self, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pool = pool
        self.done: dict[int, list[tuple[str, bool]]] = {}
        send = OwnProcess.send

        def note(process: OwnProcess, message: Any) -> None:
            self.done.setdefault(process.pid, []).append(
                (message["source"]["path"], message["apart"])
            )
            send(process, message)

        monkeypatch.setattr(OwnProcess, "send", note)

    def ask(self, path: str, *, apart: bool, urgent: bool = False) -> asyncio.Future[Any]:
        """Submit a task; return what will come of it."""
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        wire = {"op": "fill", "source": {"path": path}}
        task = Task(1, path, wire, result.set_result, lambda rows: None, urgent, apart)
        self.pool.submit(task)
        return result


@pytest.mark.parametrize("limit", [1, 2])
def test_only_a_process_that_read_nothing_does_it(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever order tasks come, none is done apart where another file had been read."""

    async def run() -> None:
        async with pool(limit=limit) as one:
            watched = Watched(one, monkeypatch)
            chance = np.random.default_rng(limit)
            with program("honest"):
                for _ in range(6):
                    kinds = chance.integers(0, 4, 8)
                    asked = [
                        watched.ask(f"/x{k}", apart=k > 1, urgent=k == 1) for k in kinds.tolist()
                    ]
                    for result in await asyncio.wait_for(asyncio.gather(*asked), 60):
                        assert "pid" in result
            for given in watched.done.values():
                flags = [apart for _, apart in given]
                assert flags == sorted(flags, reverse=True), "apart, after it read a file itself"
                assert not any(apart for path, apart in given if path == "/x0")
                assert all(apart for path, apart in given if path in ("/x2", "/x3"))
            assert len(one.workers) <= limit + 2

    asyncio.run(run())


def test_used_workers_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all there may be have read files, and are idle, one ends for what is done apart."""

    async def run() -> None:
        async with pool(limit=1) as one:
            watched = Watched(one, monkeypatch)
            with program("honest"):
                while len(one.workers) < one._most:
                    one._start()
                for worker in one.workers:
                    worker.clean = False
                await asyncio.wait_for(watched.ask("/x", apart=True), 20)
            assert len(one.workers) == one._most
            assert [worker.clean for worker in one.workers] == [False, False, True]

    asyncio.run(run())


def test_no_process_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be started and all idle ones are unfit, they end, and it is told."""

    async def run() -> None:
        async with pool(limit=1) as one:
            watched = Watched(one, monkeypatch)
            with program("honest"):
                await watched.ask("/x", apart=False)

                def refuse() -> None:
                    raise OSError(11, "Resource temporarily unavailable")

                monkeypatch.setattr(one, "_start", refuse)
                told = await asyncio.wait_for(watched.ask("/y", apart=True), 20)
            assert isinstance(told, LoadError)
            assert not one.workers

    asyncio.run(run())


# ---- files -----------------------------------------------------------------------------------


def shortened(path: Path, **filters: Any) -> None:
    """Write a dataset whose one chunk decodes to an eighth of its size, or ends early."""
    with h5py.File(path, "w") as file:
        values = np.arange(VALUES, dtype="<i4")
        dataset = file.create_dataset("x", data=values, chunks=(VALUES,), **filters)
        _, raw = dataset.id.read_direct_chunk((0,))
        short = (
            zlib.compress(bytes(VALUES // 2)) if "compression" in filters else raw[: len(raw) // 8]
        )
        dataset.id.write_direct_chunk((0,), short)


@pytest.mark.parametrize(
    "filters",
    [{"compression": "gzip"}, {"shuffle": True}, {"scaleoffset": 0}, {"virtual": True}],
    ids=lambda filters: next(iter(filters)),
)
def test_a_chunk_cut_short_shows_no_other_file(
    filters: dict[str, Any], start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """Whatever libhdf5 makes of it: it is nothing that the loader had read before."""
    daemon = start_daemon("--workers", "1")
    virtual = filters.get("virtual")
    secret = np.frombuffer(MARKER * VALUES, "u1")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        for n in range(8):
            file.create_dataset(f"x{n}", data=secret[: 4 * VALUES], chunks=(4 * VALUES,))
            file.create_dataset(f"y{n}", data=secret[: VALUES // 4], compression="gzip")
    np.save(tmp_path / "secret.npy", secret)
    shown = 0
    with arrayd.connect(daemon.endpoint) as client:
        for n in range(8):
            path = tmp_path / f"short{n}.h5"
            shortened(path, **({"shuffle": True} if virtual else filters))
            if virtual:
                layout = h5py.VirtualLayout((VALUES,), "<i4")
                layout[:] = h5py.VirtualSource(str(path), "x", (VALUES,))
                path = tmp_path / f"virtual{n}.h5"
                with h5py.File(path, "w") as file:
                    file.create_virtual_dataset("x", layout)
            for name in (f"secret.h5:x{n}", f"secret.h5:y{n}", "secret.npy"):
                client.get(f"{tmp_path}/{name}")
            try:
                shown += MARKER[1:8] in client.get(path, dataset="x").tobytes()
            except BadFile as error:  # where arrayd itself has inflated it
                assert "compression" in filters, error
    assert shown == 0
