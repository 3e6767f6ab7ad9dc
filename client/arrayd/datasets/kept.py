"""Manifests of earlier runs: found again by what was asked for, removed when nobody uses them.

Beside a manifest lies, for each request that has led to it, a file ``REQUEST.request`` with the
name of the manifest, and one that tells when it was last used. What was not used for `DAYS` days
is removed when the next manifest is saved. Processes may do all of this at a time: files come and
go as a whole, and one that is gone costs a scan.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from typing import Any

from arrayd.common.manifest_names import SUFFIX, checked_name
from arrayd.datasets import cache
from arrayd.errors import BadFile, ProtocolMismatch
from arrayd.gather.replace_file import replacing
from arrayd.samples.manifest import VERSION, Manifest
from arrayd.wire.codec import pack

DAYS = 30

_LOOK = 2
"""Raised when a scan finds out more about files than before: then each is looked at again."""

# ".tmp" and ".part" are what killed processes have left: of a manifest, and of the others.
_OURS = (SUFFIX, ".request", ".ids.npy", ".pack", ".tmp", ".part", cache.USED)
_AT_ONCE = 1000  # files that are removed at a time


def request_key(asked: Any) -> str:
    """Return the name of a request: the same for the same fields, patterns and options."""
    return hashlib.blake2b(pack([VERSION, _LOOK, asked]), digest_size=16).hexdigest()


def find(key: str) -> Manifest | None:
    """Return the manifest to which this request has led; its files may have changed since."""
    where = cache.folder()
    request = os.path.join(where, f"{key}.request")
    try:
        with open(request, encoding="ascii") as file:
            path = os.path.join(where, checked_name(file.read()))
        cache.mark_used(path)
        os.utime(request)
        return Manifest.load(path)
    except (OSError, ValueError, ProtocolMismatch, BadFile):
        return None


def keep(key: str, manifest: Manifest) -> str:
    """Save a manifest, and that this request has led to it; return the path.

    Raises
    ------
    AccessDenied, NoRoom, ArraydError
        The cache folder cannot be written to.
    """
    where = cache.folder()
    with cache.explained(where):
        path = manifest.save(where)
        cache.mark_used(path)
        request = os.path.join(where, f"{key}.request")
        with replacing(request) as fresh, open(fresh, "w", encoding="ascii") as file:
            file.write(manifest.file_name)
    _sweep(where)
    return path


def _sweep(where: str) -> None:
    """Remove what was not used for long; look again just before, for somebody may use it now."""
    before = time.time() - DAYS * 86_400
    with contextlib.suppress(OSError), os.scandir(where) as entries:
        old = [one.path for one in entries if one.name.endswith(_OURS) and _is_old(one, before)]
    for path in old[:_AT_ONCE]:
        with contextlib.suppress(OSError):
            if cache.last_used(path) < before:
                os.unlink(path)


def _is_old(entry: os.DirEntry[str], before: float) -> bool:
    try:
        return entry.is_file(follow_symlinks=False) and cache.last_used(entry.path) < before
    except OSError:  # another process has removed it
        return False
