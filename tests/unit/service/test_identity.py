"""Aliases: what a request is found by, however its source is spelled on the wire."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from arrayd.errors import NoRoom, SourceChanged
from arrayd.source import Source
from arrayd.wire.codec import pack, unpack
from arrayd_server import identity
from arrayd_server.core.model import ContentKey

STAT = (1, 2, 3, 4, 5)

sources = st.builds(
    Source,
    path=st.sampled_from(["/x.npy", "/\udcff.h5"]),
    member=st.sampled_from([None, "m", ""]),
    format=st.sampled_from([None, "raw"]),
    dtype=st.sampled_from([None, np.dtype("f4"), np.dtype([("a", "i4"), ("b", "S2")])]),
    overflow=st.sampled_from(["error", "clip"]),
    rows=st.sampled_from([None, (1, None, None)]),
    options=st.sampled_from([(), (("skiprows", 1),)]),
)


@settings(deadline=None, max_examples=200)
@given(source=sources, data=st.data())
def test_equal_requests_have_equal_aliases(source: Source, data: st.DataObject) -> None:
    """Keys in any order, defaults that are written out, hints: all mean the same request."""
    wire: dict[str, Any] = unpack(pack(source.to_wire()))
    more: dict[str, Any] = {
        "member": None,
        "overflow": "error",
        "options": [],
        "v": 1,
        "_hint": 7,
        "cast": None,
    }
    more = {key: value for key, value in more.items() if key not in wire}
    wire |= {key: more[key] for key in data.draw(st.sets(st.sampled_from(sorted(more))))}
    wire = {key: wire[key] for key in data.draw(st.permutations(list(wire)))}
    assert Source.from_wire(wire) == source
    assert identity.alias(Source.from_wire(wire), STAT, wire) == identity.alias(source, STAT)


@settings(deadline=None, max_examples=100)
@given(one=sources, other=sources)
def test_other_requests_have_other_aliases(one: Source, other: Source) -> None:
    """Also where only a key of a newer version is different."""
    wires = unpack(pack(one.to_wire())), unpack(pack(other.to_wire()))
    aliases = [identity.alias(s, STAT, w) for s, w in zip((one, other), wires, strict=True)]
    assert (aliases[0] == aliases[1]) == (one == other)
    newer = wires[0] | {"missing": 0}
    assert identity.alias(Source.from_wire(newer), STAT, newer) != aliases[0]


def test_what_metadata_keep_is_told_apart() -> None:
    """The second alias is the key of the contents; a block of several files has that alone."""
    aliases = (b"asked", b"key", b"other words")
    assert identity.kept(aliases) == list(aliases)
    kinds = [type(one) for one in identity.kept(aliases)]
    assert kinds == [bytes, ContentKey, bytes]
    assert [type(one) for one in identity.kept([b"key"], linked=True)] == [ContentKey]
    assert identity.kept(()) == []


def test_an_error_about_a_file_that_another_has_asked_for() -> None:
    """It is told in the words of who gets it; its numbers stay."""
    hers = identity.of_source(Source(path="/hers/x.npy", cast=np.dtype("f4")), STAT, 1)
    his = identity.of_source(Source(path="/data/x.npy", cast=np.dtype("f4")), STAT, 2)
    text = "/hers/x.npy changed while /hers/x.npy (cast=float32) was read. Ask again."
    told = his.retold(SourceChanged(text, read=False), hers)
    assert str(told) == text.replace("/hers", "/data")
    assert (type(told), told.details) == (SourceChanged, {"read": False})
    same = NoRoom("no room", needed=3)
    assert hers.retold(same, hers) is same
