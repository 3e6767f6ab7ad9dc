"""Arrays by reference through multiprocessing and its relatives; values everywhere else.

A `SharedArray` that goes through a Pool, Queue, Pipe or ProcessPoolExecutor, or through
joblib's loky, is a few hundred bytes that say where its block is. The daemon lends the
block to the message until it is redeemed, at most 60 s. Whoever redeems it later has a
source loaded again, if the file is still the same; what a client published is an error by
then. Never other data.

Plain ``pickle.dump``, ``joblib.dump`` and ``copy.deepcopy`` know nothing of this: what may
be kept holds the values.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from multiprocessing.reduction import ForkingPickler
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from arrayd import api, failpoints
from arrayd.array import Held, SharedArray, offset_of, view_at
from arrayd.client import Client
from arrayd.errors import ArraydError, DaemonError, NoSuchBlock, SourceChanged
from arrayd.fetching import Fetching, Terms
from arrayd.mapping import Mapping
from arrayd.protocol import Stat
from arrayd.source import Source
from arrayd.wish import Wish

if TYPE_CHECKING:
    from importlib.abc import Loader  # slow to import, and these classes are not looked into


class View(NamedTuple):
    """What of a block is meant; offset and strides in bytes from the start of its data.

    The dtype travels as it is: a description (`arrayd.dtypes.descr`) cannot express all
    that a view may have, such as fields in another order than they lie in memory.
    """

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    writeable: bool


class Origin(NamedTuple):
    """How to load a block again: the request that did, and the array that came of it."""

    source: dict[str, Any]
    stat: Stat
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str


class Reference(NamedTuple):
    """What travels instead of an array; `origin` is None for what a client published."""

    endpoint: str
    segment: str
    token: bytes
    view: View
    origin: Origin | None


# ---- sending ---------------------------------------------------------------------------------


def reduce(shared: SharedArray) -> tuple[Any, ...]:
    """Return what stands for an array in a message: a reference to it, or its values.

    Raises
    ------
    NoSuchBlock, DaemonError
        The block is being written and cannot be lent: a copy would be written in vain.
    """
    held, pages = shared._held, shared._mapping
    if held is not None and pages is not None and _shows_the_block(shared, held, pages):
        try:
            return redeem, (_lent(shared, held, pages),)
        except (NoSuchBlock, DaemonError):
            if pages.mode == "w":
                raise
    # As a plain array, which a pickler may have ways of its own for (joblib has).
    return np.asanyarray, (shared.view(np.ndarray),)


def _shows_the_block(shared: SharedArray, held: Held, pages: Mapping) -> bool:
    """Say whether the block has, and will have, exactly what is seen through an array.

    ``"c"`` is private; so is ``"s"``, sealed pages, to a view that could still be written to.
    """
    low, high = np.lib.array_utils.byte_bounds(shared)
    if held.released or shared.size == 0 or not pages.contains(low, high - low):
        return False
    return pages.mode == "w" or (pages.mode in ("r", "s") and not shared.flags.writeable)


def _lent(shared: SharedArray, held: Held, pages: Mapping) -> Reference:
    """Return a reference, once the daemon keeps the block for it."""
    view = View(
        offset_of(shared, pages),
        shared.shape,
        shared.strides,
        shared.dtype,
        shared.flags.writeable,
    )
    origin = None
    if held.request is not None:
        source, stat = held.request
        block = held.block
        origin = Origin(source, stat, block.shape, block.dtype, block.order)
    assert isinstance(held.client, Client)
    failpoints.hit("client.packing")
    token = held.client.lend(pages.segment)
    return Reference(held.client.endpoint, pages.segment, token, view, origin)


# ---- receiving -------------------------------------------------------------------------------


def redeem(reference: Reference) -> npt.NDArray[Any]:
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
    client = api.client_of(reference.endpoint)
    view, origin = reference.view, reference.origin
    mode = "w" if view.writeable else "r"
    try:
        whole = client.redeem(reference.segment, reference.token, mode)
    except NoSuchBlock as gone:
        if origin is None:
            raise _gone(reference) from gone
        return _of_reloaded(_reloaded(client, origin), origin, view)
    assert whole._held is not None
    if whole._held.request is None and origin is not None:
        whole._held.request = (origin.source, origin.stat)  # so that it can be sent on
    return _placed(whole, 0, view)


def _reloaded(client: Client, origin: Origin) -> SharedArray:
    """Load a block again, from the file in the very state that it had."""
    wish = Wish(Source.from_wire(origin.source), origin.stat)
    found = Fetching(client, Terms()).once([wish])[0]
    if isinstance(found, ArraydError):
        if Wish.of(wish.source, {}).stat != origin.stat:
            raise SourceChanged(
                f"{wish.source} changed while a reference to it was on its way, and what it "
                "meant is not in memory any more. Keep the array until it has arrived, or "
                "get it again."
            ) from found
        raise found
    return found


def _of_reloaded(found: SharedArray, origin: Origin, view: View) -> npt.NDArray[Any]:
    """Find the view of the lost block in the array that has the same values.

    That array may be a window of a larger block. One with gaps is copied: offset and
    strides mean a block without.
    """
    assert found._mapping is not None
    assert (found.shape, found.dtype) == (origin.shape, origin.dtype)
    if found.flags.c_contiguous if origin.order == "C" else found.flags.f_contiguous:
        return _placed(found, offset_of(found, found._mapping), view)
    order: Any = origin.order
    flat = np.array(found, order=order, subok=False).ravel("K").view(np.uint8)
    flat.flags.writeable = False
    return np.ndarray(view.shape, view.dtype, flat, view.offset, view.strides)


def _placed(shared: SharedArray, start: int, view: View) -> SharedArray:
    held, pages = shared._held, shared._mapping
    assert held is not None
    assert pages is not None
    return view_at(held, pages, start + view.offset, view.shape, view.strides, view.dtype)


def _gone(reference: Reference) -> NoSuchBlock:
    return NoSuchBlock(
        f"{reference.segment}, an array that was published and sent by reference, is gone. A "
        "reference keeps it for 60 s; after that somebody must hold it: keep the array until "
        "it has arrived, or publish it with keep=True."
    )


# ---- registering -----------------------------------------------------------------------------


class _Registering:
    """Runs a module's own loader, then registers the reducer with the module."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        module.register(SharedArray, reduce)


class _LokyFinder:
    """Finds loky's pickler, joblib's own or the package, when it is imported after us.

    Loky has a registry of its own and no way to be in it beforehand; importing joblib from
    here would cost everybody half a second. A hook on the import is what is left: the other
    events, such as the first array, may all lie before ``import joblib``.
    """

    names = ("joblib.externals.loky.backend.reduction", "loky.backend.reduction")

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.names:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)  # type: ignore[assignment]  # see Loader
        return spec


def _register() -> None:
    ForkingPickler.register(SharedArray, reduce)
    for name in _LokyFinder.names:
        if name in sys.modules:
            sys.modules[name].register(SharedArray, reduce)
    sys.meta_path.insert(0, _LokyFinder())


_register()
