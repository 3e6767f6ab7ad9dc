"""Blocks of another version: what an older arrayd left is adopted, what a newer one did stays."""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import arrayd
from arrayd.errors import NoSuchBlock
from arrayd.source import Source
from arrayd.wire import layout
from arrayd_server import identity
from arrayd_server.segments import block_metadata
from arrayd_server.segments.adoption import LeftoverSegment
from arrayd_server.segments.scope import Scope
from tests.support.daemons import Daemon
from tests.support.processes import only_block
from tests.system.test_clean import clean_after

pytestmark = pytest.mark.one_daemon

FOOTER = (
    b"arrayd\r\n\x01\0\0\0\x01\0\0\0\x18\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\x86\0\0\0\0\0\0\0"
    b"\xd3\xb7\xcf\xf9\x1c\0\0\0arrayd-9b6235788e-0fbbe8bd-2" + bytes(100) + b"dI'h"
)
"""As commit 6381e51 wrote it, the last before metadata said more (and the first to be kept)."""

KEPT = (
    b"\x87\xa4spec\x84\xa5shape\x91\x02\xa5descr\x92\x92\xa1a\xa3<i4\x92\xa1b\xa3<f8\xa5order\xa1C"
    b"\xa8itemsize\x0c\xa6origin\x83\xa6source\xc0\xa5words\xa9name:kept\xa4stat\xc0\xa7aliases\x90"
    b"\xa4name\xa4kept\xa9published\xc3\xa4keep\xc3\xa4lost\0"
)
"""The same commit's metadata of what `put(…, name="kept", keep=True)` published."""

LOADED = (
    b"\x87\xa4spec\x84\xa5shape\x92\x02\x04\xa5descr\xa3<f4\xa5order\xa1C\xa8itemsize\x04\xa6origin"
    b"\x83\xa6source\x83\xa4path\xb5/tmp/compat_old/x.npy\xa4cast\xa3<f4\xa4rows\x93\x01\x03\xc0"
    b"\xa5words\xd9</tmp/compat_old/x.npy (rows=slice(1, 3, None), cast=float32)\xa4stat\x95\xcd"
    b"\xfe\0\xce\0 \xcaK\xcc\xe0\xcf\x18\xeb\xdc\x90\x99\xbbm\xf6\xcf\x18\xeb\xdc\x90\x99\xbbm\xf6"
    b"\xa7aliases\x92\xc4\x10\xb9\xc8\x9b\x06\xcb\xce\x04\x8fx>)Q'\xb2\xbb}\xc4\x10\x8aUDC)\xbd\x99"
    b"\xdd\xaeJ\xf9J`5\xe2\x7f\xa4name\xc0\xa9published\xc2\xa4keep\xc2\xa4lost\0"
)
"""And of ``get("/tmp/compat_old/x.npy", cast="f4", rows=slice(1, 3))``."""

STAT = (0xFE00, 0x20CA4B, 224, *(0x18EBDC9099BB6DF6,) * 2)

RECORDS = np.array([(1, 2.5), (3, 4.5)], [("a", "<i4"), ("b", "<f8")])


