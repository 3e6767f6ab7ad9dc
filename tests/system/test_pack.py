"""``arrayd pack``: the rows of many files in one ``.npy``, whatever ends a run on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import arrayd
from arrayd import CastError, SourceChanged, SourceNotFound, SpecMismatch
from arrayd.cli import main
from arrayd.common import failpoints
from arrayd.datasets import pack as packing
from arrayd.datasets import slices
from arrayd.datasets.folder_files import write_list
from arrayd.datasets.pack import pack
from arrayd.errors import ArraydError, SourceBusy
from arrayd.session.session import Session
from tests.support.daemons import PATIENCE, Daemon
from tests.support.processes import save

pytestmark = pytest.mark.one_daemon

PROGRAM = (sys.executable, "-c", "import sys; from arrayd.cli import main; sys.exit(main())")


def part_of(number: int, rows: int = 20) -> np.ndarray[Any, Any]:
    """Return rows of shape (2,) that tell their file and index."""
    return np.stack([np.full(rows, number), np.arange(rows)], axis=1).astype("f8")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Give a folder of three files of 20 rows, and one without rows."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(3):
        save(folder / f"{number}.npy", part_of(number))
    save(folder / "3.npy", part_of(3, 0))
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let slices, and what lies between two notes, be of 13 rows."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 13 * 16)
    monkeypatch.setattr(packing, "SLICE_BYTES", 13 * 16)


WHOLE = np.concatenate([part_of(number) for number in range(3)])


def left(folder: Path) -> list[str]:
    """Return what lies beside the folder of shards."""
    return sorted(name for name in os.listdir(folder.parent) if name != folder.name)


# ---- what is packed --------------------------------------------------------------------------


def test_the_rows_of_all(
    daemon: Daemon, shards: Path, small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quoted pattern, in order; the result is mapped by numpy, and nothing else is left."""
    out = shards.parent / "set.pack.npy"
    words = ["pack", f"{shards}/*.npy", "-o", str(out), "--endpoint", daemon.endpoint]
    assert main(words) == 0
    np.testing.assert_array_equal(np.load(out, mmap_mode="r"), WHOLE)
    assert left(shards) == ["set.pack.npy"]
    said, complaint = capsys.readouterr()
    assert said.startswith(f"{out}: 60 rows of 4 sources, 1.1 KiB, ")
    assert complaint == ""
    assert main([*words, "--cast", "f2"]) == 0  # it is replaced
    assert np.load(out).dtype == np.float16
    assert "Lossless: float16" in capsys.readouterr()[0]
    with arrayd.connect(daemon.endpoint) as client:  # no slice stays in the daemon's memory
        assert [b for b in client.status().blocks if b.state != "leaving"] == []


def test_sources_of_every_kind(client: arrayd.Client, tmp_path: Path, small: None) -> None:
    """Members of HDF5 files by a pattern, text, npz and Fortran order: rows of one kind."""
    for name in ("a", "b"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("g/x", data=part_of(ord(name)), chunks=(7, 2), compression="gzip")
    (tmp_path / "t.txt").write_text("1 2\n3 4\n")
    np.savez_compressed(tmp_path / "z.npz", x=part_of(7), y=np.arange(3))
    save(tmp_path / "f.npy", np.asfortranarray(part_of(8)))
    names = ["*.h5:/g/x", "t.txt", "z.npz:x", "f.npy"]
    result = pack(client, [f"{tmp_path}/{name}" for name in names], tmp_path / "o.npy")
    parts: list[Any] = [part_of(97), part_of(98), [[1, 2], [3, 4]], part_of(7), part_of(8)]
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), np.concatenate(parts))
    assert (result.rows, result.sources, result.row_shape) == (82, 5, (2,))


