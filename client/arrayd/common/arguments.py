"""What a caller passed, checked before anything is done: each fault is named with its remedy.

Every function returns the canonical value, or raises SpecMismatch.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from arrayd.common.losses import loss
from arrayd.errors import SpecMismatch
from arrayd.wire.protocol import MAX_NAME

_LARGEST = 2**63 - 1
_FOREIGN = " Make an array of it first that numpy has a type for (a bfloat16 tensor: .float())."
_RAGGED = " Rows of different lengths cannot be one array: pad them, or put each."

_CALLS = {
    "mode": "get and get_many",
    "pin": "get and get_many",
    "timeout": "get, get_many, info, put and create",
    "progress": "get and get_many",
    "return_errors": "get_many",
    "name": "put and create",
    "keep": "put and create",
    "replace": "put and create",
    "block": "evict",
}
"""Keywords that are no options of a file, and the calls that take them."""


_OF_GET = (
    *("dataset", "dtype", "cast", "overflow", "rows", "order", "format"),
    *("mode", "pin", "timeout", "progress"),
)
"""Arguments of `get` for every format."""


def refuse_foreign(options: Mapping[str, Any]) -> None:
    """Refuse keywords of other calls, which would be taken for options of a format."""
    for key in options:
        if key in _CALLS:
            raise SpecMismatch(f"{key}= means nothing to this call: {_CALLS[key]} take it.")


def meant(unknown: Iterable[str], options: Iterable[str]) -> str:
    """Return a sentence that names what may have been meant by unknown keywords; ``""``: nothing.

    Parameters
    ----------
    unknown
        Keywords of `get`.
    options
        Those of the format, beside `get`'s own.
    """
    import difflib  # here, for every client imports this, and few have such words

    known = [*options, *_OF_GET]
    near = {key: difflib.get_close_matches(key, known, n=1) for key in unknown}
    words = [f"{found[0]}=" for found in near.values() if found]
    return f" Did you mean {' and '.join(dict.fromkeys(words))}?" if words else ""


def refuse_beside_source(options: Mapping[str, Any]) -> None:
    """Refuse options beside a `Source`, which has its own; None is no option."""
    words = {key: value for key, value in options.items() if value is not None}
    given = [key for key in words if (key, str(words[key])) != ("overflow", "error")]
    if given:
        raise SpecMismatch(
            f"{', '.join(given)}= beside a Source, which says already how it is wanted: make it "
            "with Source.of(path, …) and all its options."
        )


def seconds(key: str, value: Any) -> float | None:
    """Return a timeout; None: the default of the call."""
    if value is None:
        return None
    number = _number(value)
    if number is None or not number >= 0:  # NaN is neither
        raise SpecMismatch(f"{key}={value!r}: it is a number of seconds from 0 on, or None.")
    return number


def pin(value: Any) -> float:
    """Return the seconds for which a block is not evicted; -1: for good."""
    if value is None or isinstance(value, (bool, np.bool_)):
        return -1.0 if value else 0.0
    number = _number(value)
    if number is None or not number >= 0:
        raise SpecMismatch(f"pin={value!r}: it is a number of seconds from 0 on, or True.")
    return -1.0 if number == math.inf else number


def _number(value: Any) -> float | None:
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return None


def flag(key: str, value: Any) -> bool:
    """Return a bool."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise SpecMismatch(f"{key}={value!r}: it is True or False.")


def one_of(key: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Return one of a few words."""
    if isinstance(value, str) and value in allowed:
        return str(value)
    raise SpecMismatch(f"{key}={value!r}: it can be {', '.join(map(repr, allowed))}.")


def choice(key: str, value: Any, allowed: tuple[str, ...]) -> str | None:
    """Return one of a few words, or None."""
    return None if value is None else one_of(key, value, allowed)


def progress(value: Any) -> Any:
    """Return a valid ``progress=``: None, a bool or a function."""
    if value is None or isinstance(value, bool) or callable(value):
        return value
    raise SpecMismatch(f"progress={value!r}: it is True (a bar) or a function of one argument.")


def sources(value: Any) -> list[Any]:
    """Return the sources of `get_many`."""
    if isinstance(value, (str, bytes, os.PathLike)) or not isinstance(value, Iterable):
        raise SpecMismatch(
            f"get_many takes several sources, a list say, and not {value!r}: for one there is get."
        )
    return list(value)


def name(value: Any) -> str | None:
    """Return the name of a block to be published."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise SpecMismatch(f"name={value!r}: a name is a str, not {type(value).__name__}.")
    if not value or "\0" in value:
        raise SpecMismatch(f"name={value!r}: a name has characters, and no NUL among them.")
    if len(value) > MAX_NAME:
        raise SpecMismatch(f"A name has at most {MAX_NAME} characters: {value[:40]!r}…")
    return str(value)


def whole(key: str, value: Any) -> int:
    """Return a whole number, clipped to 64 bits: no axis is longer."""
    try:
        number = operator.index(value)
    except TypeError:
        raise SpecMismatch(f"{key}={value!r}: it is a whole number.") from None
    return max(-_LARGEST, min(number, _LARGEST))


def positive(key: str, value: Any) -> int:
    """Return a whole number of at least 1."""
    number = whole(key, value)
    if number < 1:
        raise SpecMismatch(f"{key}={value!r}: it is a whole number of at least 1.")
    return number


def rank(value: Any, world: int) -> int:
    """Return which of `world` processes this is: from 0 on."""
    number = whole("rank", value)
    if not 0 <= number < world:
        raise SpecMismatch(f"rank={value!r}: it is from 0 to world - 1, here {world - 1}.")
    return number


def shape(value: Any, kind: np.dtype[Any], *, key: str = "shape") -> list[int]:
    """Return the shape of an array of dtype `kind`; a subarray type adds its dimensions."""
    lengths = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    result = [whole(key, length) for length in lengths]
    if min(result, default=0) < 0:
        raise SpecMismatch(f"{key}={value!r}: a length cannot be negative.")
    result += kind.shape
    if math.prod(max(1, n) for n in result) * max(1, kind.base.itemsize) > _LARGEST:
        raise SpecMismatch(f"{key}={value!r}: an array has less than 2**63 bytes.")
    try:
        np.broadcast_to(np.empty((), "u1"), result)  # costs nothing: numpy's own limits
    except ValueError as error:
        raise SpecMismatch(f"{key}={value!r}: no array can have it ({error}).") from None
    return result


def array(values: Any, call: str = "put") -> np.ndarray[Any, Any]:
    """Return what a call is given as an array; nothing of the values is lost, see `losses`."""
    try:
        found = np.asarray(values)
    except Exception as error:  # whatever `__array__`, or a list that is no rectangle, raises
        way = _RAGGED if isinstance(values, (list, tuple)) else _FOREIGN
        raise SpecMismatch(
            f"{call} takes an array, and {type(values).__name__} is not one to numpy: {error}.{way}"
        ) from error
    if found.dtype.hasobject:
        raise SpecMismatch(
            f"{type(values).__name__} holds Python objects to numpy (dtype {found.dtype}): they "
            "cannot live in shared memory or in a .npy. Convert it, np.asarray(values, dtype=…), "
            "to a type of fixed size: numbers, S10, U10."
        )
    if lost := loss(values, found.dtype):
        raise SpecMismatch(f"{call} would drop {lost}.")
    return found
