"""`Takeover`: what a daemon does first, while who asks for anything is told to wait.

It adopts the blocks that an earlier run of its scope has left. Until it knows them all it can
answer nothing: a file that is in memory would be loaded again, and a hold that a hello states
would count as lost. But a client gives up a daemon of which it hears nothing for ten seconds, and a
hundred thousand blocks take longer than that. So the daemon listens at once, and adopts in slices,
between which it hears what has come:

- Of each connection the latest hello is kept, to be served at the end. Clients repeat theirs twice
  a second, and are told each time how far we are (``starting``), so they are patient.
- Any other request is of a session of the run before us, and is answered as at any time: say hello,
  and ask again.

What clients hold they can read all the time, and the index that the run before us has left leads
them to what they do not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from arrayd.common import failpoints
from arrayd.common.bytesize import format_bytes
from arrayd.wire import layout
from arrayd.wire.requests import Request
from arrayd_server import events, systemd
from arrayd_server.core.effects import IntroduceYourself
from arrayd_server.core.registry import Registry
from arrayd_server.segments import block_metadata
from arrayd_server.segments.adoption import Leftovers, LeftoverSegment
from arrayd_server.segments.store import Segments
from arrayd_server.service.executor import EffectExecutor
from arrayd_server.service.handlers import WITHOUT_ANSWER
from arrayd_server.service.sessions import message
from arrayd_server.transport.server import PeerConnection, Server

log = logging.getLogger(__name__)

SLICE = 0.05
"""Seconds of adoption between two looks at what has come."""

PATIENCE = 60
"""Seconds in which systemd is to see the next sign of life of a daemon that starts."""


class Takeover:
    """Adopts what an earlier run has left, and keeps the hellos that come meanwhile.

    Parameters
    ----------
    segments, registry, executor
        What adopts.
    is_over
        Says whether what is left is the next run's to adopt.
    """

    def __init__(
        self,
        segments: Segments,
        registry: Registry,
        executor: EffectExecutor,
        is_over: Callable[[], bool],
    ) -> None:
        self._segments, self._registry, self._executor = segments, registry, executor
        self._is_over = is_over
        self._hellos: dict[PeerConnection, Request] = {}
        self._done = self._total = self._nbytes = 0

    async def run(self) -> dict[PeerConnection, Request]:
        """Adopt all, unless it `is_over`; return the hellos to be served now, by connection."""
        began = pause_at = time.monotonic()
        found = Leftovers(self._segments)
        self._total = len(found)
        for self._done, one in enumerate(found, 1):
            self._adopt(one, began)
            failpoints.hit("daemon.adopting")
            if time.monotonic() > pause_at + SLICE:
                words = f"taking over blocks: {self._done} of {self._total}"
                systemd.notify(systemd.status(words), systemd.extend_timeout(PATIENCE))
                await asyncio.sleep(0)
                pause_at = time.monotonic()
                if self._is_over():
                    break
        if self._done:
            count, size = len(self._registry.blocks.table), format_bytes(self._nbytes)
            about = events.ADOPTED.about(bytes=self._nbytes)
            seconds = time.monotonic() - began
            log.info("took over blocks: %d (%s) in %.1f s", count, size, seconds, extra=about)
        return self._hellos

    def keep_waiting(self, request: Request, route: PeerConnection, to: Server) -> None:
        """Deal with a request that comes meanwhile; `to` answers it."""
        if request.op == "hello":
            self._hellos[route] = request
            to.send(route, 0, starting=[self._done, self._total])  # 0: older clients pass it over
        elif request.op == "bye":
            self._hellos.pop(route, None)
        elif request.op not in WITHOUT_ANSWER:
            to.send(route, request.id, **message(IntroduceYourself(), {}))

    def forget(self, route: PeerConnection) -> None:
        """Keep nothing for a connection that has ended."""
        self._hellos.pop(route, None)

    def _adopt(self, found: LeftoverSegment, now: float) -> None:
        try:
            block = block_metadata.adopted(found, self._registry.blocks.new_number(), now)
        except layout.NewerSegment as error:
            about = events.NOT_ADOPTED.about(block=found.name)
            log.warning("%s is left alone: %s", found.name, error, extra=about)
            self._segments.disown(found.name)
        except ValueError as error:
            about = events.NOT_ADOPTED.about(block=found.name)
            log.warning("%s is not usable (%s): removed", found.name, error, extra=about)
            self._segments.discard(found.name)
        else:
            self._nbytes += block.size
            log.debug("adopted %s: %s", found.name, block.identity)
            self._executor.act(self._registry.adopt(block, now))
