"""Times from one unit to another, exactly, in whole numbers.

What numpy's own conversion does with a value that 64 bits do not hold depends on its version:
it wraps, or it raises; and that also where only a product on the way is too large
(``M8[1000s]`` to ``M8[h]``). Here a chunk whose products fit is computed in int64, any other
with Python's integers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Integers = np.ndarray[Any, Any]
"""Of dtype int64 or, where that is too narrow, of Python's integers."""

_DAY = 24 * 3600 * 10**18
_ATTOSECONDS = {
    "W": 7 * _DAY, "D": _DAY, "h": 3600 * 10**18, "m": 60 * 10**18, "s": 10**18,
    "ms": 10**15, "us": 10**12, "ns": 10**9, "ps": 10**6, "fs": 10**3, "as": 1,
}  # fmt: skip
_MONTHS = {"Y": 12, "M": 1}

# The calendar is counted from 0000-03-01: the leap day is the last of its year, and every 400
# years (an era) all repeats. (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".)
_ERA_DAYS = 146_097
_EPOCH_DAYS, _EPOCH_MONTHS = 719_468, 23_638  # from there to 1970-01-01
_CALENDAR_ROOM = 2**57  # up to here the calendar's products fit into int64


def rescale(counts: Integers, origin: np.dtype[Any], target: np.dtype[Any]) -> Integers:
    """Return counts of `origin`'s unit as counts of `target`'s, rounded down as numpy does.

    Parameters
    ----------
    counts
        What is in a datetime64 or timedelta64, none of it NaT.
    origin, target
        Of the same kind and with units; a timedelta cannot go between months and days.
    """
    (before, often), (after, every) = np.datetime_data(origin), np.datetime_data(target)
    if (before in _MONTHS) == (after in _MONTHS):
        units = _MONTHS if before in _MONTHS else _ATTOSECONDS
        return _ratio(counts, often * units[before], every * units[after])
    if before in _MONTHS:
        days = _days(_ratio(counts, often * _MONTHS[before], 1))
        return _ratio(days, _DAY, every * _ATTOSECONDS[after])
    days = _ratio(counts, often * _ATTOSECONDS[before], _DAY)
    return _ratio(_months(days), 1, every * _MONTHS[after])


def _ratio(counts: Integers, times: int, by: int) -> Integers:
    """Return ``counts * times // by``."""
    common = math.gcd(times, by)
    times, by = times // common, by // common
    counts = _roomy(counts, (2**63 - 1) // times if by < 2**63 else 0)
    return counts * times // by


def _roomy(counts: Integers, most: int) -> Integers:
    """Return `counts` as they are if none is beyond `most`, else as Python's integers."""
    if most and (counts.size == 0 or (counts.max() <= most and counts.min() >= -most)):
        return counts
    return counts.astype(object)


def _days(months: Integers) -> Integers:
    """Return the day that each month begins with; both from 1970-01-01."""
    since = _roomy(months, _CALENDAR_ROOM) + _EPOCH_MONTHS
    year, month = since // 12, since % 12
    of_year = (153 * month + 2) // 5
    days: Integers = year // 400 * _ERA_DAYS + _new_year(year % 400) + of_year - _EPOCH_DAYS
    return days


def _months(days: Integers) -> Integers:
    """Return the month that each day is in; both from 1970-01-01."""
    since = _roomy(days, _CALENDAR_ROOM) + _EPOCH_DAYS
    era, day = since // _ERA_DAYS, since % _ERA_DAYS
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    month = (5 * (day - _new_year(year)) + 2) // 153
    months: Integers = (era * 400 + year) * 12 + month - _EPOCH_MONTHS
    return months


def _new_year(year: Integers) -> Integers:
    """Return the day of its era that each year of an era begins with."""
    day: Integers = 365 * year + year // 4 - year // 100
    return day
