"""Sizes as people write and read them, in binary units: ``1.5T``, ``41.2 GiB``."""

from __future__ import annotations

import re

_PREFIXES = "KMGTPE"
# Compiled by who reads a size: every client imports this, and most read none.
_SIZE = rf"([0-9]+(?:\.[0-9]+)?)\s*(?:([{_PREFIXES}])(?:iB)?|B)?"


def parse_bytes(text: str) -> int:
    """Return the bytes that ``512``, ``16M``, ``1.5T`` or ``41.2 GiB`` stand for.

    ``4GB`` is refused rather than guessed: it is 7 % less than ``4G`` to half its readers.

    Raises
    ------
    ValueError
        `text` is no size.
    """
    match = re.fullmatch(_SIZE, text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError("not a size; write bytes or 16M, 4G, 1.5T (binary units)")
    number, prefix = match.groups()
    power = _PREFIXES.index(prefix.upper()) + 1 if prefix else 0
    whole, _, fraction = number.partition(".")
    digits = int(whole + fraction)  # exact, as a float of 1.1T would not be
    size: int = digits * 1024**power // 10 ** len(fraction)
    return size


def format_apart(*counts: int) -> list[str]:
    """Return counts of bytes as `format_bytes`, with decimals enough to tell different ones apart.

    Where three are not enough, it returns all in bytes.
    """
    for decimals in (1, 2, 3):
        texts = [format_bytes(count, decimals) for count in counts]
        if len(set(texts)) == len(set(counts)):
            return texts
    return [f"{count:,} B" for count in counts]


def format_bytes(count: int, decimals: int = 1) -> str:
    """Return `count` bytes with one decimal in the largest unit it fills: ``41.2 GiB``."""
    if count < 1024:
        return f"{count} B"
    # By what will be printed: 1023.97 KiB reads 1.0 MiB, not 1024.0 KiB.
    power = 1
    while round(count / 1024**power, decimals) >= 1024 and power < len(_PREFIXES):
        power += 1
    return f"{count / 1024**power:.{decimals}f} {_PREFIXES[power - 1]}iB"
