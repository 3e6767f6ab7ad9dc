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
from arrayd_server.core import error_texts
from arrayd_server.core.registry import Registry
from arrayd_server.segments.store import Segments

log = logging.getLogger(__name__)

SEAL_TIMEOUT = 2.0
"""Seconds that other processes have to unmap a block that is to be sealed."""

_RETRY_EVERY = 0.01

Described = Callable[[str], tuple[str, layout.SegmentPlan, dict[str, Any]]]


class Seals:
    """Performs the effect `Seal`, and feeds back how it ended.

    Parameters
    ----------
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
        take: Callable[..., None],
        described: Described,
        share: Callable[[str], None],
    ) -> None:
        self._loop, self._registry, self._segments = loop, registry, segments
        self._take, self._described, self._share = take, described, share

    def seal(self, job: int, segment: str, deadline: float | None = None) -> None:
        """Seal a segment, now or as soon as that is possible."""
        deadline = self._loop.time() + SEAL_TIMEOUT if deadline is None else deadline
        block, task = self._registry.block(segment)
        if block is None or task is None or task.number != job:
            return  # cancelled or aborted in between
        why = "another process can still write to it"
        sealed = False
        try:
            self._share(segment)  # for reading alone, from now on
            sealed = self._segments.seal(*self._described(segment))
        except FileNotFoundError:
            self._take(self._registry.failed, job, error_texts.removed(block), monotonic())
            return
        except (OSError, ArraydError) as error:  # no descriptor, say: soon there may be one
            why = str(error)
        if sealed:
            log.info("sealed %s: %s, %s", segment, block.identity, format_bytes(block.size))
            self._take(self._registry.sealed, job, monotonic())
        elif self._loop.time() < deadline:
            self._loop.call_later(_RETRY_EVERY, self.seal, job, segment, deadline)
        else:
            refusal = NotSealed(
                f"{block.identity}: {why}, {SEAL_TIMEOUT:.0f} s after it was to be sealed. Let "
                "every process drop its array first (del)."
            )
            self._take(self._registry.unsealable, job, refusal, monotonic())
