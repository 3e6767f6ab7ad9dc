"""HDF5 files that somebody is writing: refused as by h5py, unless they are wanted as they are."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.errors import BadFile, SourceBusy, SpecMismatch
from arrayd.session.locking import VARIABLE
from arrayd.source import Source
from arrayd_server.kernel import leases
from arrayd_server.loaders.formats import probe
from arrayd_server.loaders.hdf5 import loader as hdf5
from arrayd_server.loading import probing
from arrayd_server.loading.messages import ProbeTask
from tests.support.processes import block_of

pytestmark = pytest.mark.one_daemon

PLAIN = "f = h5py.File(path, 'a'); f['x'][:5] = 1"
LATEST = "f = h5py.File(path, 'a', libver='latest'); f['x'][:5] = 1"
SWMR = f"{LATEST}; f.swmr_mode = True; f['x'].flush()"
MORE = "f['x'].resize((20,)); f['x'][10:] = 2; f.flush()"


class Writer:
    """A process that has a file open for writing."""

    def __init__(self, path: Path, code: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self(code)

    def __call__(self, code: str) -> None:
        """Have it do something."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{code}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def close(self) -> None:
        """Let it close the file and end."""
        self("f.close()")
        self._process.communicate()

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.communicate()


RUN = """
import h5py, sys
path = sys.argv[1]
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


def write(path: Path, libver: str | None = None) -> Path:
    """Write a file of ten zeros that can grow."""
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("x", data=np.zeros(10), maxshape=(None,), chunks=(10,))
    return path


@contextmanager
def written(path: Path, code: str) -> Iterator[Writer]:
    """Give a writer that is gone at the end."""
    writer = Writer(path, code)
    try:
        yield writer
    finally:
        writer.kill()


@contextmanager
def flocked(path: Path) -> Iterator[None]:
    """Have a file locked as a writer does, without a byte written."""
    with path.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def test_a_file_that_is_written_is_refused(client: arrayd.Client, tmp_path: Path) -> None:
    """By `get`, `info` and through a link, as by h5py; when it is closed, it is there."""
    path = write(tmp_path / "x.h5")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["link"] = h5py.ExternalLink("x.h5", "/x")
    with written(path, PLAIN) as writer:
        with pytest.raises(BlockingIOError):
            h5py.File(path)
        for call, source in (
            (client.get, path),
            (client.info, path),
            (client.get, f"{tmp_path}/m.h5:link"),
        ):
            with pytest.raises(SourceBusy, match=r"x\.h5: a program has this.*is closed\. lock"):
                call(source)
        assert isinstance(SourceBusy("x"), BlockingIOError)
        writer.close()
    for source in (path, f"{tmp_path}/m.h5:link"):
        assert client.get(source).tolist() == [1] * 5 + [0] * 5


def test_on_request_it_is_read_all_the_same(
    client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remedy works, by option or by the variable of the caller's environment."""
    path = write(tmp_path / "x.h5")
    with written(path, f"{PLAIN}; f.flush()"):
        expected = [1] * 5 + [0] * 5
        assert client.get(path, locking=False).tolist() == expected
        assert client.info(path, locking=False).shape == (10,)
        for value in ("FALSE", "0"):
            monkeypatch.setenv(VARIABLE, value)
            assert client.get(path).tolist() == expected
            with pytest.raises(SourceBusy):
                client.get(path, locking=True)
        monkeypatch.setenv(VARIABLE, "BEST_EFFORT")
        with pytest.raises(SourceBusy):
            client.get(path, locking="best-effort")


