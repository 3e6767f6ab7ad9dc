"""The status as a table, as HTML and as JSON."""

from __future__ import annotations

import json
import os
import pwd
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrayd.results import status_table
from arrayd.results.columns import HEAD
from arrayd.results.status import BlockStatus, Holder, JobStatus
from arrayd.results.status_table import Status
from arrayd.wire.dtypes import descr
from arrayd.wire.grant import Spec
from arrayd_server.core import model
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.model import State
from arrayd_server.service import status_report

G = 1 << 30
NOBODY = 4_000_000_000
"""A uid that has no name."""

ROOT = pwd.getpwuid(0).pw_name


def block(**changes: Any) -> BlockStatus:
    """Return a block of a typical file, held by two."""
    held = (Holder(9912, NOBODY, "other", 100.0), Holder(9911, 0, "train.py", 7300.0))
    common = BlockStatus(
        number=42,
        segment="arrayd-0123456789-01234567-42",
        size=int(39.9 * G),
        nbytes=int(39.9 * G) - 8192,
        shape=(6_512_000, 784),
        dtype=np.dtype("f4"),
        order="C",
        state="held",
        pinned=False,
        done=0,
        total=0,
        source="/data/methylation/train.h5:/x",
        path="/data/methylation/train.h5",
        name=None,
        holders=held,
        waiters=(),
        lends=0,
        age=7300.0,
        unused=0.0,
    )
    return replace(common, **changes)


IDLE = block(
    number=43,
    size=int(1.3 * G),
    shape=(4_000_000,),
    dtype=np.dtype([(name, "i4") for name in "abcde"]),
    state="idle",
    source="/data/methylation/s1.cov.txt",
    holders=(),
    age=3700.0,
    unused=361.0,
)
LOADING = block(
    number=44,
    size=4 << 20,
    shape=(1000, 3),
    state="loading",
    done=61,
    total=100,
    source="/data/methylation/s2.cov.txt",
    holders=(),
    waiters=(Holder(9950, 0, "collect", 9.0),),
    age=9.0,
)


def status(*blocks: BlockStatus, jobs: tuple[JobStatus, ...] = (), **changes: Any) -> Status:
    """Return the status of a daemon with these blocks."""
    common = Status(
        version="0.1.0",
        pid=4711,
        uid=0,
        private=True,
        uptime=7380.0,
        endpoint="ipc:///run/user/1000/arrayd/sock",
        scope="0123456789",
        leases=True,
        budget=64 * G,
        charged=int(41.2 * G),
        held=int(39.9 * G),
        idle=int(1.3 * G),
        shm_used=int(41.3 * G),
        shm_total=94 * G,
        garbage=0,
        counters={"loads": 3, "hits": 7},
        sessions=(),
        blocks=blocks,
        blocks_more=0,
        jobs=jobs,
        jobs_more=0,
    )
    return replace(common, **changes)


TYPICAL = status(block(), IDLE, LOADING)


def state_of(one: BlockStatus) -> str:
    """Return the STATE of a block as the table shows it."""
    return status_table.block_row(one)[HEAD.index("STATE")]


def golden(text: str) -> str:
    """Return a table of the tests with this system's name for uid 0."""
    return text.strip("\n").replace("root", ROOT)


# ---- as a table ------------------------------------------------------------------------------


@pytest.mark.skipif(len(ROOT) != 4, reason="uid 0 has a name of another length here")
def test_the_table_in_full() -> None:
    """Where nothing limits the width, the table has two lines of head and a row for each block."""
    assert status_table.text(TYPICAL) == golden(
        """
arrayd 0.1.0  private  pid 4711  up 2 h 03  ipc:///run/user/1000/arrayd/sock  leases on
memory  41.2 of 64.0 GiB budget (held 39.9, idle 1.3)   /dev/shm 41.3 of 94 GiB   loads 1
BLOCK  SIZE      SHAPE      DTYPE     STATE         SOURCE                         HELD BY                AGE
42     39.9 GiB  (6.5e6,…)  f4        held ×2       /data/methylation/train.h5:/x  9911 train.py root +1  2 h
43     1.3 GiB   (4e6,)     5 fields  idle 6 min    /data/methylation/s1.cov.txt   -                      1 h
44     4.0 MiB   (1000,3)   f4        loading 61 %  /data/methylation/s2.cov.txt   waits: 9950 collect    9 s
"""  # noqa: E501 - the table is as wide as it is
    )


