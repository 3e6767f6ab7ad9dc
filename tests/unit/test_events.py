"""The kinds of events: each with an identity for good, and an explanation that journalctl finds."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from arrayd_server import events


def test_each_has_its_own_identity() -> None:
    """128 bits in lower-case digits, and a name for programs; none is there twice."""
    ids = [one.message_id for one in events.EVENTS]
    names = [one.name for one in events.EVENTS]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
    assert all(re.fullmatch("[a-z]+(-[a-z]+)*", one) for one in names)
    assert len(set(ids)) == len(set(names)) == len(events.EVENTS)


def test_an_identity_does_not_change() -> None:
    """Who watches for these has them in a file."""
    known = {one.name: one.message_id for one in events.EVENTS}
    assert known["started"] == "c60687f7a0cf471489270e7673f8bcfe"
    assert known["refused"] == "59560b5a6d3d4ceba1a1426f561d06a5"


def test_the_catalogue_names_fields_that_exist() -> None:
    """What stands between ``@`` is a field that `Event.about` can give."""
    fields = set(re.findall(r"@(\w+)@", events.catalogue()))
    assert fields <= {f"ARRAYD_{name.upper()}" for name in events.FACTS}
    assert fields >= {"ARRAYD_BLOCK", "ARRAYD_UID"}


def test_journalctl_reads_the_catalogue(tmp_path: Path) -> None:
    """Compiled by systemd itself, it has the explanation of each kind."""
    if shutil.which("journalctl") is None:
        pytest.skip("systemd is not installed")
    folder = tmp_path / "usr/lib/systemd/catalog"
    folder.mkdir(parents=True)
    (folder / "arrayd.catalog").write_text(events.catalogue())
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    for command in ("--update-catalog", "--dump-catalog"):
        done = subprocess.run(
            ["journalctl", f"--root={tmp_path}", command], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
    for one in events.EVENTS:
        assert f"-- {one.message_id}\nSubject: {one.subject}\n" in done.stdout


def test_only_facts_that_are_known() -> None:
    """A fact that there is none of is no field."""
    assert events.ADOPTED.about(block="b", bytes=0) == {
        "event": events.ADOPTED,
        "block": "b",
        "bytes": 0,
    }
