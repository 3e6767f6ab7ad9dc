"""The messages between client and daemon, defined once.

They are ZeroMQ messages over a Unix socket, from a DEALER of libzmq to the daemon's own end
(`arrayd_server.transport`) and back; each is one frame, a msgpack map. A session is known by its
nonce, 128 random bits in every request. Its connection may be made anew at any time, and
identifies nobody.

Requests: ``{"v": VERSION, "id": int, "s": nonce, "op": name, …fields}``

What the fields may be, the daemon checks: `arrayd.wire.requests`.

==============  =====================================================================
op              fields
==============  =====================================================================
hello           pid, start (the process's start time, clock ticks), program, version (of the
                client's arrayd), shm (device and inode of /dev/shm), holds (segments; replaces
                what the daemon knew), latest (highest seq of a grant), members (see `Grant`)
get             items: up to `MAX_ITEMS` maps {source, stat}, pin (seconds, -1: for good), wait
                (seconds to wait for room or a name; None: the default), progress
prefetch        items, bound (true: the loads end with the session; not sent: they go on)
info            source, stat
cancel          request (no answer)
release         holds: [segment, seq], or [segment, seq, claim] for what was claimed (no answer)
claim           of what the index led to: holds: [segment, number of the claim]; used: segments
                given back already; count: claims so far (no answer)
bye             (no answer) the session ends
lend            segment, token (no answer)
redeem          segment, token
create          shape, descr, order, name, keep, replace, wait, share ("all" or "group:NUMBER";
                not sent: nobody)
seal            segment
abort           segment (no answer)
stream.open     manifest, stat (the file of a dataset's manifest), ids (a file of row ids, or
                None), start, stop (the part of these, or of the rows), seed, kind, block,
                buffer (the order), fields: [name, descr, row_shape, cast's descr or None],
                overflow, slots (of the ring), batch (rows taken at a time), position (where to
                begin), limit (where to end, or None), consumers (to wait for), grace
                (seconds), share (rows to keep in memory), scratch (a folder, or None),
                windowed (true: decode for each window, and keep nothing; not sent: keep)
stream.wait     consumer, cursor (the first position that it still needs): answered when that
                can be read
stream.advance  consumer, cursor
stream.close    consumer (no answer)
evict           source, or block (a number or segment name)
status          (none)
who             source: who holds what of it, and who waits
health          (none) whether the daemon's rules hold
kick            pid: all sessions of that process end, and their holds do not come back
drain           on: as long as this session is open, nothing new is begun
stop            (none) the daemon stops, as on SIGTERM
==============  =====================================================================

Answers: ``{"v", "id", "i"}`` and one of ``ok`` (the result of item i), ``err``
(`arrayd.errors`), ``progress`` ([done, total] rows; the answer is still to come) or
``hello`` (the daemon does not know the session: the client says hello and asks again) or
``again`` (the block to be granted has just been removed: the client asks again). While the daemon
takes over the blocks of an earlier run it answers a hello, for the time being, with ``starting``
([done, total] blocks) as number 0.
The answer to hello carries pid, uid, version, run, leases, the seqs of the holds, and the path of
the index.

The answer to stream.open: stream, consumer (their numbers), segment (of the ring: to be redeemed),
slots (of that ring: it may be another consumer's), first (the ring's first position), head (the
positions below can be read), generation (of the ring). To stream.wait: head; with it ring (another
segment) and first (its first position, up to which the old one holds), until the cursor has moved
there; or moved (open again at the cursor: the consumer is gone), or end (the limit is reached). An
error NoSuchStream means the same as moved.

A daemon of another protocol version answers with ``err`` in this envelope: it never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from arrayd.wire.codec import pack, unpack

VERSION = 1
PACKAGE_VERSION = "0.1.0"

MAX_FRAME = 3 << 20
"""Bytes of the largest request: one that lists all 65,530 blocks that a process can map."""

MAX_ANSWER = 64 << 20
"""Bytes of the largest answer; the status of ten thousand blocks has some 3 MB."""

MAX_ITEMS = 64
"""Items of one get or prefetch: they take the daemon some 5 ms, then it serves others."""

MAX_FIELDS = 1000
"""Fields of a stream."""

MAX_NAME = 255
"""Characters of the name of a published block."""

TOKEN_BYTES = 8
"""Bytes of the random number by which references to one block are distinguished."""

_MAX_CONTAINERS = 200_000
"""Bytes of a request with a value that can begin a list or map in msgpack; a few of those bytes
belong to paths and numbers."""

_CONTAINERS = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])

MAX_DIMENSIONS = 64  # numpy's own limit since 2.0

Stat = tuple[int, int, int, int, int]
"""dev, ino, size, mtime_ns, ctime_ns of a file as the client sees it."""


class Garbage(ValueError):
    """The frame is no message of this protocol."""


def encode(message: Mapping[str, Any]) -> bytes:
    """Return the frame of a message."""
    return pack(message)


def request(nonce: bytes, number: int, op: str, **fields: Any) -> bytes:
    """Return the frame of a request."""
    return encode({"v": VERSION, "id": number, "s": nonce, "op": op, **fields})


def answer(number: int, index: int = 0, **body: Any) -> bytes:
    """Return the frame of an answer to item `index` of request `number`."""
    return encode({"v": VERSION, "id": number, "i": index, **body})


def decode(frame: bytes, *, answer: bool = False) -> dict[str, Any]:
    """Return the map in the frame of a request, or of an answer.

    Raises
    ------
    Garbage
        The frame is no msgpack map, or too large.
    """
    limit = MAX_ANSWER if answer else MAX_FRAME
    if len(frame) > limit:
        raise Garbage(f"{len(frame)} bytes, more than {limit}")
    if not answer and len(frame) - len(frame.translate(None, _CONTAINERS)) > _MAX_CONTAINERS:
        # A list costs its sender one byte and us 64; a million of them take a second to unpack.
        raise Garbage(f"more than {_MAX_CONTAINERS} lists and maps")
    try:
        message = unpack(frame)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise Garbage(f"not msgpack: {error}") from None
    if not isinstance(message, dict):
        raise Garbage("not a map")
    return message
