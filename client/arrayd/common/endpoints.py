"""Where a daemon listens: the rules that a client, who looks for it, shares with the daemon.

An endpoint is ``ipc://`` and the absolute path of a Unix socket, in one spelling only: the
names of a daemon's segments are derived from it.
"""

from __future__ import annotations

import os

from arrayd.wire import layout
from arrayd.wire.digest import blake2b

SCHEME = "ipc://"

PRIVATE = "private"
"""As an endpoint: the user's own daemon, even where there is one for the machine."""

SOCKET_PATH_BYTES = 107
"""The longest path that a Unix socket can have (unix(7): 108 with the final NUL)."""


def private_directory() -> str:
    """Return where this user's private daemon has its socket, lock and log."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/arrayd" if runtime else f"/tmp/arrayd-{os.getuid()}"


def private_socket() -> str:
    """Return the path of the socket of this user's private daemon."""
    return f"{private_directory()}/sock"


def normalize(path: str) -> str:
    """Return the endpoint at a path, which is made absolute, without ``..`` and double slashes."""
    return f"{SCHEME}/{os.path.abspath(path).lstrip('/')}"


def path_bytes(endpoint: str) -> int:
    """Return the length of an endpoint's path; see `SOCKET_PATH_BYTES`."""
    return len(os.fsencode(endpoint.removeprefix(SCHEME)))


def scope_id(endpoint: str, uid: int) -> str:
    """Return what names the scope of a user's daemon at an endpoint."""
    words = f"{uid} {_canonical(endpoint)}".encode(errors="surrogateescape")
    return blake2b(words, digest_size=5).hexdigest()


def scope_directory(endpoint: str, uid: int) -> str:
    """Return the directory in /dev/shm that is this daemon's own."""
    return f"{layout.SHM}/{layout.PREFIX}{uid}-{scope_id(endpoint, uid)}"


def _canonical(endpoint: str) -> str:
    """Return the endpoint with symbolic links in its directory resolved: one socket, one scope."""
    directory, name = os.path.split(endpoint.removeprefix(SCHEME))
    return f"{SCHEME}{os.path.join(os.path.realpath(directory), name)}"
