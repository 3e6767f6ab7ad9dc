"""Text files open as `numpy.loadtxt` opens them: decompressed by suffix, decoded, line by line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import IO, Any

from arrayd.errors import BadFile
from arrayd_server.loaders import kinds
from arrayd_server.loaders.text import row_scan
from arrayd_server.loaders.text.row_scan import LineTooLong, line_ends
from arrayd_server.loaders.validation import open_regular, os_errors

_OPENERS: dict[str, Any] = {
    ".gz": gzip.open,
    ".bgz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".lzma": lzma.open,
}

_BOMS = {"utf-32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff"), "utf-16": (b"\xff\xfe", b"\xfe\xff")}
_HEAD = 4096


class Lines:
    """Lines on their way into `numpy.loadtxt`, which takes no more of them than it needs.

    Those that it takes in one call are kept, to find the one that is wrong. If they become longer
    than any line is (`LINE_BYTES`), a quote was not closed.

    Parameters
    ----------
    lines
        As a text file yields them.
    first
        Number of the first of them in the file.

    Attributes
    ----------
    number
        Of the line that was taken last.
    taken
        The lines taken since `clear`.
    size
        Their characters.
    """

    def __init__(self, lines: Iterable[str], first: int = 1) -> None:
        self._lines = iter(lines)
        self.number = first - 1
        self.clear()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        self.taken.append(line)
        self.size += len(line)
        if self.size > row_scan.LINE_BYTES:
            raise LineTooLong(
                f"no end of the row in {self.size} characters up to line {self.number}"
            )
        return line

    def clear(self) -> None:
        """Forget the lines that were taken."""
        self.taken: list[str] = []
        self.size = 0


def compressed(path: str) -> bool:
    """Return whether numpy would decompress the file: it goes by the suffix."""
    return _suffix(path) in _OPENERS


@contextmanager
def open_bytes(path: str) -> Iterator[IO[bytes]]:
    """Open a regular file, decompressed, for its bytes.

    Raises
    ------
    SourceNotFound, AccessDenied, BadFile
        What the operating system or the decompressor says, also while it is read.
    """
    with _with_our_errors(path), open_regular(path) as file:
        opener = _OPENERS.get(_suffix(path))
        if opener is None:
            yield file
        else:
            with opener(file) as inner:
                yield inner


def refuse_other_kinds(path: str) -> None:
    """Refuse a file that is no text by its first bytes, also behind compression.

    Raises
    ------
    BadFile
        It names what the file is, and the way to go.
    """
    with open_bytes(path) as file:
        kind = kinds.of_head(file.read(_HEAD))
    if kind is not None:
        if not compressed(path):
            raise BadFile(f"{path}: it is no text, but {kinds.advise(kind)}")
        advice = "Decompress it first." if kind.format else f"Decompress it, and {kind.advice}."
        raise BadFile(f"{path}: what is compressed is no text, but {kind.name}. {advice}")


@contextmanager
def open_lines(path: str, encoding: str, skip: int) -> Iterator[Lines]:
    """Open a file, decompressed and decoded, for its lines behind the first `skip`.

    Raises
    ------
    SourceNotFound, AccessDenied, BadFile
        As `open_bytes`; or the text is not of `encoding`.
    """
    with open_bytes(path) as file, io.TextIOWrapper(_buffered(file), encoding) as text:
        lines = Lines(iter(partial(text.readline, row_scan.LINE_BYTES + 1), ""))
        try:
            for _ in islice(lines, skip):
                lines.clear()
            yield lines
        except UnicodeDecodeError as error:
            # The file is decoded by the block: this one begins within the line after the last.
            raise undecodable(path, error, lines.number + 1) from None


def undecodable(path: str, error: UnicodeDecodeError, first: int) -> BadFile:
    """Return the error for a text, beginning with line number `first`, not of its encoding."""
    line = first + line_ends(error.object[: error.start])
    with open_bytes(path) as file:
        head = file.read(_HEAD)
    return BadFile(
        f"{path}, line {line}: byte 0x{error.object[error.start]:02x} is no {error.encoding} "
        f"text. {_encoding_remedy(head, error)}",
        line=line,
    )


def _encoding_remedy(head: bytes, error: UnicodeDecodeError) -> str:
    """Return what to do about a byte that is not of its encoding; an encoding is tried."""
    for encoding, marks in _BOMS.items():
        if head.startswith(marks):
            return f"The file begins as {encoding} does: pass encoding={encoding!r}."
    end = max(error.object.find(b"\n", error.start), error.end)
    line = error.object[error.object.rfind(b"\n", 0, error.start) + 1 : end]
    if b"\0" in head or any(c < 32 and c not in b"\t\n\r\f\v\x1a" for c in line):
        return (
            "It holds bytes that no text has, so this is a binary file. If it holds plain "
            "numbers one after another, read it with format='raw', dtype= and shape=."
        )
    for encoding in ("latin1", "cp1252"):
        if all(map(str.isprintable, line.decode(encoding, "replace").strip().replace("\t", " "))):
            return (
                f"Name the encoding= of the file: encoding={encoding!r} if it is Western "
                "European, another if not."
            )
    return "Name the encoding= of the file."


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1]


def _buffered(file: IO[bytes]) -> Any:
    return io.BufferedReader(file) if isinstance(file, io.RawIOBase) else file


@contextmanager
def _with_our_errors(path: str) -> Iterator[None]:
    """Turn the errors of the operating system, the decompressors and `row_scan` into ours."""
    try:
        with os_errors(path):
            yield
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise BadFile(f"{path}: the compressed data are damaged: {error}.") from None
    except LineTooLong as error:
        raise BadFile(f"{path}: {error}: this is no text file.") from None
