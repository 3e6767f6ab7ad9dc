"""``arrayd collect``: scene 1's files in one HDF5 file, streamed, and replaced at once or not."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arrayd
from arrayd import ArraydError, SourceChanged, SourceNotFound, SpecMismatch
from arrayd.cli import main
from arrayd.gather.hdf5 import collect
from arrayd.gather.names import dataset_names
from arrayd.source import Source
from tests.support.daemons import Daemon
from tests.support.processes import SLOW, frozen_load, raised, save
from tests.support.shared_daemon import counters

pytestmark = pytest.mark.one_daemon

METHYLATION = Path(__file__).resolve().parents[3] / "shared" / "data" / "methylation"
DTYPE = np.dtype([("chr", "S10"), ("pos", "i4"), ("pct", "f4"), ("c", "i4"), ("t", "i4")])
DTYPE_TEXT = "chr:S10,pos:i4,pct:f4,c:i4,t:i4"
PROGRAM = "import sys; from arrayd.cli import main; sys.exit(main())"


def contents(path: Path) -> dict[str, Any]:
    """Return all datasets of an HDF5 file, read by h5py alone."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]} if hasattr(item, "dtype") else {})
        )
    return found


def run(daemon: Daemon, *words: object) -> int:
    """Run ``arrayd collect`` in this process."""
    return main(["collect", *map(str, words), "--endpoint", daemon.endpoint])


# ---- what is written -------------------------------------------------------------------------


@pytest.mark.skipif(not METHYLATION.is_dir(), reason="needs ../shared/data/methylation")
def test_methylation_files_equal_loadtxt(daemon: Daemon, tmp_path: Path) -> None:
    """Each real file's dataset is what `numpy.loadtxt` reads, dtype included; attributes tell."""
    files, out = sorted(METHYLATION.glob("*.cov.txt")), tmp_path / "out.h5"
    assert run(daemon, *files, "--dtype", DTYPE_TEXT, "-o", out) == 0
    found = contents(out)
    assert sorted(found) == [path.name.removesuffix(".txt") for path in files]
    for path in files:
        expected = np.loadtxt(path, DTYPE)
        array = found[path.name.removesuffix(".txt")]
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
        with h5py.File(out) as file:
            attributes = dict(file[path.name.removesuffix(".txt")].attrs)
        assert attributes.pop("mtime") == iso(path.stat().st_mtime_ns)
        assert attributes == {
            "source": str(path),
            "bytes": path.stat().st_size,
            "dtype": str(np.lib.format.dtype_to_descr(DTYPE)),
            "arrayd_version": arrayd.__version__,
        }


def iso(time_ns: int) -> str:
    """Return a time since the epoch in ISO 8601, UTC, to the nanosecond."""
    second, rest = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}+00:00"


@pytest.mark.parametrize("time_ns", [0, 999_999_999, 1_795_252_983_598_208_999, 10**18 - 1])
def test_mtime_is_exact(daemon: Daemon, tmp_path: Path, time_ns: int) -> None:
    """The attribute ``mtime`` is the file's to the nanosecond: no float rounds it."""
    source, out = tmp_path / "a.npy", tmp_path / "out.h5"
    np.save(source, np.arange(3))
    os.utime(source, ns=(time_ns, time_ns))
    assert run(daemon, source, "-o", out) == 0
    with h5py.File(out) as file:
        assert file["a"].attrs["mtime"] == iso(source.stat().st_mtime_ns)
        assert datetime.fromisoformat(file["a"].attrs["mtime"]).tzinfo == UTC