def test_many_small_files(
    client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few requests, and the daemon keeps only what it had before."""
    names = [tmp_path / f"{number}.npy" for number in range(300)]
    for number, name in enumerate(names):
        save(name, part_of(number, 1 + number % 3))
    client.get(names[7])
    asked, ask = list[str](), Session.ask_until

    def counted(session: Session, op: str, *words: Any, **fields: Any) -> Any:
        asked.append(op)
        return ask(session, op, *words, **fields)

    monkeypatch.setattr(Session, "ask_until", counted)
    result = pack(client, [f"{tmp_path}/*.npy", names[7]], tmp_path / "o.npy")
    parts = [part_of(number, 1 + number % 3) for number in [*range(300), 7]]
    np.testing.assert_array_equal(np.load(result.path), np.concatenate(parts))
    assert len(asked) < 20
    there = {b.source for b in client.status().blocks if b.state != "leaving"}
    assert there == {str(names[7])}


@pytest.mark.parametrize("limit", [slices.SLICE_BYTES, 13 * 16], ids=["together", "alone"])
def test_a_list_of_files(
    client: arrayd.Client, shards: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Each file that a list names is one row, as in a dataset, and so a run that ended goes on."""
    monkeypatch.setattr(slices, "SLICE_BYTES", limit)
    (shards / "3.npy").unlink()
    write_list(shards, shards / "list.txt", "parent")
    out, stop = shards.parent / "o.npy", stopping_after(1)
    with pytest.raises(KeyboardInterrupt):
        pack(client, [shards / "list.txt"], out, written=stop)
    with pytest.raises(SourceChanged, match="with other options"):
        pack(client, [f"{shards}/*.npy"], out)
    result = pack(client, [shards / "list.txt"], out)
    assert (result.rows, result.row_shape, result.sources) == (3, (20, 2), 3)
    np.testing.assert_array_equal(np.load(out), WHOLE.reshape(3, 20, 2))


def test_small_files_of_a_user_with_little_memory(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """Those that it may not have together are packed one by one."""
    daemon = start_daemon("--quotas", f"{os.geteuid()}: bytes=64K")
    for number in range(10):
        save(tmp_path / f"{number}.npy", part_of(number, 1000))
    with arrayd.connect(daemon.endpoint) as client:
        result = pack(client, [f"{tmp_path}/*.npy"], tmp_path / "o.npy")
    whole = np.concatenate([part_of(number, 1000) for number in range(10)])
    np.testing.assert_array_equal(np.load(result.path), whole)


def test_a_bad_one_of_many(client: arrayd.Client, shards: Path) -> None:
    """A file that is cut off is named before anything is written."""
    with (shards / "2.npy").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(ArraydError, match=r"2.npy"):
        pack(client, [f"{shards}/*.npy"], shards.parent / "o.npy")
    assert left(shards) == []


def test_a_cast_and_its_report(client: arrayd.Client, shards: Path, small: None) -> None:
    """The values are those of the daemon's cast; the report is about all of them."""
    save(shards / "6.npy", [[1e9, 1 / 3]])
    sources, out = [f"{shards}/*.npy"], shards.parent / "o.npy"
    with pytest.raises(CastError, match=r"6.npy, at \[0, 0\]: The value 1000000000.0 does not fit"):
        pack(client, sources, out, cast="f2")
    result = pack(client, sources, out, cast="f2", overflow="clip")  # goes on
    np.testing.assert_array_equal(np.load(out)[:-1], WHOLE.astype("f2"))
    assert np.load(out)[-1].tolist() == [65504.0, np.float16(1 / 3)]
    assert result.report is not None
    report = result.report.fields[""]
    assert (report.count, report.overflow, report.changed) == (122, 1, 2)


def test_what_a_chosen_overflow_did(
    daemon: Daemon, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says what became of values beyond the type, and refuses nothing."""
    save(shards / "6.npy", [[1e9, 1 / 3]])
    words = ["pack", f"{shards}/6.npy", "-o", f"{shards.parent}/o.npy", "--cast", "f2"]
    assert main([*words, "--overflow", "clip", "--endpoint", daemon.endpoint]) == 0
    out = capsys.readouterr().out
    assert "=> 1 value was beyond float16: it became the nearest that fits." in out
    assert "REFUSED" not in out


def test_what_cannot_be_packed(client: arrayd.Client, shards: Path) -> None:
    """The first file that differs is named with both; nothing is written."""
    folder = shards.parent
    save(folder / "w.npy", np.zeros((2, 3)))
    save(folder / "i.npy", np.zeros((2, 2), "i8"))
    save(folder / "d.npy", np.float64(1))
    save(folder / "o.npy", np.zeros((2, 2)))
    before = left(shards)
    cases: list[tuple[list[str], type[ArraydError], str]] = [
        (["shards/*.npy", "w.npy"], SpecMismatch, r"w.npy has rows of shape \(3,\).*0.npy, the"),
        (["shards/*.npy", "i.npy"], SpecMismatch, r"i.npy.* dtype int64.*float64"),
        (["shards/*.npy", "d.npy"], SpecMismatch, "d.npy is 0-d"),
        (["none*.npy"], SourceNotFound, "no file matches"),
        (["shards/none.npy"], SourceNotFound, "no such file"),
        (["o.npy"], SpecMismatch, "is to be written, and is one of the sources"),
        ([], SpecMismatch, "Nothing to pack"),
    ]
    for names, error, said in cases:
        with pytest.raises(error, match=said):
            pack(client, [f"{folder}/{name}" for name in names], folder / "o.npy")
        assert left(shards) == before


# ---- a run that ends on the way --------------------------------------------------------------


def stopping_after(number: int) -> Callable[[int, int], None]:
    """Return a progress function that presses Ctrl-C at the call of that number."""
    calls = iter(range(number))

    def written(_done: int, _total: int) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    return written


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(0, 5), max_size=3))
def test_any_interruptions(
    client: arrayd.Client, shards: Path, small: None, stops: list[int]
) -> None:
    """However often it is interrupted, and where: the rows and the report are those of one run."""
    out = shards.parent / "o.npy"
    for number in stops:
        try:
            pack(client, [shards / f"{n}.npy" for n in range(4)], out, cast="f4",
                 written=stopping_after(number))  # fmt: skip
        except KeyboardInterrupt:
            assert {"o.npy.part", "o.npy.progress"} <= set(left(shards))
    result = pack(client, [shards / f"{n}.npy" for n in range(4)], out, cast="f4")
    np.testing.assert_array_equal(np.load(out), WHOLE)
    assert result.report is not None
    assert result.report.fields[""].count == 120
    assert left(shards) == ["o.npy"]
    out.unlink()


def interrupted(client: arrayd.Client, shards: Path) -> Path:
    """Return the file of a pack that was interrupted after some rows; 33 of 40 are noted."""
    out = shards.parent / "o.npy"
    with pytest.raises(KeyboardInterrupt):
        pack(client, [f"{shards}/*.npy"], out, cast="f4", written=stopping_after(3))
    assert len(np.load(f"{out}.part")) == 40
    return out


@pytest.fixture
def begun(client: arrayd.Client, shards: Path, small: None) -> Path:
    """Give the file of a pack that was interrupted."""
    return interrupted(client, shards)


def test_other_sources_do_not_go_on(client: arrayd.Client, shards: Path, begun: Path) -> None:
    """Fewer, more, others, changed, cast to another type: an error each, and nothing is lost."""
    all_, other = f"{shards}/*.npy", f"{shards}/[0-1].npy"
    with pytest.raises(SpecMismatch, match=r"begun with 4 sources, and now there are 2: .*2.npy"):
        pack(client, [other], begun, cast="f4")
    with pytest.raises(SpecMismatch, match=r"1.npy then, .*0.npy now.*--restart"):
        pack(client, [shards / "0.npy", all_], begun, cast="f4")
    with pytest.raises(SpecMismatch, match=r"begun with dtype '<f4'.*now it is '<f2'"):
        pack(client, [all_], begun, cast="f2")
    with pytest.raises(SourceChanged, match="read with other options"):
        pack(client, [all_], begun, cast="f4", order="C")
    save(shards / "1.npy", part_of(9))
    with pytest.raises(SourceChanged, match=r"1.npy has changed since"):
        pack(client, [all_], begun, cast="f4")
    assert len(np.load(f"{begun}.part")) == 40
    result = pack(client, [all_], begun, cast="f4", restart=True)
    np.testing.assert_array_equal(np.load(begun)[20:40], part_of(9))
    assert result.report is not None
    assert result.report.fields[""].count == 120


def test_what_is_damaged_is_not_gone_on_with(
    client: arrayd.Client, shards: Path, small: None
) -> None:
    """A note that is none, or is not there: a typed error, and `restart` begins anew."""
    out = shards.parent / "o.npy"
    part, note = Path(f"{out}.part"), Path(f"{out}.progress")
    damages: list[tuple[Callable[[], object], str]] = [
        (lambda: note.write_text("{}"), "is no note of this version"),
        (lambda: note.write_text("\0"), "is no note of this version"),
        (note.unlink, "tells what is in it"),
        (lambda: part.write_text("no array"), "no .npy file to go on with"),
    ]
    for damage, said in damages:
        interrupted(client, shards)
        damage()
        with pytest.raises(ArraydError, match=said):
            pack(client, [f"{shards}/*.npy"], out, cast="f4")
        pack(client, [f"{shards}/*.npy"], out, cast="f4", restart=True)
        np.testing.assert_array_equal(np.load(out), WHOLE)
        assert left(shards) == ["o.npy"]


def test_a_lost_part_is_packed_again(client: arrayd.Client, shards: Path, begun: Path) -> None:
    """A note of more rows than there are, or whose last line was cut off, costs work only."""
    note = Path(f"{begun}.progress")
    note.write_text(note.read_text()[:-20])
    with arrayd.writer(f"{begun}.part", "f4", 2, resume=True) as part:
        part.truncate(10)
    pack(client, [f"{shards}/*.npy"], begun, cast="f4")
    np.testing.assert_array_equal(np.load(begun), WHOLE)


def test_one_pack_at_a_time(client: arrayd.Client, shards: Path, begun: Path) -> None:
    """Another one's unfinished file is left alone, by `restart` too."""
    with arrayd.writer(f"{begun}.part", "f4", 2, resume=True):
        for restart in (False, True):
            with pytest.raises(SourceBusy, match="is being written"):
                pack(client, [f"{shards}/*.npy"], begun, cast="f4", restart=restart)
    pack(client, [f"{shards}/*.npy"], begun, cast="f4")


def test_a_file_that_changes_meanwhile(client: arrayd.Client, shards: Path, small: None) -> None:
    """It is an error, before the file gets its name."""
    out = shards.parent / "o.npy"

    def change(done: int, total: int) -> None:
        if done == total:
            save(shards / "2.npy", part_of(9))

    with pytest.raises(SourceChanged, match=r"2.npy changed while it was read"):
        pack(client, [f"{shards}/*.npy"], out, written=change)
    assert not out.exists()


# ---- processes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("client.counted=kill", -9),
        ("client.saving=kill", -9),
        ("client.packed=kill", -9),
        ("client.appended=int", 130),
    ],
)
def test_a_process_that_ends(daemon: Daemon, shards: Path, setting: str, code: int) -> None:
    """After SIGKILL or Ctrl-C the same command goes on; the latter says so."""
    out = shards.parent / "o.npy"
    command = [*PROGRAM, "pack", f"{shards}/*.npy", "-o", str(out), "--endpoint", daemon.endpoint]
    done = subprocess.run(
        command,
        env={**os.environ, failpoints.VARIABLE: setting},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == code, done.stderr
    if code > 0:
        assert f"stays in {out}.part. This goes on: arrayd pack '{shards}/*.npy'" in done.stderr
    if out.exists():
        np.testing.assert_array_equal(np.load(out), WHOLE)
    assert main(command[3:]) == 0
    np.testing.assert_array_equal(np.load(out), WHOLE)
    assert left(shards) == ["o.npy"]
