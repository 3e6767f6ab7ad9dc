"""Forged and damaged segments under our prefix: none is adopted that would lie to a client."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arrayd.wire import layout
from arrayd.wire.dtypes import from_descr
from arrayd_server.core import invariants
from arrayd_server.core.model import Block
from arrayd_server.core.registry import Registry
from arrayd_server.kernel import leases
from arrayd_server.segments import adoption, block_metadata
from arrayd_server.segments.scope import Scope
from arrayd_server.segments.store import Segments
from tests.faults.forgery import HONEST, PLAN, SPEC, Image
from tests.faults.grounds import MIB


def taken(path: str) -> list[Block]:
    """Return the blocks that a daemon of a scope would adopt, through all it does to adopt."""
    with Scope(f"ipc://{path}/sock") as scope:
        return taken_by(scope)


def taken_by(scope: Scope) -> list[Block]:
    """Return the blocks that a daemon of an entered scope would adopt."""
    blocks = []
    segments = Segments(scope)
    registry = Registry(scope.name, 1 << 30)
    for found in adoption.Leftovers(segments):
        try:
            block = block_metadata.adopted(found, registry.blocks.new_number(), 0.0)
        except layout.NewerSegment:
            segments.disown(found.name)
            continue
        except ValueError:
            segments.discard(found.name)
            continue
        registry.adopt(block, 0.0)
        registry.inspected(block.segment, mapped=False, now=0.0)
        invariants.check(registry)
        blocks.append(block)
    for block in blocks:
        segments.discard(block.segment)
    return blocks


@pytest.fixture
def family(tmp_path: Path) -> Iterator[str]:
    """Give the beginning of the names of a scope's segments; all are gone in the end."""
    leases.ignore_sigio()
    scope = Scope(f"ipc://{tmp_path}/sock")
    yield scope.family
    left = [name for name in os.listdir("/dev/shm") if name.startswith(scope.family)]
    for name in left:
        os.unlink(f"/dev/shm/{name}")
    shutil.rmtree(scope.directory, ignore_errors=True)
    assert left == []


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return honest metadata with another value somewhere."""
    meta: dict[str, Any] = msgpack.unpackb(layout.pack_meta(block_metadata.metadata(HONEST)))
    place = meta
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return meta


def test_an_honest_one_is_taken(family: str, tmp_path: Path) -> None:
    """The forger's tools make what is adopted, if nothing is forged."""
    Image(f"{family}00000000-1").write(f"/dev/shm/{family}00000000-1")
    (block,) = taken(str(tmp_path))
    assert (block.spec, block.identity) == (SPEC, HONEST.identity)
    assert block.aliases == HONEST.aliases


ADDITIONS: dict[str, tuple[tuple[str, ...], Any]] = {
    "to the array": (("spec", "colour"), 1),
    "to the origin": (("origin", "links"), [["/data/y.h5", [1, 2, 3, 4, 5]]]),
    "to the source": (("origin", "source", "missing"), 0),
    "on top": (("more",), {"deep": [1, None, {"er": b"2"}]}),
    "a version that is known": (("v",), 1),
    "nine aliases": (("aliases",), [bytes([n]) * 16 for n in range(9)]),
    "another kind of alias": (("aliases",), [b"k" * 32]),
}


@pytest.mark.parametrize("addition", ADDITIONS)
def test_a_newer_arrayd_says_more(family: str, tmp_path: Path, addition: str) -> None:
    """What is not known is no lie: the block is adopted, and keeps it when it is written anew."""
    path, value = ADDITIONS[addition]
    meta = changed(path, value)
    name = f"{family}00000000-1"
    replace(Image(name, meta), size=PLAN.size + 2 * layout.PAGE).write(f"/dev/shm/{name}")
    (block,) = taken(str(tmp_path))
    assert block.size == PLAN.size + 2 * layout.PAGE
    again = msgpack.unpackb(layout.pack_meta(block_metadata.metadata(block)))
    assert again["aliases"] == meta.pop("aliases")[:8]
    assert again == {**meta, "aliases": again["aliases"]} or addition == "a version that is known"


NEWER: dict[str, tuple[tuple[str, ...], Any]] = {
    "metadata": (("v",), 2),
    "array": (("spec", "v"), 2),
    "origin": (("origin", "v"), 3),
    "source": (("origin", "source", "v"), 2),
    "all that it says": (("origin", "source"), {"v": 2, "urls": ["https://a"]}),
}