@pytest.mark.skipif(len(ROOT) != 4, reason="uid 0 has a name of another length here")
def test_the_table_at_80() -> None:
    """A narrow terminal loses the dtype and the beginning of the path, not the holder."""
    assert status_table.text(TYPICAL, 80) == golden(
        """
arrayd 0.1.0  private  pid 4711  up 2 h 03  ipc:///run/user/1000/arrayd/sock
  leases on
memory  41.2 of 64.0 GiB budget (held 39.9, idle 1.3)   /dev/shm 41.3 of 94 GiB
  loads 1
BLOCK SIZE     SHAPE     STATE        SOURCE              HELD BY            AGE
42    39.9 GiB (6.5e6,…) held ×2      …lation/train.h5:/x 9911 train.py roo… 2 h
43    1.3 GiB  (4e6,)    idle 6 min   …ylation/s1.cov.txt -                  1 h
44    4.0 MiB  (1000,3)  loading 61 % …ylation/s2.cov.txt waits: 9950 colle… 9 s
"""
    )


@pytest.mark.parametrize("width", [60, 70, 80, 95, 100, 120, 200])
def test_the_table_fits(width: int) -> None:
    """No line is wider than the terminal."""
    assert max(map(len, status_table.text(TYPICAL, width).splitlines())) <= width


def test_no_blocks() -> None:
    """Without blocks and jobs the table says so."""
    lines = status_table.text(status(charged=0, held=0, idle=0)).splitlines()
    assert lines[1].startswith("memory  0 of 64.0 GiB budget (held 0, idle 0)")
    assert lines[2:] == ["no blocks"]


def test_small_amounts_keep_their_unit() -> None:
    """A size that would read 0.0 GiB has a smaller unit."""
    line = status_table.text(status(charged=5 << 20, held=5 << 20, idle=0)).splitlines()[1]
    assert "memory  5.0 MiB of 64.0 GiB budget (held 5.0 MiB, idle 0)" in line


def test_it_prints_as_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """``print(status)`` fits the terminal it goes to, and is whole where there is none."""
    assert str(TYPICAL) == status_table.text(TYPICAL)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    assert str(TYPICAL) == status_table.text(TYPICAL, 80)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "held ×2"),
        ({"pinned": True}, "held ×2, kept"),
        ({"state": "idle", "holders": (), "unused": 9.0}, "idle 9 s"),
        ({"state": "idle", "holders": (), "pinned": True}, "idle 0 s, kept"),
        ({"state": "loading", "done": 1, "total": 3}, "loading 33 %"),
        ({"state": "loading", "total": 0}, "loading"),
        ({"state": "writing"}, "writing"),
        ({"state": "stray"}, "stray"),
        ({"state": "leaving"}, "leaving"),
        ({"state": "lent"}, "lent"),
    ],
)
def test_states(changes: dict[str, Any], words: str) -> None:
    """Each state of a block has its word."""
    assert state_of(block(**changes)) == words


def test_a_job_without_a_block() -> None:
    """A request that waits for room has a row, and counts as a load."""
    waits = (Holder(7, 0, "a.py", 1.0), Holder(8, 0, "b.py", 2.0))
    job = JobStatus("waiting for room", "/data/x.npy", 0, waits, 3.0)
    lines = status_table.text(status(jobs=(job,))).splitlines()
    assert lines[1].endswith("loads 1")
    row = " ".join(lines[3].split())
    assert row == "- - - - waiting for room /data/x.npy waits: 8 b.py +1 3 s"


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((), "()"),
        ((5,), "(5,)"),
        ((1000, 3), "(1000,3)"),
        ((99_999,), "(99999,)"),
        ((4_000_000,), "(4e6,)"),
        ((6_512_000, 784), "(6.5e6,…)"),
        ((10**12,), "(1e12,)"),
    ],
)
def test_shapes(shape: tuple[int, ...], words: str) -> None:
    """Large numbers and many dimensions are shortened."""
    assert status_table._shape(shape) == words


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("f4", "f4"),
        (">f4", ">f4"),
        ("S10", "S10"),
        ("M8[ns]", "M8[ns]"),
        ([("x", "f4")], "1 field"),
        ([("x", "f4"), ("y", "i4")], "2 fields"),
    ],
)
def test_dtypes(dtype: Any, words: str) -> None:
    """A dtype is short; byte order is shown where it is not the machine's."""
    assert status_table._dtype(np.dtype(dtype)) == words


@pytest.mark.parametrize(
    ("seconds", "short", "fine"),
    [
        (-1, "0 s", "0 s"),
        (59.9, "59 s", "59 s"),
        (361, "6 min", "6 min"),
        (7380, "2 h", "2 h 03"),
        (90_000, "1 d", "1 d 1 h"),
    ],
)
def test_durations(seconds: float, short: str, fine: str) -> None:
    """A duration has one unit, or two where there is room."""
    assert status_table.duration(seconds) == short
    assert status_table.duration(seconds, fine=True) == fine


