"""What travels instead of an array: the records that `arrayd.reduction` sends and reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from arrayd.wire.protocol import Stat
from arrayd.wire.records import Record, later

MODES = ("r", "c", "w")


def _dtype(value: Any) -> np.dtype[Any]:
    if not isinstance(value, np.dtype):
        raise TypeError(f"{value!r} is no dtype")
    return value


@dataclass(frozen=True, slots=True)
class View(Record):
    """What of a block is meant; offset and strides in bytes from the start of its data.

    It is to be mapped in `mode`, one of those of `arrayd.system.mapping.SegmentMapping`. The dtype
    travels as it is: a description (`arrayd.wire.dtypes`) cannot express all that a view may have,
    such as fields in another order than they lie in memory.
    """

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any] = field(metadata={"read": _dtype})
    mode: str

    def _check(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r}")


@dataclass(frozen=True, slots=True)
class ReloadRecipe(Record):
    """How to load a block again: the request that did, and the array that came of it.

    `key` is the grant's: what the request says nothing about must be the same, too. `offset` is
    that of the array in the data of the block, which may have several.
    """

    source: dict[str, Any]
    stat: Stat
    shape: tuple[int, ...]
    dtype: np.dtype[Any] = field(metadata={"read": _dtype})
    order: str
    key: bytes = later(b"")
    offset: int = later(0)


@dataclass(frozen=True, slots=True)
class Reference(Record):
    """What travels instead of an array; `origin` is None for what a client published.

    As a map, and to `redeem`: sender and receiver may have two versions of arrayd.
    """

    endpoint: str
    segment: str
    token: bytes
    view: View
    origin: ReloadRecipe | None

    def understand(self) -> Self:
        """Return the reference, if what it and its parts say is understood."""
        for part in (self.view, self.origin):
            if part is not None:
                part.understand()
        return Record.understand(self)
