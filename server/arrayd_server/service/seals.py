"""Blocks made final: as soon as no process can write to them any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from arrayd.common.bytesize import format_bytes
from arrayd.errors import ArraydError, NotSealed
from arrayd.wire import layout
from arrayd_server import events
from arrayd_server.core import error_texts
from arrayd_server.core.model import Block
from arrayd_server.core.registry import Registry
from arrayd_server.segments.store import Segments
from arrayd_server.service.page_threads import PageThreads

log = logging.getLogger(__name__)

SEAL_TIMEOUT = 2.0
"""Seconds that other processes have to unmap a block that is to be sealed."""

_RETRY_EVERY = 0.01

Described = Callable[[str], tuple[str, layout.SegmentPlan, dict[str, Any]]]


class Seals:
    """Performs the effect `Seal`, and feeds back how it ended.

    Parameters
    ----------
    threads
        Copy what other users have written.
    take
        Lets an event of the core happen.
    described
        Returns name, layout and metadata of a segment.
    share
        Lets exactly those other users open a segment who may.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        registry: Registry,
        segments: Segments,
        threads: PageThreads,
        take: Callable[..., None],
        described: Described,
        share: Callable[[str], None],
    ) -> None:
        self._loop, self._registry, self._segments = loop, registry, segments
        self._threads = threads
        self._take, self._described, self._share = take, described, share

    def seal(self, job: int, segment: str, deadline: float | None = None) -> None:
        """Seal a segment, now or as soon as that is possible."""
        deadline = self._loop.time() + SEAL_TIMEOUT if deadline is None else deadline
        block, task = self._registry.block(segment)
        if block is None or task is None or task.number != job:
            return  # cancelled or aborted in between
        why = "another process can still write to it"
        sealed, described = False, self._described(segment)
        try:
            if block.user is not None and block.published:
                if self._segments.seal(*described[:2], None):
                    self._copy(job, segment)
                    return
            else:
                sealed = self._segments.seal(*described)
        except FileNotFoundError:
            self._take(self._registry.failed, job, error_texts.removed(block), monotonic())
            return
        except (OSError, ArraydError) as error:  # no descriptor, say: soon there may be one
            why = str(error)
        if sealed:
            self._sealed(job, block)
        elif self._loop.time() < deadline:
            self._loop.call_later(_RETRY_EVERY, self.seal, job, segment, deadline)
        else:
            self._refuse(
                job,
                f"{block.identity}: {why}, {SEAL_TIMEOUT:.0f} s after it was to be sealed. Let "
                "every process drop its array first (del).",
            )

    def _copy(self, job: int, segment: str) -> None:
        """Seal a copy of what another user has written; a large one takes a thread some time."""
        name, plan, _ = self._described(segment)

        def copied(error: BaseException | None) -> None:
            block, task = self._registry.block(segment)
            if block is None or task is None or task.number != job:
                self._segments.drop_copy(name)  # its writer has gone, and it with that
                return
            try:
                if error is not None:
                    raise error
                self._segments.describe(*self._described(segment))
                self._share(segment)
            except (OSError, ArraydError) as failure:
                self._refuse(job, f"{block.identity}: {failure}")
                return
            self._sealed(job, block)

        self._threads.run(lambda: self._segments.renew(name, plan), copied, plan.size)

    def _sealed(self, job: int, block: Block) -> None:
        what = (block.segment, block.identity, format_bytes(block.size))
        about = events.SEALED.about(
            block=block.segment, source=block.identity, bytes=block.size, uid=block.user
        )
        log.info("sealed %s: %s, %s", *what, extra=about)
        self._take(self._registry.sealed, job, monotonic())

    def _refuse(self, job: int, why: str) -> None:
        self._take(self._registry.unsealable, job, NotSealed(why), monotonic())
