"""The way into a segment, and what the system says on it."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from arrayd.errors import (
    AccessDenied,
    BadFile,
    CastError,
    MissingDependency,
    NoRoom,
    SourceChanged,
    SourceNotFound,
    SpecMismatch,
)
from arrayd.source import Source
from arrayd_server.loaders import base, file_identity, segment_writer
from arrayd_server.loaders.base import LoadPlan, Part
from arrayd_server.loaders.formats import load_format, members, probe
from arrayd_server.loaders.validation import os_errors
from arrayd_server.loading import probing
from arrayd_server.loading.messages import ProbeTask
from tests.support.loading import (
    ALL,
    Array,
    Make,
    as_npy,
    as_npz,
    as_raw,
    free,
    load,
    make_segment,
    make_tiny,
    same,
    target_of,
    write,
)

tiny = pytest.fixture(autouse=True)(make_tiny)
segment = pytest.fixture(make_segment)


# The edge


def test_missing_files(tmp_path: Path) -> None:
    """A file that is not there, or lies below a file, is SourceNotFound with its path."""
    (tmp_path / "file").touch()
    for name in ("gone.npy", "file/a.npy", "nul\0.npy"):
        with pytest.raises(SourceNotFound, match=r"\.npy"):
            probe(Source(path=f"{tmp_path}/{name}"))


def test_a_directory(tmp_path: Path) -> None:
    """A directory is said to be one."""
    with pytest.raises(BadFile, match="is a directory"):
        probe(Source.of(tmp_path, format="npy"))


@pytest.mark.parametrize("format", ["npy", "npz", "raw", "hdf5", "text"])
def test_a_fifo_does_not_hang(tmp_path: Path, format: str) -> None:
    """A pipe without a writer is refused at once, for every format."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadFile, match="pipe is no regular file"):
        probe(Source.of(tmp_path / "pipe", format=format))
    with pytest.raises(BadFile, match="/dev/zero is no regular file"):
        probe(Source.of("/dev/zero", format=format))


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EACCES is AccessDenied, naming the file and the loader's user (root could read it)."""
    source = as_npy(tmp_path, np.arange(3))

    def refuse(path: str, *_: Any) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(AccessDenied, match=rf"a\.npy.*user {os.geteuid()}"):
        probe(source)


