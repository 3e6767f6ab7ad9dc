"""What a pack holds, the scratch file of rows that are costly to decode, and where it lies.

The reader process fills it (`arrayd_server.streams.pack`); the client asks whether it has room.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from arrayd.samples.manifest import Field, Manifest
from arrayd.wire.codec import pack
from arrayd.wire.dtypes import descr

PAGE = 4096
VERSION = 1

_MAGIC = b"arrayd pack\n"


@dataclass(frozen=True, slots=True)
class PackSpec:
    """What a pack holds.

    Parameters
    ----------
    manifest
        The digest of the dataset's manifest.
    name, dtype, row_shape
        The field: its rows after the cast.
    overflow
        As in `Source.overflow`.
    rows
        Of the dataset.
    """

    manifest: bytes
    name: str
    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    overflow: str
    rows: int

    @classmethod
    def of(cls, manifest: Manifest, one: Field, target: np.dtype[Any], overflow: str) -> PackSpec:
        """Return what the pack of a field holds, cast to `target`."""
        return cls(manifest.digest, one.name, target, one.row_shape, overflow, manifest.rows)

    def path(self, folder: str) -> str:
        """Return where it is kept in `folder`."""
        return os.path.join(folder, f"{self.header[len(_MAGIC) :].hex()}.pack")

    @property
    def header(self) -> bytes:
        """The first page of the file, without the zeros at its end."""
        fields = [self.manifest, self.name, descr(self.dtype), self.row_shape, self.overflow]
        said = pack([VERSION, *fields, self.rows])
        # The names and shapes of structures may be longer than a page.
        return _MAGIC + hashlib.blake2b(said, digest_size=16).digest()

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def begin(self) -> int:
        """Where the rows begin."""
        return PAGE + _paged(-(-self.rows // 8))

    @property
    def size(self) -> int:
        """Bytes of the file, holes included."""
        return self.begin + _paged(self.rows * self.row_bytes)


def _paged(size: int) -> int:
    return -(-size // PAGE) * PAGE