def test_the_variable_is_for_hdf5_alone(
    client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other formats know no locks and are not told of them."""
    monkeypatch.setenv(VARIABLE, "FALSE")
    (tmp_path / "x.txt").write_text("1 2\n")
    np.save(tmp_path / "x.npy", np.arange(3))
    assert client.get(tmp_path / "x.npy").tolist() == [0, 1, 2]
    assert client.get(tmp_path / "x.txt").tolist() == [1, 2]
    with pytest.raises(arrayd.SourceNotFound):
        client.get(tmp_path / "gone.h5")


def test_what_was_read_under_a_lock_is_for_who_asked(client: arrayd.Client, tmp_path: Path) -> None:
    """Though the file is the same afterwards by all that `stat` says; a sound one has one block."""
    path = write(tmp_path / "x.h5")
    with flocked(path):
        risky = client.get(path, locking=False)
        with pytest.raises(SourceBusy):
            client.get(path)
    sound = client.get(path)
    assert block_of(sound).name != block_of(risky).name
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["x"] = np.zeros(3)
    blocks = {
        block_of(client.get(tmp_path / "y.h5", **options)).name
        for options in ({}, {"locking": True}, {"locking": False}, {"locking": "best-effort"})
    }
    assert len(blocks) == 1


def test_a_writer_in_swmr_mode(client: arrayd.Client, tmp_path: Path) -> None:
    """It is read on request, as by h5py, and as it grows; what may damage it is not advised."""
    path = write(tmp_path / "x.h5", "latest")
    with written(path, SWMR) as writer:
        with pytest.raises(SourceBusy, match=r"in SWMR mode\. swmr=True reads it") as caught:
            client.get(path)
        assert "h5clear" not in str(caught.value)
        with h5py.File(path, swmr=True) as file:
            expected = file["x"][()].tolist()
        assert client.get(path, swmr=True).tolist() == expected == [1] * 5 + [0] * 5
        writer(MORE)
        assert client.get(path, swmr=True).tolist() == [*expected, *[2] * 10]
        assert client.get(path, swmr=True, rows=slice(8, 12)).tolist() == [0, 0, 2, 2]
        writer.close()
    assert client.get(path).tolist() == client.get(path, swmr=True).tolist()


def test_a_file_may_grow_between_probe_and_fill(tmp_path: Path) -> None:
    """The rows that were planned are read; the rest is another block's."""
    path = write(tmp_path / "x.h5", "latest")
    with written(path, SWMR) as writer:
        source = Source.of(path, swmr=True)
        found = probing.probe(ProbeTask(source))
        plan = probe(source)
        writer(MORE)
        values = [chunk.copy() for part in plan.parts for chunk in hdf5.fill(source, plan, part)]
        probing.check_unchanged(source, found)
    assert np.concatenate(values).tolist() == [1] * 5 + [0] * 5


@pytest.mark.parametrize("code", [LATEST, SWMR])
@pytest.mark.parametrize("alive", [True, False])
def test_a_writer_that_died_is_told_from_one_that_lives(
    client: arrayd.Client, tmp_path: Path, code: str, alive: bool
) -> None:
    """Both leave the same marks in the file; of a live one nothing but patience is advised."""
    path = write(tmp_path / "x.h5", "latest")
    with path.open("rb") as file:
        leases.no_writer(file.fileno())  # or the test means nothing here
    with written(path, f"{code}; f.flush()") as writer:
        if not alive:
            writer.kill()
        with pytest.raises(SourceBusy if alive else BadFile) as caught:
            client.get(path, locking=False)
        words = str(caught.value)
        assert ("without closing" in words) == (not alive)
        assert ("swmr=True" in words) == (code is SWMR)
        assert ("h5clear -s COPY" in words) == (code is LATEST and not alive)
        if code is SWMR:
            assert client.get(path, swmr=True).tolist() == [1] * 5 + [0] * 5


@pytest.mark.parametrize(
    ("code", "locking", "refused"),
    [
        *((errno.ENOSYS, locking, locking is True) for locking in (None, True, False)),
        *((errno.ENOLCK, locking, locking is not False) for locking in (None, True, False)),
    ],
)
def test_a_file_system_without_locks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    locking: bool | None,
    refused: bool,
) -> None:
    """It is treated as by libhdf5: best effort forgives ENOSYS, and no other failure."""

    def flock(*_: object) -> None:
        raise OSError(code, "no locks")

    monkeypatch.setattr("arrayd_server.loaders.hdf5.opening.fcntl.flock", flock)
    source = Source.of(write(tmp_path / "x.h5"), locking=locking)
    if refused:
        with pytest.raises(SourceBusy, match=r"no locks.*locking=False"):
            probe(source)
    else:
        assert not probe(source).locked


def test_an_open_reader_does_not_stop_a_writer(client: arrayd.Client, tmp_path: Path) -> None:
    """No lock is left when a file has been looked at and read."""
    path = write(tmp_path / "x.h5")
    held = client.get(path)
    with flocked(path):
        assert held.tolist() == [0] * 10
        assert client.get(path).tolist() == [0] * 10  # it is resident, and has not changed


@pytest.mark.parametrize("option", [{"locking": "maybe"}, {"swmr": 2}, {"lock": True}])
def test_wrong_options(client: arrayd.Client, tmp_path: Path, option: dict[str, object]) -> None:
    """A value that means nothing is refused, and an option that there is not."""
    call: Callable[..., object] = client.get
    with pytest.raises(SpecMismatch, match=r"locking='maybe'|swmr=2|no option lock"):
        call(write(tmp_path / "x.h5"), **option)
