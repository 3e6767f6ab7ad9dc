"""What a stream reads, as plain data: for its key, for the reader process, and for people."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arrayd.common.manifest_names import label_of
from arrayd.wire.codec import pack
from arrayd.wire.records import Record, later
from arrayd.wire.ring import RingField, RingLayout


@dataclass(frozen=True, slots=True)
class StreamField(Record):
    """A field of the dataset that a stream has.

    Parameters
    ----------
    name, descr, row_shape
        As in the manifest: the dtype is that of the files.
    cast
        The dtype that its values have in the ring; None: the same.
    """

    name: str
    descr: Any
    row_shape: tuple[int, ...]
    cast: Any = None

    def in_ring(self) -> RingField:
        """Return the field as it lies in the ring."""
        return RingField(self.name, self.descr if self.cast is None else self.cast, self.row_shape)


@dataclass(frozen=True, slots=True)
class StreamIdentity(Record):
    """What a stream reads.

    Parameters
    ----------
    manifest, stat
        The file that has the manifest of the dataset, as the client sees it.
    ids
        A file with the row ids of the selection; None: the ids are [start, stop).
    start, stop
        Of that file, or of the rows of the dataset.
    seed, kind, block, buffer
        Of the order, as in `arrayd.samples.order`.
    overflow
        What becomes of values that the cast has no room for.
    slots
        Rows of the ring.
    share
        Rows of the resident share.
    scratch
        The folder for packs of rows that are costly to decode; None: that of the manifest.
    windowed
        There is to be no pack: such rows are decoded for each window anew.
    """

    manifest: str
    stat: tuple[int, ...] | None
    ids: str | None
    start: int
    stop: int
    seed: int
    kind: str
    block: int
    buffer: int
    fields: tuple[StreamField, ...]
    overflow: str
    slots: int
    share: int
    scratch: str | None
    windowed: bool = later(False)

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> StreamIdentity:
        """Return what the fields of a ``stream.open`` ask for."""
        fields = tuple(
            StreamField(name, descr, tuple(shape), cast)
            for name, descr, shape, cast in asked["fields"]
        )
        names = (
            *("manifest", "ids", "start", "stop", "seed", "kind", "block", "buffer"),
            *("overflow", "slots", "share", "scratch"),
        )
        stat = None if asked["stat"] is None else tuple(asked["stat"])
        windowed = bool(asked["windowed"])  # None: the client is older
        given = {name: asked[name] for name in names}
        return cls(stat=stat, fields=fields, windowed=windowed, **given)

    def __str__(self) -> str:
        rows = f"[{self.start}:{self.stop}]"
        names = ", ".join(field.name for field in self.fields)
        return f"{label_of(self.manifest)}{rows} ({names}; {self.kind}, seed {self.seed})"

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return self.stop - self.start

    @property
    def key(self) -> bytes:
        """Equal for equal rows in an equal order, however they are read."""
        wire = self.to_wire()
        for name in ("slots", "share", "scratch", "windowed"):
            wire.pop(name, None)
        return hashlib.blake2b(pack(wire), digest_size=16).digest()

    @property
    def ring(self) -> RingLayout:
        """The layout of the ring."""
        return self._layout(self.slots)

    @property
    def resident(self) -> RingLayout:
        """The layout of the resident share: a ring that nothing is overwritten in."""
        return self._layout(self.share)

    def _layout(self, slots: int) -> RingLayout:
        return RingLayout.of([field.in_ring() for field in self.fields], slots)
