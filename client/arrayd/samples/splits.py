"""Named parts of a selection (train, val, test), and smaller selections for trials.

*Split.* Each row has a key, 64 bits of (split seed, row), see `arrayd.samples.order`. The
fractions cut the 64-bit numbers into intervals, in the order in which they are given; a row
belongs to the part in whose interval its key lies. So it depends on nothing but the row: rows that
are appended to the dataset never move an old one, and a row that is in the test set of all rows
is in the test set of any selection. The price: a part has its fraction of the rows only about
(standard deviation √(n·f·(1 - f))).

*Groups.* The rows of one group (a subject, a scene) have one key: blake2b of the group's value,
mixed with the split's seed. A value is hashed as ``i`` and its decimal digits if it is a whole
number, as ``s`` and its UTF-8 if it is a string; so it is the same on every machine, and for an
array of another width. How near the fractions are met depends on how large the groups are.

*Strata.* Inside each label the rows are sorted by their key and cut at exact counts: the label's
rows times the fractions, rounded down, and what is missing to the sum goes to the parts with the
largest remainders (Hamilton's method; of equal ones the part named first). So every part
has each label's share up to one row. **This is not stable when rows are appended**: a rank among
the rows of a label may change, and rows near a cut with it.

*Subset.* The rows with the lowest keys of yet another purpose: the first 100 are among the first
1,000, so trials of growing size nest.

Memory, measured with 20 M rows in three parts: at most 9.5 bytes per row while the parts are made,
of which 4 are needed afterwards (twice that in a dataset of over 2**32 rows); by 10,000 labels the
same, by 1 M labels 15. Time, on one core of a busy machine: 100 M rows in 15 s; 20 M rows by 100 or
10,000 labels in 13 or 18 s, by 1 M labels in 37 s; 8 M rows by 10,000 groups in 3 s.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayd.errors import SpecMismatch
from arrayd.samples.keys import PHI, Keys, checked_seed, mix64, purpose_key, row_keys
from arrayd.samples.ranking import between, ranked
from arrayd.samples.selection import Ids, Rows, chunks, id_type

_TOLERANCE = 1e-9
"""How far a sum of fractions may be off: .8 + .1 + .1 is not 1 in binary."""

_Numbers = npt.NDArray[np.integer[Any]]


def split(
    rows: Rows,
    fractions: Mapping[str, float],
    seed: int = 0,
    *,
    group: Any = None,
    stratify: Any = None,
) -> dict[str, Rows]:
    """Return disjoint parts of a selection.

    Parameters
    ----------
    rows
        The selection, of n rows.
    fractions
        Of each part by its name; they add up to 1 at most. Rows beyond the sum are in no part.
    seed
        Another seed, another split.
    group : array-like of integers or strings, shape (n,) or (rows.total,), optional
        Rows with the same value come into the same part.
    stratify : array-like of integers or strings, shape (n,) or (rows.total,), optional
        Labels: every part gets its exact share of each. Not stable when rows are appended.

    Returns
    -------
    dict of Rows
        With the names of `fractions`.

    Raises
    ------
    SpecMismatch
        The fractions are negative, no numbers, or add up to more than 1; both `group` and
        `stratify` are given; one of these is no array of the right length or type.
    """
    shares = _checked_fractions(fractions)
    key = purpose_key("split", checked_seed(seed))
    if group is not None and stratify is not None:
        raise SpecMismatch(
            "split takes group= or stratify=, not both: rows of a group cannot be divided, so the "
            "labels cannot be met exactly. Split by group, and look at the labels of each part."
        )
    pieces: list[list[Ids]] = [[] for _ in shares]
    if stratify is not None:
        part = _by_strata(rows, list(shares.values()), key, _Labels("stratify", stratify, rows))
        parts: Iterable[_Numbers] = (part[a:b] for a, b in chunks(len(rows)))
    else:
        column = None if group is None else _Labels("group", group, rows)
        parts = _by_threshold(rows, list(shares.values()), key, column)
    for (a, b), numbers in zip(chunks(len(rows)), parts, strict=True):
        ids = rows.ids(a, b)
        for number, found in enumerate(pieces):
            found.append(ids[numbers == number].astype(id_type(rows.total)))
    return {name: rows.joined(found) for name, found in zip(shares, pieces, strict=True)}


def subset(rows: Rows, n: float, seed: int = 0) -> Rows:
    """Return `n` rows of a selection, by chance; smaller subsets are inside larger ones.

    Parameters
    ----------
    rows
        The selection.
    n
        How many rows (int), or which fraction of them (float, 0 < n ≤ 1; rounded, but at least
        one row). So 1 is one row, and 1.0 all.
    seed
        Subsets of one seed nest.

    Raises
    ------
    SpecMismatch
        There are not so many, or `n` is no such number.
    """
    count = _checked_count(n, len(rows))
    key = purpose_key("subset", checked_seed(seed))
    if count in (0, len(rows)):
        return rows.take(count)
    last = rows.at(between(rows, key, count - 1, count))
    limit = row_keys(last, key)[0]
    pieces = []
    for a, b in chunks(len(rows)):
        ids = rows.ids(a, b)
        pieces.append(ids[row_keys(ids, key) <= limit])
    return rows.joined(pieces)


def _checked_count(n: Any, available: int) -> int:
    """Return the number of rows that `subset` is to take."""
    if isinstance(n, (float, np.floating)):
        if not 0 < n <= 1:
            raise SpecMismatch(f"subset({n!r}): a fraction is above 0 and at most 1. Rows: an int.")
        return min(available, max(1, round(float(n) * available)))
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 0:
        raise SpecMismatch(
            f"subset({n!r}): it takes a number of rows (int from 0 on) or a fraction (float)."
        )
    if n > available:
        raise SpecMismatch(f"subset({int(n):,}): the selection has {available:,} rows.")
    return int(n)


def _checked_fractions(fractions: Mapping[str, float]) -> dict[str, float]:
    """Return the fractions as floats."""
    shares: dict[str, float] = {}
    for name, value in fractions.items():
        number = isinstance(value, (int, float, np.integer, np.floating))
        if not number or isinstance(value, bool) or not 0 <= value <= 1:
            raise SpecMismatch(f"split: {name}={value!r}: a fraction is a number from 0 to 1.")
        shares[name] = float(value)
    total = math.fsum(shares.values())
    if not shares or total > 1 + _TOLERANCE:
        words = ", ".join(f"{name}={value:g}" for name, value in shares.items())
        raise SpecMismatch(
            f"split: {words} add up to {total:.12g}, more than 1. Make them smaller; what is left "
            "to 1 belongs to no part."
            if shares
            else "split needs at least one fraction: split(train=0.9, val=0.1)."
        )
    return shares


def _by_threshold(
    rows: Rows, shares: list[float], key: int, column: _Labels | None
) -> Iterable[_Numbers]:
    """Yield the part of each row, chunk by chunk; `len(shares)`: none."""
    limits = [_limit(math.fsum(shares[: i + 1])) for i in range(len(shares))]
    inner = np.array([limit for limit in limits if limit < 2**64], np.uint64)
    for a, b in chunks(len(rows)):
        keys = row_keys(rows.ids(a, b), key) if column is None else column.group_keys(a, b, key)
        yield np.searchsorted(inner, keys, side="right")


def _limit(share: float) -> int:
    """Return the first key that is not below `share`."""
    return 2**64 if share > 1 - _TOLERANCE else int(share * 2**64)


def _by_strata(rows: Rows, shares: list[float], key: int, column: _Labels) -> _Numbers:
    """Return the part of each row; `len(shares)`: none."""
    codes, counts = column.codes()
    ends = np.cumsum(_quotas(counts, shares), axis=1)  # labels × parts
    part = np.empty(len(rows), np.min_scalar_type(len(shares)))
    seen = np.zeros(len(counts), np.int64)  # rows of each label among those of lower keys
    table = ranked(rows, key)
    for a, b in chunks(len(rows)):
        code = codes[table[a:b]]
        order = np.argsort(code, kind="stable")
        found = np.bincount(code, minlength=len(counts))
        rank = np.empty(b - a, np.int64)
        rank[order] = np.arange(b - a) - np.repeat(np.cumsum(found) - found, found)
        rank += seen[code]
        seen += found
        part[table[a:b]] = (rank[:, None] >= ends[code, :-1]).sum(axis=1)
    return part


def _quotas(counts: npt.NDArray[np.int64], shares: list[float]) -> npt.NDArray[np.int64]:
    """Return how many rows of each label come into each part, and into none.

    Returns
    -------
    array of int64, shape (labels, len(shares) + 1)
        Each row adds up to the count of its label.
    """
    rest = 1 - math.fsum(shares)
    weights = np.array([*shares, rest if rest > _TOLERANCE else 0.0])
    exact = counts[:, None] * (weights / weights.sum())
    # 0.3 * 10 is meant to be 3.
    quotas: npt.NDArray[np.int64] = np.floor(exact + _TOLERANCE).astype(np.int64)
    missing = counts - quotas.sum(axis=1)
    best = np.argsort(-(exact - quotas), axis=1, kind="stable")
    place = np.argsort(best, axis=1, kind="stable")
    quotas += place < missing[:, None]
    return quotas


class _Labels:
    """Values of `group=` or `stratify=`: one per row of the selection, or of the dataset."""

    def __init__(self, name: str, values: Any, rows: Rows) -> None:
        self._name = name
        self._rows = rows
        try:
            self._values = np.asarray(values)
        except ValueError as error:
            raise SpecMismatch(f"{name}= has one value per row; this is no list: {error}") from None
        if self._values.ndim != 1 or len(self._values) not in (len(rows), rows.total):
            raise SpecMismatch(
                f"{name}= has one value per row, {len(rows):,} (or {rows.total:,}, for each row of "
                f"the dataset), not shape {self._values.shape}."
            )

    def group_keys(self, start: int, stop: int, key: int) -> Keys:
        """Return the key of the group of each row at these places."""
        values, inverse = np.unique(self._part(start, stop), return_inverse=True)
        keys = np.array([_group_key(value, key) for value in values.tolist()], np.uint64)
        return keys[inverse.reshape(-1)]

    def codes(self) -> tuple[_Numbers, npt.NDArray[np.int64]]:
        """Return the label of each row as a number from 0 on, and how many rows each has."""
        known: dict[Any, int] = {}
        codes: _Numbers = np.empty(len(self._rows), np.uint8)
        counts: list[int] = []
        for a, b in chunks(len(self._rows)):
            values, inverse, found = np.unique(
                self._part(a, b), return_inverse=True, return_counts=True
            )
            numbers = [known.setdefault(value, len(known)) for value in values.tolist()]
            counts += [0] * (len(known) - len(counts))
            for number, count in zip(numbers, found.tolist(), strict=True):
                counts[number] += count
            if len(known) > np.iinfo(codes.dtype).max:
                codes = codes.astype(np.min_scalar_type(len(known)))
            codes[a:b] = np.array(numbers, codes.dtype)[inverse.reshape(-1)]
        return codes, np.array(counts, np.int64)

    def _part(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the values of the rows at these places, of a type of whole numbers or str."""
        if len(self._values) == len(self._rows):
            part = self._values[start:stop]
        else:
            part = self._values[self._rows.ids(start, stop)]
        if part.dtype.kind == "S":
            return np.char.decode(part, "utf-8", "surrogateescape")
        if part.dtype.kind in "OT":
            part = self._plain(part.tolist())
        if part.dtype.kind == "b":
            part = part.astype(np.uint8)
        if part.dtype.kind not in "iuU" and part.size:
            raise SpecMismatch(
                f"{self._name}= takes whole numbers or strings, not {part.dtype}: make integers "
                "of the values first, so that it is clear which are equal."
            )
        return part

    def _plain(self, values: list[Any]) -> npt.NDArray[Any]:
        """Return Python objects as an array of str, or of whole numbers."""
        strings = sum(isinstance(value, str) for value in values)
        whole = sum(isinstance(value, (int, np.integer)) for value in values)
        if len(values) not in (strings, whole):
            raise SpecMismatch(
                f"{self._name}= takes whole numbers or strings, all of one kind; None or a missing "
                "value is neither. Give such rows a value of their own, or filter them out."
            )
        return np.array(values)


def _group_key(value: int | str, key: int) -> int:
    """Return the 64 bits of a group, from its value and the key of the split."""
    text = f"i{value}".encode() if isinstance(value, int) else b"s" + _utf8(value)
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return mix64(mix64(number * PHI + key & 2**64 - 1))


def _utf8(value: str) -> bytes:
    """Return the UTF-8 of a string; names of files may have bytes that are none."""
    return value.encode("utf-8", "surrogatepass")
