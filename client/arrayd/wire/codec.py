"""msgpack as arrayd uses it: file names that are no UTF-8 travel as Python has them."""

from __future__ import annotations

from typing import Any

import msgpack

ESCAPE = "surrogateescape"
"""How strings become bytes, as with os.fsdecode: a path may have any bytes."""


def pack(value: Any) -> bytes:
    """Return `value` as msgpack."""
    packed: bytes = msgpack.packb(value, unicode_errors=ESCAPE)
    return packed


def unpack(data: bytes | memoryview) -> Any:
    """Return the value in `data`.

    Raises
    ------
    ValueError, TypeError, msgpack.UnpackException
        It is no msgpack.
    """
    return msgpack.unpackb(data, strict_map_key=False, unicode_errors=ESCAPE)


def stream(limit: int = 100 << 20) -> msgpack.Unpacker:
    """Return an unpacker to feed with a stream of values of at most `limit` bytes each."""
    return msgpack.Unpacker(strict_map_key=False, unicode_errors=ESCAPE, max_buffer_size=limit)
