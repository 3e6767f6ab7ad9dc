"""`SharedArray`: an ndarray that lies in a block, in the manner of `numpy.memmap`."""

from __future__ import annotations

import importlib
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex, cast

import numpy as np

from arrayd.common.warn import warn_caller
from arrayd.errors import PrecisionWarning, SpecMismatch
from arrayd.source import Source
from arrayd.system.mapping import MappingFinalizer, SegmentMapping
from arrayd.wire.dtypes import from_descr
from arrayd.wire.grant import Grant
from arrayd.wire.protocol import Stat

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Block:
    """The block an array lies in.

    Parameters
    ----------
    name
        Of the segment: ``multiprocessing.shared_memory.SharedMemory(name)`` finds it.
    source
        What it holds, in words.
    shape, dtype, order
        Of the whole block's array; of the file's, where a block has the arrays of several.
    offset
        Where that array begins in the segment, in bytes.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str
    offset: int = 0


class HoldOwner(Protocol):
    """The session that a hold belongs to, as far as arrays need it."""

    endpoint: str

    def release(self, held: Held) -> None:
        """End a hold now."""

    def lend(self, segment: str) -> bytes:
        """Have the daemon keep a block for a reference; return the reference's token."""


class Held:
    """A block this process holds: the client's side of the relation *session holds block*.

    Where a block has several arrays, its *members*, each that was granted has a `Held` of its own
    for what differs, and `hold` is that of the block. Else a `Held` is its own `hold`.
    """

    __slots__ = (
        *("base", "block_hold", "grant", "keys", "mappings", "owner", "pages", "released"),
        *("request", "segment", "seq", "wordings"),
    )

    def __init__(
        self, owner: HoldOwner, grant: Grant, seq: int, block_hold: Held | None = None
    ) -> None:
        self.owner = owner
        self.grant = grant
        self.segment = grant.segment
        self.seq = seq
        self.block_hold = block_hold
        self.mappings: set[MappingFinalizer] = set()  # those that live
        self.released = False
        #: the one read-only mapping, which all arrays that are not written to share
        self.pages: weakref.ref[SegmentMapping] | None = None
        #: the array at the base of those arrays
        self.base: weakref.ref[SharedArray] | None = None
        #: the request that a reference's receiver can repeat; None for published blocks
        self.request: tuple[Source | dict[str, Any], Stat] | None = None
        #: the keys of requests, and the words of calls, that the session finds it by
        self.keys: dict[bytes, None] = {}
        self.wordings: list[Any] = []

    @property
    def block(self) -> Block:
        """What it is, for users."""
        grant, spec = self.grant, self.grant.spec
        dtype = from_descr(spec.descr)
        return Block(grant.segment, grant.source, spec.shape, dtype, spec.order, grant.offset)

    @property
    def hold(self) -> Held:
        """That of the whole block, which ends with the last array of any member."""
        return self if self.block_hold is None else self.block_hold


class SharedArray(np.ndarray[Any, np.dtype[Any]]):
    """An array in shared memory. Its lifetime is the hold: ``del`` ends it.

    A slice or view keeps the block as well; a computed or copied array is a plain
    `numpy.ndarray`. Read-only for good, unless it was asked for with ``mode="c"``.
    """

    # Slots are set in half the time; users may set attributes of their own, as on any subclass.
    __slots__ = ("__dict__", "_held", "_mapping")

    _held: Held | None
    _mapping: SegmentMapping | None

    @property
    def block(self) -> Block | None:
        """The block this array lies in; None for an array that lies in none."""
        return None if self._held is None else self._held.block

    def __array_finalize__(self, obj: Any) -> None:
        self._held = self._mapping = None
        if obj is None or not isinstance(obj, SharedArray):
            return
        if obj._mapping is None or self.size == 0:
            return
        # The first element tells a view from a copy. Where the others lie is not known yet:
        # a transposed array gets its strides after this call.
        if obj._mapping.contains(self.__array_interface__["data"][0], 1):
            self._held, self._mapping = obj._held, obj._mapping

    def __array_wrap__(
        self, array: Any, context: Any = None, return_scalar: bool | None = None
    ) -> Any:
        result = super().__array_wrap__(array, context)
        if result is self or type(self) is not SharedArray:
            return result
        # Before 2.0 numpy does not say: there, what has no axis was to be a scalar.
        if result.ndim == 0 if return_scalar is None else return_scalar:
            return result[()]
        return result.view(np.ndarray)

    def __getitem__(self, index: Any) -> Any:
        result = super().__getitem__(index)
        if type(result) is SharedArray and result._mapping is None:
            return result.view(np.ndarray)
        return result

    def copy(self, order: Any = "C") -> Any:
        """Return the values as a plain array of this process's own."""
        return self.view(np.ndarray).copy(order)

    def __copy__(self) -> Any:
        return self.copy("K")

    def __deepcopy__(self, memo: Any) -> Any:
        return self.copy("K")

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # A saved pickle holds the values: a file must never be a pointer. References travel
        # through the picklers of messages alone (see reduction.py), but for what is written yet.
        return self._reference() or self.view(np.ndarray).__reduce_ex__(protocol)

    def __reduce__(self) -> Any:
        return self._reference() or self.view(np.ndarray).__reduce__()

    @property
    def _unsealed(self) -> bool:
        """Whether what is written through this array is in a block that is not final yet."""
        return self._mapping is not None and self._mapping.mode == "w" and self.flags.writeable

    def _reference(self) -> Any:
        """Return a reference if a copy would be written in vain; else None."""
        return reduced(self) if self._unsealed else None


