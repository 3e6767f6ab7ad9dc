"""The index: a file in which clients find the block of a request without asking the daemon.

Theory of operation
-------------------
*What it says.* The reference count that guards a block is the kernel's (a mapping bars the lease
without which nothing is unlinked), so a client need not ask before it maps. What it must know is
which segment holds what it wants. The daemon publishes that: from the key of a request (`key`: a
digest of the source and of the file's ``stat``) to an entry, what a grant says. Clients of the
daemon's user map the file read-only.

*The layout.* A header page; then slots of 32 bytes, a hash table with linear probing (Knuth, The
Art of Computer Programming 3, 6.4, algorithm L; a removed key leaves a tombstone); then the
entries, packed, one after another::

    0            header: magic 8s, version u32, closed u32, slots u64 (a power of two)
    4096         slots: key 16s, offset u64, bytes u32, crc32 of key and entry u32
    behind them  entries

*Concurrent reading.* There is one writer, and nobody waits for anybody. An entry is written before
its slot, a key is removed before its block is unlinked, and the bytes of an entry never change. So
a reader sees an entry that is whole, none, or a slot that is half old and half new; the checksum
over key and entry tells. An entry may also be out of date by the time it is used: then its segment
has gone, for no name comes twice. In each of these cases the client asks the daemon. When the file
is full, the daemon writes a new one, renames it over the old, and marks that as closed; readers
look at the mark each time.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import msgpack

from arrayd.wire.codec import ESCAPE, pack, unpack
from arrayd.wire.digest import blake2b
from arrayd.wire.grant import Grant, Spec
from arrayd.wire.layout import PAGE

NAME = "index"
"""Of the file, in the directory of the daemon's scope."""

MAGIC = b"arraydix"
VERSION = 1
KEY_BYTES = 16
EMPTY = b"\0" * KEY_BYTES
REMOVED = b"\xff" * KEY_BYTES

HEADER = struct.Struct("<8sIIQ")
CLOSED_AT = 12
"""Where the header says that there is a newer file."""

SLOT = struct.Struct("<16sQII")
SLOTS_AT = PAGE

_packer = msgpack.Packer(unicode_errors=ESCAPE)
"""Made once, which is half of the time: for what is small, and of plain types alone."""

_PREFIX = b"\x93" + pack("alias")  # of a list of three


def packed_grant(grant: Grant) -> bytes:
    """Return the entry of what a grant, of whatever number, is of."""
    spec = grant.spec
    what = (grant.segment, spec.shape, spec.descr, spec.order, spec.itemsize)
    packed: bytes = _packer.pack([*what, grant.source, grant.lost, grant.offset, grant.extent])
    return packed


@functools.lru_cache(4096)
def unpacked_grant(packed: bytes, window: bool) -> Grant:
    """Return the grant that the daemon would give; it has no number."""
    segment, shape, descr, order, itemsize, source, lost, offset, extent = unpack(packed)
    spec = Spec(tuple(shape), descr, order, itemsize)
    return Grant(segment, spec, 0, source, True, window, lost, b"", offset, extent)


def key_of_source(wire: Mapping[str, Any]) -> bytes:
    """Return the part of a key that a source gives; `wire` is its `Source.without_hints`."""
    return _PREFIX + pack(wire)


def key(source_part: bytes, stat: Any) -> bytes:
    """Return the key of a request for a source of a file with this ``stat``; 16 bytes."""
    words = _packer.pack(stat) if type(stat) in (tuple, list) else pack(stat)
    return blake2b(source_part + words, digest_size=KEY_BYTES).digest()


def checksum(key: bytes, packed: bytes) -> int:
    """Return the checksum of a slot."""
    return zlib.crc32(packed, zlib.crc32(key))


def first_slot(key: bytes, slots: int) -> int:
    """Return the number of the slot where the search for a key begins."""
    return int.from_bytes(key[:8], "little") & (slots - 1)
