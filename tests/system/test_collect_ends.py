"""``arrayd collect`` that ends early: what it alone has begun to load ends with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.cli import main
from tests.support.daemons import Daemon
from tests.support.processes import SLOW, frozen, save, wait_until

pytestmark = pytest.mark.one_daemon

PROGRAM = "import sys; from arrayd.cli import main; sys.exit(main())"
AHEAD = 2
"""Files that half of the budget of the tests' daemon has room for."""


def under_way(client: arrayd.Client) -> set[str]:
    """Return what is being loaded, or is to be."""
    status = client.status()
    jobs = [job.source for job in status.jobs if job.stage != "info"]
    return {*jobs, *(block.source for block in status.blocks if block.state == "loading")}


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_its_loads_end_with_it(
    daemon: Daemon,
    client: arrayd.Client,
    slow_file: Path,
    tmp_path: Path,
    ending: signal.Signals,
) -> None:
    """The files that it has asked for ahead are not loaded; one that others want too is."""
    files = [tmp_path / f"{number}.txt" for number in range(2 * AHEAD)]
    for file in files:
        shutil.copy(slow_file, file)
    words = ["collect", *files, "-o", tmp_path / "out.h5", "--endpoint", daemon.endpoint]
    options = [word for key, value in SLOW.items() for word in ("--option", f"{key}={value}")]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, words), *options], stderr=subprocess.DEVNULL
    )
    with process:
        wait_until(lambda: len(under_way(client)) == AHEAD, "it loads ahead")
        with frozen(daemon):
            wanted = {str(files[AHEAD - 1])}
            assert under_way(client) > wanted, "a load was over before it could be stopped"
            client.prefetch(*wanted, **SLOW)
            process.send_signal(ending)
            process.wait(timeout=20)
            wait_until(lambda: under_way(client) == wanted, "the others have ended")
    wait_until(lambda: not under_way(client), "what another wants is loaded")
    assert [block.source for block in client.status().blocks] == [*wanted]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_amid_a_write_is_not_lost(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: signal.Signals
) -> None:
    """What a handler raises where h5py frees its objects is ignored: it runs after the write."""
    save(tmp_path / "a.npy", np.zeros(5))
    save(tmp_path / "b.npy", np.zeros(5))
    written, write = list[Any](), h5py.Dataset.__setitem__

    class Freed:
        def __del__(self) -> None:
            os.kill(os.getpid(), ending)

    def interrupted(dataset: h5py.Dataset, *words: Any) -> None:
        Freed()
        write(dataset, *words)
        written.append(dataset.name)

    monkeypatch.setattr(h5py.Dataset, "__setitem__", interrupted)
    words = ["collect", tmp_path / "a.npy", tmp_path / "b.npy", "-o", tmp_path / "out.h5"]
    ended: int | str | None
    try:
        ended = main([*map(str, words), "--endpoint", daemon.endpoint])
    except SystemExit as end:
        ended = end.code
    assert ended == 128 + ending
    assert len(written) == 1
    assert not (tmp_path / "out.h5").exists()