@pytest.mark.parametrize("compression", ["gzip", "lzf", "none"])
def test_every_shape_with_every_compression(
    daemon: Daemon, tmp_path: Path, compression: str
) -> None:
    """0-d, empty, matrix, structured and compressed text inputs come back equal."""
    (tmp_path / "single.txt").write_text("7\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "matrix.txt").write_text("1 2\n3 4\n5 6\n")
    with gzip.open(tmp_path / "packed.cov.txt.gz", "wt") as file:
        file.write("1.5 2\n" * 10)
    save(tmp_path / "fortran.npy", np.asfortranarray(np.arange(12.0).reshape(3, 4)))
    save(tmp_path / "record.npy", np.ones(5, DTYPE))
    save(tmp_path / "hollow.npy", np.zeros((3, 0, 2), "c8"))
    inputs, out = sorted(tmp_path.iterdir()), tmp_path / "out.h5"
    assert run(daemon, *inputs, "-o", out, "--compression", compression) == 0
    found = contents(out)
    assert len(found) == len(inputs)
    for path in inputs:
        expected = np.load(path) if path.suffix == ".npy" else _text(path)
        array = np.asarray(found[path.name.split(".txt")[0].removesuffix(".npy")])
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape), path
        np.testing.assert_array_equal(array, expected)
    with h5py.File(out) as file:
        assert file["matrix"].compression == (None if compression == "none" else compression)


def _text(path: Path) -> np.ndarray[Any, Any]:
    if path.stat().st_size == 0:
        return np.zeros((0,))  # numpy.loadtxt says the same, with a warning
    return np.loadtxt(path)


def test_how_a_file_is_read_can_be_told(daemon: Daemon, tmp_path: Path) -> None:
    """``--option``, ``--format`` and ``--cast`` mean what they mean to `arrayd.get`."""
    (tmp_path / "a.log").write_text("title\n1;2\n3;4\n")
    words = ["--format", "text", "--option", "delimiter=;", "--option", "skiprows=1"]
    assert run(daemon, tmp_path / "a.log", *words, "--cast", "f4", "-o", tmp_path / "o.h5") == 0
    array = contents(tmp_path / "o.h5")["a"]
    assert array.dtype == "f4"
    np.testing.assert_array_equal(array, [[1, 2], [3, 4]])


# ---- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/d/test1.cov.txt"], ["test1.cov"]),
        (["/d/test1.cov.txt.gz"], ["test1.cov"]),
        (["/d/plain"], ["plain"]),
        (["/d/.hidden"], [".hidden"]),
        (["/d/a/x.txt", "/d/b/x.txt"], ["a/x", "b/x"]),
        (["/d/a/x.txt", "/d/b/x.txt", "/d/b/y.txt"], ["a/x", "b/x", "y"]),
        (["/p/s/x.txt", "/q/s/x.txt"], ["p/s/x", "q/s/x"]),
        (["/d/x.txt", "/d/x.csv"], ["x.txt", "x.csv"]),
        (["/d/x.txt", "/d/x.txt.gz"], ["x.txt", "x.txt.gz"]),
        (["/d/a.txt", "/d/a/x.txt", "/d/b/x.txt"], ["d/a", "a/x", "b/x"]),
        (["/x.txt", "/a/x.txt"], ["x", "a/x"]),
        (["/d/b.txt", "/d/b.csv", "/d/b.txt.csv"], ["d/b.txt", "d/b.csv", "d/b.txt.csv"]),
    ],
)
def test_names_of_datasets(paths: list[str], names: list[str]) -> None:
    """A name is the file's without suffix; what clashes gets folders in front."""
    assert dataset_names([Source(path=path) for path in paths]) == names


def test_a_member_is_named_below_its_file() -> None:
    """``f.h5:/g/x`` becomes ``f/g/x``."""
    sources = [Source(path="/d/f.h5", member="/g/x"), Source(path="/d/f.h5", member="y")]
    assert dataset_names(sources) == ["f/g/x", "f/y"]


_PART = st.sampled_from(["a", "b", "a.txt", "a.csv", "b.txt", "a.txt.gz", "a.txt.csv"])


@settings(max_examples=200, deadline=None)
@given(st.sets(st.lists(_PART, min_size=1, max_size=4).map(tuple), min_size=1, max_size=8))
def test_names_never_clash(paths: set[tuple[str, ...]]) -> None:
    """Whatever files there are together on a disk, no name is another's, or another's group."""
    folders = {path[:n] for path in paths for n in range(1, len(path))}
    files = sorted(paths - folders)
    names = dataset_names([Source(path="/" + "/".join(path)) for path in files])
    assert len(set(names)) == len(files)
    for one in names:
        assert not any(other.startswith(f"{one}/") for other in names)


