"""What a loader tells of its progress: each row once."""

from __future__ import annotations

import socket

import msgpack
import pytest

from arrayd_server.loading import worker


@pytest.mark.parametrize("interval", [0.0, 3600.0], ids=["each", "the last"])
def test_each_row_is_told_once(interval: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told how many are done so far, a task passes on how many more these are."""
    monkeypatch.setattr(worker, "_PROGRESS_INTERVAL", interval)
    daemon, loader = socket.socketpair()
    with daemon, loader:
        task = worker.RunningTask(loader, msgpack.Unpacker(), 7)
        for done in (3, 5, 5, 9):
            task.rows(done)
        task.report()
        loader.shutdown(socket.SHUT_WR)
        inbox = msgpack.Unpacker(daemon.makefile("rb"))
        told = [message["rows"] for message in inbox]
    assert sum(told) == 9
