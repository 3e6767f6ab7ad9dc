"""The wire: what client and daemon say to each other, defined once.

DEALER ↔ ROUTER over ``ipc://``; a message is one frame, a msgpack map. The session's
identity is its 128-bit nonce, stated in every request; routing ids change when a
connection is made anew and identify nobody.

Requests: ``{"v": VERSION, "id": int, "s": nonce, "op": name, …fields}``

===========  =====================================================================
op           fields
===========  =====================================================================
hello        pid, start (the process's start time, clock ticks), program,
             shm (``st_dev`` of /dev/shm), holds (segments; replaces what the daemon
             knew)
get          items: maps {source, stat, whole}, pin (seconds, -1: for good), wait
             (seconds to wait for room or a name; None: the default), progress
prefetch     items
info         source, stat
cancel       request (no answer)
release      holds: [segment, seq] pairs (no answer)
bye          (no answer) the session ends
lend         segment, token (no answer)
redeem       segment, token
create       shape, descr, order, name, keep, replace, wait
seal         segment
abort        segment (no answer)
evict        source, or block (a number or segment name)
status       everything there is to know
stop         the daemon stops, as on SIGTERM
===========  =====================================================================

Answers: ``{"v", "id", "i"}`` and one of ``ok`` (the result of item i), ``err``
(`arrayd.errors`), ``progress`` ([done, total] rows; the answer is still to come) or
``hello`` (the daemon does not know the session: introduce yourself and ask again) or
``again`` (what was to be granted has just vanished: ask again).
The answer to hello carries pid, uid, version, run, leases and the seqs of the holds.

A daemon of another protocol version answers with ``err`` in this same envelope, which
therefore never changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from arrayd.errors import ProtocolMismatch
from arrayd.packing import pack, unpack

VERSION = 1
PACKAGE_VERSION = "0.1.0"

MAX_FRAME = 16 << 20
"""Bytes of the largest message; about 50,000 sources in one request."""

_MAX_DEPTH = 24
"""Levels of nesting in a message; a structured dtype of structures needs some."""

Stat = tuple[int, int, int, int, int]
"""dev, ino, size, mtime_ns, ctime_ns of a file as its asker sees it."""


class Garbage(ValueError):
    """The frame is no message of this protocol."""


@dataclass(frozen=True, slots=True)
class Request:
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


def decode(frame: bytes | memoryview) -> dict[str, Any]:
    """Return the map in a frame.

    Raises
    ------
    Garbage
        The frame is no msgpack map, too large, or nested too deeply.
    """
    if len(frame) > MAX_FRAME:
        raise Garbage(f"{len(frame)} bytes, more than {MAX_FRAME}")
    try:
        message = unpack(frame)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise Garbage(f"not msgpack: {error}") from None
    if not isinstance(message, dict):
        raise Garbage("not a map")
    if _depth(message) > _MAX_DEPTH:
        raise Garbage(f"nested more than {_MAX_DEPTH} levels deep")
    return message


def parse_request(message: Mapping[str, Any]) -> Request:
    """Return the request in a decoded message, its fields checked against `FIELDS`.

    Raises
    ------
    ProtocolMismatch
        The peer speaks another version; its text names both.
    Garbage
        It is no request.
    """
    number = message.get("id")
    if type(number) is not int:
        raise Garbage("no request id")
    if message.get("v") != VERSION:
        raise ProtocolMismatch(
            f"This daemon (pid {os.getpid()}, arrayd {PACKAGE_VERSION}) speaks protocol "
            f"{VERSION}, the client {message.get('v')!r}. Install one version of arrayd for "
            "both, or end the daemon with `arrayd stop` and ask again."
        )
    nonce, op = message.get("s"), message.get("op")
    if type(nonce) is not bytes or len(nonce) != 16 or type(op) is not str or op not in FIELDS:
        raise Garbage(f"no request: session {nonce!r:.40}, op {op!r:.40}")
    fields = {key: message.get(key) for key in FIELDS[op]}
    for key, check in FIELDS[op].items():
        if not check(fields[key]):
            raise Garbage(f"{op}: {key}={fields[key]!r:.60} is not what it should be")
    return Request(number, nonce, op, fields)


def _depth(value: Any) -> int:
    """Return how deeply lists and maps are nested, without recursion."""
    depth, level = 0, [value]
    while level and depth <= _MAX_DEPTH:
        depth += 1
        level = [
            child
            for node in level
            if isinstance(node, (list, dict))
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (list, dict))
        ]
    return depth


Check = Callable[[Any], bool]


def _is(*types: type) -> Check:
    return lambda value: type(value) in types


def _many(check: Check) -> Check:
    return lambda value: type(value) is list and all(map(check, value))


def _seconds(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and value == value)


def _hold(value: Any) -> bool:
    return (
        type(value) is list and len(value) == 2 and type(value[0]) is str and type(value[1]) is int
    )


def _stat(value: Any) -> bool:
    return value is None or (
        type(value) is list and len(value) == 5 and all(type(v) is int for v in value)
    )


def _item(value: Any) -> bool:
    return type(value) is dict and type(value.get("source")) is dict and _stat(value.get("stat"))


def _shape(value: Any) -> bool:
    return type(value) is list and all(type(n) is int and n >= 0 for n in value)


FIELDS: dict[str, dict[str, Check]] = {
    "hello": {
        "pid": _is(int),
        "start": _is(int),
        "program": _is(str),
        "shm": _is(int),
        "holds": _many(_is(str)),
    },
    "get": {
        "items": _many(_item),
        "pin": _seconds,
        "wait": _seconds,
        "progress": _is(bool, type(None)),
    },
    "prefetch": {"items": _many(_item)},
    "info": {"source": _is(dict), "stat": _stat},
    "cancel": {"request": _is(int)},
    "release": {"holds": _many(_hold)},
    "bye": {},
    "lend": {"segment": _is(str), "token": _is(bytes)},
    "redeem": {"segment": _is(str), "token": _is(bytes)},
    "create": {
        "shape": _shape,
        "descr": _is(str, list),
        "order": lambda v: v in ("C", "F"),
        "name": _is(str, type(None)),
        "keep": _is(bool),
        "replace": _is(bool),
        "wait": _seconds,
    },
    "seal": {"segment": _is(str)},
    "abort": {"segment": _is(str)},
    "evict": {"source": _is(dict, type(None)), "block": _is(str, int, type(None))},
    "status": {},
    "stop": {},
}
"""For each op its fields and what they must be: checked once, at the door."""
