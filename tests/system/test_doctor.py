"""``arrayd doctor``: beside a daemon, without one, and where one has died."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd import cli
from arrayd.cli import doctor
from arrayd.common.findings import FAIL, OK, WARN, Finding
from tests.support.daemons import Daemon

CHECKS = [
    *("daemon", "socket", "versions", "/dev/shm", "memory", "leases", "access lists", "Landlock"),
    *("huge pages", "open files", "log-out", "remains", "second daemon"),
]


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Finding]]:
    """Return the exit code, and what was found of each thing."""
    capsys.readouterr()
    code = cli.main(["doctor", "--json", *words])
    found = [Finding(**one) for one in json.loads(capsys.readouterr().out)]
    return code, {one.check: one for one in found}


def test_a_daemon_that_is_well(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thing has a line, nothing fails; another version or a strange socket is told."""
    assert cli.main(["doctor", "--endpoint", daemon.endpoint]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line[6:21].rstrip() for line in said] == CHECKS
    assert {line[:5].rstrip() for line in said} <= {OK, WARN}
    assert said[0] == f"ok    daemon         pid {daemon.pid} answers at {daemon.endpoint}."
    with arrayd.connect(daemon.endpoint) as client:
        status = client.status()
    assert doctor._versions("0.0.1").state == WARN
    assert doctor._socket(daemon.endpoint, status).state == OK
    monkeypatch.setattr(os, "stat", _of_somebody)
    assert doctor._socket(daemon.endpoint, status).state == FAIL


def _of_somebody(_: object) -> object:
    return type("Info", (), {"st_uid": 60001, "st_mode": 0o140600})


def test_no_daemon(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is well, for a client starts one; where one is named, it must be there."""

    def look(wanted: str) -> Finding:
        return doctor._look(wanted)[2][0]

    found = look(f"{short_directory}/none")
    assert (found.state, "No such file" in found.words) == (FAIL, True)
    monkeypatch.delenv("ARRAYD_ENDPOINT", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_directory))
    assert look("private").state == OK
    (short_directory / "arrayd").mkdir(0o755)
    found = look("private")
    assert (found.state, "chmod 700" in found.remedy) == (FAIL, True)


def test_one_lives_and_one_has_died(
    start_daemon: Callable[..., Daemon], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second daemon is named; what a dead one has left is told, and stays where it is."""
    one, two = start_daemon(), start_daemon()
    code, found = ask(capsys, "--endpoint", one.endpoint)
    assert (code, found["second daemon"].state) == (0, WARN)
    assert str(two.pid) in found["second daemon"].words
    assert str(one.pid) not in found["second daemon"].words
    np.save(tmp_path / "a.npy", np.zeros(5))
    with arrayd.connect(two.endpoint) as client:
        client.get(tmp_path / "a.npy")
    kept = two.segments
    two.kill()
    code, found = ask(capsys, "--endpoint", two.endpoint)
    assert (code, found["daemon"].state, found["remains"].state) == (1, FAIL, WARN)
    assert "no daemon listens" in found["daemon"].words
    assert two.segments == kept != []
    two.start()  # takes them over, and ends in order


def test_a_narrow_terminal() -> None:
    """Lines are broken where the words begin; nothing is wider, and nothing is lost."""
    finding = Finding(WARN, "huge pages", "Many words of it. " * 9, "`mount -o a-very-long/path`.")
    shown = list(doctor.lines([finding], 60))
    assert max(map(len, shown)) <= 60
    assert all(line.startswith(" " * 21) for line in shown[1:])
    assert " ".join(" ".join(shown).split()[3:]) == " ".join(str(finding).split())
