"""`PublishedIndex`: keeps the index file in step with the registry.

The core notes which aliases have changed. Before each of its effects is performed, so before a
block is unlinked and before a grant is sent, the file is brought up to date. It has an entry for
each alias that a request may have: not for the key of the contents, by which loads alone find a
block.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Mapping

import msgpack

from arrayd.wire import index
from arrayd.wire.codec import ESCAPE
from arrayd_server.core.blocks import BlockTable
from arrayd_server.core.grants import grant_of
from arrayd_server.core.model import Place
from arrayd_server.segments import index_file
from arrayd_server.segments.index_file import IndexFile, IndexFull

log = logging.getLogger(__name__)

_ROOM = 512
"""Bytes for each entry of a new file, roughly."""


class PublishedIndex:
    """The file in `path` for the aliases of `blocks`, from `publish` on.

    Until then the file of an earlier run, if there is one, serves clients: what it says is
    either right or names a segment that has gone.
    """

    def __init__(self, blocks: BlockTable, path: str) -> None:
        self.path = path
        self._blocks = blocks
        self._file: IndexFile | None = None
        self._published = False
        self._failed = False

    def publish(self) -> None:
        """Publish what there is, now that all that an earlier run has left is adopted."""
        self._published = True
        self._rewrite(self._all())

    def sync(self) -> None:
        """Bring the file up to date."""
        changed = self._blocks.changed_aliases
        if not changed or not self._published:
            return
        if self._file is None:  # there was no room: `ensure` tries again, not each event
            changed.clear()
            return
        news = self._entries(alias for alias in changed if type(alias) is bytes)
        changed.clear()
        try:
            self._file.update(news)
        except IndexFull:
            now = (self._file.entries() | news).items()
            self._rewrite({key: packed for key, packed in now if packed is not None})

    def _entries(self, aliases: Iterable[bytes]) -> dict[bytes, bytes | None]:
        """Return what the file is to say of aliases; None: nothing."""
        packer, found = _EntryPacker(), dict[bytes, bytes | None]()
        for alias in aliases:
            place = self._blocks.locate(alias)
            public = place is not None and _is_public(place)
            found[alias] = packer.packed(place) if place is not None and public else None
        return found

    def ensure(self) -> None:
        """Make the file anew, if somebody has removed it, or if there was no room for it."""
        lacks = self._has_room() if self._file is None else not self._file.in_place
        if self._published and lacks:
            self._rewrite(self._all())

    def _has_room(self) -> bool:
        """Say whether /dev/shm has room for a file, before all that it would hold is collected."""
        try:
            found = os.statvfs(os.path.dirname(self.path))
        except OSError:  # somebody has removed the folder: the scope makes it anew
            return False
        return found.f_bavail * found.f_frsize > _ROOM * (len(self._blocks.aliases) + 256)

    def _rewrite(self, entries: Mapping[bytes, bytes]) -> None:
        """Write a file with these entries, and send the readers of the old one to it.

        What has gone must be in no file, whether there is room for a new one or not.
        """
        old = -1 if self._file is not None else index_file.take_over(self.path)
        before, self._file = self._file, None
        self._blocks.changed_aliases.clear()
        try:
            self._file = IndexFile(self.path, entries)
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("no room for the index, so clients have to ask: %s", error)
            self._failed = True
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        if before is not None:
            before.close()
        if old >= 0:
            index_file.close_old(old)
            os.close(old)

    def _all(self) -> dict[bytes, bytes]:
        """Return all that the file is to say."""
        found = self._entries(alias for alias in self._blocks.aliases if type(alias) is bytes)
        return {alias: packed for alias, packed in found.items() if packed is not None}

    def close(self, *, hand_over: bool) -> None:
        """Publish nothing more; after a hand-over the file serves clients until the next run."""
        self._published = False
        if self._file is None:
            return
        if hand_over:
            self._file.abandon()
        else:
            self._file.close(remove=True)
        self._file = None


def _is_public(place: Place) -> bool:
    """Say whether a client can know by itself that a block is what it wants.

    It cannot where the source is made of several files, and a published name may have another
    block at any time.
    """
    return not place.block.linked and not place.block.published


class _EntryPacker:
    """Packs entries: what the members of a block have alike, once.

    An entry is a list of nine, so its parts can be packed as lists of five and four, whose first
    byte, which says how many there are, is left out.
    """

    def __init__(self) -> None:
        self._packer = msgpack.Packer(unicode_errors=ESCAPE)
        self._heads: dict[tuple[str, int], tuple[bytes, int]] = {}  # by segment and spec

    def packed(self, place: Place) -> bytes:
        """Return the entry of a block or a member, as `index.packed_grant` makes it."""
        block, member = place
        if member is None or member.spec is None:
            return index.packed_grant(grant_of(place, 0))
        alike = (block.segment, id(member.spec))
        head, extent = self._heads.get(alike) or self._heads.setdefault(alike, self._head(place))
        rest = (str(member.identity), member.lost, member.offset, extent)
        tail: bytes = self._packer.pack(rest)[1:]
        return head + tail

    def _head(self, place: Place) -> tuple[bytes, int]:
        """Return the beginning of the entries of those members of a block that have one spec."""
        grant = grant_of(place, 0)
        spec = grant.spec
        words = (grant.segment, spec.shape, spec.descr, spec.order, spec.itemsize)
        return b"\x99" + self._packer.pack(words)[1:], grant.extent
