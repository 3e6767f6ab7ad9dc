"""What a daemon checks of a request that arrives: `parse_request`, which no client calls."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from arrayd.errors import ProtocolMismatch
from arrayd.wire import protocol
from arrayd.wire.bounds import MAX_TEXT, modest
from arrayd.wire.protocol import (
    MAX_DIMENSIONS,
    MAX_FIELDS,
    MAX_ITEMS,
    MAX_NAME,
    TOKEN_BYTES,
    Garbage,
)
from arrayd.wire.records import REMEDY, understand

_MAX_HOLDS = 70_000

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


class Request(NamedTuple):
    """One decoded request."""

    id: int
    nonce: bytes
    op: str
    fields: Mapping[str, Any]


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
    if message.get("v") != protocol.VERSION:
        raise ProtocolMismatch(
            f"This daemon (pid {os.getpid()}, arrayd {protocol.PACKAGE_VERSION}) speaks protocol "
            f"{protocol.VERSION}, the client {reprlib.repr(message.get('v'))}. {REMEDY}"
        )
    nonce, op = message.get("s"), message.get("op")
    if type(nonce) is not bytes or len(nonce) != 16 or type(op) is not str:
        raise Garbage(f"no request: session {reprlib.repr(nonce)}, op {reprlib.repr(op)}")
    if op not in FIELDS:
        raise ProtocolMismatch(
            f"This daemon (pid {os.getpid()}, arrayd {protocol.PACKAGE_VERSION}) knows no request "
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
