"""Lines of the log that other users cause: no more than can be read, and each user its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from arrayd_server import log_limit, logs
from arrayd_server.config import Config
from arrayd_server.log_limit import BURST
from arrayd_server.service import audit
from tests.support.people import ANN, BOB


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the log file of a daemon; nobody has caused a line so far."""
    monkeypatch.setattr(logs, "LIMIT", log_limit.LineLimit())
    logger = logging.getLogger("arrayd_server")
    before = logger.handlers[:], logger.level, logger.propagate
    logs.configure(Config.load(["--log-file", str(tmp_path / "log")]))
    yield tmp_path / "log"
    for handler in logger.handlers:
        handler.close()
    logger.handlers, logger.level, logger.propagate = before


def test_a_flood_of_lines(written: Path) -> None:
    """Bob causes ten times as many as may be: they are counted, and Ann's are all there."""
    for number in range(10 * BURST):
        audit.refused(BOB, 1, "connect", "", "not named by the option allow")
        if number % 100 == 0:
            audit.refused(ANN, 2, "get", f"/{number}", "mode")
            audit.refused(os.geteuid(), 3, "get", f"/{number}", "mode")
    logs.LIMIT.tell(0.0)
    lines = written.read_text().splitlines()
    bobs = [line for line in lines if f"refused uid={BOB}" in line]
    assert BURST <= len(bobs) < 2 * BURST
    assert sum(f"refused uid={ANN}" in line for line in lines) == 100
    assert sum("pid=3" in line for line in lines) == 100
    (told,) = [line for line in lines if "left out" in line]
    assert f"left out {10 * BURST - len(bobs)} lines of level WARNING that uid={BOB}" in told


def test_grants_hide_no_refusal(written: Path) -> None:
    """Who is granted a lot is not thereby refused in silence, nor can anybody reset the count."""
    for _ in range(2 * BURST):
        audit.kicked(BOB, 1, 1, BOB, 1, 0)
    logs.configure(Config.load(["--log-file", str(written)]))  # as by a reload
    audit.kicked(BOB, 1, 1, BOB, 1, 0)
    audit.refused(BOB, 1, "get", "/etc/shadow", "mode")
    lines = written.read_text().splitlines()
    assert sum("kicked" in line for line in lines) < BURST + BURST // 2
    assert "shadow" in lines[-1]
