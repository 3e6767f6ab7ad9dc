"""The reader processes, as the core's effects have them start, read and stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic

from arrayd.errors import ArraydError
from arrayd_server.core.effects import ChangeRing, Reading, ReadWindow, StartReader, StopReader
from arrayd_server.core.streams import Streams
from arrayd_server.streams.readers import ReaderPool


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
        readers: ReaderPool,
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

    def _on_ready(self, stream: int) -> None:
        self._take(self._streams.reader_ready, stream, monotonic())

    def _on_read(
        self, stream: int, generation: int, start: int, stop: int, stats: Mapping[str, int]
    ) -> None:
        window = (stream, generation, start, stop)
        self._take(self._streams.window_read, *window, stats, monotonic())

    def _on_failed(self, stream: int, error: ArraydError) -> None:
        self._take(self._streams.stream_failed, stream, error, monotonic())
