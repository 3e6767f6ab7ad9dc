"""Writes many files into one HDF5 file; see `collect`.

While one is written, the daemon loads the next ones in parallel, in at most half of its budget.
What it has begun to load for this alone ends with the client, however that ends.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from arrayd.client import Client
from arrayd.common import failpoints
from arrayd.errors import (
    ArraydError,
    LoaderCrashed,
    NoRoom,
    ProtocolMismatch,
    SourceChanged,
    SourceError,
    SpecMismatch,
)
from arrayd.gather.dataset import Input, store, stored_type
from arrayd.gather.late_signals import late_signals
from arrayd.gather.names import dataset_names
from arrayd.gather.replace_file import replacing
from arrayd.results.info import Info
from arrayd.session.request import FileRequest, SourceLike
from arrayd.source import Source
from arrayd.wire import protocol
from arrayd.wire.protocol import Stat

if TYPE_CHECKING:
    import h5py

COMPRESSIONS = ("gzip", "lzf")

_BLOCK_EXTRA = 16 << 10  # a block's footer, metadata and padding, at most
_PROBES = 8  # files looked into at a time
_AHEAD = protocol.MAX_ITEMS  # pieces asked for at a time: by one request, which loads the first

_BAD_INPUT = (SourceError, LoaderCrashed)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is loaded in one go: an input, or some rows of a large one."""

    input: Input
    source: Source
    start: int  # its first row
    cost: int  # bytes in the daemon's memory


def collect(
    client: Client,
    files: Iterable[SourceLike],
    out: str | os.PathLike[str],
    *,
    compression: str | None = None,
    written: Callable[[int, int], None] | None = None,
    dtype: npt.DTypeLike | None = None,
    cast: npt.DTypeLike | None = None,
    format: str | None = None,
    **format_options: Any,
) -> list[str]:
    """Write the arrays of many files into one HDF5 file, a dataset for each.

    h5py reads from it arrays equal to those in the files, or there is an error.
    `out` is replaced when all is written, or stays as it was. At most half of the daemon's
    budget is held; a file that is larger is loaded in several parts, by rows.

    Parameters
    ----------
    client
        Session with the daemon that loads them.
    files
        Sources as for `arrayd.get`, no published blocks. The same one twice counts once.
    out
        The HDF5 file. Its datasets are named as `dataset_names` says and have the
        attributes ``source`` (path, and member), ``bytes`` (of the file), ``mtime`` (of the
        file, ISO 8601, UTC, ns), ``dtype`` (as `numpy.lib.format.dtype_to_descr` has it) and
        ``arrayd_version``. A dataset of an HDF5 file keeps its attributes (``original_source``
        and so on, where it has one of these) and its enumeration or text encoding. What refers to
        other objects of that file is left out, with a `LeftOutWarning`; attributes of groups, and
        of a file itself, are not looked at.
    compression
        ``"gzip"``, ``"lzf"`` or None.
    written
        Called with bytes written and bytes in total.
    dtype, cast, format, format_options
        How the files are read, as for `arrayd.get`.

    Returns
    -------
    list of str
        The names of the datasets.

    Raises
    ------
    SourceError, LoaderCrashed
        A file cannot be had, or HDF5 has no type for what is in it: all bad ones are named.
    LoadError, DaemonError
        As for `arrayd.get`.
    ArraydError
        `out` cannot be written.
    """
    given = {"dtype": dtype, "cast": cast, "format": format, **format_options}
    inputs = _probe(client, list(dict.fromkeys(Source.of(file, **given) for file in files)))
    with replacing(os.path.realpath(out)) as fresh:
        _write(client, inputs, fresh, compression, _meter(inputs, written))
    _warn_of_left_out(inputs)
    return [one.name for one in inputs]


class LeftOutWarning(UserWarning):
    """An attribute of an HDF5 file's dataset is not in the file that was collected."""


def _warn_of_left_out(inputs: Sequence[Input]) -> None:
    sources: dict[tuple[str, ...], list[Source]] = {}
    for one in inputs:
        sources.setdefault(one.left_out, []).append(one.source)
    for names, some in sources.items():
        if names:
            more = f" and {len(some) - 1} more" if len(some) > 1 else ""
            warnings.warn(
                f"{some[0]}{more}: attributes that tell of other objects of their file, or are "
                f"large, are left out: {', '.join(names)}.",
                LeftOutWarning,
                stacklevel=3,
            )


# ---- the inputs --------------------------------------------------------------------------


def _probe(client: Client, sources: Sequence[Source]) -> list[Input]:
    """Inspect all files, before anything is loaded; raise if one of them is bad."""

    def look(named: tuple[Source, str]) -> Input | ArraydError:
        try:
            return _input(client, *named)
        except (*_BAD_INPUT, NoRoom) as error:
            return error

    _refuse_published(sources)
    named = list(zip(sources, dataset_names(sources), strict=True))
    with ThreadPoolExecutor(_PROBES) as pool:
        found = list(pool.map(look, named))
    # Beside the others it was more than this user may have in flight; now it is alone.
    found = [look(named[i]) if isinstance(one, NoRoom) else one for i, one in enumerate(found)]
    _raise_all([one for one in found if isinstance(one, ArraydError)], len(found))
    return [one for one in found if isinstance(one, Input)]


def _refuse_published(sources: Sequence[Source]) -> None:
    for source in sources:
        if source.name is not None:
            raise SpecMismatch(f"{source}: a published block comes from no file. Collect files.")


