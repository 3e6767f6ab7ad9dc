"""Streams from a request to the readers and back, with real segments and fake readers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arrayd.errors import BadFile, NoRoom, SpecMismatch
from arrayd.results.status_table import Status
from arrayd.wire import layout
from arrayd.wire.ring import RingField, RingLayout
from arrayd_server.segments.scope import Scope
from arrayd_server.service.page_threads import SMALL
from arrayd_server.stream_identity import StreamIdentity
from tests.support.fake_readers import ME, OPEN, YOU, Bench, FakeReaders


@pytest.fixture
def readers() -> FakeReaders:
    """Return readers that the test answers for."""
    return FakeReaders()


@pytest.fixture
def scope(tmp_path: Path) -> Iterator[Scope]:
    """Return a scope."""
    with Scope(f"ipc://{tmp_path}/sock") as entered:
        yield entered


@pytest.fixture
def bench(scope: Scope, readers: FakeReaders) -> Iterator[Bench]:
    """Return a daemon with two sessions."""
    made = Bench(scope, readers)
    yield made
    made.close()


def opened(bench: Bench, nonce: bytes = ME, **changes: Any) -> dict[str, Any]:
    """Open a stream; return the answer."""
    answer = bench.call("stream.open", nonce, **{**OPEN, **changes})
    return dict(answer.fields)


def test_from_a_request_to_rows_and_back(bench: Bench, readers: FakeReaders) -> None:
    """Open, read, wait, advance, close: the reader is asked, and at the end nothing is left."""
    stream = opened(bench)
    assert stream["slots"] == 64
    ring = RingLayout.of([RingField("x", "<f4", (3,)), RingField("y", "<i4", ())], 64)
    size = layout.of_size(ring.nbytes, os.stat(f"/dev/shm/{stream['segment']}").st_size).size
    assert readers.said == [("start", 1, size)]
    assert readers.identity.fields[0].cast == "<f4"
    readers.on_ready(1)
    assert readers.said[1:] == [("read", 1, 0, 4), ("read", 1, 4, 12)]
    wait = bench.ask("stream.wait", consumer=stream["consumer"], cursor=0)
    assert not bench.answered(wait)
    readers.on_read(1, 0, 0, 4, {"bytes_read": 4096, "bytes_used": 64})
    assert bench.answer(wait).fields == {"head": 4}
    assert bench.call("stream.advance", consumer=stream["consumer"], cursor=3).fields == {}
    assert readers.said[3:] == [("read", 1, 12, 28)]
    bench.ask("stream.close", consumer=stream["consumer"])
    assert readers.said[4:] == [("stop", 1)]
    assert not os.path.exists(f"/dev/shm/{stream['segment']}")


def test_a_consumer_redeems_its_ring(bench: Bench) -> None:
    """It holds the unsealed block then; its session's end gives all up."""
    stream = opened(bench)
    grant = bench.call("redeem", segment=stream["segment"], token=b"")
    assert (grant.segment, grant.sealed) == (stream["segment"], False)
    bench.end(ME)
    assert [*bench.registry.sessions] == [YOU]


def test_two_sessions_share_a_reader(bench: Bench, readers: FakeReaders) -> None:
    """Whatever ring the second would have liked; another seed is another stream."""
    one, two = opened(bench), opened(bench, YOU, slots=32, share=10, scratch="/tmp")
    assert (one["segment"], one["slots"]) == (two["segment"], two["slots"])
    assert opened(bench, YOU, seed=8)["segment"] != one["segment"]
    assert [said[0] for said in readers.said] == ["start", "start"]


def test_windows_are_whole_where_each_is_decoded(bench: Bench, readers: FakeReaders) -> None:
    """Half the ring, one at a time; the reader knows that it is to keep nothing."""
    opened(bench, windowed=True, batch=32)
    assert readers.identity.windowed
    assert Status.from_wire(bench.status()).streams[0].windowed
    readers.on_ready(1)
    assert [said for said in readers.said if said[0] == "read"] == [("read", 1, 0, 32)]
    readers.on_read(1, 0, 0, 32, {})
    assert readers.said[-1] == ("read", 1, 32, 64)


def test_a_share_has_a_segment_of_its_own(bench: Bench, readers: FakeReaders) -> None:
    """Its size is that of a ring of so many rows."""
    stream = opened(bench, share=1000)
    number = bench.ask("stream.wait", consumer=stream["consumer"], cursor=0)
    bench.run_until(lambda: bool(readers.said))
    ((_, _, ring, share),) = readers.said
    assert share > ring
    assert not bench.answered(number)


