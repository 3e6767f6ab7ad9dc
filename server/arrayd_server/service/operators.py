"""What the requests of an operator mean; see `handlers`: is all well, and whose sessions end."""

from __future__ import annotations

import os
import signal

from arrayd.errors import AccessDenied, DaemonError, NoSuchBlock
from arrayd.wire.requests import Request
from arrayd_server.core.effects import Effect, Reply, Result
from arrayd_server.core.model import Asker, Peer
from arrayd_server.service import audit
from arrayd_server.service.health import FRESH
from arrayd_server.service.service import Service


def health(service: Service, request: Request, now: float) -> list[Effect]:
    """Say whether the rules of registry and streams hold: which one does not, or an empty text."""
    caller = service.caller(request.nonce)
    broken = service.health.broken(now, FRESH if caller.foreign and not caller.admin else 0.0)
    sums = {"pid": os.getpid(), "blocks": len(service.registry.blocks.table)}
    return [Reply(Asker(request.nonce, request.id), Result({**sums, "broken": broken}))]


def kick(service: Service, request: Request, now: float) -> list[Effect]:
    """End all sessions of a process but the one that asks: no hold of then comes back."""
    to, pid = Asker(request.nonce, request.id), request.fields["pid"]
    caller = service.caller(request.nonce)
    others = [one for one in service.registry.sessions.values() if one.nonce != request.nonce]
    found = [one for one in others if one.peer.pid == pid and not one.peer.own]
    mine = [one for one in found if _may_end(caller, one.peer)]
    if len(mine) < len(found) or (not found and caller.foreign and not caller.admin):
        audit.refused(caller.uid, caller.pid, "kick", f"pid {pid}", "no process of its own")
        # Who else uses the daemon is not for others to know: one answer, whether it does or not.
        raise AccessDenied(
            f"User {caller.uid} may not end the sessions of process {pid}: it has none here, or is "
            f"another user's. The daemon's own user ({os.geteuid()}) and root may, whom its option "
            "admins names, and that user."
        )
    if not found:
        return [Reply(to, NoSuchBlock(f"No process {pid} uses this daemon: see `arrayd status`."))]
    count, holds, peer = len(found), sum(len(one.holds) for one in found), found[0].peer
    audit.kicked(caller.uid, caller.pid, pid, peer.uid, count, holds)
    effects: list[Effect] = []
    for session in found:
        effects += service.sessions.kick(session.nonce, now)
    told = {"sessions": count, "holds": holds, "program": peer.program, "uid": peer.uid}
    return [*effects, Reply(to, Result(told))]


def drain(service: Service, request: Request, now: float) -> list[Effect]:  # noqa: ARG001 - uniform
    """Begin nothing new as long as the session that asks is open, or until it takes it back."""
    caller = _manager(service, request, "drain")
    on = request.fields["on"]
    service.sessions.drain(request.nonce, on=on)
    audit.drained(caller.uid, caller.pid, on=on)
    return [Reply(Asker(request.nonce, request.id), Result({"pid": os.getpid()}))]


def draining() -> DaemonError:
    """Return the answer to what would be begun meanwhile."""
    return DaemonError(
        f"This daemon (pid {os.getpid()}) is being drained, to be stopped (`arrayd drain`): it "
        "grants what is in memory, and begins no loads, publications and streams. Ask again when "
        "the next one runs."
    )


def stop(service: Service, request: Request, now: float) -> list[Effect]:  # noqa: ARG001 - uniform
    """Stop as on SIGTERM."""
    _manager(service, request, "stop")
    service.stop(signal.SIGTERM)
    return [Reply(Asker(request.nonce, request.id), Result({"pid": os.getpid()}))]


def _manager(service: Service, request: Request, what: str) -> Peer:
    """Return who asks, if that is somebody who may `what` the daemon.

    Raises
    ------
    AccessDenied
        It is not.
    """
    caller = service.caller(request.nonce)
    if caller.foreign and not caller.admin:
        audit.refused(caller.uid, caller.pid, what, "", "not named by the option admins")
        raise AccessDenied(
            f"User {caller.uid} may not {what} this daemon, which is user {os.geteuid()}'s. Its "
            "own user and root may, and whom its option admins names."
        )
    return caller


def _may_end(caller: Peer, peer: Peer) -> bool:
    return caller.admin or not caller.foreign or caller.uid == peer.uid
