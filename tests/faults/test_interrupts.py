"""Ctrl-C between any two steps: no hold, no page, no descriptor and no frame is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from arrayd.system.signal_safe import OneShotEvent, TryLock, drain, open_atomically
from tests.faults.interrupts import ACTS
from tests.support.daemons import Daemon
from tests.support.processes import save

EVERY = {"start": 83, "get_many": 53}
"""Which moments are tried here, if not each 29th; by hand, all of them are."""


@pytest.mark.parametrize("act", ACTS)
def test_at_any_moment(daemon: Daemon, tmp_path: Path, act: str) -> None:
    """Whatever a Ctrl-C cuts off, the next moment finds everything given back."""
    for name in ("a.npy", "b.npy"):
        save(tmp_path / name, np.arange(1000))
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.interrupts", act, str(EVERY.get(act, 29))],
        env={
            **os.environ,
            "ARRAYD_ENDPOINT": daemon.endpoint,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    moments, _, losses = done.stdout.partition(" moments, ")
    assert (done.returncode, losses) == (0, "0 losses\n"), done.stdout + done.stderr
    assert int(moments) > 20


# ---- the parts -------------------------------------------------------------------------------


def test_work_is_repeated() -> None:
    """What is cut off stays, and is done again; what a handler has done meanwhile is not."""
    done: list[int] = []

    def work(one: int) -> None:
        done.append(one)
        if done == [1]:
            raise KeyboardInterrupt
        if one == 2:  # as a signal handler in the midst of it
            waiting.popleft()

    waiting = deque([1, 2, 3])
    with pytest.raises(KeyboardInterrupt):
        drain(waiting, work)
    assert list(waiting) == [1, 2, 3]
    drain(waiting, work)
    assert (done, list(waiting)) == ([1, 1, 2, 3], [])


def test_an_event_is_kept_until_somebody_waits() -> None:
    """Set twice before the wait, it wakes once; set amid the wait, it wakes at once."""
    bell = OneShotEvent()
    bell.set()
    bell.set()
    bell.wait(60)
    began = time.monotonic()
    bell.wait(0.01)
    assert time.monotonic() - began >= 0.01
    bell.set()
    bell.clear()
    bell.wait(0.01)
    ringing = threading.Timer(0, bell.set)
    ringing.start()
    bell.wait(60)
    ringing.join()
    assert time.monotonic() - began < 60


def test_try_lock() -> None:
    """One thread at a time, a handler of that thread as well; at the end `last`, once."""
    turns, said = TryLock(), list[str]()

    def elsewhere() -> bool:
        answer: list[bool] = []
        other = threading.Thread(
            target=lambda: answer.append(turns.take(lambda: said.append("other"), said.clear))
        )
        other.start()
        other.join()
        return answer[0]

    def work() -> None:
        assert not elsewhere()
        assert turns.take(lambda: said.append("handler"), lambda: said.append("too soon"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        turns.take(work, lambda: said.append("last"))
    assert (said, turns.depth) == (["handler", "last"], 0)
    assert elsewhere()


def test_what_is_opened_is_noted() -> None:
    """A descriptor is in the list as soon as it is open; a failure notes nothing."""
    opened: list[int] = []
    fd = open_atomically(opened, os.eventfd, 0, os.EFD_CLOEXEC)
    assert opened == [fd]
    os.close(fd)
    with pytest.raises(FileNotFoundError):
        open_atomically(opened, os.open, "/nowhere/at/all", os.O_RDONLY)
    assert opened == [fd]
