"""The rows of a stream: which ones a window has, and how those of a field are read."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from arrayd.errors import SourceChanged, SpecMismatch
from arrayd.samples.manifest import Field, Manifest
from arrayd.samples.order import EpochOrder
from arrayd.samples.pack_spec import PackSpec
from arrayd.samples.selection import Rows
from arrayd.wire import dtypes
from arrayd_server.loaders.dataset.decoded import DecodedRows
from arrayd_server.loaders.dataset.manifests import AGAIN, ids_at, manifest_at, stat_of
from arrayd_server.loaders.dataset.open_files import NotAddressed
from arrayd_server.loaders.dataset.reading import ReadQueues
from arrayd_server.loaders.dataset.rows import Ids, Placer, ReadStats, RowReader
from arrayd_server.loaders.dataset.runs import Int64
from arrayd_server.loaders.validation import os_errors
from arrayd_server.stream_identity import StreamField, StreamIdentity
from arrayd_server.streams.pack import PackedRows


def manifest_of(identity: StreamIdentity) -> Manifest:
    """Return the manifest, in the state that the client saw.

    Raises
    ------
    SourceNotFound, SourceChanged, BadFile
    """
    with os_errors(identity.manifest):
        stat = stat_of(os.stat(identity.manifest))
    if identity.stat is not None and stat != identity.stat:
        raise SourceChanged(
            f"{identity.manifest} is another file than when the stream was asked for: {AGAIN}."
        )
    return manifest_at(identity.manifest)


def selection_of(identity: StreamIdentity, manifest: Manifest) -> Rows:
    """Return the rows of an epoch.

    Raises
    ------
    SpecMismatch, SourceNotFound, BadFile
        They are not rows of this dataset.
    """
    if identity.ids is None:
        return Rows(manifest.rows, identity.start, identity.stop)
    rows = Rows.of(ids_at(identity.ids), manifest.rows)[identity.start : identity.stop]
    if len(rows) != identity.rows:
        raise SpecMismatch(
            f"{identity.ids} has not the row ids from {identity.start} to {identity.stop}: {AGAIN}."
        )
    return rows


class Orders:
    """The order of the present epoch, and in time that of the next. Threads may share it.

    Parameters
    ----------
    rows, identity
        The selection, and how it is shuffled.
    """

    def __init__(self, rows: Rows, identity: StreamIdentity) -> None:
        self.rows = rows
        self._identity = identity
        self._lock = threading.Lock()
        self._orders: dict[int, EpochOrder] = {}
        self._sorter = ThreadPoolExecutor(1, thread_name_prefix="order")

    def window(self, start: int, stop: int) -> tuple[int, Ids]:
        """Return the epoch of a window of positions, and its row ids.

        Parameters
        ----------
        start, stop
            Positions; both in one epoch.
        """
        n = len(self.rows)
        epoch, at = divmod(start, n)
        order = self._of(epoch)
        ids = order.window(at, at + stop - start)
        if at + stop - start > n // 2:
            self._of(epoch + 1)
        return epoch, ids

    def _of(self, epoch: int) -> EpochOrder:
        """Return the order of an epoch; a new one is sorted while others are used."""
        identity = self._identity
        with self._lock:
            if epoch not in self._orders:
                self._orders = {
                    one: order for one, order in self._orders.items() if one >= epoch - 1
                }
                self._orders[epoch] = EpochOrder(
                    self.rows,
                    identity.seed,
                    epoch,
                    identity.kind,
                    block=identity.block,
                    buffer=identity.buffer,
                )
                self._sorter.submit(self._orders[epoch].prepare)
            return self._orders[epoch]


class FieldRows:
    """Reads rows of one field: in place if they lie so in the files, else from a pack.

    Without a pack they are decoded anew for each window: each unit that has some of its rows, once
    (for how large a window is, see `arrayd_server.core.windows`).

    Parameters
    ----------
    manifest, wanted
        The dataset, and the field as the stream is to have it.
    overflow
        As in `Source.overflow`.
    packs
        The folder for the pack; None: there is to be none.
    queues
        What reads, for all fields.

    Raises
    ------
    SpecMismatch
        The manifest has no such field, or there is no such cast.
    """

    def __init__(
        self,
        manifest: Manifest,
        wanted: StreamField,
        overflow: str,
        packs: str | None,
        queues: ReadQueues,
    ) -> None:
        self._field = one = _field(manifest, wanted)
        self.name = one.name
        self._manifest = manifest
        self._target = wanted.in_ring().dtype
        self._overflow = overflow
        self._packs = packs
        self._queues = queues
        self._lock = threading.Lock()
        self._rows: RowReader | PackedRows | DecodedRows | None = None
        if one.whole_files or self._is_packed():  # then its files need not be looked at
            self._decode()
        else:
            self._rows = RowReader(manifest, one, self._target, overflow, queues=queues)

    def _is_packed(self) -> bool:
        if self._packs is None:
            return False
        spec = PackSpec.of(self._manifest, self._field, self._target, self._overflow)
        return os.path.exists(spec.path(self._packs))

    def read(self, ids: Ids, out: np.ndarray[Any, Any], where: Int64) -> ReadStats:
        """Read rows into their places, as `RowReader.read` and `PackedRows.read`."""
        rows = self._rows
        assert rows is not None
        try:
            return rows.read(ids, out, where)
        except NotAddressed:
            return self._decode().read(ids, out, where)

    def _decode(self) -> PackedRows | DecodedRows:
        """Decode from now on: if one file must be decoded, all may have to be."""
        with self._lock:
            rows = self._rows
            if rows is None or isinstance(rows, RowReader):
                how = (self._manifest, self._field, self._target, self._overflow)
                if self._packs is None:
                    rows = DecodedRows(self._manifest, self._field, Placer(*how))
                else:
                    rows = PackedRows(*how, self._packs, self._queues)
                self._rows = rows
            return rows


def _field(manifest: Manifest, wanted: StreamField) -> Field:
    dtype = dtypes.from_descr(wanted.descr)
    for one in manifest.fields:
        if (one.name, one.dtype, one.row_shape) == (wanted.name, dtype, wanted.row_shape):
            return one
    known = ", ".join(f"{one.name} ({one.dtype} {one.row_shape})" for one in manifest.fields)
    raise SpecMismatch(
        f"The dataset has no field {wanted.name} of {dtype} {wanted.row_shape}, but "
        f"{known}: {AGAIN}."
    )
