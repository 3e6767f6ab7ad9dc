"""The units before a real systemd-analyze: understood, complete, and how much they expose."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from arrayd.system.launch import SYSTEM_ENDPOINT

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SERVICE = DEPLOY / "system" / "arrayd.service"

MOST_EXPOSED = 20
"""Tenths of the score of ``systemd-analyze security`` that the service may have."""


def analyze() -> str:
    """Return the path of a systemd-analyze that knows all that the units use."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    if int(version.split()[1]) < 251:
        pytest.skip(f"{version.splitlines()[0]} does not know the specifier %Y")
    return program


def verify(unit: Path, manager: str) -> list[str]:
    """Return what systemd-analyze, as the ``--user`` or ``--system`` manager, says about `unit`."""
    # A short path, for the machine's own user units put sockets below it; and what there
    # is to say about those is not our concern.
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        done = subprocess.run(
            [analyze(), manager, "verify", "--recursive-errors=no", unit],
            env=os.environ | {"XDG_RUNTIME_DIR": runtime},
            capture_output=True,
            text=True,
            timeout=60,
        )
    lines = done.stderr.splitlines()
    return lines if done.returncode else [line for line in lines if "arrayd." in line]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a folder with the units as a venv has them, and an arrayd for them to find."""
    folder = tmp_path / "venv/share/arrayd"
    shutil.copytree(DEPLOY, folder)
    program = tmp_path / "venv/bin/arrayd"
    program.parent.mkdir()
    program.symlink_to(sys.executable)
    for unit in folder.rglob("*.service"):
        unit.write_text(unit.read_text().replace("/opt/arrayd/bin", str(program.parent)))
    return folder


UNITS = [
    ("user/arrayd.service", "--user"),
    ("system/arrayd.service", "--system"),
    ("system/arrayd.socket", "--system"),
    ("system/arrayd-metrics.socket", "--system"),
]


@pytest.mark.parametrize(("unit", "manager"), UNITS)
def test_systemd_accepts_the_units(unit: str, manager: str, installed: Path) -> None:
    """``systemd-analyze verify`` has nothing to say; the user's finds arrayd beside itself."""
    assert verify(installed / unit, manager) == []


@pytest.mark.parametrize(("unit", "manager"), UNITS[:2])
def test_systemd_would_complain(unit: str, manager: str, installed: Path) -> None:
    """The check above can fail: a program that is not there, or an unknown key, is reported."""
    (installed.parents[1] / "bin/arrayd").unlink()
    text = (installed / unit).read_text()
    (installed / unit).write_text(text.replace("Type=notify", "Type=notify\nTpye=notify"))
    report = "\n".join(verify(installed / unit, manager))
    assert "Unknown key 'Tpye'" in report or "Unknown key name 'Tpye'" in report
    assert "bin/arrayd is not executable" in report


@pytest.mark.parametrize("drop_in", [False, True])
def test_the_service_exposes_little(drop_in: bool, tmp_path: Path) -> None:
    """2.0 at most on the scale of ``systemd-analyze security``, with the drop-in too."""
    unit = tmp_path / "arrayd.service"
    more = (DEPLOY / "system" / "read-users-files.conf").read_text() if drop_in else ""
    unit.write_text(f"{SERVICE.read_text()}\n{more}")
    command = [analyze(), "security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr
    assert "Overall exposure level" in done.stdout


def test_the_exposure_is_measured(tmp_path: Path) -> None:
    """The check above can fail: without its hardening the service is over the threshold."""
    unit = tmp_path / "arrayd.service"
    unit.write_text(
        re.sub(r"(?m)^(Protect|Private|Restrict|Capab|System).*$", "", SERVICE.read_text())
    )
    command = [analyze(), "security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(unit)]
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_every_setting_is_explained() -> None:
    """Above each group of settings of the service stands a comment."""
    section = SERVICE.read_text().partition("[Service]")[2].partition("[Install]")[0]
    groups = [group.strip() for group in section.strip().split("\n\n")]
    assert [group for group in groups if not group.startswith("#")] == []


def test_all_name_the_same_socket() -> None:
    """The socket unit listens where the daemon is told to, which is where clients look first."""
    (listen,) = re.findall(
        r"(?m)^ListenStream=(.*)$", (DEPLOY / "system/arrayd.socket").read_text()
    )
    assert f"ipc://{listen}" == SYSTEM_ENDPOINT
    assert f"--endpoint {SYSTEM_ENDPOINT} " in SERVICE.read_text()
