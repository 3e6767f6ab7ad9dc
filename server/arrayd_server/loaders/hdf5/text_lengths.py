"""How long text of varying length is, and whether giving each value the longest's size is sane."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from arrayd.common.bytesize import format_bytes
from arrayd.common.casts.long_text import no_utf8
from arrayd.errors import CastError, SpecMismatch
from arrayd.source import Source

Array = np.ndarray[Any, Any]

SMALL_BYTES = 64 << 20
"""So much memory is no reason to look at how much of it is padding."""

MOST_PADDING = 16
"""Times the size of the text itself."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of some text, in bytes or characters.

    Parameters
    ----------
    longest
        Of a value; at least 1.
    total, count
        Of all values, and how many these are.
    """

    longest: int
    total: int
    count: int


def measured(source: Source, chunks: Iterable[Array], kind: str) -> Lengths:
    """Return the lengths of values, in bytes for ``"S"``, in characters for ``"U"``.

    Raises
    ------
    CastError
        ``"U"``, and a value is no UTF-8; without its index.
    """
    count: Callable[[bytes], int] = len if kind == "S" else lambda value: len(value.decode())
    most, total, number = 1, 0, 0
    for chunk in chunks:
        try:
            lengths = [count(value) for value in chunk.flat]
        except UnicodeDecodeError as error:
            raise CastError(f"{source}: {no_utf8(error.object)}") from None
        most, total, number = max(most, *lengths), total + sum(lengths), number + len(lengths)
    return Lengths(most, total, number)


def check_padding(source: Source, found: Lengths) -> None:
    """Refuse to make a few long values the size of all, unless it is asked for.

    Raises
    ------
    SpecMismatch
    """
    size = found.longest * found.count
    if size > max(SMALL_BYTES, MOST_PADDING * found.total):
        raise SpecMismatch(
            f"{source} holds variable-length text: {found.count} values with "
            f"{format_bytes(found.total)}, but the longest has {found.longest} bytes, and if each "
            f"had, they would take {format_bytes(size)}. Pass cast='S{found.longest}' for that, or "
            "fewer, such as cast='S16', with overflow='clip' to cut what is longer."
        )
