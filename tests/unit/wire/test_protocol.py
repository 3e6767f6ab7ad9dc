"""The protocol: golden bytes, and what is refused when it arrives."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrayd import errors
from arrayd.source import Source
from arrayd.wire import protocol
from arrayd.wire.grant import Grant, Spec
from arrayd.wire.requests import FIELDS, parse_request
from tests.support.fake_readers import OPEN

NONCE = bytes(range(16))


def test_a_request_has_these_bytes() -> None:
    """The bytes of a request are fixed: changing them takes a new protocol version."""
    frame = protocol.request(NONCE, 7, "release", holds=[["arrayd-x-1", 5]])
    expected = (
        b"\x85\xa1v\x01\xa2id\x07\xa1s\xc4\x10"
        + NONCE
        + b"\xa2op\xa7release\xa5holds\x91\x92\xaaarrayd-x-1\x05"
    )
    assert frame == expected


def test_an_answer_has_these_bytes() -> None:
    """The bytes of a grant are fixed too."""
    grant = Grant("arrayd-x-1", Spec((2, 3), "<f4", "C", 4), 9, "/d/a.npy")
    frame = protocol.answer(7, 1, ok=grant.to_wire())
    assert frame == (
        b"\x84\xa1v\x01\xa2id\x07\xa1i\x01\xa2ok\x87\xa7segment\xaaarrayd-x-1\xa4spec\x84"
        b"\xa5shape\x92\x02\x03\xa5descr\xa3<f4\xa5order\xa1C\xa8itemsize\x04\xa3seq\t"
        b"\xa6source\xa8/d/a.npy\xa6sealed\xc3\xa6window\xc2\xa4lost\x00"
    )
    assert Grant.from_wire(protocol.decode(frame)["ok"]) == grant


def test_the_requests_of_a_stream_have_these_bytes() -> None:
    """Those that are sent for every batch are short."""
    frame = protocol.request(NONCE, 7, "stream.wait", consumer=2**40, cursor=300)
    assert frame == (
        b"\x86\xa1v\x01\xa2id\x07\xa1s\xc4\x10"
        + NONCE
        + b"\xa2op\xabstream.wait\xa8consumer\xcf\x00\x00\x01\x00\x00\x00\x00\x00"
        + b"\xa6cursor\xcd\x01,"
    )
    assert parse_request(protocol.decode(frame)).fields["cursor"] == 300
    frame = protocol.request(NONCE, 8, "stream.open", **OPEN)
    assert parse_request(protocol.decode(frame)).fields == OPEN


def test_the_requests_of_operators_have_these_bytes() -> None:
    """They say of whom, and nothing else."""
    begin = b"\x01\xa2id\x07\xa1s\xc4\x10" + NONCE + b"\xa2op"
    source = {"path": "/a"}
    assert protocol.request(NONCE, 7, "who", source=source) == (
        b"\x85\xa1v" + begin + b"\xa3who\xa6source\x81\xa4path\xa2/a"
    )
    assert protocol.request(NONCE, 7, "kick", pid=300) == (
        b"\x85\xa1v" + begin + b"\xa4kick\xa3pid\xcd\x01,"
    )
    assert protocol.request(NONCE, 7, "drain", on=True) == (
        b"\x85\xa1v" + begin + b"\xa5drain\xa2on\xc3"
    )
    assert protocol.request(NONCE, 7, "health") == b"\x84\xa1v" + begin + b"\xa6health"
    for pid in (0, -1, 1 << 32, True, None):
        with pytest.raises(protocol.Garbage, match="kick"):
            parse_request(protocol.decode(protocol.request(NONCE, 7, "kick", pid=pid)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"batch": 0},
        {"consumers": 0},
        {"position": -1},
        {"position": 2**63},
        {"limit": -1},
        {"seed": 2**64 - 1, "start": -1},
        {"grace": float("nan")},
        {"grace": None},
        {"grace": -1.0},
        {"share": -1},
        {"stat": [1]},
        {"fields": []},
        {"fields": [["x", "<f4", []]]},
        {"fields": [["x", "<f4", [-1], None]]},
        {"fields": [["x", 4, [], None]]},
        {"fields": [["x", "<f4", [], 4]]},
        {"fields": [["x" * 256, "<f4", [], None]]},
        {"fields": [["x", "<f4", [], None]] * 1001},
    ],
)
def test_what_is_no_stream_is_garbage(wrong: dict[str, Any]) -> None:
    """The bounds of each field are checked when the request arrives."""
    frame = protocol.request(NONCE, 8, "stream.open", **{**OPEN, **wrong})
    with pytest.raises(protocol.Garbage, match=r"stream\.open"):
        parse_request(protocol.decode(frame))


def test_every_op_has_a_handler_and_a_line_in_the_docs() -> None:
    """Checks, handlers and the docstring's table have the same requests."""
    from arrayd_server.service.handlers import HANDLERS

    assert set(HANDLERS) == set(FIELDS) - {"hello"}
    assert protocol.__doc__ is not None
    assert all(f"\n{op} " in protocol.__doc__ for op in FIELDS)


