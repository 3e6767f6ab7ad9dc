"""What the table says besides the blocks: sums of users, failed loads, what is left of a load."""

from __future__ import annotations

import json
import os
from pathlib import Path

from arrayd.common.bytesize import format_bytes
from arrayd.results import status_table
from arrayd.results.status import Elsewhere, FailureStatus, ProcessStatus, QuotaStatus, UserSum
from arrayd.results.status_table import Status
from arrayd.results.top_view import header
from arrayd.system.other_daemons import segments_besides
from arrayd.system.segment_mappers import mappers
from arrayd.wire.layout import PREFIX, SHM
from tests.unit.client.test_status import IDLE, LOADING, block, state_of, status

NOBODYS = 4_000_000_000
"""A uid that has no name."""

SIZE = 5 << 30

FAILED = FailureStatus(
    "/d/a.npy",
    "BadFile",
    "/d/a.npy is no readable .npy",
    130.0,
    (ProcessStatus(7, NOBODYS, "train.py"), ProcessStatus(8, NOBODYS, "eval.py")),
)


def test_users_have_sums() -> None:
    """Where there is more than one: bytes and blocks that each holds, and its sessions."""
    one, others = UserSum(NOBODYS, SIZE, 2, 1), UserSum(None, 2 * SIZE, 1, 3)
    shared = status(block(), users=(one, others))
    words = (
        f"{NOBODYS} {format_bytes(SIZE)} in 2 blocks, 1 session",
        f"others {format_bytes(2 * SIZE)} in 1 block, 3 sessions",
    )
    assert f"users   {words[0]}   {words[1]}" in status_table.text(shared).splitlines()
    assert all(len(line) <= 80 for line in status_table.text(shared, 80).splitlines())
    assert words[1] in shared._repr_html_()
    assert "users " not in status_table.text(status(block(), users=(one,)))


def test_other_daemons_have_lines() -> None:
    """What each user's have, and that one's own private daemon runs beside this one."""
    others = Elsewhere(NOBODYS, 12, SIZE), Elsewhere(NOBODYS - 1, 1, 4096)
    some = status(block(), elsewhere=others, private_daemon="ipc:///run/user/7/arrayd/sock")
    words = [
        f"beside  5.0 GiB in 12 blocks of other daemons, {NOBODYS}'s",
        f"beside  4.0 KiB in 1 block of other daemons, {NOBODYS - 1}'s",
        "beside  your private daemon runs as well: arrayd status --endpoint private",
    ]
    assert status_table.text(some).splitlines()[2:5] == words
    assert "status --endpoint private" in some._repr_html_()
    narrow = [one for one in status_table.text(some, 40).splitlines() if one.startswith("beside")]
    assert [len(line) for line in narrow] == [40, 40, 40]
    assert Status.from_wire(json.loads(json.dumps(some.to_json()))) == some


def test_segments_of_other_daemons(tmp_path: Path) -> None:
    """Files with a segment's name, but for those of the daemon that is asked, by their user."""
    for number, scope in enumerate(("a" * 10, "b" * 10, "b" * 10, "c" * 10)):
        (tmp_path / f"{PREFIX}{scope}-01234567-{number}").write_bytes(bytes(100_000))
    for name in (f"{PREFIX}0-{'b' * 10}", f"{PREFIX}{'b' * 10}-01234567-x", "else"):
        (tmp_path / name).write_bytes(bytes(100_000))
    (found,) = segments_besides("a" * 10, str(tmp_path)).items()
    assert found[0] == os.geteuid()
    assert found[1].blocks == 3
    assert 300_000 <= found[1].size < 400_000
    assert segments_besides("a" * 10, str(tmp_path / "..")) == {}


def test_failed_loads_have_lines() -> None:
    """The latest three are below the table: when, who, which class, and the first line."""
    some = status(IDLE, failures=(FAILED,))
    line = f"failed  2 min ago, 7 train.py {NOBODYS} +1  BadFile: /d/a.npy is no readable .npy"
    assert status_table.text(some).splitlines()[-1] == line
    assert line in status_table.html(some)
    assert status_table.text(some, 40).splitlines()[-1] == line[:39] + "…"
    many = status(IDLE, failures=(FAILED,) * 9)
    assert status_table.text(many).splitlines()[-2:] == [line, "and 6 more failed (see --json)"]
    assert Status.from_wire(json.loads(json.dumps(many.to_json()))) == many


def test_a_failure_names_its_source_once() -> None:
    """It is put before a message that does not name it; a name cannot speak to the terminal."""
    other = FailureStatus("/d/\x1bb.npy", "NoRoom", "The budget is spent.", 3.0, ())
    assert status_table.failure(other) == "3 s ago  NoRoom: /d/?b.npy: The budget is spent."


def test_how_long_a_load_still_takes() -> None:
    """The state of a load has what is left, once that is known."""
    assert state_of(block(state="loading", done=61, total=100)) == "loading 61 %"
    assert state_of(block(state="loading", done=61, total=100, eta=9.5)) == "loading 61 %, 9 s left"
    assert LOADING.eta is None


def test_who_maps_what_nobody_holds() -> None:
    """The state of a stray block names the process, and how many others there are."""
    assert state_of(block(state="stray", holders=())) == "stray"
    assert state_of(block(state="stray", holders=(), mapped_by=(7,))) == "stray pid 7"
    assert state_of(block(state="stray", holders=(), mapped_by=(7, 8, 9))) == "stray pid 7 +2"


def test_mappers_of_a_segment(tmp_path: Path) -> None:
    """Those whose maps name it, removed or not; who has ended meanwhile is left out."""
    name, other = f"{PREFIX}0123456789-01234567-1", f"{PREFIX}0123456789-01234567-12"
    maps = {"5": f"7f00-7f10 r--s 0 0:1 9  {SHM}/{name} (deleted)\n", "3": f"1 {SHM}/{other}\n"}
    for pid, text in maps.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "maps").write_text(f"{text}7f20-7f30 r-xp 0 0:1 2  /lib/libc.so\n")
    (tmp_path / "9").mkdir()
    (tmp_path / "self").mkdir()
    assert mappers({name, other}, str(tmp_path)) == {name: (5,), other: (3,)}
    assert mappers((), str(tmp_path / "none")) == {}


def test_quotas_have_a_line() -> None:
    """What each has of what it may have; a limit that nobody set is not named."""
    limits = {"bytes": 9 << 30, "pinned": 1 << 30, "blocks": 100, "loads": 64}
    one = QuotaStatus("alice", NOBODYS, None, SIZE, 12, 0, 3, 0, limits)
    lab = QuotaStatus("@lab", None, 7, 2 * SIZE, 12, 0, 3, 0, {"soft_bytes": 1 << 40})
    both = QuotaStatus("*", NOBODYS, None, 5, 1, 0, 3, 0, {"bytes": 1 << 30, "soft_bytes": 1024})
    shared = status(block(), quotas=(one, lab, both))
    words = (
        f"{NOBODYS} 5.0 of 9.0 GiB, pinned 0 of 1.0 GiB, 12 of 100 blocks, 0 of 64 loads",
        "@lab 10.0 GiB (soft 1.0 TiB)",
        f"{NOBODYS} 5 B of 1.0 GiB (soft 1.0 KiB)",
    )
    assert f"quotas  {'   '.join(words)}" in status_table.text(shared).splitlines()
    assert all(len(line) <= 80 for line in status_table.text(shared, 80).splitlines())
    assert words[1] in shared._repr_html_()
    assert any(words[0] in line for line in header(shared, 160))
    assert "quotas" not in status_table.text(status(block()))
