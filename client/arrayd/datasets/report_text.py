"""Counts of a cast in words: a table that is read at a glance, and a verdict."""

from __future__ import annotations

import math

from arrayd.common.bytesize import format_bytes
from arrayd.common.casts.small_floats import has_infinity
from arrayd.datasets.cast_counts import CastCounts, is_float


def table(report: CastCounts, overflow: str = "error") -> str:
    """Return the report as lines; `overflow`: of a cast that was done, what it did (`verdict`)."""
    target = report.target
    relative = 1.0 if report.underflow else report.max_rel  # what becomes 0 has lost all of itself
    lines = [
        ("bytes", f"{format_bytes(report.bytes_before)} -> {format_bytes(report.bytes_after)}"),
        ("range", _range(report)),
        ("NaN, infinite", f"{report.nan:,}, {report.infinite:,}"),
        ("unchanged", _share(report, report.count - report.changed)),
        (f"beyond {target}", _share(report, report.overflow)),
        ("become 0", _share(report, report.underflow)),
        ("subnormal", _share(report, report.subnormal)),
        ("largest error", f"{report.max_abs:.4g}, relative {relative:.4g}"),
    ]
    width = max(len(label) for label, _ in lines)
    head = f"{report.origin} -> {target}, {report.count:,} values"
    body = "\n".join(f"  {label:<{width}}  {words}" for label, words in lines)
    return f"{head}\n{body}\n  => {verdict(report, overflow)}"


def _range(report: CastCounts) -> str:
    if report.minimum is None or report.maximum is None:
        return "no finite values"
    nearest = "" if report.least is None else f"; nearest to 0: {report.least:.6g}"
    return f"{report.minimum:.6g} to {report.maximum:.6g}{nearest}"


def _share(report: CastCounts, some: int) -> str:
    if not report.count:
        return "0"
    text = f"{100 * some / report.count:.3g}"
    if text == "100" and some < report.count:
        text = "> 99.9"
    return f"{some:,} ({text} %)"


def verdict(report: CastCounts, overflow: str = "error") -> str:
    """Return what the counts mean.

    Parameters
    ----------
    overflow
        What a cast that was done has made of values beyond the type; ``"error"``: none was done.
    """
    if not report.count:
        return "No values."
    if not report.changed:
        return f"Lossless: {report.target} holds every value exactly."
    beyond = _choices(report) if overflow == "error" else _done(report, overflow)
    return " ".join([*_unheld(report), *beyond, *_lost(report, overflow)])


def _unheld(report: CastCounts) -> list[str]:
    """Say what every cast would refuse."""
    if not report.unheld:
        return []
    return [
        f"REFUSED: {_values(report.unheld)} NaN, which {report.target} lacks; cast to a float "
        "type, or replace them first."
    ]


def _choices(report: CastCounts) -> list[str]:
    """Say what a cast would refuse, and what can be done."""
    if not report.overflow:
        return []
    ways = ["overflow='clip' (the nearest value that fits)"]
    if has_infinity(report.part):
        ways.append("overflow='inf'")
    if report.scale is not None:
        ways.insert(0, f"multiply by {_power(report.scale)} first")
    words = (
        f"REFUSED unless you choose: {_values(report.overflow)} beyond {report.target}. "
        f"{'; or '.join(ways)}; or a wider type."
    )
    if report.scale is None and is_float(report.part) and report.least is not None:
        words += (
            " No power of 2 to multiply by first fits all: the smallest "
            f"({report.least:.6g}) would become 0."
        )
    return [words]


def _done(report: CastCounts, overflow: str) -> list[str]:
    """Say what a cast has made of the values beyond the type."""
    if not report.overflow:
        return []
    one = report.overflow == 1
    became = "infinity" if overflow == "inf" else "the nearest that fits"
    return [
        f"{report.overflow:,} value{' was' if one else 's were'} beyond {report.target}: "
        f"{'it' if one else 'they'} became {became}."
    ]


def _lost(report: CastCounts, overflow: str) -> list[str]:
    """Say what the values that fit lose."""
    parts = []
    if report.underflow or report.subnormal:
        cure = ""
        if report.scale is not None and not report.overflow and overflow == "error":
            cure = f"; multiply by {_power(report.scale)} first to keep more of them"
        parts.append(
            f"Close to 0: {report.underflow:,} become 0, {report.subnormal:,} keep fewer bits "
            f"(subnormal){cure}."
        )
    rounded = report.changed - report.overflow - report.underflow - report.unheld
    if rounded <= 0 or not (report.max_rel or report.max_abs):
        return parts
    share = f"{100 * rounded / report.count:.3g} % of the values"
    if is_float(report.part) and report.max_rel:
        parts.append(
            f"{share} are rounded, by at most {report.max_rel:.2g} of their size "
            f"({_digits(report.max_rel)})."
        )
    elif not is_float(report.part):
        parts.append(f"{share} lose their fraction, of at most {report.max_abs:.3g}.")
    return parts


def _values(number: int) -> str:
    return "1 value is" if number == 1 else f"{number:,} values are"


def _power(scale: float) -> str:
    return f"2**{math.frexp(scale)[1] - 1}"


def _digits(error: float) -> str:
    digits = max(0, math.floor(-math.log10(2 * error))) if error < 0.5 else 0
    return f"{digits} digit{'' if digits == 1 else 's'} stay right"