def reduced(shared: SharedArray) -> Any:
    """Return what stands for an array in a message: see `arrayd.reduction`, which stands above."""
    return importlib.import_module("arrayd.reduction").reduce(shared)


def wrap(held: Held, mapping: SegmentMapping) -> SharedArray:
    """Return the array of a whole block, or member, over its mapping."""
    return adorn(_base(held, mapping).view(), held, mapping)


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
    from arrayd.common.casts.changes import shortcoming, values_in  # most casts lose nothing

    count = whole.size * values_in(whole.dtype)
    warn_caller(
        f"{source}: {_type_words(whole.dtype)} {shortcoming(whole.dtype)}: {grant.lost} of {count} "
        "values were changed by the cast.",
        PrecisionWarning,
    )


def _type_words(dtype: np.dtype[Any]) -> str:
    return str(dtype) if dtype.names is None else f"the type with fields {', '.join(dtype.names)}"


def view_at(
    held: Held,
    mapping: SegmentMapping,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any],
) -> SharedArray:
    """Return a view of a block: `offset` and `strides` in bytes from the start of its data."""
    base, offset = _base(held, mapping), offset - held.grant.offset
    buffer = base.T if held.grant.spec.order == "F" else base  # numpy wants it in C order
    array = np.ndarray.__new__(SharedArray, shape, dtype, buffer, offset, strides)
    return adorn(array, held, mapping)


def _base(held: Held, mapping: SegmentMapping) -> SharedArray:
    """Return the array at the base of every array of a block, which is in no block itself.

    It is the array of the whole block, and a `SharedArray`. scipy and others take an array for a
    small part of something large, and copy it, if its ``base`` has many more elements: so it has
    as many. And the base of ``np.asarray(a)`` is ``a`` itself, as with `numpy.memmap`: numpy goes
    down to the last base of its own type, and no further.
    """
    shared = mapping.mode == "r"
    known = held.base() if shared and held.base is not None else None
    if known is not None:
        return known
    spec, at, order = held.grant.spec, held.grant.offset, cast(Any, held.grant.spec.order)
    pages, dtype = np.asarray(cast(Any, mapping)), from_descr(spec.descr)
    base = np.ndarray.__new__(SharedArray, spec.shape, dtype, pages, at, None, order)
    if shared:
        held.base = weakref.ref(base)
    return base


def adorn(array: SharedArray, held: Held, mapping: SegmentMapping) -> SharedArray:
    """Tell an array which block it lies in."""
    array._held, array._mapping = held, mapping
    return array


def offset_of(array: npt.NDArray[Any], mapping: SegmentMapping) -> int:
    """Return where an array's first element lies, in bytes from the start of the data."""
    return int(array.__array_interface__["data"][0]) - mapping.address


def extent(array: npt.NDArray[Any]) -> tuple[int, int]:
    """Return the address of an array's first byte in memory, and how many bytes it spans.

    As `numpy.lib.array_utils.byte_bounds` has it, which came with numpy 2.0. The array is not
    empty.
    """
    reach = [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
    before = sum(step for step in reach if step < 0)
    after = sum(step for step in reach if step > 0)
    address = int(array.__array_interface__["data"][0])
    return address + before, after - before + array.itemsize
