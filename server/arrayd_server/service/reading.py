"""The reader processes, as the core's effects have them start, read and stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Protocol

from arrayd.errors import ArraydError, DaemonError
from arrayd_server.core.effects import ChangeRing, Reading, ReadWindow, StartReader, StopReader
from arrayd_server.core.streams import Streams
from arrayd_server.stream_identity import StreamIdentity

OnReady = Callable[[int], None]
OnRead = Callable[[int, int, int, int, Mapping[str, int]], None]
OnFailed = Callable[[int, ArraydError], None]


class Readers(Protocol):
    """One reader process for each stream, on the daemon's loop.

    The paths are those of segments in /dev/shm that are there and have all their pages. After
    `stop` no callback is called for the stream, and nothing is written to its segments.
    """

    def start(
        self,
        stream: int,
        identity: StreamIdentity,
        segment_path: str,
        share_path: str | None,
        *,
        on_ready: OnReady,
        on_read: OnRead,
        on_failed: OnFailed,
    ) -> None:
        """Start a process; then call ``on_ready(stream)``, or ``on_failed(stream, error)``.

        Its ring has generation 0.
        """

    def read(self, stream: int, start: int, stop: int) -> None:
        """Read the rows of the positions [start, stop) of one epoch into their slots.

        Then call ``on_read(stream, generation, start, stop, stats)``: `stats` counts
        ``bytes_read`` from the device and ``bytes_used`` of them; or ``on_failed``, once.
        """

    def change_ring(self, stream: int, segment_path: str, generation: int) -> None:
        """Write what is asked for from now on to another ring; no window is in flight."""

    def stop(self, stream: int) -> None:
        """End the process of a stream; it may have ended already."""

    def close(self) -> None:
        """End all."""


class ReaderEffects:
    """Performs the effects on readers, and feeds back what they say.

    Parameters
    ----------
    take
        Lets an event of the core happen.
    path
        Returns the path of a segment.
    """

    def __init__(
        self,
        readers: Readers | None,
        streams: Streams,
        take: Callable[..., None],
        path: Callable[[str], str],
    ) -> None:
        self._readers = readers
        self._streams = streams
        self._take = take
        self._path = path

    def perform(self, effect: Reading) -> None:
        """Perform one effect."""
        if self._readers is None:
            self._refuse(effect)
            return
        match effect:
            case StartReader(stream, identity, segment, share):
                self._readers.start(
                    stream,
                    identity,
                    self._path(segment),
                    None if share is None else self._path(share),
                    on_ready=self._on_ready,
                    on_read=self._on_read,
                    on_failed=self._on_failed,
                )
            case ReadWindow(stream, _, _, start, stop):
                self._readers.read(stream, start, stop)
            case ChangeRing(stream, segment, generation):
                self._readers.change_ring(stream, self._path(segment), generation)
            case StopReader(stream):
                self._readers.stop(stream)

    def _refuse(self, effect: Reading) -> None:
        if isinstance(effect, StartReader):
            self._on_failed(effect.stream, DaemonError("This daemon has no readers for streams."))

    def _on_ready(self, stream: int) -> None:
        self._take(self._streams.reader_ready, stream, monotonic())

    def _on_read(
        self, stream: int, generation: int, start: int, stop: int, stats: Mapping[str, int]
    ) -> None:
        window = (stream, generation, start, stop)
        self._take(self._streams.window_read, *window, stats, monotonic())

    def _on_failed(self, stream: int, error: ArraydError) -> None:
        self._take(self._streams.stream_failed, stream, error, monotonic())
