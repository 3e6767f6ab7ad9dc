"""The reader processes, as the core's effects have them start, read and stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Protocol

from arrayd.errors import ArraydError
from arrayd_server.core.effects import ChangeRing, Reading, ReadWindow, StartReader, StopReader
from arrayd_server.core.streams import Streams
from arrayd_server.streams.messages import StreamRequest
from arrayd_server.streams.readers import ReaderCallbacks


class WindowReaders(Protocol):
    """What is wanted of `streams.readers.Readers`: one reader process for each stream."""

    def start(self, stream: int, request: StreamRequest, ring: str, share: str | None) -> None:
        """Start the reader of a stream, to fill the segment at the path `ring`."""

    def read(self, stream: int, start: int, stop: int) -> None:
        """Have a window read into the present ring."""

    def change_ring(self, stream: int, generation: int, ring: str) -> None:
        """Have the windows that are asked for from now on read into another segment."""

    def stop(self, stream: int) -> None:
        """End the reader of a stream, if there is one; nothing is heard of it any more."""

    def close(self) -> None:
        """End all readers."""


class ReaderEffects:
    """Performs the effects on readers, and feeds back what they say.

    Parameters
    ----------
    make
        Makes the readers, whose news go to these callbacks.
    take
        Lets an event of the core happen.
    path
        Returns the path of a segment.
    """

    def __init__(
        self,
        make: Callable[[ReaderCallbacks], WindowReaders],
        streams: Streams,
        take: Callable[..., None],
        path: Callable[[str], str],
    ) -> None:
        self._readers = make(ReaderCallbacks(self._on_ready, self._on_read, self._on_failed))
        self._streams = streams
        self._take = take
        self._path = path

    def perform(self, effect: Reading) -> None:
        """Perform one effect."""
        match effect:
            case StartReader(stream, request, segment, share):
                kept = None if share is None else self._path(share)
                self._readers.start(stream, request, self._path(segment), kept)
            case ReadWindow(stream, _, _, start, stop):
                self._readers.read(stream, start, stop)
            case ChangeRing(stream, segment, generation):
                self._readers.change_ring(stream, generation, self._path(segment))
            case StopReader(stream):
                self._readers.stop(stream)

    def close(self) -> None:
        """End all readers."""
        self._readers.close()

    def _on_ready(self, stream: int) -> None:
        self._take(self._streams.reader_ready, stream, monotonic())

    def _on_read(
        self, stream: int, generation: int, start: int, stop: int, stats: Mapping[str, int]
    ) -> None:
        window = (stream, generation, start, stop)
        self._take(self._streams.window_read, *window, stats, monotonic())

    def _on_failed(self, stream: int, error: ArraydError) -> None:
        self._take(self._streams.stream_failed, stream, error, monotonic())