@pytest.mark.parametrize("newer", [*NEWER, "layout"])
def test_a_newer_arrayds_segment_is_left_alone(family: str, tmp_path: Path, newer: str) -> None:
    """Its version says that it would be misread: neither adopted nor removed, by either name."""
    name = f"{family}00000000-1"
    image = Image(name, None if newer == "layout" else changed(*NEWER[newer]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "VERSION", 2 if newer == "layout" else 1)
        image.write(f"/dev/shm/{name}")
    before = Path(f"/dev/shm/{name}").read_bytes()
    with Scope(f"ipc://{tmp_path}/sock") as scope:
        spare = Path(scope.directory, name)
        os.link(f"/dev/shm/{name}", spare)
        assert taken_by(scope) == []
        assert spare.read_bytes() == Path(f"/dev/shm/{name}").read_bytes() == before
        spare.unlink()
    os.unlink(f"/dev/shm/{name}")


def test_a_damaged_footer_of_a_newer_version_is_none(family: str, tmp_path: Path) -> None:
    """A version alone proves nothing: what is the same in all versions is looked at as well."""
    paths = []
    for number, says in enumerate((None, "arrayd-other-1")):
        name = f"{family}00000000-{number}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layout, "VERSION", 2)
            Image(name, says=says).write(f"/dev/shm/{name}")
        paths.append(f"/dev/shm/{name}")
    with open(paths[0], "r+b") as file:
        file.seek(PLAN.size - layout.FOOTER_BYTES + 16)  # bytes of data
        file.write(b"\xff")
    assert taken(str(tmp_path)) == []
    assert [os.path.exists(path) for path in paths] == [False, False]


def nested(levels: int) -> list[Any]:
    """Return lists in lists."""
    return [nested(levels - 1)] if levels else []


LIES: dict[str, tuple[tuple[str, ...], Any]] = {
    "negative dimension": (("spec", "shape"), [-125]),
    "two negatives": (("spec", "shape"), [-5, -25]),
    "another shape": (("spec", "shape"), [126]),
    "huge shape": (("spec", "shape"), [2**63, 2**63]),
    "a million dimensions": (("spec", "shape"), [1] * 1000),
    "shape of floats": (("spec", "shape"), [125.0]),
    "shape of flags": (("spec", "shape"), [125, True]),
    "shape of text": (("spec", "shape"), "125"),
    "itemsize too small": (("spec", "itemsize"), 4),
    "wider dtype": (("spec", "descr"), "<c16"),
    "objects": (("spec", "descr"), "|O"),
    "no dtype": (("spec", "descr"), "hello"),
    "dtype of nothing": (("spec", "descr"), [["x", []]]),
    "no order": (("spec", "order"), "K"),
    "alias that is a number": (("aliases",), [1 << 40]),
    "alias that is text": (("aliases",), ["k"]),
    "aliases that are a number": (("aliases",), 5),
    "name of a file's block": (("name",), "N"),
    "published file": (("published",), True),
    "kept file": (("keep",), True),
    "flag that is a number": (("published",), 0),
    "negative loss": (("lost",), -1),
    "no source": (("origin", "source"), {}),
    "deep source": (("origin", "source", "options"), [["a", nested(495)]]),
    "words that are none": (("origin", "words"), 5),
    "stat of text": (("origin", "stat"), "12345"),
    "a time stamp": (("name",), msgpack.Timestamp(1)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_the_metadata(family: str, tmp_path: Path, lie: str) -> None:
    """Checksums and sizes are right, one value is not: removed."""
    path, value = LIES[lie]
    Image(f"{family}00000000-1", changed(path, value)).write(f"/dev/shm/{family}00000000-1")
    assert taken(str(tmp_path)) == []


def deep(levels: int) -> bytes:
    """Return msgpack of a map that holds lists nested so deeply."""
    head: bytes = msgpack.packb({"spec": 0})[:-1]
    return head + b"\x91" * levels + b"\xc0"


@pytest.mark.parametrize(
    "image",
    [
        Image("N", says="arrayd-other-1"),
        Image("N", raw=b"\xc1"),
        Image("N", raw=b"\x81"),
        Image("N", raw=b""),
        Image("N", raw=b"\x90"),
        Image("N", raw=deep(300)),
        Image("N", raw=deep(2000)),
        Image("N", raw=b"\xdf\xff\xff\xff\xff"),
        Image("N", crc=1),
        Image("N", data_bytes=SPEC.nbytes + 8),
        Image("N", data_bytes=1 << 63),
        Image("N", meta_bytes=1 << 63, crc=0),
        Image("N", meta_offset=PLAN.meta_offset + layout.PAGE, size=PLAN.size + layout.PAGE),
        Image("N", size=PLAN.size + 5),
        Image("N", sealed=False, data_bytes=0),
        Image("N", raw=bytes(3 * MIB), meta_offset=4096, size=4 * MIB),
    ],
    ids=itertools.count(),
)
def test_a_damaged_end(family: str, tmp_path: Path, image: Image) -> None:
    """Names, sizes, checksums and msgpack that are not as they should be: removed."""
    name = f"{family}00000000-1"
    replace(image, name=name).write(f"/dev/shm/{name}")
    assert taken(str(tmp_path)) == []


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=True)
    | st.text(max_size=8)
    | st.binary(max_size=20)
    | st.sampled_from(["<f8", "|O", "C", "F", "/data/x.npy", "name"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["shape", "descr", "path", "name"]), inner, max_size=3)
    ),
    max_leaves=8,
)

