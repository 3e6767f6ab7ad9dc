"""A forger of segments: honest files by default, any lie on demand."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from typing import Any

from arrayd.source import Source
from arrayd.wire import layout
from arrayd.wire.grant import Spec
from arrayd_server.core.model import Block, State
from arrayd_server.identity import of_source
from arrayd_server.segments import block_metadata

SPEC = Spec((125,), "<f8", "C", 8)

HONEST = Block(
    segment="arrayd-x-y-1",
    number=1,
    spec=SPEC,
    size=0,
    identity=of_source(Source(path="/data/x.npy"), (1, 2, 3, 4, 5)),
    state=State.SEALED,
    since=0.0,
    used=0.0,
    aliases=[b"k" * 16, b"a" * 16],
)

PLAN = block_metadata.planned(SPEC, HONEST.identity)


@dataclass(frozen=True)
class Image:
    """A segment file to be, honest unless a field says otherwise."""

    name: str
    meta: Any = None
    raw: bytes | None = None  # metadata that are no msgpack map
    data_bytes: int = SPEC.nbytes
    meta_offset: int = PLAN.meta_offset
    meta_bytes: int | None = None
    crc: int | None = None
    size: int = PLAN.size
    sealed: bool = True
    says: str | None = None  # another name

    def pack(self) -> tuple[bytes, bytes]:
        """Return metadata and footer."""
        meta = block_metadata.metadata(HONEST) if self.meta is None else self.meta
        raw = layout.pack_meta(meta) if self.raw is None else self.raw
        footer = layout.Footer(
            self.says or self.name,
            self.data_bytes,
            self.meta_offset,
            len(raw) if self.meta_bytes is None else self.meta_bytes,
            zlib.crc32(raw) if self.crc is None else self.crc,
            self.sealed,
        )
        return raw, footer.pack()

    def write(self, path: str, *, sparse: bool = False) -> None:
        """Make the file."""
        raw, footer = self.pack()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(fd, self.size)
            if not sparse:
                os.posix_fallocate(fd, 0, self.size)
            os.pwrite(fd, raw, self.meta_offset)
            os.pwrite(fd, footer, self.size - layout.FOOTER_BYTES)
        finally:
            os.close(fd)
