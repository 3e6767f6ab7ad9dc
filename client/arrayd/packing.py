"""msgpack as arrayd uses it: file names that are no UTF-8 travel as Python has them."""

from __future__ import annotations

from typing import Any

import msgpack

_ESCAPE = "surrogateescape"  # as os.fsdecode: a path is bytes, and may be any


def pack(value: Any) -> bytes:
    """Return `value` as msgpack."""
    packed: bytes = msgpack.packb(value, unicode_errors=_ESCAPE)
    return packed


def unpack(data: bytes | memoryview) -> Any:
    """Return the value in `data`.

    Raises
    ------
    ValueError, TypeError, msgpack.UnpackException
        It is no msgpack.
    """
    return msgpack.unpackb(data, strict_map_key=False, unicode_errors=_ESCAPE)


def stream() -> msgpack.Unpacker:
    """Return an unpacker to feed with a stream."""
    return msgpack.Unpacker(strict_map_key=False, unicode_errors=_ESCAPE)