PLACES = [
    ("spec",),
    ("origin",),
    *((key,) for key in ("aliases", "name", "published", "keep", "lost")),
    *(("spec", key) for key in ("shape", "descr", "order", "itemsize")),
    *(("origin", key) for key in ("source", "words", "stat")),
    *(("origin", "source", key) for key in ("path", "member", "name", "dtype", "rows", "options")),
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=2), st.booleans())
def test_whatever_the_metadata_say(lies: list[tuple[tuple[str, ...], Any]], sealed: bool) -> None:
    """What is adopted has just the bytes that its shape and dtype need, and reads as it was."""
    meta: Any = changed(("lost",), 0)
    for path, value in lies:
        try:
            place = meta
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue
    found = adoption.LeftoverSegment("N", 5, PLAN.size, SPEC.nbytes, sealed, meta)
    try:
        block = block_metadata.adopted(found, 1, 0.0)
    except (ValueError, layout.NewerSegment):
        return
    dtype = from_descr(block.spec.descr)
    flat = np.zeros(SPEC.nbytes, "u1")
    shown = np.ndarray(block.spec.shape, dtype, flat, order="C" if block.spec.order == "C" else "F")
    assert shown.nbytes == SPEC.nbytes
    wire = layout.pack_meta(block_metadata.metadata(block))
    again = block_metadata.adopted(replace(found, meta=msgpack.unpackb(wire)), 1, 0.0)
    assert layout.pack_meta(block_metadata.metadata(again)) == wire
    for part in ("", "spec", "origin"):
        mine, theirs = ((m[part] if part else m) for m in (msgpack.unpackb(wire), meta))
        assert set(theirs) <= set(mine)
    registry = Registry("p-{}".format, 1 << 30)
    registry.adopt(block, 0.0)
    registry.inspected("N", mapped=False, now=0.0)


def test_all_kinds_of_files(family: str, tmp_path: Path) -> None:
    """Links, pipes, sockets, directories and strangers' files: never followed, never adopted."""
    target = tmp_path / "precious"
    target.write_text("precious")
    names = (f"/dev/shm/{family}00000000-{n}" for n in itertools.count(1))
    ours = [next(names) for _ in range(6)]
    os.symlink(target, ours[0])
    os.symlink("nowhere", ours[1])
    os.mkfifo(ours[2], 0o600)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(ours[3])
    Image(os.path.basename(ours[4])).write(ours[4])
    os.chmod(ours[4], 0o640)
    Path(ours[5]).touch(0o600)
    directory = next(names)
    os.mkdir(directory)
    Path(directory, "file").touch()
    stranger = next(names)
    Image(os.path.basename(stranger)).write(stranger)
    if os.geteuid() == 0:
        os.chown(stranger, 12345, -1)
    other = f"/dev/shm/{family[:-1]}0-00000000-1"  # another scope's, by one digit
    Image(os.path.basename(other)).write(other)
    try:
        assert len(taken(str(tmp_path))) == (0 if os.geteuid() == 0 else 1)
        assert [name for name in ours if os.path.lexists(name)] == []
        assert os.listdir(directory) == ["file"]
        assert os.path.exists(stranger) == (os.geteuid() == 0)
        assert os.path.exists(other)
        assert target.read_text() == "precious"
    finally:
        shutil.rmtree(directory)
        os.unlink(other)
        if os.path.exists(stranger):
            os.unlink(stranger)


def test_what_cannot_be_read_is_left(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of descriptors, or of memory: nothing is known, so nothing is removed."""
    name = f"{family}00000000-1"
    Image(name).write(f"/dev/shm/{name}")

    def fails(*args: object) -> bytes:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(adoption, "read_footer", fails)
        assert taken(str(tmp_path)) == []
    assert len(taken(str(tmp_path))) == 1
