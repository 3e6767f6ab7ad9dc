"""The messages between client and daemon, defined once.

They are ZeroMQ messages over a Unix socket, from a DEALER of libzmq to the daemon's own end
(`arrayd_server.transport`) and back; each is one frame, a msgpack map. A session is known by its
nonce, 128 random bits in every request. Its connection may be made anew at any time, and
identifies nobody.

Requests: ``{"v": VERSION, "id": int, "s": nonce, "op": name, …fields}``

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

import os
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgpack

from arrayd.errors import ProtocolMismatch
from arrayd.wire.bounds import MAX_TEXT, modest
from arrayd.wire.codec import pack, unpack
from arrayd.wire.records import REMEDY, understand

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

_MAX_HOLDS = 70_000

MAX_DIMENSIONS = 64  # numpy's own limit since 2.0

_STRICT_OPS = frozenset(
    {
        *("get", "prefetch", "info", "create", "redeem", "evict", "stream.open", "stream.wait"),
        *("who", "kick", "drain"),
    }
)
"""Requests in which an unknown field is refused, for it may change what is asked for. In the
others it is ignored."""

_ENVELOPE = {"v", "id", "s", "op"}

_ITEM = {"source", "stat"}

Stat = tuple[int, int, int, int, int]
"""dev, ino, size, mtime_ns, ctime_ns of a file as the client sees it."""


class Garbage(ValueError):
    """The frame is no message of this protocol."""


class Request(NamedTuple):
    """One decoded request."""

    id: int
    nonce: bytes
    op: str
    fields: Mapping[str, Any]


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


def parse_request(message: Mapping[str, Any]) -> Request:
    """Return the request in a decoded message, its fields checked against `FIELDS`.

    Raises
    ------
    ProtocolMismatch
        The client has another version of the protocol; the text names both. Or it is newer, and
        asks for something unknown here (`arrayd.wire.records`).
    Garbage
        It is no request.
    """
    number = message.get("id")
    if type(number) is not int:
        raise Garbage("no request id")
    if message.get("v") != VERSION:
        raise ProtocolMismatch(
            f"This daemon (pid {os.getpid()}, arrayd {PACKAGE_VERSION}) speaks protocol "
            f"{VERSION}, the client {reprlib.repr(message.get('v'))}. {REMEDY}"
        )
    nonce, op = message.get("s"), message.get("op")
    if type(nonce) is not bytes or len(nonce) != 16 or type(op) is not str:
        raise Garbage(f"no request: session {reprlib.repr(nonce)}, op {reprlib.repr(op)}")
    if op not in FIELDS:
        raise ProtocolMismatch(
            f"This daemon (pid {os.getpid()}, arrayd {PACKAGE_VERSION}) knows no request "
            f"{reprlib.repr(op)}: it is older than the client. {REMEDY}"
        )
    if op in _STRICT_OPS and not message.keys() <= _KNOWN[op]:
        understand(message.keys() - _KNOWN[op], op)
    fields: dict[str, Any] = {}
    for key, check in FIELDS[op].items():
        fields[key] = value = message.get(key)
        if not check(value):
            raise Garbage(f"{op}: {key}={reprlib.repr(value)} is not what it should be")
    for item in fields.get("items", ()):
        if not item.keys() <= _ITEM:
            understand(item.keys() - _ITEM, op)
    return Request(number, nonce, op, fields)


Check = Callable[[Any], bool]


def _is(*types: type) -> Check:
    return lambda value: type(value) in types


def _holds(check: Check) -> Check:
    """Return the check of a list of at most as many items as one process can map, and some."""
    return lambda v: type(v) is list and len(v) <= _MAX_HOLDS and all(map(check, v))


def _seconds(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and value == value)


def _numbered(*lengths: int) -> Check:
    """Return the check of a segment with one or two numbers."""
    return lambda v: (
        type(v) is list
        and len(v) in lengths
        and type(v[0]) is str
        and all(type(number) is int for number in v[1:])
    )


def _pair(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and all(type(v) is int for v in value)


def _stat(value: Any) -> bool:
    return value is None or (
        type(value) is list and len(value) == 5 and set(map(type, value)) == {int}
    )


def _items(value: Any) -> bool:
    return type(value) is list and len(value) <= MAX_ITEMS and all(map(_item, value))


def _item(value: Any) -> bool:
    return type(value) is dict and _source(value.get("source")) and _stat(value.get("stat"))


def _source(value: Any) -> bool:
    return type(value) is dict and (_is_short(value) or modest(value))


def _is_short(source: dict[Any, Any]) -> bool:
    """Say at a glance that a source is modest: a path, and perhaps a member."""
    words: list[Any] = [*source, *source.values()] if len(source) <= 2 else [0]
    return set(map(type, words)) == {str} and sum(map(len, words)) <= MAX_TEXT


def _descr(value: Any) -> bool:
    return type(value) in (str, list, dict) and modest(value)


def _token(value: Any) -> bool:
    return type(value) is bytes and len(value) in (0, TOKEN_BYTES)


def _name(value: Any) -> bool:
    return value is None or (type(value) is str and len(value) <= MAX_NAME)


def _at_least(least: int, bits: int = 63) -> Check:
    return lambda value: type(value) is int and least <= value < 1 << bits


def _stream_fields(value: Any) -> bool:
    return type(value) is list and 0 < len(value) <= MAX_FIELDS and all(map(_stream_field, value))


def _stream_field(value: Any) -> bool:
    if type(value) is not list or len(value) != 4:
        return False
    name, descr, row_shape, cast = value
    named = type(name) is str and len(name) <= MAX_NAME
    return named and _descr(descr) and _shape(row_shape) and (cast is None or _descr(cast))


def _shape(value: Any) -> bool:
    dimensions = type(value) is list and len(value) <= MAX_DIMENSIONS
    return dimensions and all(type(n) is int and n >= 0 for n in value)


FIELDS: dict[str, dict[str, Check]] = {
    "hello": {
        "pid": _is(int),
        "start": _is(int),
        "program": _is(str),
        "version": _is(str, type(None)),
        "shm": _pair,
        "holds": _holds(_is(str)),
        "latest": lambda v: type(v) is int and 0 <= v < 1 << 53,
        "members": _is(bool, type(None)),
    },
    "get": {
        "items": _items,
        "pin": _seconds,
        "wait": _seconds,
        "progress": _is(bool, type(None)),
    },
    "prefetch": {"items": _items, "bound": _is(bool, type(None))},
    "info": {"source": _source, "stat": _stat},
    "cancel": {"request": _is(int)},
    "release": {"holds": _holds(_numbered(2, 3))},
    "claim": {"holds": _holds(_numbered(2)), "used": _holds(_is(str)), "count": _at_least(0)},
    "bye": {},
    "lend": {"segment": _is(str), "token": _token},
    "redeem": {"segment": _is(str), "token": _token},
    "create": {
        "shape": _shape,
        "descr": _descr,
        "order": lambda v: v in ("C", "F"),
        "name": _name,
        "keep": _is(bool),
        "replace": _is(bool),
        "share": _name,
        "wait": _seconds,
    },
    "seal": {"segment": _is(str)},
    "abort": {"segment": _is(str)},
    "stream.open": {
        "manifest": _is(str),
        "stat": _stat,
        "ids": _is(str, type(None)),
        "start": _at_least(0),
        "stop": _at_least(0),
        "seed": _at_least(0, 64),
        "kind": _is(str),
        "block": _at_least(0),
        "buffer": _at_least(0),
        "fields": _stream_fields,
        "overflow": _is(str),
        "slots": _at_least(1),
        "batch": _at_least(1),
        "position": _at_least(0),
        "limit": lambda v: v is None or _at_least(0)(v),
        "consumers": _at_least(1),
        "grace": lambda v: v is not None and _seconds(v) and v >= 0,
        "share": _at_least(0),
        "scratch": _is(str, type(None)),
        "windowed": _is(bool, type(None)),
    },
    "stream.wait": {"consumer": _is(int), "cursor": _is(int)},
    "stream.advance": {"consumer": _is(int), "cursor": _is(int)},
    "stream.close": {"consumer": _is(int)},
    "evict": {"source": lambda v: v is None or _source(v), "block": _is(str, int, type(None))},
    "status": {},
    "who": {"source": _source},
    "health": {},
    "kick": {"pid": _at_least(1, 32)},
    "drain": {"on": _is(bool)},
    "stop": {},
}
"""For each op its fields and what they must be: checked once, when a request arrives."""

_KNOWN = {op: FIELDS[op].keys() | _ENVELOPE for op in _STRICT_OPS}
