"""Text of any length (an array of `bytes` objects, UTF-8 or not) as text of a fixed size."""

from __future__ import annotations

from typing import Any

import numpy as np

from arrayd.errors import CastError

Array = np.ndarray[Any, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
DType = np.dtype[Any]

_SHOWN = 60  # characters of a value that an error shows


def fixed(values: Array, target: DType, clip: bool) -> tuple[Array, Mask]:
    """Return `bytes` objects as `target` (S or U), and which were cut.

    Raises
    ------
    CastError
        With the index of the value in the flat array as ``details["at"]``.
    """
    whole = list(values.flat) if target.kind == "S" else _characters(values)
    room = target.itemsize // (4 if target.kind == "U" else 1)
    cut = np.fromiter((len(value) > room for value in whole), np.bool_, len(whole))
    if cut.any():
        at = int(np.argmax(cut))
        if not clip:
            raise _too_long(whole[at], target, room, at)
        for index in np.flatnonzero(cut):
            whole[index] = _clipped(whole[index], room)
    result = np.array(whole, target).reshape(values.shape)
    return result, cut.reshape(values.shape)


def _characters(values: Array) -> list[Any]:
    texts: list[Any] = []
    for value in values.flat:
        try:
            texts.append(value.decode())
        except UnicodeDecodeError:
            raise CastError(no_utf8(value), value=_brief(value), at=len(texts)) from None
    return texts


def no_utf8(value: bytes) -> str:
    """Return what is wrong with bytes that are to become characters."""
    return f"The value {_brief(value)} is no UTF-8. Cast to bytes, such as S{max(len(value), 1)}."


def _too_long(value: bytes | str, target: DType, room: int, at: int) -> CastError:
    unit = "bytes" if target.kind == "S" else "characters"
    return CastError(
        f"The value {_brief(value)} does not fit {target} ({room} {unit}; it has {len(value)}). "
        f"Cast to {target.kind}{len(value)} or wider, to {target.kind!r} to have the length found "
        "by a scan, or pass overflow='clip'.",
        value=_brief(value),
        at=at,
    )


def _clipped(value: Any, room: int) -> Any:
    """Return the first `room` bytes or characters, but never a part of a UTF-8 character."""
    if isinstance(value, bytes):
        start = room
        while start and room - start < 4 and value[start] & 0xC0 == 0x80:
            start -= 1
        room = room if value[start] & 0xC0 == 0x80 else start
    return value[:room]


def _brief(value: bytes | str) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