def _input(client: Client, source: Source, name: str) -> Input:
    stat = _stat(source)
    info = client.info(source)
    shape, dtype = _one_array(client, source, info)
    stored = stored_type(source, dtype, info.header)
    return Input(source, name, shape, dtype, stored, stat, info.header, info.left_out)


def _stat(source: Source) -> Stat:
    stat = FileRequest.of(source, {}).stat
    assert stat is not None, "published blocks were refused"
    return stat


def _one_array(client: Client, source: Source, info: Info) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if info.shape is None or info.dtype is None:
        names = ", ".join(member.name for member in info.members)
        raise SpecMismatch(f"{source} holds several arrays: add :NAME, one of {names}.")
    dtype = source.cast or info.dtype
    if dtype.hasobject or not dtype.itemsize:  # text whose length has to be found
        some = source if source.rows or not info.shape else replace(source, rows=(0, 1, None))
        dtype = client.get(some).dtype
    return info.shape, dtype


def _divide(inputs: Sequence[Input], room: int) -> list[_Piece]:
    """Return the inputs as pieces of at most `room` bytes, if single rows are not larger."""
    pieces: list[_Piece] = []
    for one in inputs:
        cost = one.nbytes + _BLOCK_EXTRA
        if cost <= room or not one.nbytes or not one.shape or one.source.rows:
            pieces.append(_Piece(one, one.source, 0, cost))
            continue
        row = one.nbytes // one.shape[0]
        step = max(1, (room // 2 - _BLOCK_EXTRA) // row)  # two at a time: one loads, one is written
        for start in range(0, one.shape[0], step):
            part = replace(one.source, rows=(start, start + step, None))
            pieces.append(_Piece(one, part, start, step * row + _BLOCK_EXTRA))
    return pieces


# ---- writing -----------------------------------------------------------------------------


def _write(
    client: Client,
    inputs: Sequence[Input],
    path: str,
    compression: str | None,
    count: Callable[[int], None],
) -> None:
    """Write all inputs to a file at `path`; after a bad one, only find the other bad ones."""
    import h5py

    room = client.status().budget // 2
    bad: list[ArraydError] = []
    with h5py.File(path, "w", locking=False) as file:  # nobody else knows its name
        for piece in _in_turn(client, _divide(inputs, room), room):
            try:
                _transfer(client, piece, None if bad else file, compression, count)
            except _BAD_INPUT as error:
                bad.append(error.with_traceback(None))  # the frames would keep the array alive
        _raise_all(bad, len(inputs))


def _transfer(
    client: Client,
    piece: _Piece,
    file: h5py.File | None,
    compression: str | None,
    count: Callable[[int], None],
) -> None:
    """Load a piece, store it if there is a file, and release it."""
    array = client.get(piece.source)
    _check_unchanged(piece.input)
    if file is None:
        return
    with late_signals() as act:

        def counted(nbytes: int) -> None:
            count(nbytes)
            act()

        store(file, piece.input, piece.start, array, compression, counted)
    failpoints.hit("client.collecting")


def _in_turn(client: Client, pieces: Iterable[_Piece], room: int) -> Iterator[_Piece]:
    """Yield each piece once it was asked for, and prefetch the next ones meanwhile.

    No more than `room` bytes are asked for at a time, unless one piece alone is larger. A
    piece counts until the next one is taken: by then it must have been released.
    """
    todo, coming, asked = deque(pieces), deque[_Piece](), 0
    unasked, ahead = deque[_Piece](), _AHEAD  # the last ones of those coming
    while todo or coming:
        while todo and (asked == 0 or asked + todo[0].cost <= room):
            coming.append(todo.popleft())
            unasked.append(coming[-1])
            asked += coming[-1].cost
        ahead = _prefetch(client, unasked, ahead)
        piece = coming[0]
        yield piece
        if unasked and unasked[0] is piece:
            unasked.popleft()
        asked -= coming.popleft().cost


def _prefetch(client: Client, pieces: deque[_Piece], ahead: int) -> int:
    """Prefetch so many pieces, and take them off; return how many are to be the next ones.

    If the user may have no more loads in flight, the first ones are loaded, and all are asked for
    again, for that begins no load a second time. So what is in flight is always what comes first,
    and never keeps a piece that is due from being loaded.
    """
    some = list(islice(pieces, ahead))
    if not some:
        return ahead
    try:
        client._prefetch_for_itself(*(piece.source for piece in some))
    except (SourceError, NoRoom, ProtocolMismatch):  # the get will raise it, or find room
        return max(1, len(some) // 2)
    for _ in some:
        pieces.popleft()
    return min(2 * ahead, _AHEAD)


def _check_unchanged(one: Input) -> None:
    if _stat(one.source) != one.stat:
        raise SourceChanged(f"{one.source.path} changed while it was collected. Collect it again.")


def _meter(
    inputs: Sequence[Input], written: Callable[[int, int], None] | None
) -> Callable[[int], None]:
    total, done = sum(one.nbytes for one in inputs), 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if written is not None:
            written(done, total)

    return count


def _raise_all(errors: Sequence[ArraydError], total: int) -> None:
    """Raise the one error, or one that names all bad files."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        words = " ".join(f"({n}) {error}" for n, error in enumerate(errors, 1))
        raise type(errors[0])(f"{len(errors)} of {total} files cannot be collected: {words}")
