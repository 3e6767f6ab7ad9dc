"""Where `arrayd top` has its figures from: a thread that asks a daemon once a second.

A daemon that goes is waited for, and asked again when it, or its successor, is there.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import arrayd
from arrayd.common.bytesize import format_bytes
from arrayd.errors import ArraydError, NoDaemon
from arrayd.results.status_table import Status
from arrayd.system import daemon_probe, launch

EVERY = 1.0
"""Seconds between two requests for the status."""

OnStatus = Callable[[Status | None, str], object]
"""Takes the status, or None and in words why there is none."""


class StatusFeed:
    """The thread.

    Parameters
    ----------
    endpoint
        Of the daemon; None: the usual one. None is started.
    on_status, on_evicted
        Called in the thread: with each status, and with what became of an eviction.
    """

    def __init__(
        self, endpoint: str | None, on_status: OnStatus, on_evicted: Callable[[str], object]
    ) -> None:
        self._endpoint = endpoint
        self._on_status = on_status
        self._on_evicted = on_evicted
        self._client: arrayd.Client | None = None
        self._pid = 0
        self._orders: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # None: end
        self._thread = threading.Thread(target=self._run, name="arrayd-top", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def evict(self, number: int) -> None:
        """Have a block evicted, and the status asked for at once."""
        self._orders.put(number)

    def stop(self) -> None:
        """End, also while an answer is waited for."""
        self._orders.put(None)
        client = self._client
        if client is not None:
            client.close()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            self._report()
            due = max(due + EVERY, time.monotonic())
            try:
                number = self._orders.get(timeout=due - time.monotonic())
            except queue.Empty:
                continue
            if number is None:
                self._forget()
                return
            self._evict(number)
            due = time.monotonic()

    def _report(self) -> None:
        try:
            status = self._asked()
        except ArraydError as error:
            self._forget()
            absent = isinstance(error, arrayd.DaemonLost | NoDaemon)
            self._on_status(None, "daemon not running, waiting" if absent else str(error))
        else:
            self._on_status(status, "")

    def _asked(self) -> Status:
        if self._client is None:
            endpoint = launch.find_endpoint(self._endpoint, start=False)
            if not daemon_probe.alive(endpoint):
                raise NoDaemon(f"Nobody listens at {endpoint}.")
            self._client = arrayd.connect(endpoint, start=False)
        elif daemon_probe.wait_ended(self._pid, 0) and not daemon_probe.alive(
            self._client.endpoint
        ):  # else a client would wait for a successor, and the screen would stand still meanwhile
            raise NoDaemon(f"The daemon, pid {self._pid}, has ended.")
        status = self._client.status()
        self._pid = status.pid
        return status

    def _forget(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _evict(self, number: int) -> None:
        if self._client is None:
            self._on_evicted("no daemon runs")
            return
        try:
            freed = self._client.evict(block=number)
        except ArraydError as error:
            self._on_evicted(" ".join(str(error).split()))
        else:
            self._on_evicted(f"evicted block {number}, {format_bytes(freed['bytes'])}")
