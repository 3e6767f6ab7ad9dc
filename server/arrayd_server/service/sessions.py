"""The sessions as the daemon reaches them: the way to each, its process, its answers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arrayd.common import failpoints
from arrayd.errors import ArraydError, to_wire
from arrayd.wire.grant import Grant
from arrayd_server.core.effects import (
    Answer,
    AskAgain,
    Effect,
    IntroduceYourself,
    Reply,
    ReportProgress,
    Result,
    Welcome,
)
from arrayd_server.core.model import Peer
from arrayd_server.core.registry import Registry
from arrayd_server.core.streams import Streams
from arrayd_server.service import audit
from arrayd_server.transport import peers
from arrayd_server.transport.server import PeerConnection, Server

MISSED = 60.0
"""Seconds without a connection after which a session whose process we cannot see has ended."""

MAX_KICKED = 10_000
"""Sessions that were kicked, and have not come back, of which that is remembered."""

LetIn = dict[tuple[bytes, str], tuple[PeerConnection, list[Grant]]]
"""Grants to other users than the daemon's, by session and segment, and the way to each session."""


class Sessions:
    """Which connection leads to a session, and when its process dies.

    Parameters
    ----------
    registry, streams
        They know what the sessions hold, wait for and read.
    limit
        Sessions at a time.
    about_us
        What a welcome says of the daemon.
    on_death
        Called with the nonce of each session whose process has died; to call `end`.
    """

    server: Server  # set when the daemon begins to listen; nobody can be answered before

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        registry: Registry,
        streams: Streams,
        limit: int,
        about_us: Mapping[str, Any],
        on_death: Callable[[bytes], None],
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._streams = streams
        self._about_us = about_us
        self._on_death = on_death
        self._peers = peers.Peers(loop, limit, on_death)
        self._routes: dict[bytes, PeerConnection] = {}  # session -> the latest way to it
        self._drainers: set[bytes] = set()
        #: they may come back, without the holds that they had; the first was kicked first
        self._kicked: dict[bytes, None] = {}

    def limit(self, sessions: int) -> None:
        """Let there be so many at a time from now on; those that there are may stay."""
        self._peers.limit = sessions

    def open(self, nonce: bytes, route: PeerConnection, start: int, peer: Peer) -> None:
        """Watch the process of a session that says hello; `start` is when it began, in ticks.

        Raises
        ------
        ArraydError
            The process is dead already, or there are too many sessions.
        """
        if nonce not in self._registry.sessions:
            refusal = self._registry.holds.quotas.session(peer, time.monotonic())
            if refusal is not None:
                raise refusal
        limited = self._registry.blocks.accounts.limits_sessions(peer)
        self._peers.watch(nonce, route.address, start, route.sock, share=not limited)
        self._routes[nonce] = route

    def heard(self, nonce: bytes, route: PeerConnection) -> None:
        """Send answers by the connection that a request has come by."""
        self._routes[nonce] = route

    def route(self, nonce: bytes) -> PeerConnection:
        """Return the connection of a session, or of a request that is served without one."""
        return self._routes[nonce]

    def pid_of(self, nonce: bytes) -> int:
        """Return the process of a session; 0 for an unknown one."""
        session = self._registry.sessions.get(nonce)
        return session.peer.pid if session is not None else 0

    def drop_unknown(self, nonce: bytes) -> None:
        """Forget the way to one whose request has been served without a session."""
        if nonce not in self._registry.sessions:
            self._routes.pop(nonce, None)

    def end(self, nonce: bytes, now: float) -> list[Effect]:
        """End a session, by its goodbye or its death: the one place where all hear of it."""
        self._routes.pop(nonce, None)
        self.drain(nonce, on=False)
        self._peers.forget(nonce, self.pid_of(nonce))
        return self._streams.ended(nonce, now) + self._registry.ended(nonce, now)

    @property
    def draining(self) -> bool:
        """Whether some session wants nothing new to be begun, for the daemon is to stop."""
        return bool(self._drainers)

    def drain(self, nonce: bytes, *, on: bool) -> None:
        """Let a session want that, for as long as it lasts, or no more."""
        if on:
            self._drainers.add(nonce)
        else:
            self._drainers.discard(nonce)

    def kick(self, nonce: bytes, now: float) -> list[Effect]:
        """End a session that has not asked for it: its client may open it anew, with no hold."""
        self._kicked[nonce] = None
        if len(self._kicked) > MAX_KICKED:
            del self._kicked[next(iter(self._kicked))]
        return self.end(nonce, now)

    def statable(self, nonce: bytes, holds: Sequence[str]) -> Sequence[str]:
        """Return which of the holds that a hello states may be true: none after a kick."""
        if nonce in self._kicked:
            del self._kicked[nonce]
            return ()
        return holds

    def disconnected(self, route: PeerConnection) -> None:
        """Wait for the clients of a broken connection; where there is a pidfd, it knows better.

        There is none for a process of a PID namespace that is none of ours.
        """
        if route.address.pid == 0:
            self._loop.call_later(MISSED, self._miss, route)

    def _miss(self, route: PeerConnection) -> None:
        for nonce in [nonce for nonce, other in self._routes.items() if other is route]:
            self._on_death(nonce)

    def close(self) -> None:
        """Watch no process any more."""
        self._peers.close()

    # ---- answers -------------------------------------------------------------------------

    def answer(self, effects: Sequence[Reply | ReportProgress]) -> None:
        """Send answers, and how far loads are, to all who are there to read them."""
        granted, own = 0, os.geteuid()
        let_in: LetIn = {}
        for effect in effects:
            route = self._routes.get(effect.to.nonce)
            if route is not None:
                granted += self._post(route, effect, own, let_in)
        for route, grants in let_in.values():
            audit.granted(route.credentials, route.address.pid, grants)
        self.server.flush()
        for _ in range(granted):
            failpoints.hit("daemon.granted")

    def _post(
        self, route: PeerConnection, effect: Reply | ReportProgress, own: int, let_in: LetIn
    ) -> bool:
        """Let an answer be sent with the next flush; say whether it is a grant.

        A grant to another user than the daemon's, `own`, is added to those of its session and
        segment.
        """
        to = effect.to
        if isinstance(effect, ReportProgress):
            self.server.post(route, to.request, to.item, progress=[effect.done, effect.total])
            return False
        granted = isinstance(effect.body, Grant)
        if isinstance(effect.body, Grant):
            failpoints.hit("daemon.granting")
            if route.address.uid != own:
                of_one = let_in.setdefault((to.nonce, effect.body.segment), (route, []))
                of_one[1].append(effect.body)
        self.server.post(route, to.request, to.item, **self._message(effect.body, route))
        return granted

    def send(self, route: PeerConnection, number: int, answer: Answer) -> None:
        """Send an answer by a connection, at once."""
        self.server.send(route, number, **self._message(answer, route))

    def _message(self, answer: Answer, route: PeerConnection) -> dict[str, Any]:
        about_us = self._about_us
        if isinstance(answer, Welcome) and route.address.uid != os.geteuid():
            # The index would tell of others' files, and leads to segments that one cannot open.
            about_us = {key: value for key, value in about_us.items() if key != "index"}
        return message(answer, about_us)


def message(answer: Answer, about_us: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an answer adds to its envelope; see `arrayd.wire.protocol`."""
    match answer:
        case Grant():
            return {"ok": answer.to_wire()}
        case ArraydError():
            return {"err": to_wire(answer)}
        case AskAgain():
            return {"again": True}
        case IntroduceYourself():
            return {"hello": True}
        case Welcome(holds):
            return {"ok": {**about_us, "holds": holds}}
        case Result(fields):
            return {"ok": fields}