def test_another_version_learns_both() -> None:
    """A client of another protocol version learns the daemon's pid, version and the remedy."""
    message = {"v": 99, "id": 1, "s": NONCE, "op": "status"}
    with pytest.raises(errors.ProtocolMismatch, match=r"pid \d+.*protocol 1.*99.*arrayd stop"):
        parse_request(message)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"id": "1"},
        {"id": True},
        {"v": 1, "id": 1, "s": b"short", "op": "status"},
        {"v": 1, "id": 1, "s": NONCE, "op": ["get"]},
        {"v": 1, "id": 1, "s": NONCE, "op": "get", "items": 5},
        {"v": 1, "id": 1, "s": NONCE, "op": "get", "items": [{"source": 1}]},
        {"v": 1, "id": 1, "s": NONCE, "op": "release", "holds": [["a"]]},
        {"v": 1, "id": 1, "s": NONCE, "op": "create", "shape": [-1]},
    ],
)
def test_what_is_no_request_is_garbage(message: dict[object, object]) -> None:
    """Wrong ids, sessions, ops and fields are refused before anything looks at them."""
    with pytest.raises(protocol.Garbage):
        parse_request(protocol.decode(msgpack.packb(message)))


def test_an_unknown_request_comes_from_a_newer_client() -> None:
    """A daemon that does not know a request is too old, and its error says what to do."""
    frame = protocol.request(NONCE, 1, "append", segment="x")
    with pytest.raises(errors.ProtocolMismatch, match=r"no request 'append'.*older.*arrayd stop"):
        parse_request(protocol.decode(frame))


def test_deep_nesting_is_garbage() -> None:
    """A message nested thousands of levels deep neither crashes nor passes."""
    for depth in (1500, 50_000):
        with pytest.raises(protocol.Garbage):
            protocol.decode(b"\x81\xa1a" + b"\x91" * depth + b"\x01")


def _nested(inner: list[Any], _: int) -> list[Any]:
    return [inner]


@pytest.mark.parametrize(
    "source",
    [
        functools.reduce(_nested, range(30), []),
        {"path": "/x", "options": [0] * 20_000},
        {"path": "x" * 100_000},
        {"x" * 100_000: 1},
    ],
    ids=["deep", "many", "long", "long key"],
)
def test_a_source_is_small(source: object) -> None:
    """Sources and dtypes that are far deeper, larger or longer than real ones are refused."""
    source = source if isinstance(source, dict) else {"dtype": source}
    with pytest.raises(protocol.Garbage, match="source"):
        parse_request(protocol.decode(protocol.request(NONCE, 1, "info", source=source, stat=None)))


def test_a_hello_states_all_that_a_process_can_map() -> None:
    """65,530 mappings (vm.max_map_count) fit in one frame, whatever the numbers of the blocks."""
    holds = [f"arrayd-{0:010x}-{0:08x}-{10**6 + n}" for n in range(65_530)]
    who = {"pid": 1, "start": 1, "program": "x", "shm": [1, 1], "latest": 1}
    ends = [[hold, 2**31 - number] for number, hold in enumerate(holds)]
    for frame in (
        protocol.request(NONCE, 1, "hello", **who, holds=holds),
        protocol.request(NONCE, 1, "release", holds=ends),
    ):
        assert len(parse_request(protocol.decode(frame)).fields["holds"]) == 65_530


