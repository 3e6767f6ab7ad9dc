"""Arrays by reference through multiprocessing and its relatives; values everywhere else.

A `SharedArray` that goes through a Pool, Queue, Pipe or ProcessPoolExecutor, or through the
picklers that joblib, pathos and Dask have for messages (`picklers.py`), is a few hundred bytes
that say where its block is. The daemon lends the block to the message until it is redeemed, or
nobody is left who may redeem it; see `arrayd_server.core.lends`. Whoever finds it gone has a source
loaded again, if the file is still the same; what a client published is an error by then, which
is raised by what arrives (`lost.py`). Never other data.

Plain ``pickle.dump``, ``joblib.dump`` and ``copy.deepcopy`` know nothing of this: what may
be kept holds the values. There is one exception, an array that is still being written: as a copy
it would be filled in vain, so it goes by reference through every pickler, or is an error.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from arrayd import api
from arrayd.array import Held, SharedArray, adorn, extent, offset_of, view_at
from arrayd.common import failpoints
from arrayd.errors import ArraydError, DaemonError, NoSuchBlock, SourceChanged
from arrayd.results.lost import LostArray
from arrayd.session.fetch import Fetching, Terms, redeemed
from arrayd.session.request import FileRequest
from arrayd.session.session import Session
from arrayd.source import Source
from arrayd.system import pagemap
from arrayd.system.mapping import SegmentMapping
from arrayd.wire.dtypes import descr
from arrayd.wire.grant import Spec
from arrayd.wire.records import received

if TYPE_CHECKING:
    import numpy.typing as npt

    from arrayd.reference import Reference, ReloadRecipe, View

# ---- sending ---------------------------------------------------------------------------------


def reduce(shared: SharedArray) -> tuple[Any, ...]:
    """Return what stands for an array in a message: a reference to it, or its values.

    Raises
    ------
    NoSuchBlock, DaemonError
        The block is being written and cannot be lent: a copy would be written in vain.
    """
    held, pages = shared._held, shared._mapping
    if held is not None and pages is not None and shared.size:
        try:
            mode = _mode(shared, held, pages)
            if mode is not None:
                return redeem, (_lent(shared, held, pages, mode).to_wire(),)
        except (NoSuchBlock, DaemonError):
            if pages.mode == "w":
                raise
    # As a plain array, which a pickler may have ways of its own for (joblib has).
    return np.asanyarray, (shared.view(np.ndarray),)


def _mode(shared: SharedArray, held: Held, pages: SegmentMapping) -> str | None:
    """Return how a block must be mapped to show exactly what is seen through an array.

    None: it does not show that. ``"c"`` is private as soon as something was written; so is
    ``"s"``, sealed pages, to a view that could still be written to.

    Raises
    ------
    NoSuchBlock
        It is being written, and was released.
    """
    low, length = extent(shared)
    writeable = shared.flags.writeable
    if pages.mode == "w":
        if held.released:
            raise NoSuchBlock(
                f"{pages.segment} is not sealed and was released: what the receiver writes would "
                "reach nobody. Send the array before arrayd.release."
            )
        return "w" if writeable else "r"
    if held.hold.released or not pages.contains(low, length):
        return None
    start, nbytes = pages.address + held.grant.offset, held.grant.spec.nbytes
    if low < start or low + length > start + nbytes:  # of another member of the block
        return None
    if pages.mode == "c" and not pagemap.written(low, length):
        return "c" if writeable else "r"
    return "r" if pages.mode in ("r", "s") and not writeable else None


def _lent(shared: SharedArray, held: Held, pages: SegmentMapping, mode: str) -> Reference:
    """Return a reference, once the daemon keeps the block for it."""
    from arrayd.reference import Reference, ReloadRecipe, View  # here: most processes send none

    view = View(offset_of(shared, pages), shared.shape, shared.strides, shared.dtype, mode)
    origin = None
    if held.request is not None:
        source, stat = held.request
        block, wire = held.block, source.to_wire() if isinstance(source, Source) else source
        array = block.shape, block.dtype, block.order
        origin = ReloadRecipe(wire, stat, *array, held.grant.key, held.grant.offset)
    failpoints.hit("client.packing")
    token = held.owner.lend(pages.segment)
    return Reference(held.owner.endpoint, pages.segment, token, view, origin)


# ---- receiving -------------------------------------------------------------------------------


def redeem(reference: dict[str, Any]) -> npt.NDArray[Any] | LostArray:
    """Return the array that a reference means; what raises the error if it cannot be had.

    Messages name this function, so it stays where it is.
    """
    from arrayd.reference import Reference  # here: as in `_lent`

    try:
        return _redeemed(received(Reference, reference, "A reference").understand())
    except ArraydError as error:
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return LostArray(error)


def _redeemed(reference: Reference) -> npt.NDArray[Any]:
    """Return the array that a reference means.

    Raises
    ------
    NoSuchBlock
        It was published, and is gone.
    SourceError, LoadError
        The block is gone, and its file is, has changed, or cannot be loaded.
    DaemonError
        The daemon does not answer.
    """
    session = api.client_of(reference.endpoint)._session
    view, origin = reference.view, reference.origin
    try:
        whole = redeemed(session, reference.segment, reference.token, view.mode)
    except NoSuchBlock as gone:
        if origin is None:
            raise _gone(reference) from gone
        return _of_reloaded(_reloaded(session, origin, view.mode), origin, view)
    assert whole._held is not None
    if whole._held.grant.extent and origin is not None:
        adorn(whole, _of_member(whole._held, origin), _pages(whole))
    if whole._held.request is None and origin is not None:
        whole._held.request = (origin.source, origin.stat)  # so that it can be sent on
    return _placed(whole, view.offset, view)


def _of_member(held: Held, origin: ReloadRecipe) -> Held:
    """Return what the one who has a reference to a member holds of its block."""
    spec = Spec(origin.shape, descr(origin.dtype), origin.order, origin.dtype.itemsize)
    source = Source.from_wire(origin.source)
    grant = replace(held.grant, spec=spec, offset=origin.offset, source=source.words)
    return Held(held.owner, grant, held.seq, held.hold)


def _reloaded(session: Session, origin: ReloadRecipe, mode: str) -> SharedArray:
    """Load a block again, from the file in the very state that it had."""
    request = FileRequest(Source.from_wire(origin.source), origin.stat)
    found = Fetching(session, Terms(mode=mode)).once([request])[0]
    if isinstance(found, SharedArray):
        assert found._held is not None
        if found._held.grant.key == origin.key:
            return found
    elif FileRequest.of(request.source, {}).stat == origin.stat:
        raise found
    raise SourceChanged(
        f"{request.source} changed while a reference to it was on its way, and what it meant is "
        "not in memory any more. Keep the array until it has arrived, or get it again."
    )


def _of_reloaded(found: SharedArray, origin: ReloadRecipe, view: View) -> npt.NDArray[Any]:
    """Find the view of the lost block in the array that has the same values.

    That array may be a window of a larger block. One with gaps is copied: offset and
    strides mean a block without.
    """
    assert (found.shape, found.dtype) == (origin.shape, origin.dtype)
    offset = view.offset - origin.offset
    if found.flags.c_contiguous if origin.order == "C" else found.flags.f_contiguous:
        return _placed(found, offset_of(found, _pages(found)) + offset, view)
    order: Any = origin.order
    flat = np.array(found, order=order, subok=False).ravel("K").view(np.uint8)
    flat.flags.writeable = view.mode == "c"
    return np.ndarray(view.shape, view.dtype, flat, offset, view.strides)


def _placed(shared: SharedArray, offset: int, view: View) -> SharedArray:
    assert shared._held is not None
    return view_at(shared._held, _pages(shared), offset, view.shape, view.strides, view.dtype)


def _pages(shared: SharedArray) -> SegmentMapping:
    assert shared._mapping is not None
    return shared._mapping


def _gone(reference: Reference) -> NoSuchBlock:
    return NoSuchBlock(
        f"{reference.segment}, an array that was published and sent by reference, is gone: its "
        "room was needed more than a minute after it was sent, the daemon was restarted, or its "
        "sender ended long ago. Keep the array until it has arrived, or publish it with keep=True."
    )


def __getattr__(name: str) -> object:
    """Find the record of a message of arrayd's first version, which names it here."""
    if name != "Reference":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("arrayd.reference").Reference
