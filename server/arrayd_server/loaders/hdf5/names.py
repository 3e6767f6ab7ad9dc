"""Names in HDF5 files: bytes there, text here, as file names are in Python.

A name that is no UTF-8 (Latin-1, of an older program) is decoded as `os.fsdecode` does, so that it
can be listed, sent and asked for; h5py's own methods give it as bytes, or fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py

from arrayd_server.loaders import base
from arrayd_server.loaders.validation import blame_memory

FAILURES = (KeyError, ValueError, OSError, RuntimeError)
"""What h5py raises for what it cannot find or read."""


def decoded(name: bytes) -> str:
    """Return the name of a link as text."""
    return name.decode("utf-8", "surrogateescape")


def encoded(name: str) -> bytes:
    """Return a name as h5py's methods take it whatever it is; the inverse of `decoded`.

    Raises
    ------
    ValueError
        No link can have this name.
    """
    data = name.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise ValueError("a name ends before a NUL")
    return data


def canonical(member: str | None) -> str:
    """Return the one spelling of a path in the file: HDF5 ignores ``.`` and extra slashes."""
    return "/".join(step for step in (member or "").split("/") if step not in ("", "."))


def walk(group: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and dataset of all below `group`, in order, without following links.

    In the place of a dataset or group that cannot be opened comes the exception. Each is found
    once, by its first name; after `MAX_MEMBERS` objects the search ends.
    """
    seen = {_address(group.id)}
    left: list[tuple[bytes, Any, bytes]] = [(b"", group.id, b"")]  # path, its group, its last step
    for _ in range(base.MAX_MEMBERS + 1):
        if not left:
            return
        path, parent, step = left.pop()
        try:
            thing = h5py.h5o.open(parent, step) if step else parent
            if step and (address := _address(thing)) in seen:
                continue
            elif step:
                seen.add(address)
            if isinstance(thing, h5py.h5g.GroupID):
                below = b"%s/" % path if path else b""
                left += [(below + name, thing, name) for name in reversed(_steps(thing))]
            elif isinstance(thing, h5py.h5d.DatasetID):
                yield decoded(path), h5py.Dataset(thing)
        except FAILURES as error:
            blame_memory(error)
            yield decoded(path), error


def _address(thing: Any) -> tuple[int, int]:
    info = h5py.h5o.get_info(thing)
    return info.fileno, info.addr


def _steps(group: Any) -> list[bytes]:
    """Return the names of the hard links in a group; one that is more than enough of them."""
    names: list[bytes] = []

    def note(name: bytes, info: Any) -> bool | None:
        if info.type == h5py.h5l.TYPE_HARD:
            names.append(name)
        return True if len(names) > base.MAX_MEMBERS else None  # True ends the iteration

    group.links.iterate(note, info=True)
    return names


def dataset_names(group: Any) -> list[str]:
    """Return the names of the datasets below `group` that can be opened; see `walk`."""
    return [name for name, found in walk(group) if not isinstance(found, Exception)]