def test_a_million_lists_are_not_made() -> None:
    """A frame that would become a million objects is refused before it is unpacked."""
    frame = protocol.request(NONCE, 1, "hello", holds=[[]] * 1_000_000)
    with pytest.raises(protocol.Garbage, match="lists and maps"):
        protocol.decode(frame)
    assert len(protocol.decode(frame, answer=True)["holds"]) == 1_000_000


def test_a_frame_beyond_the_limit_is_garbage() -> None:
    """Size is checked before the frame is unpacked."""
    with pytest.raises(protocol.Garbage, match="more than"):
        protocol.decode(bytes(protocol.MAX_FRAME + 1))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(frame: bytes) -> None:
    """Whatever arrives, decoding ends in a request or in one of two errors."""
    with contextlib.suppress(protocol.Garbage, errors.ProtocolMismatch):
        parse_request(protocol.decode(frame))


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FIELDS)), st.data())
def test_random_fields_never_raise_anything_else(op: str, data: st.DataObject) -> None:
    """A well-formed envelope with any fields is a request or garbage."""
    fields = {key: data.draw(json) for key in FIELDS[op]}
    frame = protocol.request(NONCE, 1, op, **fields)
    with contextlib.suppress(protocol.Garbage):
        parse_request(protocol.decode(frame))


def test_errors_cross_the_wire_as_themselves() -> None:
    """Class, text and details of every error survive; an unknown code is the base class."""
    for name in errors._BY_CODE:
        error = errors._BY_CODE[name]("what happened", needed=5)
        back = errors.from_wire(protocol.decode(protocol.encode(errors.to_wire(error))))
        assert type(back) is type(error)
        assert (str(back), back.details) == ("what happened", {"needed": 5})
    assert type(errors.from_wire({"code": "FromTheFuture", "message": "x"})) is errors.ArraydError


DTYPES = [
    np.dtype("f8"),
    np.dtype(">i4"),
    np.dtype("S10"),
    np.dtype([("chr", "S10"), ("pos", "<i4"), ("pct", "<f4")]),
    np.dtype([("a", "<f4", (2, 3)), ("b", [("c", "u1"), ("d", "<M8[s]")])]),
    np.dtype({"names": ["x", "y"], "formats": ["<f4", "<f8"], "offsets": [0, 8], "itemsize": 24}),
    np.dtype([(("title", "name"), "<i2")]),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_cross_the_wire_whole(dtype: np.dtype) -> None:
    """Fields, titles, subarrays, offsets and byte order survive; ``dtype.str`` loses them."""
    source = Source.of("/data/x.bin", dtype=dtype, shape=(-1,))
    back = Source.from_wire(protocol.decode(protocol.encode(source.to_wire())))
    assert back == source
    assert back.dtype is not None
    assert (back.dtype.names, back.dtype.itemsize) == (dtype.names, dtype.itemsize)


ITEM = {"source": {"path": "/a.npy"}, "stat": None}


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("get", {"items": [ITEM], "missing": 0}),
        ("get", {"items": [{**ITEM, "locking": False}]}),
        ("prefetch", {"items": [{**ITEM, "locking": False}]}),
        ("info", {**ITEM, "deep": True}),
        ("evict", {"block": 1, "older": 60}),
    ],
)
def test_what_a_newer_client_asks_for_is_not_half_done(op: str, fields: dict[str, Any]) -> None:
    """A field that this version does not know may change what is asked for: refused, by name."""
    message = {"v": 1, "id": 1, "s": NONCE, "op": op, **fields}
    with pytest.raises(errors.ProtocolMismatch, match=rf"{op}: \w+ comes from a newer arrayd"):
        parse_request(message)


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("get", {"items": [{**ITEM, "_soon": 1}], "_why": "x"}),
        ("release", {"holds": [["arrayd-x-1", 5]], "reason": "x"}),
        ("status", {"since": 5}),
    ],
)
def test_what_a_newer_client_says_besides_is_ignored(op: str, fields: dict[str, Any]) -> None:
    """Hints, and unknown fields of requests that ask for nothing."""
    message = {"v": 1, "id": 1, "s": NONCE, "op": op, **fields}
    assert parse_request(message).op == op
