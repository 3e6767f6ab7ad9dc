"""`Reception`: who is asking, whether they may, and whether they may read what they ask for.

A request of the daemon's own user goes on as it is. Of another user it goes on with the word of the
`Gate` on each file that it names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from arrayd.errors import AccessDenied
from arrayd.wire.requests import Request
from arrayd_server.access.callers import Callers
from arrayd_server.access.policy import Credentials
from arrayd_server.core.model import Peer
from arrayd_server.service import audit, vetting
from arrayd_server.service.gate import Gate, Verdict
from arrayd_server.transport import peers
from arrayd_server.transport.server import PeerConnection

Serve = Callable[[Request, PeerConnection], None]


class Reception:
    """Lets requests in.

    Parameters
    ----------
    callers
        Who may use the daemon.
    gate
        Looks at the files of other users' requests.
    serve
        Serves a request of another user, once that has been done.
    """

    def __init__(self, callers: Callers, gate: Gate, serve: Serve) -> None:
        self._callers, self._gate, self._serve = callers, gate, serve

    def adjust(self, callers: Callers, roots: Sequence[str]) -> None:
        """Go by other options from now on."""
        self._callers, self._gate.roots = callers, roots

    def check(self, who: Credentials, pid: int) -> None:
        """Refuse users who may not use this daemon.

        Raises
        ------
        AccessDenied
            This is one.
        """
        if self._callers.may_use(who):
            return
        audit.refused(who.uid, pid, "connect", "", "not named by the option allow")
        raise AccessDenied(
            f"This daemon serves user {os.geteuid()} and those that its option allow names "
            f"({self._callers.allow}), and you are user {who.uid}. Start one of your own: "
            "ARRAYD_ENDPOINT=private."
        )

    def peer(self, route: PeerConnection) -> Peer:
        """Return who is at the other end of a connection."""
        who, pid = route.credentials, route.address.pid
        foreign, admin = who.uid != self._callers.own, self._callers.is_admin(who)
        groups = who.groups | {who.gid} if foreign else frozenset()
        group = peers.group_of(pid)
        return Peer(who.uid, pid, group=group, foreign=foreign, admin=admin, groups=groups)

    def lets_in(self, request: Request, route: PeerConnection, caller: Peer) -> bool:
        """Say whether a request is to be served now; it is not if its files are looked at first.

        Raises
        ------
        AccessDenied
            It is never to be served.
        """
        if not caller.foreign:
            return True
        if request.op.startswith("stream."):
            audit.refused(caller.uid, caller.pid, request.op, "", "streams")
            raise AccessDenied(
                "Streams are served to the daemon's own user only, for a dataset has many files. "
                "Read them by a daemon of your own, as clients of this version do by themselves: "
                "ARRAYD_ENDPOINT=private."
            )
        if request.op not in vetting.GATED:
            return True

        def go_on(verdicts: Sequence[Verdict]) -> None:
            self._note(request, route, verdicts)
            self._serve(vetting.vetted(request, verdicts), route)

        self._gate.look(route.credentials, vetting.paths(request), go_on)
        return False

    def close(self) -> None:
        """Look at nothing any more."""
        self._gate.close()

    def _note(self, request: Request, route: PeerConnection, verdicts: Sequence[Verdict]) -> None:
        for path, verdict in zip(vetting.paths(request), verdicts, strict=True):
            if isinstance(verdict, AccessDenied):
                pid = route.address.pid
                audit.refused(route.credentials.uid, pid, request.op, path, str(verdict))
