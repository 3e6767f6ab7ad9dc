"""Files that lie: valid ones mutated at random, and the worst that their formats allow.

Whatever a file says, a loader gives the right array or a typed error, in bounded time and
memory. ``python -m tests.faults.hostile_files SECONDS [SEED]`` tries mutants for so long and
prints what became of them.
"""

from __future__ import annotations

import gzip
import itertools
import random
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from arrayd.errors import ArraydError, LoaderCrashed, LoadError, LoadTimeout
from arrayd.source import Source
from tests.faults.hostile_loader import Loader, Oracle, digest, known

RECORD = np.dtype([("chr", "S3"), ("pos", "<i4"), ("pct", "<f4", (2,))])

_NASTY = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
_AHEAD = 50
_SUFFIXES = (".npy", ".npz", ".h5", ".txt", ".txt.gz", ".csv.gz", ".bin")


@dataclass(frozen=True)
class Original:
    """A valid file, and what is asked of it and of its mutants."""

    path: Path
    options: tuple[dict[str, Any], ...] = ({},)

    @property
    def suffix(self) -> str:
        """Return all suffixes of the name."""
        return "".join(self.path.suffixes)


def originals(folder: Path) -> list[Original]:
    """Write a small valid file in every format, and every way to store an array."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1000, (40, 5))
    records = np.zeros(60, RECORD)
    records["pos"] = np.arange(60)
    rows = {"rows": slice(30, 2, -3)}

    np.save(folder / "c.npy", values)
    np.save(folder / "f.npy", np.asfortranarray(values.astype("f4")))
    np.save(folder / "records.npy", records)
    np.savez(folder / "stored.npz", a=values, b=records)
    np.savez_compressed(folder / "deflated.npz", a=values, b=records)
    np.savetxt(folder / "spaced.txt", values)
    (folder / "quoted.csv").write_text('1,"2",3\n4,"5",6\n' * 30)
    np.savetxt(folder / "packed.txt.gz", values)
    (folder / "bare.bin").write_bytes(values.tobytes())
    for name, latest in (("old.h5", "earliest"), ("new.h5", "latest")):
        with h5py.File(folder / name, "w", libver=latest) as file:
            _fill(file, values, records)
    members = tuple({"dataset": d} for d in ("a", "z/gzip", "z/records", "z/soft", "z/virtual"))
    raw = ({"dtype": "<i8", "shape": (-1, 5), "offset": 0},)
    return [
        Original(folder / "c.npy", ({}, rows, {"order": "F"})),
        Original(folder / "f.npy", ({}, rows)),
        Original(folder / "records.npy"),
        Original(folder / "stored.npz", ({"dataset": "a"}, {"dataset": "b"})),
        Original(folder / "deflated.npz", ({"dataset": "a"}, {"dataset": "b", **rows})),
        Original(folder / "spaced.txt", ({}, rows)),
        Original(folder / "quoted.csv", ({"delimiter": ",", "quotechar": '"', "dtype": "i4"},)),
        Original(folder / "packed.txt.gz"),
        Original(folder / "bare.bin", raw),
        Original(folder / "old.h5", members),
        Original(folder / "new.h5", members),
    ]


def _fill(file: Any, values: Any, records: Any) -> None:
    file["a"] = values
    group = file.create_group("z")
    chunked = {"chunks": (7, 2), "compression": "gzip", "shuffle": True, "fletcher32": True}
    group.create_dataset("gzip", data=values, maxshape=(None, None), **chunked)
    group.create_dataset("records", data=records, chunks=(16,), maxshape=(None,))
    group["soft"] = h5py.SoftLink("/a")
    group["elsewhere"] = h5py.ExternalLink(file.filename, "/z/gzip")
    layout = h5py.VirtualLayout((80, 5), values.dtype)
    layout[:40] = h5py.VirtualSource(".", "/a", values.shape)
    layout[40:] = h5py.VirtualSource(".", "/z/gzip", values.shape, maxshape=(None, None))
    group.create_virtual_dataset("virtual", layout)
    group.attrs["note"] = "text"


# ---- mutation ------------------------------------------------------------------------------


def mutant(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Return the name of a mutation, and `data` after it."""
    name = rng.choice(sorted(_MUTATIONS))
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _MUTATIONS[name](rng, changed)
    return name, bytes(changed)


def _at(rng: random.Random, data: bytearray) -> int:
    """Return a place: as often as not in the first part, where the headers are."""
    return rng.randrange(max(1, rng.choice((len(data), min(len(data), 200), min(len(data), 2000)))))


def _flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        at = _at(rng, data)
        data[at : at + 1] = bytes(b ^ (1 << rng.randrange(8)) for b in data[at : at + 1])


def _cut(rng: random.Random, data: bytearray) -> None:
    del data[_at(rng, data) :]


def _append(rng: random.Random, data: bytearray) -> None:
    data += rng.choice((rng.randbytes(rng.randrange(1, 5000)), bytes(4096), bytes(data)))


def _integer(rng: random.Random, data: bytearray) -> None:
    """Put a number where the format may have one: all are little-endian."""
    size = rng.choice((1, 2, 4, 8))
    value = (rng.choice(_NASTY) + rng.choice((-1, 0, 0, 1))) % (1 << (8 * size))
    at = _at(rng, data)
    data[at : at + size] = value.to_bytes(size, "little")


def _region(rng: random.Random, data: bytearray) -> None:
    at, size = _at(rng, data), rng.choice((1, 4, 16, 100, 1000))
    size = len(data[at : at + size])
    data[at : at + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))


