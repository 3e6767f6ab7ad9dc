"""What comes too late: grants that nobody waits for any more, and looks at a file that changed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import arrayd
from tests.fixtures import Daemon
from tests.helpers import Stage, only_block, pids, save, wait_until


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
        one(f"arrayd.get({str(tmp_path / 'x.npy')!r}, timeout=0.1)")
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