def test_users_without_a_name() -> None:
    """A uid without a name is shown as a number, and pid 0 (another namespace) as ``?``."""
    stranger = (Holder(0, NOBODY, "x", 1.0),)
    assert status_table.block_row(block(holders=stranger))[6] == f"? x {NOBODY}"


def test_a_program_cannot_speak_to_the_terminal() -> None:
    """Control characters in the names of programs and files are not printed."""
    evil = block(holders=(Holder(1, 0, "\x1b[2Jx\n", 1.0),), source="/a\x1b]0;b\x07")
    assert "\x1b" not in status_table.text(status(evil))
    assert len(status_table.text(status(evil)).splitlines()) == 4


# ---- as HTML and JSON ------------------------------------------------------------------------


def test_html_is_escaped() -> None:
    """Names are escaped in HTML: a notebook does not run them."""
    text = status(block(source="/<script>&'\""))._repr_html_()
    assert "/&lt;script&gt;&amp;&#x27;&quot;" in text
    assert "<script" not in text
    assert text.count("<tr>") == 2
    assert "no blocks" in status()._repr_html_()


def test_json_round_trip() -> None:
    """``to_json`` has JSON's types only, and loses nothing."""
    waits = JobStatus("probing", "/x", 0, (Holder(1, 0, "a", 1.0),), 1.0)
    whole = status(block(), IDLE, LOADING, jobs=(waits,))
    assert Status.from_wire(json.loads(json.dumps(whole.to_json()))) == whole


@given(
    st.sampled_from(["<f8", ">i2", "|S3", "<U7", "<M8[us]"]),
    st.lists(st.sampled_from(["f4", "(2,3)i2", "S5", [("p", "u1"), ("q", "f8")]]), max_size=4),
)
def test_every_dtype_survives_json(plain: str, parts: list[Any]) -> None:
    """Fields, subarrays and nested structures come out of JSON as they went in."""
    fields = [(f"n{i}", part) for i, part in enumerate(parts)]
    dtype: np.dtype[Any] = np.dtype(fields or plain)
    (back,) = Status.from_wire(json.loads(json.dumps(status(block(dtype=dtype)).to_json()))).blocks
    assert back.dtype == dtype
    assert descr(back.dtype) == descr(dtype)


def test_what_a_newer_daemon_adds_is_ignored() -> None:
    """A status with unknown fields can be read."""
    wire = TYPICAL.to_json()
    wire["weather"] = "fine"
    wire["blocks"][0]["colour"] = "red"
    assert Status.from_wire(wire) == TYPICAL


def test_it_is_a_snapshot() -> None:
    """Nobody can change a status."""
    with pytest.raises(FrozenInstanceError):
        TYPICAL.pid = os.getpid()  # type: ignore[misc]  # the point


def test_more_loads_than_are_listed() -> None:
    """Those that are left out of the table are counted in its head."""
    assert "loads 100001" in str(status(LOADING, jobs_more=100_000))


def test_more_blocks_than_are_listed() -> None:
    """A line below the table says how many are left out, and that they are not in use."""
    many = status(block(), IDLE, blocks_more=290_000)
    assert str(many).splitlines()[-1] == "and 290,000 more blocks (those in use are shown first)"
    assert "<div>and 290,000 more blocks" in status_table.html(many)
    assert "more blocks" not in str(TYPICAL) + status_table.html(TYPICAL)


def test_which_blocks_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in use, then the idle ones used last; the oldest first, as always."""
    blocks = BlockTable("run-{}".format, 1 << 30)
    for number in range(1, 7):
        added = model.Block(
            f"run-{number}", number, Spec((1,), "<f8", "C", 8), 9, "x", State.SEALED, 0.0, 0.0
        )
        blocks.add(added)
        if number not in (2, 5):
            blocks.mark_idle(added)

    def listed(most: int) -> list[int]:
        monkeypatch.setattr(status_report, "MAX_BLOCKS", most)
        return [one.number for one in status_report._chosen(blocks)]

    assert listed(6) == [1, 2, 3, 4, 5, 6]
    assert listed(4) == [2, 4, 5, 6]
    assert listed(1) == [2]
    blocks.table["run-5"].holders |= {bytes([i]): model.Hold(1, 0.0) for i in range(8)}
    assert listed(4) == [2, 5, 6]
    assert listed(2) == [2]
