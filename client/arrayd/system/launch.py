"""Finds the daemon, or has a private one started (`private_daemon`); an error says why not."""

from __future__ import annotations

import os

from arrayd.common import endpoints
from arrayd.common.endpoints import PRIVATE, SCHEME
from arrayd.errors import NoDaemon, SpecMismatch
from arrayd.system import daemon_probe, libzmq_guard

SYSTEM_ENDPOINT = "ipc:///run/arrayd/arrayd.sock"
"""Where a daemon for the whole machine listens."""


def find_endpoint(endpoint: str | None = None, *, start: bool = True, timeout: float = 10.0) -> str:
    """Return the endpoint of the daemon to use; if it is the private one, make sure that it runs.

    The first of: `endpoint`, ``ARRAYD_ENDPOINT``, `SYSTEM_ENDPOINT` if it admits this
    process, the user's private daemon. The first two are returned as they are, whether or
    not a daemon answers there, unless they say ``private``.

    Parameters
    ----------
    endpoint
        ``ipc:///path``, a path, or ``private``.
    start
        Whether to start a private daemon that does not run.
    timeout
        Seconds in which it must begin to listen.

    Raises
    ------
    NoDaemon
        The endpoint is not valid; or no private daemon runs, and `start` is false or has failed.
    NoRoom
        This process has no descriptors left to look for it.
    """
    if endpoint is not None and not isinstance(endpoint, (str, os.PathLike)):
        kind = type(endpoint).__name__
        raise SpecMismatch(f"An endpoint is 'ipc:///path', a path, or 'private', not {kind}.")
    wanted = os.fsdecode(endpoint or b"") or os.environ.get("ARRAYD_ENDPOINT") or ""
    if wanted and wanted != PRIVATE:
        return normalize(wanted)
    libzmq_guard.check_descriptors(libzmq_guard.DESCRIPTORS)
    if not wanted and daemon_probe.alive(SYSTEM_ENDPOINT):
        return SYSTEM_ENDPOINT
    private = private_endpoint()
    if start:
        _ensure_private(private, timeout)
    elif not serves(private):
        raise NoDaemon(
            f"No arrayd daemon runs at {private}. `arrayd.get` and `arrayd get` start one; "
            "`arrayd serve` runs one in the foreground."
        )
    return private


def ensure(endpoint: str, *, timeout: float = 10.0) -> None:
    """Start the private daemon again if `endpoint` is its own and it has ended.

    Raises
    ------
    NoDaemon
        It could not be started.
    """
    if endpoint == private_endpoint():
        libzmq_guard.check_descriptors(libzmq_guard.DESCRIPTORS)
        _ensure_private(endpoint, timeout)


def _ensure_private(endpoint: str, timeout: float) -> None:
    if not serves(endpoint):
        from arrayd.system import private_daemon  # slow to import, and seldom needed

        private_daemon.ensure(endpoint, timeout)


def serves(endpoint: str) -> bool:
    """Return whether a private daemon listens there, and nobody else can have put it there."""
    return daemon_probe.is_ours(
        os.path.dirname(endpoint.removeprefix(SCHEME))
    ) and daemon_probe.alive(endpoint)


def why_silent(endpoint: str, seconds: float, pid: int | None = None) -> str:
    """Return the error text for `seconds` without an answer; `pid`: of a daemon known to live."""
    if pid is not None:
        return (
            f"The arrayd daemon (pid {pid}) has been silent for {seconds:.3g} s: it is stopped "
            f"(`kill -CONT {pid}`) or overloaded. Your arrays stay readable."
        )
    if daemon_probe.alive(endpoint):
        return (
            f"Somebody listens at {endpoint}, and has not answered for {seconds:.3g} s: a daemon "
            "that is stopped (`ps` shows T: `kill -CONT` it), overloaded, or out of descriptors "
            "(its log says so)."
        )
    return (
        f"No arrayd daemon answers at {endpoint} after {seconds:.3g} s. Start one: `arrayd serve`, "
        "`systemctl --user start arrayd`; or unset ARRAYD_ENDPOINT to have a private one started "
        "for you."
    )


def private_endpoint() -> str:
    """Return where this user's private daemon listens, or would."""
    return normalize(endpoints.private_socket())


def normalize(endpoint: str) -> str:
    """Return an endpoint, or a bare path, as the daemon itself spells it.

    Raises
    ------
    NoDaemon
        It is not valid.
    """
    if endpoint == PRIVATE:
        return private_endpoint()
    scheme, separator, path = endpoint.rpartition("://")
    if separator and scheme != "ipc":
        raise NoDaemon(f"{endpoint}: arrayd speaks over Unix sockets only; write ipc:///path.")
    if not path or "\0" in path:
        raise NoDaemon(f"{endpoint!r}: no socket can have this path; write ipc:///path.")
    url = endpoints.normalize(path)
    count = endpoints.path_bytes(url)
    if count > endpoints.SOCKET_PATH_BYTES:
        raise NoDaemon(
            f"{url.removeprefix(SCHEME)}: {count} bytes are too many for the path of a Unix "
            f"socket, which has {endpoints.SOCKET_PATH_BYTES} at most. Choose a shorter one."
        )
    return url
