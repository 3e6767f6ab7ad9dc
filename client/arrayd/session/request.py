"""One item of a request: a source, and the state of its file as this process sees it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from arrayd.errors import (
    AccessDenied,
    BadFile,
    SourceError,
    SourceNotFound,
    SpecMismatch,
)
from arrayd.session.locking import with_locking
from arrayd.source import Source
from arrayd.wire import bounds, index
from arrayd.wire.codec import pack
from arrayd.wire.protocol import Stat

_SHORT = 4096  # characters of a path, by itself less than any limit

_SPELLINGS = 4096
"""Spellings of sources that are remembered."""

_known: dict[Any, tuple[Source, bytes]] = {}
"""The source that is meant by arguments which mean the same at all times, and its part of a key."""

_NEW: tuple[Source | None, bytes] = (None, b"")

SourceLike = str | os.PathLike[str] | Source
"""What names a source: a path, ``file.h5:/x``, ``name:N``, or a `Source`."""


class FileRequest(NamedTuple):
    """A source, and the state of its file.

    Parameters
    ----------
    stat
        None for a published block. The daemon compares it with what it finds: both must mean the
        same state of the file.
    part
        That of the source in `key`, if it is known.
    """

    source: Source
    stat: Stat | None
    part: bytes = b""

    @classmethod
    def of(cls, source: SourceLike, options: Mapping[str, Any]) -> Self:
        """Return the canonical request for the arguments of `arrayd.get`.

        Raises
        ------
        SourceNotFound, AccessDenied, BadFile
            There is no such file for this process.
        SpecMismatch
            An option is wrong.
        """
        spelling = _spelling(source, options)
        canonical, part = _known.get(spelling, _NEW)
        if canonical is None:
            canonical = Source.of(source, **options)
            _check_words(canonical)
            if canonical.name is not None:
                _check_name(canonical)
                return cls(canonical, None)
            part = index.key_of_source(canonical.without_hints())
            if spelling is not None:
                _remember(spelling, canonical, part)
        meant = with_locking(canonical)
        return cls(meant, _stat(meant.path), part if meant is canonical else b"")

    def anew(self) -> Self:
        """Return the request for what the file is now; the same if there is none any more."""
        if self.stat is None:
            return self
        with contextlib.suppress(SourceError):
            return self._replace(stat=_stat(self.source.path))
        return self

    def key(self) -> bytes:
        """Return what stands for this request: its key in the daemon's index."""
        part = self.part or index.key_of_source(self.source.without_hints())
        return index.key(part, self.stat)

    def whole(self) -> Self:
        """Return the request for the same source without ``rows=``."""
        return self._replace(source=self.source.whole(), part=b"")

    def to_wire(self) -> dict[str, Any]:
        """Return the item of a request."""
        return {"source": self.source.to_wire(), "stat": self.stat}


def _spelling(source: SourceLike, options: Mapping[str, Any]) -> Any:
    """Return what stands for arguments that mean the same source at all times; else None.

    A relative path depends on the current directory, and a colon on which files there are.
    Values that are equal, and mean something else (1, True and 1.0), have types that differ.
    """
    if type(source) is not str or source[:1] != "/" or ":" in source:
        return None
    if not options:
        return source
    spelling = (source, *((key, value.__class__, value) for key, value in options.items()))
    try:
        hash(spelling)
    except TypeError:  # a slice, a list
        return None
    return spelling


def _remember(spelling: Any, source: Source, part: bytes) -> None:
    if len(_known) >= _SPELLINGS:
        _known.clear()
    _known[spelling] = source, part


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
    if len(source.path) < _SHORT and source.path.isascii() and source.is_bare_path:
        return  # soon, for there may be many
    wire = source.to_wire()
    try:
        pack(wire)
    except (ValueError, OverflowError) as error:  # a lone surrogate, an integer beyond 64 bits
        raise SpecMismatch(f"{source}: this cannot be sent to another process: {error}.") from None
    if not bounds.modest(wire):
        raise SpecMismatch(
            f"{str(source)[:200]}: path, member and all options together may have "
            f"{bounds.MAX_TEXT} characters and {bounds.MAX_NODES} values; these have more."
        )


def _check_name(source: Source) -> None:
    if source != Source(name=source.name, rows=source.rows):
        given = source.to_wire().keys() - {"name", "rows", "options"} | dict(source.options).keys()
        raise SpecMismatch(
            f"{source}: {', '.join(sorted(given))}= means nothing to a published block, which is "
            "taken as it is: only rows= may be given. Cast or reorder the array that you get."
        )