def test_other_errors_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails is BadFile with the system's words."""
    source = as_npy(tmp_path, np.arange(3))

    def fail(path: str, *_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(BadFile, match=r"a\.npy.*Input/output error"):
        probe(source)


def test_a_format_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without h5py, hdf5 is MissingDependency and says what to install."""
    monkeypatch.setitem(sys.modules, "h5py", None)
    for name in [name for name in sys.modules if name.startswith("arrayd_server.loaders.hdf5")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependency, match="pip install h5py"):
        load_format("hdf5")


def test_formats_with_one_array_have_no_members(tmp_path: Path) -> None:
    """A .npy is no file of members."""
    assert members(as_npy(tmp_path, np.arange(3))) is None


def test_an_impossible_cast_is_refused_by_probe(tmp_path: Path) -> None:
    """A cast that no value could pass fails before loading, with the file's name."""
    source = replace(as_npy(tmp_path, np.array([b"1.5"])), cast=np.dtype("f4"))
    with pytest.raises(SpecMismatch, match=r"a\.npy.*S3 cannot be cast to float32"):
        probe(source)


def test_identity_follows_links_and_changes(tmp_path: Path) -> None:
    """Two names of a file have one identity; a write gives it another."""
    source = as_npy(tmp_path, np.arange(3))
    (tmp_path / "link.npy").symlink_to(source.path)
    before = file_identity.identity(str(tmp_path / "link.npy"))
    assert before == file_identity.identity(source.path)
    with open(source.path, "ab") as file:
        file.write(b"x")
    assert file_identity.identity(source.path) != before
    with pytest.raises(SourceNotFound, match="gone"):
        file_identity.identity(str(tmp_path / "gone"))


class Clock:
    """A clock that runs only while somebody sleeps, and a file that may be written meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *stamps: int) -> None:
        self.now = 10**18
        self.slept: list[float] = []
        self._stamps = [self.now + stamp for stamp in stamps]
        monkeypatch.setattr(time, "time_ns", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self._sleep)
        monkeypatch.setattr(file_identity, "identity", lambda path: self._identity())

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += round(seconds * 1e9)

    def _identity(self) -> tuple[str, int, int, int, int, int]:
        stamp = self._stamps.pop(0) if len(self._stamps) > 1 else self._stamps[0]
        return ("/x", 1, 2, 3, stamp, stamp - 5)


MS = 1_000_000


@pytest.mark.parametrize(
    ("stamp", "waits"),
    [
        (0, 0.020),
        (-4 * MS, 0.016),
        (-20 * MS, None),
        (-3600_000 * MS, None),
        (500 * MS, 0.520),
        (1500 * MS, None),
        (3600_000 * MS, None),
    ],
)
def test_a_file_that_was_just_written(
    stamp: int, waits: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stamp's tick is waited out, so that a later write has another; no odd clock delays it."""
    clock = Clock(monkeypatch, stamp)
    found = file_identity.settled_identity("/x")
    assert clock.slept == ([] if waits is None else [pytest.approx(waits)])
    assert found[4] == 10**18 + stamp
    if waits is not None:
        assert clock.now >= found[4] + file_identity.TICK


def test_a_file_that_is_always_being_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for once; what it is then is what counts."""
    clock = Clock(monkeypatch, -1 * MS, 15 * MS, 35 * MS)
    assert file_identity.settled_identity("/x")[4] == 10**18 + 15 * MS
    assert len(clock.slept) == 1


def test_a_worker_waits_for_the_tick(tmp_path: Path) -> None:
    """A probe of a file written this instant ends when its stamp is a tick old, or later."""
    source = as_npy(tmp_path, np.arange(3))
    probing.probe(ProbeTask(source))
    assert time.time_ns() >= os.stat(source.path).st_mtime_ns + file_identity.TICK


@pytest.mark.parametrize("words", ["memory allocation failed for chunk", "Can't allocate buffer"])
def test_no_memory_is_not_the_files_fault(words: str, tmp_path: Path) -> None:
    """What libhdf5 or the system says of memory is MemoryError, never BadFile."""
    for error in (OSError(words), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))):
        with pytest.raises(MemoryError), os_errors("/x"):
            raise error


def test_a_promise_of_any_size_makes_a_short_plan() -> None:
    """However large an array is, its plan has at most some 10,000 parts, which cover it."""
    for rows in (10**9, 2**62):
        parts = base.even_parts(rows, 8)
        assert len(parts) <= base.MAX_PARTS + 1
        assert (parts[0].start, parts[-1].stop) == (0, rows)


# The engine


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("make", ALL)
def test_casts_on_the_way(make: Make, order: str, tmp_path: Path, segment: Path) -> None:
    """Every format is cast alike, and the changed values of all parts add up."""
    array = np.arange(300.0).reshape(30, 10) / 4
    source = replace(make(tmp_path, array), cast=np.dtype("i2"), order=order)
    plan = probe(source)
    target = target_of(source, plan, segment)
    assert sum(write(source, plan, part, target) for part in plan.parts) == 225
    same(load(source, segment), array.astype("i2"))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_cast_error_names_the_place(order: str, tmp_path: Path, segment: Path) -> None:
    """The error names file, index in the result, value and limits; nothing stays open."""
    array = np.zeros((40, 7), order=order)  # type: ignore[call-overload]  # a str to mypy
    array[33, 5] = 1e6
    source = replace(as_npy(tmp_path, array), cast=np.dtype("i2"), rows=(3, None, None))
    with pytest.raises(CastError, match=r"a\.npy, at \[30, 5\] of the rows.* 1000000.0 .*32767"):
        load(source, segment)
    assert free(segment)


def wrong_fill(count: int) -> Callable[..., Iterator[Array]]:
    """Return a fill that yields `count` rows of 7, whatever it should."""

    def fill(source: Source, plan: LoadPlan, part: Part) -> Iterator[Array]:
        for _ in range(count):
            yield np.ones((1, 7), plan.dtype)

    return fill


@pytest.mark.parametrize(("count", "said"), [(2, "only 2"), (9, "more")])
def test_other_rows_than_promised(
    tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch, count: int, said: str
) -> None:
    """A fill with too few or too many rows is BadFile, and does not touch the next part."""
    source = as_npy(tmp_path, np.zeros((9, 7), "i1"))
    plan = probe(source)
    target = target_of(source, plan, segment)
    monkeypatch.setattr(load_format("npy"), "fill", wrong_fill(count))
    monkeypatch.setattr(load_format("npy"), "address", lambda *_: None)
    with pytest.raises(BadFile, match=rf"a\.npy changed.*should be 4.*{said}"):
        write(source, plan, Part(0, 4), target)
    assert not any(segment.read_bytes()[28:])


@pytest.mark.parametrize("make", [as_npy, as_npz, as_raw])
def test_a_file_that_shrinks(make: Make, tmp_path: Path, segment: Path) -> None:
    """A file that became shorter after probe is SourceChanged, not SIGBUS."""
    source = make(tmp_path, np.arange(99))
    plan = probe(source)
    os.truncate(source.path, plan.detail[0] + 50)
    with pytest.raises(SourceChanged, match=source.path):
        write(source, plan, plan.parts[-1], target_of(source, plan, segment))


@pytest.mark.parametrize("order", ["C", "F"])
def test_cancelling(order: str, tmp_path: Path, segment: Path) -> None:
    """It is asked before each chunk; then the part ends and lets go of file and segment."""
    source = replace(as_npy(tmp_path, np.arange(400).reshape(20, 20)), order=order)
    plan = probe(source)
    answers = iter([False, False, True])
    with pytest.raises(segment_writer.Cancelled):
        segment_writer.write_part(
            source,
            plan,
            plan.parts[0],
            target_of(source, plan, segment),
            on_rows=lambda rows: None,
            cancelled=lambda: next(answers),
        )
    assert list(answers) == []
    assert free(segment)


@pytest.mark.parametrize("order", ["C", "F"])
def test_nothing_is_left_open(
    order: str, tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel grants a write lease after a part, also while its exception is being handled."""
    source = replace(as_npy(tmp_path, np.arange(400).reshape(20, 20)), order=order)
    plan = probe(source)
    target = target_of(source, plan, segment)
    write(source, plan, plan.parts[0], target)
    assert free(segment)

    def fail(view: Array, position: int, values: Array) -> None:
        inner = view[0]
        raise MemoryError(inner.shape)

    monkeypatch.setattr(segment_writer, "scatter", fail)
    monkeypatch.setattr(os, "sendfile", fail)
    with pytest.raises((MemoryError, TypeError)) as caught:
        write(source, plan, plan.parts[1], target)
    assert caught.value.__traceback__ is not None
    assert free(segment)


@pytest.mark.parametrize(
    ("call", "order", "cast"),
    [("sendfile", "C", None), ("pwrite", "C", "f4"), ("posix_fallocate", "F", None)],
)
def test_no_room(
    call: str,
    order: str,
    cast: str | None,
    tmp_path: Path,
    segment: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full /dev/shm is NoRoom with the numbers, whichever call finds it full."""
    source = as_npy(tmp_path, np.ones((20, 20)))
    source = replace(source, order=order, cast=None if cast is None else np.dtype(cast))
    plan = probe(source)
    target = target_of(source, plan, segment)
    whole = target.data_bytes

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    said = rf"no room in /dev/shm for \d+ of {whole} bytes: \d+ of \d+"
    with pytest.raises(NoRoom, match=said) as e:
        write(source, plan, plan.parts[0], target)
    assert e.value.details["total"] > 0
    assert not any(segment.read_bytes())
    assert free(segment)


def test_only_the_part_is_reserved(tmp_path: Path, segment: Path) -> None:
    """A part takes the pages of its own bytes, no others."""
    source = as_npy(tmp_path, np.ones(1 << 15))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "PART_BYTES", 64 << 10)
        plan = probe(source)
        write(source, plan, plan.parts[2], target_of(source, plan, segment))
    assert segment.stat().st_blocks * 512 == 64 << 10


def test_a_link_in_place_of_the_segment(tmp_path: Path, segment: Path) -> None:
    """A symbolic link under the segment's name is not followed."""
    source = as_npy(tmp_path, np.arange(9))
    plan = probe(source)
    target = target_of(source, plan, segment)
    victim = tmp_path / "victim"
    segment.rename(segment.with_name(segment.name + "x"))
    with contextlib.ExitStack() as stack:
        stack.callback(os.unlink, f"{segment}x")
        victim.write_bytes(bytes(72))
        segment.symlink_to(victim)
        with pytest.raises(OSError, match="symbolic links"):
            write(source, plan, plan.parts[0], target)
    assert not any(victim.read_bytes())


@given(
    array=hnp.arrays("i2", hnp.array_shapes(max_dims=4, max_side=5), unique=True),
    ends=st.tuples(st.integers(0, 700), st.integers(0, 700)),
)
def test_scatter_is_flat_assignment(array: Array, ends: tuple[int, int]) -> None:
    """Assigning a flat range to a transposed view is what reshape(-1) would do on a copy."""
    start, stop = sorted(min(end, array.size) for end in ends)
    view = np.zeros_like(array.T).T
    expected = np.zeros(array.size, "i2")
    expected[start:stop] = array.reshape(-1)[start:stop]
    segment_writer.scatter(view, start, array.reshape(-1)[start:stop])
    np.testing.assert_array_equal(view, expected.reshape(array.shape))
