"""What a block holds, in words and as keys: equal requests have equal aliases.

An *alias* is what one client asked for, with the client's own ``stat`` of the file. The
*key* is what the load found: the real path, the file's identity, and every option after
canonicalisation, so that two spellings of one array share a block.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arrayd.errors import ArraydError, SpecMismatch
from arrayd.source import Source
from arrayd.wire import index
from arrayd.wire.codec import pack
from arrayd.wire.grant import Spec
from arrayd.wire.records import Record, later
from arrayd_server.core.model import ContentKey, Edition, own_alias
from arrayd_server.loading.messages import FoundFile

_CONFINED = "confined"


@dataclass(frozen=True, slots=True)
class BlockIdentity(Record):
    """What a block holds: a source, or what a client wrote.

    Parameters
    ----------
    source
        None for a block that a client wrote, or that has members.
    words
        For people.
    stat
        The file as its asker saw it; None for published blocks.
    user
        Another user than the daemon's, for whom it is read: by a process that can open no other
        file.
    """

    source: Source | None
    words: str
    stat: tuple[int, ...] | None = None
    user: int | None = later(None)

    @property
    def confined(self) -> bool:
        """Whether it is read by a process that can open no other file."""
        return self.user is not None

    @property
    def path(self) -> str:
        """The path of its file; empty where there is none."""
        return "" if self.source is None else self.source.path

    def retold(self, error: ArraydError, other: BlockIdentity) -> ArraydError:
        """Return an error about `other`, which holds the same, in the words of this one."""
        if (other.words, other.path) == (self.words, self.path):
            return error
        text = error.message.replace(other.words, self.words)
        if other.path:
            text = text.replace(other.path, self.path)
        return type(error)(text, **error.details)

    def __str__(self) -> str:
        return self.words


def of_source(source: Source, stat: Sequence[int] | None, user: int | None = None) -> BlockIdentity:
    """Return the origin of a block that is loaded from a source."""
    return BlockIdentity(source, source.words, None if stat is None else tuple(stat), user)


def of_members(origins: Sequence[BlockIdentity]) -> BlockIdentity:
    """Return the origin of a block in which these lie together."""
    if len(origins) == 1:
        return BlockIdentity(None, origins[0].words)
    paths = (one.source.path for one in origins if one.source is not None)
    folders = {path[: path.rfind("/") + 1] for path in paths}  # `dirname` takes five times as long
    return BlockIdentity(None, f"{len(origins)} files in {os.path.commonpath(folders)}/")


def edition(source: Source, stat: Sequence[int] | None) -> Edition | None:
    """Return the file of a request, and its state; None where that is not known."""
    return None if stat is None or not source.path else Edition(source.path, tuple(stat))


def alias(
    source: Source, stat: Sequence[int] | None, wire: Mapping[str, Any] | None = None
) -> bytes:
    """Return the alias of a request: its key in the index. `wire` is its source as it came.

    What has come is hashed as it is where it can be spelled in no other way: it is a path, and
    perhaps a member. Whatever else there may be (a default written out, a hint, another order of
    the keys, another description of one dtype) is brought into one form first: equal requests of
    all versions have equal aliases.
    """
    keys = [] if wire is None else list(wire)
    plain = keys == ["path"] or (keys == ["path", "member"] and source.member is not None)
    words = wire if wire is not None and plain else source.without_hints()
    return index.key(index.key_of_source(words), stat)


def confined_alias(alias: Hashable) -> Hashable:
    """Return the alias of a request of another user than the daemon's.

    It is another than that of the same request of the daemon's user, whose aliases may lead to what
    was read from several files.
    """
    return (_CONFINED, alias)


def of_small(source: Source, file: tuple[Any, ...], spec: Spec, file_dtype: Any) -> ContentKey:
    """Return the key that a small file has, too, when it is loaded like any other."""
    cast = spec.descr if spec.descr != file_dtype else None
    clips = None if cast is None else source.overflow
    return _digest(["key", file, "npy", None, file_dtype, cast, clips, None, spec.order, []])


def key(source: Source, probed: FoundFile) -> ContentKey:
    """Return the key of the block that `probed` describes."""
    cast = probed.descr if probed.descr != probed.file_dtype else None
    format_ = probed.format
    clips = cast is not None or format_ == "text"  # text is clipped to dtype= as well
    return _digest(
        [
            "key",
            probed.identity,
            format_,
            probed.member,
            probed.file_dtype,
            cast,
            source.overflow if clips else None,
            source.rows,
            probed.order,
            _options(source, probed),
            *([probed.files] if probed.files else []),
        ]
    )


def _options(source: Source, probed: FoundFile) -> list[tuple[str, Any]]:
    """Return the options on which the values depend; `locking` only if the file was locked.

    What was read while a writer held the lock is only for requests with ``locking=False``.
    """
    if probed.format != "hdf5":
        return [] if probed.format in ("npy", "npz") else list(source.options)
    swmr = [("swmr", True)] if source.option.get("swmr") else []
    return swmr + ([("locking", False)] if probed.locked else [])


def may_refer(source: Source) -> bool:
    """Say whether the file of a source may refer to others, by its name and `format`."""
    try:
        return source.resolved_format() in ("hdf5", "dataset")
    except SpecMismatch:  # its first bytes decide
        return True


def matches(origin: Any, pattern: Source) -> bool:
    """Say whether a block has each property that `pattern` sets.

    ``arrayd evict sample.txt`` means every block of that file, whatever its dtype; each
    option that the pattern sets narrows it down.
    """
    if not isinstance(origin, BlockIdentity) or origin.source is None:
        return False
    if pattern.path != origin.source.path:  # soon, for there may be a hundred thousand
        return False
    wire, wanted = origin.source.without_hints(), pattern.without_hints()
    return all(wire.get(field) == value for field, value in wanted.items())


def kept(aliases: Sequence[bytes], *, linked: bool = False) -> list[Hashable]:
    """Return the aliases that metadata have kept: of them the second is the key, or the only one.

    For a load has the alias of the request that began it, then its key, then those of others; but
    a `linked` block is found by its key alone.
    """
    at = 0 if linked else 1
    return [ContentKey(one) if i == at else one for i, one in enumerate(aliases)]


def stored_aliases(aliases: Sequence[Any], user: int | None) -> tuple[bytes, ...]:
    """Return the aliases of a member of a user's block as metadata keep them."""
    stored = aliases if user is None else [_stored_alias(alias, user) for alias in aliases]
    return tuple([alias for alias in stored if isinstance(alias, bytes)])


def _stored_alias(alias: Any, user: int) -> bytes | None:
    """Return an alias of another user's member as metadata keep it; None: they do not."""
    for prefix in (user, _CONFINED):
        if isinstance(alias, tuple) and alias[0] == prefix:
            alias = alias[1]
    return alias if isinstance(alias, bytes) else None


def kept_by_user(aliases: Sequence[bytes], user: int | None) -> list[Hashable]:
    """Return the aliases of a member of a user's block that metadata have `kept`."""
    if user is None:
        return kept(aliases)
    found = (one if isinstance(one, ContentKey) else confined_alias(one) for one in kept(aliases))
    return [own_alias(one, user) for one in found]


def _digest(value: Any) -> ContentKey:
    return ContentKey(hashlib.blake2b(pack(value), digest_size=16).digest())
