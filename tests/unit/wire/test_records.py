"""Records: one policy for data written by a newer or an older arrayd."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from arrayd.errors import ProtocolMismatch
from arrayd.wire.records import Record, later, received


@dataclass(frozen=True, slots=True)
class Inner(Record):
    """A record in a record."""

    n: int


@dataclass(frozen=True, slots=True)
class Old(Record):
    """What this version knows; one field was added after the first."""

    name: str
    inner: Inner
    many: tuple[Inner, ...] = ()
    pair: tuple[int, float] | None = None
    by: dict[str, int] = field(default_factory=dict)
    free: Any = field(default=None, metadata={"key": "anything"})
    flag: bool = False


@dataclass(frozen=True, slots=True)
class New(Old):
    """The same with a version that an older reader would misread."""

    VERSION: ClassVar[int] = 2


WIRE = {"name": "x", "inner": {"n": 1}}


def test_unknown_keys_are_ignored_and_carried_along() -> None:
    """At every level, and written back as they came; records are compared without them."""
    wire = {"name": "x", "inner": {"n": 1, "m": [2]}, "many": [{"n": 2, "o": {"p": 3}}], "q": b"4"}
    old = Old.from_wire(wire)
    assert old == Old("x", Inner(1), (Inner(2),))
    back = old.to_wire()
    assert back["inner"] == {"n": 1, "m": [2]}
    assert back["many"] == ({"n": 2, "o": {"p": 3}},)
    assert back["q"] == b"4"
    assert Old.from_wire(back).to_wire() == back
    assert hash(Inner.from_wire({"n": 1, "m": 2})) == hash(Inner(1))


def test_missing_keys_have_their_defaults() -> None:
    """Fields of the first version are required, later ones have defaults."""
    assert Old.from_wire(WIRE) == Old("x", Inner(1))
    with pytest.raises(TypeError, match="inner"):
        Old.from_wire({"name": "x"})


def test_fields_read_as_they_are_written() -> None:
    """Values of every type are read; lists become tuples."""
    old = Old("x", Inner(1), (Inner(2), Inner(3)), (1, 2.5), {"a": 1}, [1, {"b": 2}], flag=True)
    wire = old.to_wire()
    assert wire["anything"] == [1, {"b": 2}]
    assert Old.from_wire({**wire, "many": list(wire["many"]), "pair": [1, 2.5]}) == old


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": 5},
        {"name": None},
        {"inner": 5},
        {"inner": {"n": True}},
        {"inner": {"n": 1.0}},
        {"inner": {"n": "1"}},
        {"many": 5},
        {"many": "ab"},
        {"many": [5]},
        {"pair": [1]},
        {"pair": [1, 2, 3]},
        {"by": [1]},
        {"by": {"a": "b"}},
        {"flag": 1},
        {"v": "2"},
        {"v": 0},
        {"v": True},
    ],
)
def test_a_wrong_type_is_an_error(wrong: dict[str, Any]) -> None:
    """A known key with a value of another type is a TypeError."""
    with pytest.raises(TypeError):
        Old.from_wire({**WIRE, **wrong})


def test_the_version_decides() -> None:
    """A newer one is not read, whatever else is in it; an older one is."""
    new = New("x", Inner(1)).to_wire()
    assert new["v"] == 2
    assert "v" not in Old("x", Inner(1)).to_wire()
    with pytest.raises(ProtocolMismatch, match=r"Old: version 2 .* newer .* knows 1.*arrayd stop"):
        Old.from_wire(new)
    assert New.from_wire(WIRE) == New("x", Inner(1))
    assert New.from_wire(new) == New("x", Inner(1))


def test_who_acts_on_a_request_understands_it() -> None:
    """An unknown key may change what is asked for; one that is marked as a hint does not."""
    hinted = Old.from_wire({**WIRE, "_soon": 1})
    assert hinted.understand() is hinted
    with pytest.raises(ProtocolMismatch, match=r"Old: missing, swmr comes from a newer"):
        Old.from_wire({**WIRE, "swmr": True, "missing": 0, "_soon": 1}).understand()


def test_what_came_later_is_written_where_it_says_something() -> None:
    """A reader of the first version, which refuses unknown keys, then finds none."""

    @dataclass(frozen=True, slots=True)
    class Grown(Record):
        name: str
        flag: bool = False
        linked: bool | None = later(None)

    assert Grown("x").to_wire() == {"name": "x", "flag": False}
    assert Grown("x", linked=False).to_wire() == {"name": "x", "flag": False, "linked": False}
    for one in (Grown("x"), Grown("x", linked=False)):
        assert Grown.from_wire(one.to_wire()) == one


@pytest.mark.parametrize("sent", [None, 5, [], {"name": 5}, {"name": "x"}, object.__new__(Old)])
def test_what_no_version_we_know_has_sent(sent: object) -> None:
    """The error has the remedy, and is no bare TypeError."""
    with pytest.raises(ProtocolMismatch, match=r"^The answer is no Old that .*arrayd stop"):
        received(Old, sent, "The answer")


def test_what_is_written_is_in_the_order_of_the_fields() -> None:
    """Under their keys, nested records as maps, a later field only where it says something."""

    @dataclass(frozen=True, slots=True)
    class Mixed(Record):
        VERSION: ClassVar[int] = 3

        first: int
        added: int | None = later(None)
        inner: Inner | None = None
        kind: Any = field(default=None, metadata={"read": str, "write": lambda kind: kind.__name__})
        last: tuple[str, ...] = ()

    written = list(Mixed(1).to_wire().items())
    assert written == [("v", 3), ("first", 1), ("inner", None), ("kind", None), ("last", ())]
    full = Mixed(1, added=2, inner=Inner(3), kind=int, last=("a",), extra={"new": 4})
    assert list(full.to_wire().items()) == [
        ("v", 3),
        ("first", 1),
        ("added", 2),
        ("inner", {"n": 3}),
        ("kind", "int"),
        ("last", ("a",)),
        ("new", 4),
    ]
