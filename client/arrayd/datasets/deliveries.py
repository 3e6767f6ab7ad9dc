"""Where a stream's rows come from: blocks in memory, or a ring that the daemon fills."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arrayd.client import Client
from arrayd.datasets import cache
from arrayd.datasets.plan import Plan
from arrayd.datasets.resident import ResidentRows
from arrayd.datasets.ring_rows import RingRows
from arrayd.datasets.stream import Delivery
from arrayd.errors import ArraydError
from arrayd.samples.manifest import Field, signed
from arrayd.samples.order import EpochOrder
from arrayd.samples.selection import Rows
from arrayd.source import Source
from arrayd.wire import dtypes
from arrayd.wire.ring import RingField, RingLayout


@dataclass(frozen=True, slots=True)
class Values:
    """Which values a stream delivers.

    Parameters
    ----------
    path
        Of the saved manifest.
    rows
        The selection.
    fields
        Those that are wanted.
    casts
        The dtype wanted, for each field that is cast.
    overflow
        What happens to a value that does not fit.
    """

    path: str
    rows: Rows
    fields: tuple[Field, ...]
    casts: Mapping[str, np.dtype[Any]]
    overflow: str

    def source(self, field: Field, ids: str | None) -> Source:
        """Return what one field is loaded from; `ids`: the file of the rows that are wanted."""
        cast = self.casts.get(field.name)
        return Source(
            path=self.path,
            member=field.name,
            format="dataset",
            cast=cast,
            overflow="error" if cast is None else self.overflow,
            options=() if ids is None else (("ids", ids),),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a consumer takes part in a stream.

    Parameters
    ----------
    batch
        Rows that it takes at a time.
    limit
        Position at which it ends; None: it does not.
    consumers, grace
        For how many consumers the first waits, and how many seconds others wait for one.
    writable
        Its batches may be written to.
    scratch
        Folder for decoded rows; None: the daemon's choice.
    """

    batch: int
    limit: int | None
    consumers: int
    grace: float
    writable: bool
    scratch: str | None


def wanted_dtype(field: Field, casts: Mapping[str, np.dtype[Any]]) -> np.dtype[Any]:
    """Return the dtype in which a field is delivered."""
    return casts.get(field.name, field.dtype)


def ring_field(field: Field, casts: Mapping[str, np.dtype[Any]]) -> RingField:
    """Return a field as it lies in a ring."""
    return RingField(field.name, dtypes.descr(wanted_dtype(field, casts)), field.row_shape)


def resident(
    client: Client,
    values: Values,
    plan: Plan,
    order_of: Callable[[int], EpochOrder],
    epochs: int | None,
) -> Delivery:
    """Return the rows of blocks in memory, which are loaded if nobody has loaded them.

    Raises
    ------
    SourceError, LoadError
        A file cannot be read.
    """
    ids = None if plan.whole else cache.save_ids(values.rows)
    sources = [values.source(field, ids) for field in values.fields]
    try:
        arrays = client.get_many(sources)
    except ArraydError as error:
        raise _of_fields(error, sources) from None
    blocks = {field.name: array for field, array in zip(values.fields, arrays, strict=True)}
    return ResidentRows(blocks, values.rows, partial=not plan.whole, order=order_of, epochs=epochs)


def _of_fields(error: ArraydError, sources: Sequence[Source]) -> ArraydError:
    """Return an error that names a field where it names the manifest, which no user has seen."""
    message = error.message
    for source in sources:
        message = message.replace(str(source), f"field {source.member!r} of the dataset")
    return type(error)(message, **error.details)


def ring(client: Client, values: Values, plan: Plan, order: EpochOrder, pace: Pace) -> Delivery:
    """Return the rows of a ring that the daemon fills; it is opened for the first batch."""
    rows, info = values.rows, os.stat(values.path)
    inode = signed(info.st_ino)  # as in a manifest
    request = {
        "manifest": values.path,
        "stat": [info.st_dev, inode, info.st_size, info.st_mtime_ns, info.st_ctime_ns],
        "ids": None if rows.array is None else cache.save_ids(rows),
        "start": rows.start if rows.array is None else 0,
        "stop": rows.stop if rows.array is None else len(rows),
        "seed": order.seed,
        "kind": order.kind,
        "block": order.block,
        "buffer": order.buffer,
        "fields": [_wire_field(field, values.casts) for field in values.fields],
        "overflow": values.overflow,
        "slots": plan.slots,
        "batch": pace.batch,
        "limit": pace.limit,
        "consumers": pace.consumers,
        "grace": pace.grace,
        "share": plan.share,
        "scratch": pace.scratch,
    }
    if plan.windowed:  # an older daemon refuses what it does not know
        request["windowed"] = True
    layout = RingLayout.of([ring_field(one, values.casts) for one in values.fields], plan.slots)
    return RingRows(client._session, request, layout, writable=pace.writable)


def _wire_field(field: Field, casts: Mapping[str, np.dtype[Any]]) -> list[Any]:
    cast = casts.get(field.name)
    descr = None if cast is None else dtypes.descr(cast)
    return [field.name, dtypes.descr(field.dtype), list(field.row_shape), descr]
