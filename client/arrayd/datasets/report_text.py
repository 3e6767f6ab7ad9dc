"""Counts of a cast in words: a table that is read at a glance, and a verdict."""

from __future__ import annotations

import math

from arrayd.common.bytesize import format_bytes
from arrayd.datasets.cast_counts import CastCounts, is_float


def table(report: CastCounts) -> str:
    """Return the report as lines."""
    target = report.target
    lines = [
        ("bytes", f"{format_bytes(report.bytes_before)} -> {format_bytes(report.bytes_after)}"),
        ("range", _range(report)),
        ("NaN, infinite", f"{report.nan:,}, {report.infinite:,}"),
        ("unchanged", _share(report, report.count - report.changed)),
        (f"beyond {target}", _share(report, report.overflow)),
        ("become 0", _share(report, report.underflow)),
        ("subnormal", _share(report, report.subnormal)),
        ("largest error", f"{report.max_abs:.4g}, relative {report.max_rel:.4g}"),
    ]
    width = max(len(label) for label, _ in lines)
    head = f"{report.origin} -> {target}, {report.count:,} values"
    body = "\n".join(f"  {label:<{width}}  {words}" for label, words in lines)
    return f"{head}\n{body}\n  => {verdict(report)}"


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


def verdict(report: CastCounts) -> str:
    """Return what the counts mean."""
    if not report.count:
        return "No values."
    if not report.changed:
        return f"Lossless: {report.target} holds every value exactly."
    parts = [*_refused(report), *_lost(report)]
    return " ".join(parts)


def _refused(report: CastCounts) -> list[str]:
    """Say what a cast would refuse, and what can be done."""
    parts = []
    if report.unheld:
        parts.append(
            f"REFUSED: {_values(report.unheld)} NaN, which {report.target} lacks; cast to a "
            "float type, or replace them first."
        )
    if report.overflow:
        ways = ["overflow='clip' (the nearest value that fits)"]
        if report.scale is not None:
            ways.append("overflow='inf'")
            ways.insert(0, f"multiply by {_power(report.scale)} first")
        parts.append(
            f"REFUSED unless you choose: {_values(report.overflow)} beyond {report.target}. "
            f"{'; or '.join(ways)}; or a wider type."
        )
    return parts


def _lost(report: CastCounts) -> list[str]:
    """Say what the values that fit lose."""
    parts = []
    if report.underflow or report.subnormal:
        cure = ""
        if report.scale is not None and not report.overflow:
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
