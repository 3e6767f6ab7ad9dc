"""The worked examples run as they stand, and show what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemons import Daemon

EXAMPLES = Path(__file__).resolve().parents[2] / "client" / "examples"


def test_two_models_and_a_crash(daemon: Daemon, tmp_path: Path) -> None:
    """Two trainings on one set; one is killed and resumed; both models are bit for bit the same."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "train_digits.py", "--copies", "16"],
        env={
            **os.environ,
            "ARRAYD_ENDPOINT": daemon.endpoint,
            "ARRAYD_CACHE": str(tmp_path / "cache"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("row-random: 22,992 rows") for line in lines)
    assert lines[-2:] == [
        "small: the same model, bit for bit",
        "large: the same model, bit for bit",
    ]
    digests = {line.split()[-2 if "resumed" in line else -1] for line in lines if "0." in line[:60]}
    digests = {word for word in digests if len(word) == 64}
    assert len(digests) == 1