def test_the_same_file_twice_counts_once(daemon: Daemon, tmp_path: Path) -> None:
    """Two spellings of one path make one dataset."""
    save(tmp_path / "x.npy", np.arange(3))
    again = tmp_path / ".." / tmp_path.name / "x.npy"
    assert run(daemon, tmp_path / "x.npy", again, "-o", tmp_path / "o.h5") == 0
    assert list(contents(tmp_path / "o.h5")) == ["x"]


# ---- streaming -------------------------------------------------------------------------------


def test_more_than_the_budget_streams_through_half_of_it(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """Files of 5 MiB and one of 3 MiB pass through 2 MiB; at most 1 MiB is in use at any time."""
    daemon = start_daemon("--budget", "2M", "--workers", "2")
    random = np.random.default_rng(1)
    expected = {
        f"s{n:02}": save(tmp_path / f"s{n:02}.npy", random.random(50_000)) for n in range(13)
    }
    expected["large"] = save(tmp_path / "large.npy", random.random((3 << 17, 1)))
    held: list[int] = []
    ahead: list[int] = []

    def look(done: int, total: int) -> None:
        status = watcher.status()
        held.append(status.held)
        ahead.append(len(status.blocks) + len(status.jobs))

    with arrayd.connect(daemon.endpoint) as watcher, arrayd.connect(daemon.endpoint) as client:
        files = sorted(tmp_path.glob("*.npy"))
        collect(client, files, tmp_path / "out.h5", written=look)
        counters = watcher.status().counters
    assert 0 < max(held) <= 1 << 20
    assert min(ahead[:-1]) > 1, "the next file was not asked for while one was written"
    assert counters["loads"] == 13 + 7, (
        "each file once, the large one in parts of 1/4 of the budget each"
    )
    found = contents(tmp_path / "out.h5")
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_text_larger_than_the_budget(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A text file that does not fit into memory at all is collected, by rows."""
    daemon = start_daemon("--budget", "1M", "--workers", "2")
    path = tmp_path / "large.txt"
    path.write_text("".join(f"chr{n % 22} {n} {n / 4} {n} 1\n" for n in range(60_000)))
    words = ["--dtype", DTYPE_TEXT, "-o", tmp_path / "out.h5", "--compression", "lzf"]
    assert run(daemon, path, *words) == 0
    np.testing.assert_array_equal(contents(tmp_path / "out.h5")["large"], np.loadtxt(path, DTYPE))


def test_progress_counts_all_bytes(client: arrayd.Client, tmp_path: Path) -> None:
    """What `written` is told grows to the total."""
    save(tmp_path / "a.npy", np.zeros(1000))
    save(tmp_path / "b.npy", np.zeros(500))
    told: list[tuple[int, int]] = []
    collect(
        client,
        [tmp_path / "a.npy", tmp_path / "b.npy"],
        tmp_path / "out.h5",
        written=lambda *counts: told.append(counts),
    )
    assert told == [(8000, 12000), (12000, 12000)]


# ---- all or nothing ---------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Give an output that exists, alone in its folder."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "out.h5"
    path.write_bytes(b"the old file")
    return path


def untouched(old: Path) -> bool:
    """Say whether `old` is as it was, and still alone."""
    return os.listdir(old.parent) == [old.name] and old.read_bytes() == b"the old file"


def test_bad_files_are_all_named(
    daemon: Daemon, tmp_path: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two bad ones among five: exit 1, one line with both, the old output untouched."""
    for n in range(5):
        text = "1 2\nx 4\n" if n in (2, 4) else "1 2\n3 4\n"
        (tmp_path / f"f{n}.txt").write_text(text)
    assert run(daemon, *sorted(tmp_path.glob("f*.txt")), "-o", old) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/f2.txt, line 2" in line
    assert f"{tmp_path}/f4.txt, line 2" in line
    assert "2 of 5 files" in line
    assert untouched(old)


def test_missing_files_are_told_before_anything_is_loaded(
    client: arrayd.Client, tmp_path: Path, old: Path
) -> None:
    """What can be seen without loading stops the command at once."""
    save(tmp_path / "there.npy", np.zeros(3))
    files = [tmp_path / "there.npy", tmp_path / "gone.npy", tmp_path / "lost.npy"]
    error, _ = raised(lambda: collect(client, files, old))
    assert isinstance(error, SourceNotFound)
    assert "gone.npy" in str(error)
    assert "lost.npy" in str(error)
    assert counters(client)["loads"] == 0
    assert untouched(old)


def test_a_file_that_changes_meanwhile(client: arrayd.Client, tmp_path: Path, old: Path) -> None:
    """A file that is rewritten after it was looked into is refused, not mixed."""
    save(tmp_path / "a.npy", np.zeros(3))
    save(tmp_path / "b.npy", np.zeros(3))

    def rewrite(done: int, total: int) -> None:
        save(tmp_path / "b.npy", np.ones(4))

    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    error, _ = raised(lambda: collect(client, files, old, written=rewrite))
    assert isinstance(error, SourceChanged)
    assert "b.npy" in str(error)
    assert untouched(old)


def test_ctrl_c_leaves_nothing(
    daemon: Daemon, client: arrayd.Client, slow_file: Path, tmp_path: Path, old: Path
) -> None:
    """SIGINT in the middle: exit 130, no word, no new file, the old one as it was."""
    words = ["collect", slow_file, "-o", old, "--endpoint", daemon.endpoint]
    options = [word for key, value in SLOW.items() for word in ("--option", f"{key}={value}")]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, words), *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    with process, frozen_load(daemon, client):
        assert len(os.listdir(old.parent)) == 2, "the new file is being written"
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=20)
    assert (process.returncode, complaint) == (130, "")
    assert untouched(old)