def _move(rng: random.Random, data: bytearray) -> None:
    source, at, size = _at(rng, data), _at(rng, data), rng.choice((4, 8, 32, 200))
    data[at : at + size] = data[source : source + size]


def _drop(rng: random.Random, data: bytearray) -> None:
    at = _at(rng, data)
    del data[at : at + rng.choice((1, 2, 8, 100))]


def _digits(rng: random.Random, data: bytearray) -> None:
    """Change a number written as text, as in the header of a .npy."""
    places = [i for i, byte in enumerate(data[:4096]) if 48 <= byte < 58]
    if places:
        at = rng.choice(places)
        data[at : at + 1] = rng.choice((b"-1", b"9" * 10, b"9" * 20, b"0", b"1e9", b"0x7", b"None"))


_MUTATIONS = {
    "append": _append,
    "cut": _cut,
    "digits": _digits,
    "drop": _drop,
    "flip": _flip,
    "integer": _integer,
    "move": _move,
    "region": _region,
}


def mutants(
    rng: random.Random, folder: Path, kinds: list[Original]
) -> Iterator[tuple[str, Source]]:
    """Yield names and sources of mutants without end; each is gone when the next is asked for.

    Some are written ahead: a file that was written just now is not read at once.
    """
    ahead: deque[tuple[str, Source]] = deque()
    for number in itertools.count():
        original = rng.choice(kinds)
        name, data = mutant(rng, original.path.read_bytes())
        suffix, options = original.suffix, rng.choice(original.options)
        if rng.random() < 0.03:
            suffix, options = rng.choice(_SUFFIXES), {}
        elif suffix == ".txt.gz" and rng.random() < 0.5:  # beyond the checksum
            name, data = mutant(rng, gzip.decompress(original.path.read_bytes()))
            data = gzip.compress(data)
        path = folder / f"mutant{number}{suffix}"
        path.write_bytes(data)
        ahead.append((f"{original.path.name}/{name}", Source.of(path, **options)))
        if number >= _AHEAD:
            yield ahead[0]
            Path(ahead.popleft()[1].path).unlink()


# ---- trying --------------------------------------------------------------------------------


@dataclass
class Trial:
    """Files through one loader process, and what became of them."""

    folder: Path
    keep: Path | None = None  # where files go that break a promise
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    native: list[str] = field(default_factory=list)  # what was not the file's fault alone
    slowest: tuple[float, str] = (0.0, "")

    def __post_init__(self) -> None:
        self.loader = Loader(self.folder / "segment", self.folder / "loader.log")
        self._oracle = Oracle()

    def attempt(self, name: str, source: Source) -> str:
        """Look at a file and load it; return what came of it."""
        began = time.monotonic()
        try:
            outcome = self._outcome(name, source)
        except ArraydError as error:
            outcome = type(error).__name__
            native = isinstance(error, (LoadTimeout, LoaderCrashed))
            # What libhdf5 does is beyond us; that it costs one load, we promise.
            if not known(error) or (native and source.resolved_format() != "hdf5"):
                outcome = self._violated(name, source, str(error))
            if isinstance(error, LoadError):
                self.native.append(f"{name} {outcome}: {error}")
        self.slowest = max(self.slowest, (time.monotonic() - began, f"{name} {outcome}"))
        self.outcomes[f"{source.resolved_format()} {outcome}"] += 1
        return outcome

    def _outcome(self, name: str, source: Source) -> str:
        try:
            self.loader.ask("info", source)
        except (LoadTimeout, LoaderCrashed):
            raise
        except ArraydError as error:
            if not known(error):
                raise
        found, array = self.loader.load(source)
        expected = self._oracle.digest(source, found["member"])
        if expected is None:
            return "array (refused by the oracle)"
        if expected != digest(array):
            if any(self._oracle.digest(source, found["member"]) != expected for _ in range(3)):
                return "array (the oracle reads memory that was never written)"
            return self._violated(name, source, f"{digest(array)} is not {expected}")
        return "right array"

    def _violated(self, name: str, source: Source, what: str) -> str:
        number = len(self.violations)
        self.violations.append(f"{number} {name} {source.option} {source.rows}: {what}")
        if self.keep is not None:
            path = Path(source.path)
            (self.keep / f"{number}-{path.name}").write_bytes(path.read_bytes())
        return "VIOLATION"

    @property
    def log(self) -> str:
        """Return what the loader wrote to its standard error."""
        return (self.folder / "loader.log").read_text(errors="replace")

    def close(self) -> None:
        """End the processes."""
        self.loader.close()
        self._oracle.close()

    def __str__(self) -> str:
        lines = [f"{count:7} {what}" for what, count in sorted(self.outcomes.items())]
        lines += [f"{sum(self.outcomes.values())} cases, slowest {self.slowest}"]
        lines += [f"peak {self.loader.peak >> 20} MiB", f"log: {self.log[-3000:]}"]
        return "\n".join([*lines, *self.native[:30], *self.violations[:20]])


def main() -> None:
    """Try mutants for the seconds of the command line; keep those that break a promise."""
    seconds = float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    print(f"seed {seed}")  # noqa: T201 - a command
    keep = Path(tempfile.mkdtemp(prefix=f"hostile-{seed}-"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trial = Trial(folder, keep)
        files = mutants(random.Random(seed), folder, originals(folder))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            trial.attempt(*next(files))
        trial.close()
        print(trial)  # noqa: T201 - a command
    if trial.violations:
        print(f"see {keep}")  # noqa: T201 - a command
    else:
        keep.rmdir()


if __name__ == "__main__":
    main()
