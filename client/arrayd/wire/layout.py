"""The layout of a segment: data, metadata, footer. A block describes itself.

::

    0                    data, as the array's bytes lie in memory
    page-aligned         metadata: one msgpack map (shape, dtype, order, source, …)
    size - 4096          footer: fixed, so that it can be found from the file's size

The data begins at offset 0, so *name, shape, dtype, order* is all that a plain
``multiprocessing.shared_memory.SharedMemory`` needs. The footer names the segment it
belongs to: a file under another name is never taken for a block.

Footer, little-endian: magic 8s, version u32, flags u32 (1: sealed), data bytes u64,
metadata offset u64, metadata bytes u64, metadata crc32 u32, name length u32,
name 128s, crc32 of all before u32.

In every version the data begin at 0, the footer is the last page, and magic, version, name length,
name and crc32 have their place in it: so an older arrayd can distinguish the segment of a newer one
from a damaged one. It reads nothing else of it, and the daemon leaves it alone (`NewerSegment`),
under both its names. An addition to the
metadata needs no new version of the footer (see `arrayd.wire.records`).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from arrayd.wire.codec import pack, unpack

PAGE = 4096
FOOTER_BYTES = PAGE
VERSION = 1
MAGIC = b"arrayd\r\n"
SHM = "/dev/shm"
PREFIX = "arrayd-"

SEGMENT_NAME = rf"{PREFIX}([0-9a-f]{{10}})-[0-9a-f]{{8}}-[0-9]+"
"""Of each segment, as a regular expression: the scope of its daemon, the run of it, a number."""

_SEALED = 1
_FIXED = struct.Struct("<8sIIQQQII128s")
_CRC = struct.Struct("<I")
_META_SLACK = 256  # the metadata written at the seal may be a little longer than planned


class NotASegment(ValueError):
    """The bytes are no footer, or that of another segment."""


class NewerSegment(Exception):
    """It is a segment, of a layout that only a newer arrayd knows."""


class Footer(NamedTuple):
    """What the last page of a segment says."""

    name: str
    data_bytes: int
    meta_offset: int
    meta_bytes: int
    meta_crc: int
    sealed: bool

    def pack(self) -> bytes:
        """Return the footer's 4096 bytes."""
        name = self.name.encode()
        body = _FIXED.pack(
            MAGIC,
            VERSION,
            _SEALED if self.sealed else 0,
            self.data_bytes,
            self.meta_offset,
            self.meta_bytes,
            self.meta_crc,
            len(name),
            name,
        )
        return (body + _CRC.pack(zlib.crc32(body))).ljust(FOOTER_BYTES, b"\0")


def unpack_footer(page: bytes) -> Footer:
    """Return the footer in the last page of a segment.

    Raises
    ------
    NotASegment
        The bytes are no footer.
    NewerSegment
        They are one of a newer version.
    """
    name = unpack_name(page)
    fixed = _FIXED.unpack_from(page)
    _, version, flags, data, offset, length, meta_crc, _, _ = fixed
    if version > VERSION:
        raise NewerSegment(f"its layout has version {version}, and this arrayd knows {VERSION}")
    return Footer(name, data, offset, length, meta_crc, bool(flags & _SEALED))


def unpack_name(page: bytes) -> str:
    """Return the name in the footer of a segment of any version.

    Raises
    ------
    NotASegment
        The bytes are no footer.
    """
    if len(page) < _FIXED.size + _CRC.size:
        raise NotASegment(f"{len(page)} bytes are too few for a footer")
    magic, version, _, _, _, _, _, length, name = _FIXED.unpack_from(page)
    if magic != MAGIC or version < 1:
        raise NotASegment("the last page holds no arrayd footer")
    crc = zlib.crc32(page[: _FIXED.size])
    if _CRC.unpack_from(page, _FIXED.size)[0] != crc or length > len(name):
        raise NotASegment("the footer is damaged")
    try:
        text: str = name[:length].decode()
    except UnicodeDecodeError:
        raise NotASegment("the footer's name is damaged") from None
    return text


def pack_meta(meta: Mapping[str, Any]) -> bytes:
    """Return metadata as msgpack."""
    return pack(meta)


def unpack_meta(footer: Footer, raw: bytes) -> dict[str, Any]:
    """Return the metadata whose bytes are `raw`.

    Raises
    ------
    NotASegment
        The bytes are not those the footer describes.
    """
    if len(raw) != footer.meta_bytes or zlib.crc32(raw) != footer.meta_crc:
        raise NotASegment("the metadata is damaged")
    meta = unpack(raw)
    if not isinstance(meta, dict):
        raise NotASegment("the metadata is no map")
    return meta


class SegmentPlan(NamedTuple):
    """Where the pieces of a segment go."""

    data_bytes: int
    meta_offset: int
    size: int

    @property
    def meta_room(self) -> int:
        """Bytes that the metadata may have."""
        return self.size - FOOTER_BYTES - self.meta_offset


def plan(data_bytes: int, meta_bytes: int) -> SegmentPlan:
    """Return the layout of a segment for that much data and metadata."""
    offset = pages(data_bytes)
    return SegmentPlan(data_bytes, offset, offset + pages(meta_bytes + _META_SLACK) + FOOTER_BYTES)


def of_size(data_bytes: int, size: int) -> SegmentPlan:
    """Return the layout of a segment that has `size` bytes, whoever planned it."""
    return SegmentPlan(data_bytes, pages(data_bytes), size)


def pages(nbytes: int) -> int:
    """Return `nbytes`, rounded up to whole pages."""
    return -(-nbytes // PAGE) * PAGE
