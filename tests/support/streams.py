"""A reader process as the daemon has it, with segments that are plain files, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from arrayd.errors import ArraydError
from arrayd.samples.manifest import Manifest
from arrayd.samples.order import EpochOrder
from arrayd.samples.selection import Rows
from arrayd.wire.dtypes import descr
from arrayd_server.loading.fork_server import ForkServer
from arrayd_server.stream_identity import StreamField, StreamIdentity
from arrayd_server.streams.readers import ReaderPool

Array = np.ndarray[Any, Any]

PATIENCE = 30.0
"""Seconds after which what was to come is not coming."""


def right_order(n: int, seed: int, epoch: int) -> list[int]:
    """Return the rows of an epoch in their order."""
    rows: list[int] = EpochOrder(Rows(n), seed, epoch).window(0, n).tolist()
    return rows


def checked(batch: Any) -> list[int]:
    """Return the rows of a batch; its values must be theirs: x of four times the row, y the row."""
    assert (batch["x"][:, 0] == batch.ids * 4.0).all()
    assert "y" not in batch or (batch["y"] == batch.ids).all()
    rows: list[int] = batch.ids.tolist()
    return rows


def identity_of(manifest: Manifest, folder: Path, **changes: Any) -> StreamIdentity:
    """Save a manifest; return what streams all its rows in exact order, by a ring of 64 rows."""
    cast = changes.pop("cast", None)
    fields = tuple(
        StreamField(one.name, descr(one.dtype), one.row_shape, cast and descr(np.dtype(cast)))
        for one in manifest.fields
    )
    path = manifest.save(str(folder))
    identity = StreamIdentity(
        path, None, None, 0, manifest.rows, 7, "exact", 4, 2, fields, "error", 64, 0, None
    )
    return replace(identity, **changes)


class OneReader:
    """The reader of one stream, driven window by window.

    Parameters
    ----------
    identity
        Of the stream.
    folder
        Where its segments lie, as plain files.
    """

    def __init__(self, identity: StreamIdentity, folder: Path) -> None:
        self.identity = identity
        self._folder = folder
        self._news: asyncio.Queue[Any] = asyncio.Queue()
        self._forks = ForkServer(asyncio.get_running_loop(), ())
        self.readers = ReaderPool(self._forks, timeout=PATIENCE, memory=1 << 30)
        self.ring = self.segment("ring", identity.ring.nbytes)
        self._share = None
        if identity.share:
            self._share = self.segment("share", identity.resident.nbytes)

    def segment(self, name: str, size: int) -> Path:
        """Make a segment of `size` bytes."""
        path = self._folder / name
        path.write_bytes(bytes(size))
        return path

    async def __aenter__(self) -> OneReader:
        self.start()
        return self

    def start(self) -> None:
        """Start the process."""
        self.readers.start(
            1,
            self.identity,
            str(self.ring),
            None if self._share is None else str(self._share),
            on_ready=lambda _: self._news.put_nowait("ready"),
            on_read=lambda _, *read: self._news.put_nowait(read),
            on_failed=lambda _, error: self._news.put_nowait(error),
        )

    async def __aexit__(self, *_: object) -> None:
        self.readers.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.readers._readers[1].pid

    async def news(self) -> Any:
        """Return what the reader says next: "ready", a window that was read, or an error."""
        return await asyncio.wait_for(self._news.get(), PATIENCE)

    async def failure(self) -> ArraydError:
        """Return the error with which it fails, whatever comes before."""
        while not isinstance(news := await self.news(), ArraydError):
            pass
        return news

    async def window(self, start: int, stop: int) -> tuple[Array, dict[str, Array], dict[str, int]]:
        """Have a window read; return copies of its ids and values, and its stats.

        Raises
        ------
        ArraydError
            The reader fails.
        """
        self.readers.read(1, start, stop)
        while not isinstance(news := await self.news(), tuple):
            if isinstance(news, ArraydError):
                raise news
        _, *place, stats = news
        assert place == [start, stop]
        assert isinstance(stats, Mapping)
        return *self.look(self.ring, start, stop), dict(stats)

    def look(self, ring: Path, start: int, stop: int) -> tuple[Array, dict[str, Array]]:
        """Return the ids and values at positions in a ring."""
        data = np.frombuffer(ring.read_bytes(), np.uint8).copy()
        where, layout = np.arange(start, stop) % self.identity.slots, self.identity.ring
        arrays = {name: array[where] for name, array in layout.arrays(data).items()}
        return layout.ids(data)[where], arrays
