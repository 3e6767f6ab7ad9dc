"""The functions of ``import arrayd``: a default `Client`, made at the first call."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from arrayd.array import SharedArray
from arrayd.client import Client, give_back
from arrayd.results.progress import ShowProgress
from arrayd.session.request import SourceLike
from arrayd.system import launch

if TYPE_CHECKING:
    from arrayd.results.info import Info
    from arrayd.results.status_table import Status

_lock = threading.RLock()  # a signal handler may ask while the first client is made
_clients: dict[str | None, Client] = {}  # endpoint -> client; None: the default one


def connect(endpoint: str | None = None, *, start: bool = True) -> Client:
    """Open a session of its own with a daemon.

    Close it, or use it in a ``with``; dropped unclosed, it ends with its last array.

    Parameters
    ----------
    endpoint
        ``ipc://…`` or a path. None: ``$ARRAYD_ENDPOINT``, else ``/run/arrayd/arrayd.sock``
        if it exists and admits you, else your private daemon, which is started if need be.
        ``"private"`` leaves the system's daemon out.
    start
        Whether a private daemon may be started: where there is no other; and beside a daemon of
        another user, for files that you may read, and that one may not.

    Raises
    ------
    NoDaemon
        None answers, and none may be started.
    """
    return Client(endpoint, start=start)


def get(
    source: SourceLike,
    *,
    dataset: str | None = None,
    dtype: npt.DTypeLike | None = None,
    cast: npt.DTypeLike | None = None,
    overflow: str = "error",
    rows: slice | None = None,
    order: str | None = None,
    mode: str = "r",
    pin: bool | float = False,
    timeout: float | None = None,
    progress: ShowProgress = None,
    **format_options: Any,
) -> SharedArray:
    """Return an array that lives in memory once, however many processes ask for it.

    It is loaded if nobody has loaded it yet; a load under way is joined. The block is
    held as long as the array, or any slice or view of it, lives. What a daemon of another user
    may not read, and this process may, your private daemon reads.

    Parameters
    ----------
    source
        A path, ``file.h5:/group/x``, ``file.npz:member``, ``name:NAME``, or a `Source`. Names
        of files and members may hold colons: the longest part that is a file is the file.
    dataset
        HDF5 dataset or npz member, as an alternative to the ``:``; not needed where the
        file holds one array.
    dtype
        The type *in the file*. Raw files need it, with ``shape=`` (one entry may be -1)
        and, if need be, ``offset=`` in bytes; for text it is that of `numpy.loadtxt`; for
        npy, npz and HDF5 it is a claim that is checked.
    cast
        The type wanted. Values that lose precision cause a `PrecisionWarning`.
    overflow
        What to do with values that do not fit `cast`: ``"error"``; ``"clip"``, the nearest that
        fits; or ``"inf"``, infinity as numpy has it, where `cast` is a float type.
    rows
        A slice of axis 0: exactly ``a[rows]``, reading no more than that if possible.
    order
        ``"C"`` or ``"F"``; None: as the file has it.
    mode
        ``"r"``: read-only for good. ``"c"``: copy-on-write, writeable and private.
    pin
        Keep the block warm without a holder: for so many seconds, or (True) until evicted.
    timeout
        Seconds to wait for the load, for room, or for a name to be published. None: for
        the load as long as it takes, for room 1 s, for a name not at all.
    progress
        True: a bar on stderr. A function: called in this thread with a `Progress`, at
        most ten times a second; an exception in it cancels the wait.
    format_options
        Text: those of `numpy.loadtxt`. Raw: ``shape``, ``offset``. Any: ``format=``, one
        of ``npy npz hdf5 text raw`` or of a plug-in, where the suffix does not tell. HDF5, as in
        h5py: ``swmr=True`` reads what a writer in SWMR mode is writing; ``locking=False`` reads a
        file that a writer has open and locked, half written as it may be (default:
        ``"best-effort"``, or what ``HDF5_USE_FILE_LOCKING`` says here).

    Returns
    -------
    SharedArray
        Shape and dtype as in the file (after `rows` and `cast`).

    Raises
    ------
    SourceError
        The request or the file is wrong; see the subclasses in `arrayd.errors`.
    LoadError
        It could not be loaded: no room, no time, a crash.
    DaemonError
        No daemon answers.
    """
    client = default_client()
    plain = dataset is None and dtype is None and cast is None and rows is None and order is None
    if plain and overflow == "error":
        # To look at options that were not given would take as long as all the rest.
        return client.get(
            source, mode=mode, pin=pin, timeout=timeout, progress=progress, **format_options
        )
    return client.get(
        source,
        dataset=dataset,
        dtype=dtype,
        cast=cast,
        overflow=overflow,
        rows=rows,
        order=order,
        mode=mode,
        pin=pin,
        timeout=timeout,
        progress=progress,
        **format_options,
    )


def get_many(
    sources: Iterable[SourceLike], *, return_errors: bool = False, **options: Any
) -> list[Any]:
    """Return the arrays of many sources, loaded in parallel, in this order.

    Small files are loaded together, up to 64 into one block: it stays while one of the arrays does.

    Parameters
    ----------
    sources
        As for `get`. The daemon is asked for 256 at a time, however many there are.
    return_errors
        Put an `ArraydError` in the place of an array that cannot be had, instead of
        raising the first: `LoadTimeout` in that of one that is not there in time.
    options
        Those of `get`, for all of them.

    Returns
    -------
    list
        One `SharedArray` (or error) for each source.
    """
    return default_client().get_many(sources, return_errors=return_errors, **options)


def info(source: SourceLike, *, timeout: float | None = None, **options: Any) -> Info:
    """Return shape, dtype, members and size of a source without loading it.

    Parameters
    ----------
    source
        As for `get`.
    timeout
        Seconds to wait; None: as long as it takes. Text is read whole, to count its rows.
    options
        Those of `get` that say how a file is read: ``dataset``, ``dtype``, ``format``, …

    Raises
    ------
    SourceError
        The request or the file is wrong.
    LoadTimeout
        It takes too long: whatever reads the file is stopped.
    """
    return default_client().info(source, timeout=timeout, **options)


def prefetch(*sources: SourceLike, **options: Any) -> None:
    """Have sources loaded without waiting: a later `get` finds them, or joins the load.

    Errors of the load itself are raised by that `get`.
    """
    default_client().prefetch(*sources, **options)


def release(array: SharedArray) -> None:
    """End the hold of an array's block now; calling it again does nothing.

    The pages stay readable until the last view of them is gone.
    """
    give_back(array)


def put(
    array: npt.ArrayLike,
    name: str | None = None,
    *,
    keep: bool = False,
    replace: bool = False,
    share: str | None = None,
    timeout: float | None = None,
) -> SharedArray:
    """Publish a copy of an array; other processes get it as ``name:NAME`` or by reference.

    It cannot be loaded again, so it is freed with its last holder, and never for room.

    Parameters
    ----------
    array
        Any array of a fixed-size dtype.
    name
        Under which others find it; None: only by reference.
    keep
        Keep it without a holder, until `evict`.
    replace
        Take the name over from another block; its holders keep theirs.
    share
        Which other users may have it, where a daemon serves several: None: nobody; ``"all"``; or
        ``"group:NAME"``. They get it as ``name:~USER/NAME``.
    timeout
        Seconds to wait for room; None: 1 s.

    Returns
    -------
    SharedArray
        The published array, read-only.

    Raises
    ------
    NameTaken
        Another block has the name, and `replace` is not set.
    NoRoom
        The budget, /dev/shm or the memory cgroup is exhausted.
    """
    how: dict[str, Any] = {"keep": keep, "replace": replace, "share": share, "timeout": timeout}
    return default_client().put(array, name, **how)


def create(
    shape: int | Sequence[int],
    dtype: npt.DTypeLike = np.float64,
    name: str | None = None,
    *,
    order: str = "C",
    keep: bool = False,
    replace: bool = False,
    share: str | None = None,
    timeout: float | None = None,
) -> AbstractContextManager[SharedArray]:
    """Write a new block in place, without a second copy: ``with create(…) as out``.

    At the end of the ``with`` the block is sealed: final, read-only, published. An
    exception gives it up. The unsealed array may be sent to other processes, which fill
    their part of it; they must have dropped it when the ``with`` ends.

    Parameters
    ----------
    shape, dtype, order
        Of the array; its values are zero.
    name, keep, replace, share, timeout
        As for `put`.

    Raises
    ------
    NameTaken, NoRoom
        As for `put`.
    NotSealed
        At the end: another process can still write to it.
    """
    how: dict[str, Any] = {"keep": keep, "replace": replace, "share": share, "timeout": timeout}
    return default_client().create(shape, dtype, name, order=order, **how)


def evict(source: SourceLike, **options: Any) -> dict[str, int]:
    """Free the blocks of a source now, kept and pinned ones too.

    Every block of that file is meant; options of `get` narrow it down. Of small files that were
    loaded together, the others go with it: they can be loaded again. Beside a daemon of another
    user your private one is meant as well, if it runs.

    Returns
    -------
    dict
        ``blocks`` and ``bytes`` that were freed, and how many ``arrays`` these were.

    Raises
    ------
    InUse
        Somebody holds or maps one of them; nothing is freed.
    NoSuchBlock
        None is in memory.
    """
    return default_client(start=False).evict(source, **options)


def status() -> Status:
    """Return who holds what; it prints as the table of ``arrayd status``."""
    return default_client(start=False).status()


def client_of(endpoint: str) -> Client:
    """Return this process's client of the daemon at `endpoint`: the default one, if it is that."""
    with _lock:
        default = _clients.get(None)
        if default is not None and default.endpoint == endpoint:
            return default
        if endpoint not in _clients:
            _clients[endpoint] = Client(endpoint)
        return _clients[endpoint]


def default_client(*, start: bool = True) -> Client:
    """Return the client that the functions of this module use; made at the first call."""
    client = _clients.get(None)
    if client is not None:
        return client
    with _lock:
        client = _clients.get(None)
        if client is None:
            endpoint = launch.find_endpoint(start=start)
            # A reference may have opened a session there before.
            client = _clients.get(endpoint) or Client(endpoint)
            client = _clients.setdefault(None, client)
        return client


def _forked() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forked)
