"""What each command really prints with ``--json`` is what its schema says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayd
from arrayd import cli
from arrayd.cli import schemas
from tests.support.daemons import Daemon
from tests.support.schemas import check

pytestmark = pytest.mark.one_daemon

Call = Callable[..., Any]

ENDING = {"stop", "drain"}
"""The commands that end the daemon."""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Give files of several formats, one of them damaged, by their names."""
    np.save(tmp_path / "a.npy", np.arange(12, dtype="f8").reshape(3, 4))
    np.save(tmp_path / "fields.npy", np.zeros(3, [("x", "f4"), ("y", "S3", (2,))]))
    np.savez(tmp_path / "two.npz", one=np.zeros(2), two=np.ones((2, 2)))
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00nothing")
    return {path.name: str(path) for path in tmp_path.iterdir()}


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Give ``call(endpoint, command, *words)``: its exit code, and its JSON, which is checked."""

    def run(endpoint: str, command: str, *words: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = cli.main([command, "--endpoint", endpoint, "--json", *words])
        return code, check(command, capsys.readouterr().out)

    return run


def test_each_command(daemon: Daemon, files: dict[str, str], call: Call) -> None:
    """With blocks of all kinds, failed loads, and a process that holds them."""
    tried = set()

    def ok(command: str, *words: str, code: int = 0) -> Any:
        tried.add(command)
        found, value = call(daemon.endpoint, command, *words)
        assert found == code
        return value

    with arrayd.connect(daemon.endpoint) as client:
        held = [client.get(files["a.npy"]), client.put([1, 2], "some")]
        ok("get", files["a.npy"], files["bad.npy"], files["fields.npy"], "--attach", code=1)
        ok("info", *(files[name] for name in ("a.npy", "fields.npy", "two.npz")), "name:some")
        _, bad = ok("info", files["a.npy"], files["bad.npy"], code=1)
        assert bad["error"]["code"] == "BadFile"
        with client.create(2, "f4"):
            status = ok("status")
        assert {one["state"] for one in status["blocks"]} >= {"held", "writing"}
        assert [one["error"] for one in status["failures"]] == ["BadFile"]
        assert len(ok("who", files["a.npy"])["blocks"]) == 1
        ok("report", files["a.npy"], "--cast", "f2")
        ok("health")
        tried.add("doctor")
        assert call(daemon.endpoint, "doctor")[1]
        ok("kick", str(os.getpid()))
        del held
    assert ok("evict", files["fields.npy"])["blocks"] == 1
    assert ok("evict", files["a.npy"], "/none")["blocks"] == 1
    absent = ok("evict", "/none", "/nor this", code=1)
    assert [one["source"] for one in absent["errors"]] == ["/none", "/nor this"]
    assert tried | ENDING == {*schemas.COMMANDS}


@pytest.mark.parametrize("command", sorted(ENDING))
def test_those_that_end_it(command: str, start_daemon: Callable[..., Daemon], call: Call) -> None:
    """A daemon of their own."""
    daemon = start_daemon("--budget", "64M")
    assert call(daemon.endpoint, command) == (
        0,
        {"endpoint": daemon.endpoint, "pid": daemon.pid, "ended": True},
    )
    assert daemon.end(0) == 0


def test_an_unhealthy_daemon(short_directory: Path, call: Call) -> None:
    """Where none answers there is JSON as well, and a pid that is null."""
    code, value = call(f"ipc://{short_directory}/none", "health")
    assert (code, value["healthy"], value["pid"]) == (1, False, None)