def test_the_others_go_on_in_another_ring(bench: Bench, readers: FakeReaders) -> None:
    """The daemon's alarm rings by itself; the reader changes, and the answer names the ring."""
    fast, slow = opened(bench, slots=4, grace=0.02), opened(bench, YOU, slots=4, grace=0.02)
    assert fast["segment"] == slow["segment"]
    readers.on_ready(1)
    for position in range(4):
        readers.on_read(1, 0, position, position + 1, {})
    wait = bench.ask("stream.wait", consumer=fast["consumer"], cursor=4)
    bench.run_until(lambda: ("change", 1, 1) in readers.said)
    readers.on_read(1, 1, 4, 5, {})
    news = bench.answer(wait).fields
    assert (news["head"], news["first"]) == (5, 4)
    assert news["ring"] != fast["segment"]
    assert os.path.exists(f"/dev/shm/{fast['segment']}")


def test_an_error_of_a_reader(bench: Bench, readers: FakeReaders) -> None:
    """It reaches who waits, as it is."""
    stream = opened(bench)
    error = BadFile("/data/x.npy is truncated")
    wait = bench.ask("stream.wait", consumer=stream["consumer"], cursor=0)
    readers.on_failed(1, error)
    assert bench.answer(wait) is error
    assert readers.said[-1] == ("stop", 1)


def test_a_cancelled_open_is_undone(bench: Bench, readers: FakeReaders) -> None:
    """Before its ring is made, which of a large one takes a thread some time."""
    number = bench.ask("stream.open", **{**OPEN, "slots": SMALL})
    bench.ask("cancel", request=number)
    assert not bench.streams.table.streams
    assert readers.said == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start": 5, "stop": 5}, r"rows \[5:5\] has none"),
        ({"fields": [["x", "nonsense", [], None]]}, "x: the dtypes 'nonsense', None: "),
        ({"fields": [["x", "<f4", [], "O"]]}, "x: a row has objects"),
        (
            {"fields": [["x", "<f4", [2**62, 4], None]]},
            r"x: a row .* exceeds 2\*\*63",
        ),
        ({"slots": 2**62}, "A ring of 4611686018427387904 rows"),
    ],
)
def test_what_is_no_stream(bench: Bench, changes: dict[str, Any], words: str) -> None:
    """A typed error says which part it is."""
    error = bench.call("stream.open", **{**OPEN, **changes})
    assert isinstance(error, SpecMismatch)
    with pytest.raises(SpecMismatch, match=words):
        raise error


def test_a_ring_beyond_the_budget(bench: Bench, readers: FakeReaders) -> None:
    """NoRoom has the numbers, and names the ring."""
    error = bench.call("stream.open", **{**OPEN, "slots": 10**6})
    assert isinstance(error, NoRoom)
    assert "ring of train.manifest[0:100] (x, y; exact, seed 7) needs" in str(error)
    assert readers.said == []


def _key(**changes: Any) -> bytes:
    return StreamIdentity.of({**OPEN, **changes}).key


def test_the_key_is_of_the_rows_and_their_order() -> None:
    """The size of ring and share, and what becomes of decoded rows, are no part of it."""
    key = _key()
    for same in ({"slots": 1}, {"share": 5}, {"scratch": "/x"}, {"windowed": True}):
        assert _key(**same) == key
    for other in ({"seed": 8}, {"stop": 99}, {"kind": "block"}, {"stat": None}, {"ids": "/i"}):
        assert _key(**other) != key


def test_the_status_has_the_streams(bench: Bench, readers: FakeReaders) -> None:
    """As the client reads them, with the process of each consumer."""
    opened(bench)
    readers.on_ready(1)
    readers.on_read(1, 0, 0, 4, {"bytes_read": 4096, "bytes_used": 64})
    (stream,) = Status.from_wire(bench.status()).streams
    (consumer,) = stream.consumers
    assert (stream.head, stream.planned, stream.rows, stream.order) == (4, 28, 100, "exact")
    assert (consumer.pid, consumer.program, consumer.lag) == (os.getpid(), "train.py", 4)
    assert stream.source == "train.manifest[0:100] (x, y; exact, seed 7)"
