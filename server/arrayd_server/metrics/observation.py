"""`Observation`: what is there when metrics are wanted; without it nothing is counted or measured.

Events reach its `Meter` where they happen, all else is read when somebody asks, or every
`INTERVAL` for the file and the history. The loop does no more than add up: texts are made, and
files written, in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

from arrayd.errors import MissingDependency
from arrayd_server.core.registry import Registry
from arrayd_server.core.streams import Streams
from arrayd_server.metrics import picture
from arrayd_server.metrics.history import MemoryHistory
from arrayd_server.metrics.http_server import HttpAnswer, HttpRequest, HttpServer, refusal
from arrayd_server.metrics.loop_lag import LoopLag
from arrayd_server.metrics.measurements import Measurements
from arrayd_server.metrics.meter import Meter
from arrayd_server.metrics.picture import Picture
from arrayd_server.metrics.sums import Survey
from arrayd_server.metrics.textfile import Textfile
from arrayd_server.metrics.web_page import ASSETS, asset

log = logging.getLogger(__name__)

INTERVAL = 15.0
"""Seconds between two files, and samples of memory: as often as Prometheus usually looks."""

OPEN_METRICS = "application/openmetrics-text;version=1.0.0"

FRESH = 1.0
"""Seconds that measurements are good for, however many ask."""

Render = Callable[[Measurements, str], tuple[bytes, str]]


def renderer() -> Render:
    """Return what makes the text.

    Raises
    ------
    MissingDependency
        prometheus-client is not installed.
    """
    try:
        from arrayd_server.metrics.exposition import text
    except ImportError as error:
        raise MissingDependency(
            f"Metrics need prometheus-client, which cannot be imported ({error}): "
            "pip install 'arrayd[metrics]', or leave metrics_textfile and metrics_listen out."
        ) from None
    return text


class Observation:
    """Measures a daemon.

    Parameters
    ----------
    textfile
        The directory of ``arrayd.prom``; None: no file is written.
    sockets
        That listen for HTTP.

    Raises
    ------
    MissingDependency
        prometheus-client is not installed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        textfile: Path | None,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        self.meter = Meter()
        self.render = renderer()
        self._loop = loop
        self._lag = LoopLag(loop)
        self._started = time.time()
        self._file = None if textfile is None else Textfile(textfile)
        self._server = HttpServer(sockets, self._respond) if sockets else None
        self._history = MemoryHistory()
        self._page: tuple[dict[str, Any] | None, HttpAnswer] = (None, HttpAnswer(b""))
        self._text: tuple[Measurements | None, dict[str, tuple[bytes, str]]] = (None, {})
        self._thread = ThreadPoolExecutor(1, "arrayd-metrics")
        self._complaint = ""
        self._asking = asyncio.Lock()
        self._measured: Measurements | None = None
        self._good_until = float("-inf")
        self._registry: Registry
        self._survey: Survey
        self._picture: Picture
        self._garbage: Callable[[], int]
        self._task: asyncio.Task[None]

    def begin(self, registry: Registry, streams: Streams, garbage: Callable[[], int]) -> None:
        """Begin to measure; `garbage` returns how many messages were none."""
        self._registry, self._garbage = registry, garbage
        self._survey = Survey(registry, streams)
        self._picture = Picture(registry, streams, self._history)
        self._task = self._loop.create_task(self._run())
        if self._server is not None:
            self._server.start()
            for host, port, *_ in (one.getsockname() for one in self._server.sockets):
                shown = f"[{host}]" if ":" in host else host
                at = f"http://{shown}:{port}"
                log.info("metrics at %s/metrics, and as a page to look at at %s/", at, at)

    async def measured(self) -> Measurements:
        """Return what there is; on the loop."""
        async with self._asking:
            if self._measured is None or self._loop.time() >= self._good_until:
                sums = await self._survey.take(time.time())
                counts, lag = self.meter.counts.copy(), self._lag.seconds
                rest = (counts, self._started, self._garbage(), lag)
                self._measured = Measurements(sums, *rest)
                self._good_until = self._loop.time() + FRESH
            return self._measured

    def close(self) -> None:
        """Measure no more."""
        self._task.cancel()
        self._lag.close()
        if self._server is not None:
            self._server.close()
        if self._file is not None:
            self._thread.submit(self._file.remove)  # after what it may be writing
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                self.meter.forget_ended(self._registry.sessions)
                measured = await self.measured()
                self._history.add(measured.sums)
                if self._file is not None:
                    self._tell(
                        await self._loop.run_in_executor(self._thread, self._write, measured)
                    )
                await asyncio.sleep(INTERVAL)

    async def _respond(self, request: HttpRequest) -> HttpAnswer:
        """Answer, in the server's thread."""
        if request.path in ASSETS:
            return asset(request.path)
        if request.path == "/metrics":
            return await self._metrics(request)
        if request.path == "/api/status":
            return await self._status()
        return refusal(HTTPStatus.NOT_FOUND, "The metrics are at /metrics, a page is at /.")

    async def _status(self) -> HttpAnswer:
        """Return what the page shows; it becomes text once, however many ask for it."""
        asked = asyncio.run_coroutine_threadsafe(self._picture.take(self.measured), self._loop)
        taken = await asyncio.wrap_future(asked)
        if self._page[0] is not taken:
            self._page = taken, HttpAnswer(picture.text(taken), "application/json")
        return self._page[1]

    async def _metrics(self, request: HttpRequest) -> HttpAnswer:
        """Return the metrics; a text is made once, however many ask for it."""
        asked = asyncio.run_coroutine_threadsafe(self.measured(), self._loop)
        measured = await asyncio.wrap_future(asked)
        if self._text[0] is not measured:
            self._text = (measured, {})
        texts = self._text[1]
        kind = OPEN_METRICS if "openmetrics" in request.headers.get("accept", "") else ""
        if kind not in texts:
            texts[kind] = self.render(measured, kind)
        return HttpAnswer(*texts[kind])

    def _write(self, measured: Measurements) -> str:
        """Write the file; return what is wrong, or nothing."""
        assert self._file is not None
        try:
            self._file.write(self.render(measured, "")[0])
        except OSError as error:
            return f"{self._file.path}: {error.strerror}"
        return ""

    def _tell(self, complaint: str) -> None:
        """Log what is wrong with the file when that has changed."""
        if complaint and complaint != self._complaint:
            log.warning("the metrics cannot be written to %s", complaint)
        self._complaint = complaint