def forge(daemon: Daemon, number: int, data: bytes, meta: bytes) -> None:
    """Write a segment of an earlier run of a daemon that does not run now."""
    scope = Scope(daemon.endpoint)
    name = f"{scope.family}00000000-{number}"
    plan = layout.of_size(len(data), 3 * layout.PAGE)
    footer = layout.Footer(name, len(data), plan.meta_offset, len(meta), zlib.crc32(meta), True)
    whole = data.ljust(plan.meta_offset, b"\0") + meta.ljust(layout.PAGE, b"\0") + footer.pack()
    fd = os.open(f"/dev/shm/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.write(fd, whole)
    os.close(fd)


def test_the_footer_is_that_of_the_first_version() -> None:
    """Byte for byte: what is written now is found by all versions, and the other way round."""
    name = "arrayd-9b6235788e-0fbbe8bd-2"
    footer = layout.Footer(name, RECORDS.nbytes, 4096, len(KEPT), zlib.crc32(KEPT), True)
    assert footer.pack() == FOOTER.ljust(layout.FOOTER_BYTES, b"\0")
    assert layout.unpack_footer(footer.pack()) == footer


def test_blocks_of_the_first_version_are_adopted(daemon: Daemon, client: arrayd.Client) -> None:
    """Their values, names and aliases: a request that had one then has one now."""
    daemon.kill()
    forge(daemon, 1, RECORDS.tobytes(), KEPT)
    loaded = np.arange(4, 12, dtype="f4")
    forge(daemon, 2, loaded.tobytes(), LOADED)
    daemon.start()
    assert client.get("name:kept").tolist() == RECORDS.tolist()
    blocks = {block.source: block for block in client.status().blocks}
    assert blocks["name:kept"].pinned
    assert blocks["name:kept"].dtype == RECORDS.dtype
    assert blocks["/tmp/compat_old/x.npy (rows=slice(1, 3, None), cast=float32)"].shape == (2, 4)
    asked = Source.of("/tmp/compat_old/x.npy", cast="f4", rows=slice(1, 3))
    assert identity.alias(asked, STAT) in LOADED


@pytest.mark.parametrize("meta", [KEPT, LOADED])
def test_the_first_version_adopts_what_is_written_now(meta: bytes) -> None:
    """It takes no key that it does not know: what says nothing new is written as it was."""
    footer = layout.Footer("x", 0, 0, len(meta), zlib.crc32(meta), sealed=True)
    found = LeftoverSegment(
        "x", 1, 3 * layout.PAGE, 0, sealed=True, meta=layout.unpack_meta(footer, meta)
    )
    read = block_metadata.read(found)
    assert isinstance(read, block_metadata.Metadata)
    block = block_metadata.adopted(replace(found, data_bytes=read.spec.nbytes), 1, 0.0)
    assert layout.pack_meta(block_metadata.metadata(block)) == meta


@pytest.fixture
def newer(daemon: Daemon) -> Callable[[int], None]:
    """Give a function that puts another version into the footer of the only segment."""

    def write(version: int) -> None:
        (name,) = daemon.segments
        with open(f"/dev/shm/{name}", "r+b") as file:
            file.seek(-layout.FOOTER_BYTES, os.SEEK_END)
            fixed = bytearray(file.read()[: len(FOOTER) - 4])
            fixed[8:12] = version.to_bytes(4, "little")
            file.seek(-layout.FOOTER_BYTES, os.SEEK_END)
            file.write(fixed + zlib.crc32(fixed).to_bytes(4, "little"))

    return write


def test_a_newer_layout_is_left_alone(
    daemon: Daemon, client: arrayd.Client, newer: Callable[[int], None]
) -> None:
    """By start, hand-over, stop and `arrayd clean`; said once; and the newer one finds it again."""
    client.put(RECORDS, name="kept", keep=True)
    (name,) = daemon.segments
    spare = Path(Scope(daemon.endpoint).directory, name)
    daemon.end(signal.SIGUSR1)
    newer(2)
    before = spare.read_bytes()
    for number in (signal.SIGUSR1, signal.SIGKILL, signal.SIGTERM):
        daemon.start()
        with pytest.raises(NoSuchBlock):
            client.get("name:kept")
        assert client.status().blocks == ()
        daemon.end(number)
        assert f"left {name}: its layout has version 2" in clean_after(daemon.endpoint)
        assert spare.read_bytes() == Path(f"/dev/shm/{name}").read_bytes() == before
    said = f"{name} is left alone: its layout has version 2, and this arrayd knows 1"
    assert daemon.log.count(said) == 3
    newer(1)
    daemon.start()
    assert client.get("name:kept").tolist() == RECORDS.tolist()


def test_a_newer_layout_is_attached_to(
    daemon: Daemon, client: arrayd.Client, newer: Callable[[int], None]
) -> None:
    """A client needs the name in it, and the data at the beginning: both are in every version."""
    kept = client.put(RECORDS, name="kept", keep=True)
    newer(2)
    assert client.get("name:kept", mode="c").tolist() == RECORDS.tolist()
    assert only_block(client).name == "kept"
    del kept
