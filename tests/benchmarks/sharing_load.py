"""The part ``load`` of ``tests.benchmarks.sharing``: files whose array no process has yet.

The files lie in the page cache. Fresh pages: the daemon keeps none of a block that has gone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import arrayd
from arrayd_server.loaders.text.plain_rows import library
from tests.benchmarks import load_files
from tests.benchmarks.elsewhere import plasma_store, version
from tests.benchmarks.files import MIB
from tests.benchmarks.markdown import Goal, Markdown, least, most, rounds
from tests.benchmarks.peak import Peak, anonymous_bytes
from tests.benchmarks.peers import installed
from tests.benchmarks.processes import Consumer, Daemon, together

if TYPE_CHECKING:
    from tests.benchmarks.sharing import Bench

ROUNDS = 5
MODULE = "tests.benchmarks.loading"
WATCHED = 2.0
"""Seconds in which the longest request is looked for."""

LINGER = 0.1
"""Seconds for which a loaded array is kept where memory is looked at: all of it is seen."""

LITTLE = 2 * MIB
"""Bytes of the files that loaders are started with."""

BEYOND = 64.0
"""MiB of memory besides the block that a load may take."""

Others = dict[str, tuple[Callable[[], float], Goal | None]]
"""What a load is held against: seconds of one, and the goal of the ratio."""


@dataclass
class Loads:
    """Who loads.

    Parameters
    ----------
    daemon
        Two loaders, of which no page is used again, or the pages of the block before.
    client
        Of it.
    machine
        Does the same without arrayd.
    before
        Bytes of memory of a daemon, its loaders and a client when each has loaded little.
    """

    table: Markdown
    daemon: Daemon
    client: Consumer
    machine: Consumer
    before: int

    def get(self, files: list[str], **task: Any) -> Callable[[], float]:
        """Return what measures the seconds of a load."""
        return lambda: float(together([self.client], files=files, **task)[0]["seconds"])

    def bare(self, what: str, files: list[str]) -> Callable[[], float]:
        """Return what measures the seconds without arrayd."""
        return lambda: float(together([self.machine], what=what, files=files)[0]["seconds"])

    def size(self, files: list[str], **task: Any) -> int:
        """Return the bytes of what is loaded."""
        return int(together([self.client], files=files, **task)[0]["bytes"])

    def line(self, work: str, files: list[str], others: Others, **task: Any) -> None:
        """Measure a load beside others, in MiB per second, and the memory that it takes."""
        size = self.size(files, **task)
        works = {"arrayd": self.get(files, **task)} | {key: one for key, (one, _) in others.items()}
        seen = rounds(works, ROUNDS)
        rates = {name: [size / MIB / one for one in seconds] for name, seconds in seen.items()}
        for name, (_, goal) in others.items():
            self.table.beside(work, rates["arrayd"], "MiB/s", name, rates[name], goal)
        self.memory(work, files, size, **task)

    def memory(self, work: str, files: list[str], size: int, **task: Any) -> None:
        """Measure the memory of a load: in a run of its own, which is not timed."""
        with Peak(self.daemon, [self.client.pid], self.before) as peak:
            together([self.client], files=files, linger=LINGER, **task)
        beyond = (peak.most - size) / MIB
        self.table.absolute(
            f"{work}: peak memory besides its {size / MIB:,.0f} MiB (one run)",
            [beyond],
            "MiB",
            most(BEYOND),
        )


@contextlib.contextmanager
def loads(bench: Bench, name: str, budget: int, *flags: str) -> Iterator[Loads]:
    """Run a daemon and who loads."""
    place = bench.folder / name
    place.mkdir()
    daemon = Daemon(place, "--budget", str(budget), "--workers", "2", *flags)
    try:
        spec = {"kind": "arrayd", "endpoint": daemon.endpoint}
        bare = {"kind": "machine", "memory": str(bench.memory)}
        with Consumer(spec, module=MODULE) as client, Consumer(bare, module=MODULE) as machine:
            little = [str(load_files.doubles(place / f"{one}.npy", LITTLE)) for one in range(4)]
            together([client], files=little)
            before = anonymous_bytes([*daemon.pids, client.pid])
            yield Loads(bench.table, daemon, client, machine, before)
    finally:
        daemon.stop()


def run(bench: Bench) -> None:
    """Measure all lines of the part."""
    bench.table.notes += [
        f"{what}: {'there' if there else 'missing'}" for what, there in optional()
    ]
    budget = 2 * bench.sizes.array + bench.sizes.freed + 256 * MIB
    with loads(bench, "fresh", budget, "--keep-pages", "0") as made:
        small(bench, made)
        samples(bench, made)
        large = str(load_files.doubles(bench.folder / "large.npy", bench.sizes.array))
        fresh(made, large)
        casts(made, large)
        contiguous(bench, made, large)
        for codec in load_files.CODECS:
            packed(bench, made, codec)
        text(bench, made)
        freeing(bench, made)
    with loads(bench, "recycled", bench.sizes.array * 3 // 2) as made:
        recycled(bench, made, large)
    Path(large).unlink()


def optional() -> list[tuple[str, bool]]:
    """Return what loads are faster with, and whether it is installed."""
    return [
        ("compiled text parser", library() is not None),
        ("deflate (libdeflate for HDF5)", installed("deflate")),
        ("hdf5plugin", installed("hdf5plugin")),
    ]


def small(bench: Bench, made: Loads) -> None:
    """Measure many small files."""
    files = load_files.small(bench.folder / "small", bench.sizes.files)
    work = f"{len(files):,} files of 64 KiB via get_many"
    others: Others = {"np.load, one by one": (made.bare("np_load", files), None)}
    size = made.size(files)
    (other,) = others
    seen = rounds({"arrayd": made.get(files), other: others[other][0]}, ROUNDS)
    each = {name: [one / len(files) * 1e6 for one in seconds] for name, seconds in seen.items()}
    for goal in (most(1.0), most(0.6, aim=True)):
        made.table.beside(work, each["arrayd"], "µs a file", other, each[other], goal)
    made.memory(work, files, size)


def samples(bench: Bench, made: Loads) -> None:
    """Measure small files of other formats, beside a loop of what people read them with."""
    for kind, other in (("npz", "np.load"), ("h5", "h5py"), ("txt", "np.loadtxt")):
        files = load_files.samples(bench.folder / kind, kind, bench.sizes.files // 5)
        works = {"arrayd": made.get(files), other: made.bare("one_by_one", files)}
        seen = rounds(works, ROUNDS)
        mine, theirs = ([one / len(files) * 1e6 for one in seen[name]] for name in works)
        work = f"{len(files):,} .{kind} files of 8 KiB of values via get_many"
        made.table.beside(work, mine, "µs a file", f"{other}, one by one", theirs)


def fresh(made: Loads, large: str) -> None:
    """Measure a .npy into fresh pages."""
    others: Others = {
        "pread, pwrite by 2 threads": (made.bare("fill", [large]), least(0.9)),
        "shutil.copyfile to /dev/shm": (made.bare("copyfile", [large]), None),
        "np.load (private)": (made.bare("np_load", [large]), None),
    }
    made.line(".npy into fresh pages", [large], others)


def casts(made: Loads, large: str) -> None:
    """Measure casts, in bytes written."""
    whole = made.size([large])
    for kind in ("f4", "f2"):
        size = made.size([large], options={"cast": kind})
        works = {"cast": made.get([large], options={"cast": kind}), "as it is": made.get([large])}
        seen = rounds(works, ROUNDS)
        rate = [size / MIB / one for one in seen["cast"]]
        plain = [whole / MIB / one for one in seen["as it is"]]
        work = f"float64 → {np.dtype(kind)} while loading, in bytes written"
        made.table.beside(work, rate, "MiB/s", "arrayd, not cast", plain, least(0.8))
        made.memory(work, [large], size, options={"cast": kind})


def contiguous(bench: Bench, made: Loads, large: str) -> None:
    """Measure a contiguous HDF5 dataset; beside the .npy of the same bytes."""
    path = load_files.hdf5(bench.folder / "plain.h5", bench.sizes.array, None)
    others: Others = {
        "arrayd, .npy": (made.get([large]), least(0.9)),
        "h5py, dataset[...]": (made.bare("h5py_all", [str(path)]), None),
        "h5py, read_direct into old pages": (made.bare("h5py", [str(path)]), None),
    }
    made.line("HDF5 contiguous", [f"{path}:/x"], others)
    path.unlink()


def packed(bench: Bench, made: Loads, codec: str) -> None:
    """Measure a dataset of compressed chunks."""
    work = f"HDF5 {codec}, chunks of 64 rows"
    try:
        path = load_files.hdf5(bench.folder / "packed.h5", bench.sizes.packed, codec)
    except ImportError as error:
        bench.table.left_out.append(f"{work}: {error}")
        return
    goal = least(2.5) if codec == "gzip(4)+shuffle" else least(1.0)
    others: Others = {"h5py, read_direct": (made.bare("h5py", [str(path)]), goal)}
    made.line(work, [f"{path}:/x"], others)
    path.unlink()


def text(bench: Bench, made: Loads) -> None:
    """Measure text of structured columns."""
    path = str(load_files.text(bench.folder / "columns.txt", bench.sizes.rows))
    task = {"options": {"dtype": "columns"}}
    others: Others = {"np.loadtxt": (made.bare("loadtxt", [path]), least(1.8))}
    with contextlib.ExitStack() as stack:
        tables = {}
        for library in ("pyarrow", "polars"):
            python = bench.pythons.having(library)
            if python is None:
                bench.table.left_out.append(f"{library}: not installed")
                continue
            bench.table.notes.append(f"{library} {version(python, library)}")
            one = stack.enter_context(Consumer({"kind": "tables"}, module=MODULE, python=python))
            tables[library] = one
            others[library] = (_of_table(one, library, path), least(1.0))
        work = f"text, {bench.sizes.rows:,} rows × 5 structured columns"
        mine = together([made.client], files=[path], check=True, **task)[0]["digest"]
        other = together([made.machine], what="loadtxt", files=[path])[0]["digest"]
        different = [float(mine != other)]
        made.table.absolute(f"{work}: bits unlike np.loadtxt's", different, "", most(0))
        made.line(work, [path], others, **task)
    Path(path).unlink()


def _of_table(one: Consumer, library: str, path: str) -> Callable[[], float]:
    return lambda: float(together([one], what=library, files=[path])[0]["seconds"])


def freeing(bench: Bench, made: Loads) -> None:
    """Measure the longest request of a client while another makes and frees large blocks."""
    file = bench.folder / "asked.npy"
    np.save(file, np.zeros(512))
    size = bench.sizes.freed
    spec = {"kind": "arrayd", "endpoint": made.daemon.endpoint, "files": [str(file)]}
    with (
        Consumer(spec, module="tests.benchmarks.attaching") as asker,
        arrayd.connect(made.daemon.endpoint, start=False) as client,
    ):
        kept = client.get(file)

        def longest(*, busy: bool) -> float:
            at = time.monotonic() + 0.1
            asker.tell(what="asking", at=at, until=at + WATCHED)
            time.sleep(0.1)
            while busy and time.monotonic() < at + WATCHED / 2:
                with client.create(size, "u1") as out:  # its pages are there, but never touched
                    pass
                del out
                client._session.send_releases()
                client.status()  # and so it is gone, or going
            return float(asker.answer()["longest"]) * 1e3

        works = {"busy": lambda: longest(busy=True), "peace": lambda: longest(busy=False)}
        seen = rounds(works, ROUNDS)
        del kept
    work = f"fallocate, unlink of {size / MIB:,.0f} MiB: longest request of another client"
    bench.table.above(work, seen["busy"], "ms", "in peace", seen["peace"], most(2))


def recycled(bench: Bench, made: Loads, large: str) -> None:
    """Measure a .npy into the pages of a block that has to go for it, as in the steady state."""
    second = str(load_files.doubles(bench.folder / "second.npy", bench.sizes.array))
    others: Others = {
        "readinto a mapped segment": (made.bare("readinto", [large]), least(0.85)),
    }
    with contextlib.ExitStack() as stack:
        python = bench.pythons.having("pyarrow.plasma")
        if python is not None:
            room = bench.sizes.array * 3 // 2
            socket = stack.enter_context(plasma_store(python, bench.memory, room))
            spec = {"kind": "plasma", "socket": socket}
            store = stack.enter_context(Consumer(spec, module=MODULE, python=python))
            load = _of_table(store, "", large)
            others["Plasma, its pages warm"] = (load, least(1.0))
        elif not any(one.startswith("Plasma") for one in bench.table.left_out):
            bench.table.left_out.append("Plasma: no Python with pyarrow 11")
        made.line(".npy into recycled pages", [large], others, before=second)
    together([made.machine], what="unmap", files=[])
    Path(second).unlink()
    bench.table.left_out.append("Vineyard, Ray: this benchmark does not drive them")
