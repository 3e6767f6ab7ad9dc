"""``arrayd demo``, end to end, as a newcomer runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from arrayd.cli import demo, demo_reader, demo_stage
from tests.system.test_collect import DTYPE_TEXT, METHYLATION, PROGRAM


@pytest.fixture
def place(short_directory: Path) -> Iterator[Path]:
    """Give the folder for temporary files, which must be empty again after the test."""
    yield short_directory
    assert os.listdir(short_directory) == []


def start(place: Path, *words: object) -> subprocess.Popen[str]:
    """Start ``arrayd demo``, in an environment that would lead another daemon astray."""
    misleading = {"ARRAYD_ENDPOINT": "ipc:///nowhere/sock", "ARRAYD_CONFIG": "/nowhere"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "demo", *map(str, words)],
        env={**os.environ, **misleading, "TMPDIR": str(place)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_demo_shows_all_it_claims(place: Path) -> None:
    """Exit 0 in less than a minute, seven steps in 80 columns, nothing left behind."""
    begin = time.monotonic()
    process = start(place)
    story, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (0, ""), story
    assert time.monotonic() - begin < 60
    assert [line[:2] for line in story.splitlines() if line[:2].strip().isdigit()] == [
        f" {n}" for n in range(1, 8)
    ]
    assert max(map(len, story.splitlines())) <= 80
    assert "16 requests, 4 loads" in story
    assert "3 holders, not 4" in story
    assert "Read back: equal" in story
    assert "in /dev/shm: 4, 3, and now 0" in story


@pytest.mark.skipif(not METHYLATION.is_dir(), reason="needs ../shared/data/methylation")
def test_the_demo_with_given_files(place: Path) -> None:
    """Files of one's own take the place of the samples; the same one twice is loaded once."""
    files = sorted(METHYLATION.glob("*.cov.txt"))[:2]
    process = start(place, *files, files[0], "--dtype", DTYPE_TEXT)
    story, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (0, ""), story
    assert "12 requests, 2 loads" in story


def test_the_demo_with_a_small_file(place: Path) -> None:
    """A file of some bytes takes pages in memory, and that is fine."""
    small = place.with_name(f"{place.name}.npy")
    np.save(small, np.zeros(100))
    try:
        process = start(place, small)
        story, complaint = process.communicate(timeout=60)
    finally:
        small.unlink()
    assert (process.returncode, complaint) == (0, ""), story


def test_a_bad_file_ends_the_demo(place: Path) -> None:
    """The file and its line are named, exit 1, and all is cleaned up."""
    bad = place.with_name(f"{place.name}.txt")
    bad.write_text("1 2\n3 x\n")
    try:
        process = start(place, bad)
        _, complaint = process.communicate(timeout=60)
    finally:
        bad.unlink()
    assert process.returncode == 1
    assert complaint.startswith(f"arrayd: {bad}, line 2: ")
    assert len(complaint.splitlines()) == 1


def test_ctrl_c_ends_the_demo(place: Path) -> None:
    """SIGINT while the readers hold their blocks: exit 130, no word, nothing left."""
    process = start(place)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(" 3"):
            break
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (130, "")


def test_a_claim_that_does_not_hold_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """One broken check makes the demo fail, and says which."""
    story = demo.Story("", [], None)
    story.check(True, "unseen")
    assert story.verdict() == 0
    story.check(False, "5 loads, not 4")
    assert story.verdict() == 1
    assert capsys.readouterr().err == "arrayd: the demo saw what it should not: 5 loads, not 4\n"


def test_samples_are_what_the_dtype_says(tmp_path: Path) -> None:
    """The sample files differ, and each row is a row of `SAMPLE_DTYPE`."""
    one, two = (Path(path) for path in demo_stage.write_samples(str(tmp_path), 2))
    assert one.read_bytes() != two.read_bytes()
    assert one.stat().st_size > 2_000_000
    assert len(one.read_text().split("\n", 1)[0].split("\t")) == len(
        demo_stage.SAMPLE_DTYPE.names or ()
    )


def test_memory_is_read_from_smaps(tmp_path: Path) -> None:
    """What is mapped nowhere takes nothing."""
    assert demo_reader.memory(["arrayd-of-nobody"]) == {"mapped": 0, "share": 0}
