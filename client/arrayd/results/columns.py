"""Rows of a status set in columns that fit a terminal: what is too wide is cut, or left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

STREAM_HEAD = ("STREAM", "AT", "LAG", "STALLED", "STATE", "SOURCE")

HEAD = ("BLOCK", "SIZE", "SHAPE", "DTYPE", "STATE", "SOURCE", "HELD BY", "AGE")

_EXPENDABLE = ("DTYPE", "SHAPE")  # left out, in this order, where the terminal is narrow
_LEAST = 32  # characters that SOURCE and HELD BY should have together

Row = tuple[str, ...]
Columns = dict[str, Row]


def flow(parts: Sequence[str], gap: str, width: int | None) -> list[str]:
    """Join parts into lines that fit; those after the first are indented."""
    lines = [parts[0]]
    for part in parts[1:]:
        if width is None or len(lines[-1] + gap + part) <= width:
            lines[-1] += gap + part
        else:
            lines.append(f"  {part}")
    return lines


def grid(rows: Sequence[Row], width: int | None) -> list[str]:
    """Set rows, the first of them `HEAD`, in columns."""
    columns, gap = dict(zip(HEAD, zip(*rows, strict=True), strict=True)), 2
    if width is not None:
        columns, gap = _narrowed(columns, width)
    padded = zip(*map(_padded, columns.values()), strict=True)
    return [(" " * gap).join(line).rstrip() for line in padded]


def stream_grid(rows: Sequence[Row], width: int | None) -> list[str]:
    """Set the rows of streams in columns; what is too wide is cut at the right."""
    if not rows:
        return []
    columns = [*zip(STREAM_HEAD, *rows, strict=True)]
    lines = ["  ".join(cells).rstrip() for cells in zip(*map(_padded, columns), strict=True)]
    return lines if width is None else [beginning(line, width) for line in lines]


def _narrowed(columns: Columns, width: int) -> tuple[Columns, int]:
    """Return columns that fit, and the gap between them: SOURCE and HELD BY share the rest."""
    source, held = _wide(columns["SOURCE"]), _wide(columns["HELD BY"])
    for kept, gap in _layouts(columns):
        rest = sum(map(_wide, kept.values())) - source - held + gap * (len(kept) - 1)
        if width - rest >= min(_LEAST, source + held):
            break
    room = max(width - rest, 16)
    held = min(held, max(room // 2, room - source))
    cut = {
        "SOURCE": tuple(cut_left(cell, room - held) for cell in kept["SOURCE"]),
        "HELD BY": tuple(beginning(cell, held) for cell in kept["HELD BY"]),
    }
    return {**kept, **cut}, gap


def _layouts(columns: Columns) -> Iterator[tuple[Columns, int]]:
    """Yield ever narrower choices of columns, and the gap between them."""
    yield columns, 2
    yield columns, 1
    for name in _EXPENDABLE:
        columns = {key: cells for key, cells in columns.items() if key != name}
        yield columns, 1


def _wide(cells: Row) -> int:
    return max(map(len, cells))


def _padded(cells: Row) -> list[str]:
    width = _wide(cells)  # once: there may be ten thousand
    return [cell.ljust(width) for cell in cells]


def cut_left(words: str, width: int) -> str:
    """Shorten at the left: the end of a path says most."""
    return words if len(words) <= width else "…" + words[len(words) - width + 1 :]


def beginning(words: str, width: int) -> str:
    """Shorten at the right."""
    return words if len(words) <= width else words[: width - 1] + "…"
