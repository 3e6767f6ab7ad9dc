"""One item of a request: a source, with the file's state as this process sees it."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from arrayd.array import SharedArray
from arrayd.errors import (
    AccessDenied,
    BadFile,
    PrecisionWarning,
    SourceError,
    SourceNotFound,
    SpecMismatch,
)
from arrayd.session.locking import with_locking
from arrayd.source import Source
from arrayd.wire import protocol
from arrayd.wire.codec import pack
from arrayd.wire.grant import Grant
from arrayd.wire.protocol import Stat

SourceLike = str | os.PathLike[str] | Source
"""What names a source: a path, ``file.h5:/x``, ``name:N``, or a `Source`."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A source and the ``stat`` of its file; None for a published block."""

    source: Source
    stat: Stat | None

    @classmethod
    def of(cls, source: SourceLike, options: Mapping[str, Any]) -> Self:
        """Return the canonical wish for the arguments of `arrayd.get`.

        Raises
        ------
        SourceNotFound, AccessDenied, BadFile
            There is no such file for this process.
        SpecMismatch
            An option is wrong.
        """
        canonical = Source.of(source, **options)
        _check_words(canonical)
        if canonical.name is not None:
            _check_name(canonical)
            return cls(canonical, None)
        return cls(with_locking(canonical), _stat(canonical.path))

    def anew(self) -> Self:
        """Return the wish for what the file is now; the same if there is none any more."""
        if self.stat is None:
            return self
        with contextlib.suppress(SourceError):
            return replace(self, stat=_stat(self.source.path))
        return self

    def to_wire(self) -> dict[str, Any]:
        """Return the item of a request."""
        return {"source": self.source.to_wire(), "stat": self.stat}


def cut(whole: SharedArray, grant: Grant, source: Source) -> SharedArray:
    """Apply ``rows=`` where the block holds more than was asked for; warn of a lossy cast.

    Raises
    ------
    SpecMismatch
        The block is 0-d.
    """
    if grant.lost:
        _warn_of_loss(whole, grant, source)
    if source.rows is None or not (grant.window or source.name is not None):
        return whole
    if whole.ndim == 0:
        raise SpecMismatch(f"{source}: rows= needs an array of at least one dimension, not 0-d.")
    result: SharedArray = whole[source.slice]
    return result


def _warn_of_loss(whole: SharedArray, grant: Grant, source: Source) -> None:
    """Warn at the caller's line, which is the first one outside arrayd."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("arrayd."):
        level, frame = level + 1, frame.f_back
    warnings.warn(
        f"{source}: {source.cast} has too few bits: {grant.lost} of {whole.size} values were "
        "changed by the cast.",
        PrecisionWarning,
        stacklevel=level,
    )


def _stat(path: str) -> Stat:
    try:
        info = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise SourceNotFound(f"{path}: no such file.") from None
    except PermissionError:
        raise AccessDenied(f"{path}: you may not look into its directory.") from None
    except (OSError, ValueError) as error:
        raise BadFile(f"{path!r}: {error}") from None
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _check_words(source: Source) -> None:
    """Refuse what no request can hold."""
    wire = source.to_wire()
    try:
        pack(wire)
    except (ValueError, OverflowError) as error:  # a lone surrogate, an integer beyond 64 bits
        raise SpecMismatch(f"{source}: this cannot be sent to another process: {error}.") from None
    if not protocol.modest(wire):
        raise SpecMismatch(
            f"{str(source)[:200]}: path, member and all options together may have "
            f"{protocol.MAX_TEXT} characters and {protocol.MAX_NODES} values; these have more."
        )


def _check_name(source: Source) -> None:
    if source != Source(name=source.name, rows=source.rows):
        told = source.to_wire().keys() - {"name", "rows", "options"} | dict(source.options).keys()
        raise SpecMismatch(
            f"{source}: {', '.join(sorted(told))}= means nothing to a published block, which is "
            "taken as it is: only rows= may be given. Cast or reorder the array that you get."
        )