def test_a_full_disk(daemon: Daemon, tmp_path: Path, old: Path) -> None:
    """A write that fails is told in one line with its reason; the old output stays."""
    save(tmp_path / "large.npy", np.zeros(1 << 17))
    words = ["collect", tmp_path / "large.npy", "-o", old, "--endpoint", daemon.endpoint]
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18,) * 2)\n"
    done = subprocess.run(
        [sys.executable, "-c", limited + PROGRAM, *map(str, words)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"{old} cannot be written" in done.stderr
    assert "File too large" in done.stderr
    assert untouched(old)


def test_what_cannot_be_collected(client: arrayd.Client, tmp_path: Path, old: Path) -> None:
    """A published block, a file of several arrays, a type unknown to HDF5: each is explained."""
    save(tmp_path / "words.npy", np.array(["ä"]))
    np.savez(tmp_path / "two.npz", a=np.zeros(2), b=np.zeros(3))
    for source, word in {
        "name:x": "published",
        tmp_path / "two.npz": "one of a, b",
        tmp_path / "words.npy": "<U1",
    }.items():
        error, _ = raised(lambda source=source: collect(client, [source], old))  # type: ignore[misc]  # a default binds the loop's value
        assert isinstance(error, SpecMismatch)
        assert word in str(error)
    assert untouched(old)


def test_an_output_that_cannot_be(client: arrayd.Client, tmp_path: Path) -> None:
    """A folder that is missing, or an output that is a folder, is told with its path."""
    save(tmp_path / "a.npy", np.zeros(3))
    for out, word in {tmp_path / "no" / "o.h5": "No such file", tmp_path: "directory"}.items():
        error, _ = raised(lambda out=out: collect(client, [tmp_path / "a.npy"], out))  # type: ignore[misc]  # a default binds the loop's value
        assert type(error) is ArraydError
        assert str(error).startswith(f"{out} cannot be written")
        assert word in str(error)
    assert os.listdir(tmp_path) == ["a.npy"]


def test_a_link_to_the_output_stays_a_link(client: arrayd.Client, tmp_path: Path) -> None:
    """The file behind a symbolic link is replaced, with the permissions of a new file."""
    save(tmp_path / "a.npy", np.arange(3))
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.h5"
    link.symlink_to(tmp_path / "real" / "out.h5")
    collect(client, [tmp_path / "a.npy"], link)
    assert link.is_symlink()
    assert list(contents(tmp_path / "real" / "out.h5")) == ["a"]
    (tmp_path / "other").touch()
    assert (tmp_path / "real" / "out.h5").stat().st_mode == (tmp_path / "other").stat().st_mode
