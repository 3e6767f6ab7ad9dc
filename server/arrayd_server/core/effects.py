"""What the core wants done: `service.executor` performs it, in order, and feeds back results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from arrayd.errors import ArraydError
from arrayd.wire.grant import Grant
from arrayd_server.core.model import Asker, BlockMember


@dataclass(frozen=True, slots=True)
class Welcome:
    """The session is open, and holds these segments: each with the number of its grant."""

    holds: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class IntroduceYourself:
    """The session is unknown: it must say hello, then repeat its request."""


@dataclass(frozen=True, slots=True)
class AskAgain:
    """What was to be granted has just vanished: the request must be repeated."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a request that grants nothing has come to, as the client gets it."""

    fields: Mapping[str, Any]


Answer = Grant | ArraydError | Welcome | IntroduceYourself | AskAgain | Result


class Reply(NamedTuple):
    """Answer one item of a request."""

    to: Asker
    body: Answer


@dataclass(frozen=True, slots=True)
class ReportProgress:
    """Tell a waiter how far its load is."""

    to: Asker
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask a worker how big a source is; answer with `probed` or `failed`."""

    job: int
    identity: Any


@dataclass(frozen=True, slots=True)
class Measure:
    """Ask workers how big each member of a job is; answer with `measured` or `failed`."""

    job: int
    members: Sequence[BlockMember]


@dataclass(frozen=True, slots=True)
class Describe:
    """Ask a worker what a file holds; answer with `described` or `failed`."""

    job: int
    source: Any


@dataclass(frozen=True, slots=True)
class Fill:
    """Make the segment and load it; answer with `progress`, then `filled` or `failed`."""

    job: int
    segment: str


@dataclass(frozen=True, slots=True)
class Make:
    """Make and reserve a segment for a client to write; answer with `made` or `failed`."""

    job: int
    segment: str


@dataclass(frozen=True, slots=True)
class Seal:
    """Write the footer, prove that no writer is left; answer with `sealed` or `unsealable`."""

    job: int
    segment: str


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Write the footer of a sealed block anew: it has lost its name, also for a later run."""

    segment: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop working on a job; no answer is wanted."""

    job: int


@dataclass(frozen=True, slots=True)
class Inspect:
    """Ask the kernel whether anybody maps it; answer with `inspected`, again when that ends."""

    segment: str


@dataclass(frozen=True, slots=True)
class Share:
    """Let exactly the `Block.readers` open a segment; no event comes of it."""

    segment: str


@dataclass(frozen=True, slots=True)
class Trace:
    """Ask the kernel whether anybody of these process groups lives; answer with `traced`."""

    segment: str
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Unlink:
    """Remove the segment.

    Answer with `unlink_refused` (mapped, unless `force`) or later
    `freed`, and with `still_mapped` in between if somebody mapped it at the last moment.
    """

    segment: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class Recycle:
    """Let the pages of a segment go on under the name `heir`, unless somebody maps it.

    Answer with `recycled`; where that is not possible, as to `Unlink`.
    """

    segment: str
    heir: str


@dataclass(frozen=True, slots=True)
class StartReader:
    """Start the reader process of a stream; answer with `reader_ready` or `stream_failed`.

    It fills the ring in `segment`, whose generation is 0, and may keep rows in `share_segment`.
    """

    stream: int
    identity: Any
    segment: str
    share_segment: str | None


@dataclass(frozen=True, slots=True)
class ReadWindow:
    """Read the rows of positions [start, stop) into a ring; answer with `window_read`."""

    stream: int
    segment: str
    generation: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class ChangeRing:
    """Let the reader put what it is asked for from now on into another ring."""

    stream: int
    segment: str
    generation: int


@dataclass(frozen=True, slots=True)
class StopReader:
    """End the reader of a stream; no event comes of it."""

    stream: int


Work = Probe | Measure | Describe | Fill | Make | Seal | Cancel

Reading = StartReader | ReadWindow | ChangeRing | StopReader

Effect = (
    Reply | ReportProgress | Work | Reading | Inspect | Share | Trace | Unlink | Recycle | Rewrite
)
