"""Data that one process writes for another, which may have another version of arrayd.

A daemon outlives the environment it was started from, clients of several environments share
one daemon, and a daemon adopts the blocks of its predecessor. So whatever crosses from process
to process (requests, answers, the metadata of segments, loader messages) may have been written
by an arrayd that is newer or older than its reader. Each kind is a `Record`: a dataclass whose
fields are the keys of a map. One policy holds for all of them:

* a key that the reader does not know is ignored and **carried along**: it is in `Record.extra`,
  and `Record.to_wire` writes it back;
* a key that is missing has its field's default. The fields without a default are those of the
  first version. A field that was added afterwards is made by `later`; its default means *as it
  was before*, and it is written only where it differs from that: the first version (commit
  6381e51) refuses unknown keys, and removes a segment that has one;
* a key that is known has a value of its field's type, else the writer is at fault (TypeError);
* ``v`` decides. A record without it is of version 1. `Record.VERSION` is raised only when a
  reader that ignores what is new would go wrong; a record of a higher version than the reader
  knows is not read at all (ProtocolMismatch), and what it describes is left alone.

To ignore a key is harmless where a record *describes* something (an answer, metadata): its reader
knows less than there is to know. Where it *asks* for something, another thing would be done: a
daemon that does not know ``missing=0`` would answer with other values. So a reader that is to act
on a record calls `Record.understand`: unknown keys are a ProtocolMismatch, but for *hints*, which
begin with ``_``. A hint says only how a thing may be done, never what.

(pydantic and msgspec also read maps into classes, but drop unknown keys.)
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from arrayd.errors import ProtocolMismatch

Read = Callable[[Any], Any]

_R = TypeVar("_R", bound="Record")

REMEDY = (
    "Install one version of arrayd for both, or end the daemon with `arrayd stop` and ask again."
)


NOTHING: Mapping[Any, Any] = {}
"""No unknown keys: one for all records, for a daemon keeps four of a block."""


@dataclass(frozen=True, slots=True)
class Record:
    """Base of everything that is written for another process.

    Parameters
    ----------
    extra
        Keys of a newer version that are unknown here; `to_wire` writes them back. Records are
        compared without them.

    Notes
    -----
    A field's type is what is checked: ``str``, ``int``, ``float`` (an int will do), ``bool``,
    ``bytes``, ``Any``, a `Record`, ``X | None``, ``tuple[X, ...]``, ``tuple[X, Y]`` and
    ``dict[str, X]``; ``metadata["read"]`` and ``["write"]`` replace that. Its key is its name,
    or ``metadata["key"]``. What a type cannot say, `_check` does.
    """

    VERSION: ClassVar[int] = 1

    extra: Mapping[str, Any] = field(
        default_factory=lambda: NOTHING, kw_only=True, compare=False, repr=False, hash=False
    )

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """Return the record that a map describes.

        Raises
        ------
        ProtocolMismatch
            A newer version wrote it, in a way that this one would misread.
        TypeError, ValueError
            The map describes no such record.
        """
        if type(wire) is dict:
            reader = _readers.get(cls)
            if reader is None and cls in _tables:  # the second one; many processes get one array
                reader = _compiled_reader(cls)
            plain: Self | None = None if reader is None else reader(wire)
            if plain is not None:
                plain._check()
                return plain
        elif not isinstance(wire, Mapping):
            raise TypeError(f"a {type(wire).__name__} is no map")
        if "v" in wire:
            check_version(wire, cls.VERSION, cls.__name__)
        table = _tables.get(cls) or _table(cls)
        values, extra = {}, {}
        for key, value in wire.items():
            known = table.get(key)
            if known is None:
                extra[key] = value
            elif type(value) is known.kind:
                values[known.name] = value
            else:
                try:
                    values[known.name] = known.read(value)
                except TypeError as error:
                    raise TypeError(f"{key}: {error}") from None
        extra.pop("v", None)
        record = cls(**values, extra=extra or NOTHING)
        record._check()
        return record

    def to_wire(self) -> dict[str, Any]:
        """Return the msgpack-able map."""
        cls = type(self)
        wire = (_writers.get(cls) or _compiled(cls))(self)
        return wire | dict(self.extra) if self.extra else wire

    def _check(self) -> None:
        """Raise ValueError if a field has a value that makes no sense; its type is right."""

    def understand(self) -> Self:
        """Return the record, which has no unknown keys but hints.

        Raises
        ------
        ProtocolMismatch
            A newer version asks for something unknown here.
        """
        if self.extra:
            understand(self.extra, type(self).__name__)
        return self


def received(kind: type[_R], wire: Any, what: str) -> _R:
    """Return the record that another process has sent; `what` begins the error's text.

    Raises
    ------
    ProtocolMismatch
        This version cannot read it.
    """
    try:
        return kind.from_wire(wire)
    except (TypeError, ValueError) as error:
        raise ProtocolMismatch(
            f"{what} is no {kind.__name__} that this arrayd understands ({error}). {REMEDY}"
        ) from None


def later(default: Any, **metadata: Any) -> Any:
    """Return a field that the first version did not have; `default` means *as it was before*."""
    return field(default=default, metadata={"later": True, **metadata})


def check_version(wire: Mapping[str, Any], known: int, what: str) -> None:
    """Refuse a map of a version above `known`.

    Raises
    ------
    ProtocolMismatch
        It is newer.
    TypeError
        Its version is no number.
    """
    version = wire.get("v", 1)
    if type(version) is not int or version < 1:
        raise TypeError(f"{_short(version)} is no version")
    if version > known:
        raise ProtocolMismatch(
            f"{what}: version {version} comes from a newer arrayd; this one knows {known}. {REMEDY}"
        )


def understand(unknown: Iterable[Any], what: str) -> None:
    """Refuse unknown keys of a request, but for hints.

    Raises
    ------
    ProtocolMismatch
        There are some.
    """
    keys = sorted(str(key) for key in unknown if not is_hint(key))
    if keys:
        raise ProtocolMismatch(
            f"{what}: {_short(', '.join(keys))} comes from a newer arrayd, and this one does not "
            f"know what it means. {REMEDY}"
        )


def is_hint(key: Any) -> bool:
    """Return whether a key is one that any reader may ignore."""
    return isinstance(key, str) and key.startswith("_")


_PLAIN = (str, int, bool, float, bytes, types.NoneType)


# ---- from the types of the fields to how they are read ----------------------------------------


class _KnownField(NamedTuple):
    """How a field is read and written; a value of the type `kind` is taken as it is."""

    name: str
    kind: type | None
    read: Read
    write: Callable[[Any], Any]
    later: bool
    default: Any


_tables: dict[type[Record], dict[Any, _KnownField]] = {}


_writers: dict[type[Record], Callable[[Any], dict[str, Any]]] = {}


def _compiled(cls: type[Record]) -> Callable[[Any], dict[str, Any]]:
    """Return the function that makes the map of a record of this class, but for `extra`.

    A daemon writes one for each array that it grants. So it is made of source text, a line for
    each field, as dataclasses make their ``__init__``: a loop over the fields takes four times as
    long. All of the text is from the class itself.
    """
    known: dict[str, Any] = {"plain": _PLAIN}
    lines = ["wire = {} if self.VERSION == 1 else {'v': self.VERSION}"]
    for number, (key, one) in enumerate(_table(cls).items()):
        known[f"write{number}"], known[f"default{number}"] = one.write, one.default
        value = f"self.{one.name}"
        if one.write is not _same:
            value = f"{value} if type({value}) in plain else write{number}({value})"
        unless = f"if self.{one.name} != default{number}: " if one.later else ""
        lines.append(f"{unless}wire[{key!r}] = {value}")
    body = "\n".join(f"    {line}" for line in [*lines, "return wire"])
    exec(f"def write(self):\n{body}\n", known)  # noqa: S102 - the names of fields of our own
    _writers[cls] = known["write"]
    return _writers[cls]


_readers: dict[type[Any], Callable[[dict[Any, Any]], Any]] = {}


def _compiled_reader(cls: type[_R]) -> Callable[[dict[Any, Any]], _R | None]:
    """Return the function that makes a record of a map in which nothing is unusual; else None.

    It is: all keys are known and of their types. `Record.from_wire` says what else there may be.
    A client reads one record for each array that it is granted: made as in `_compiled`, in half
    of the time.
    """
    known: dict[str, Any] = {"cls": cls}
    lines, count = [], 0
    for number, (key, one) in enumerate(_table(cls).items()):
        known[f"read{number}"], known[f"default{number}"] = one.read, one.default
        known[f"kind{number}"] = one.kind
        value = f"value{number}"
        if one.default is MISSING:
            count += 1
            lines.append(f"{value} = wire[{key!r}]")
        else:
            lines += [f"{value} = default{number}", f"if {key!r} in wire:", "    count += 1"]
            lines.append(f"    {value} = wire[{key!r}]")
        lines += [f"if type({value}) is not kind{number}:", f"    {value} = read{number}({value})"]
    lines = [f"count = {count}", *lines, "if len(wire) != count:", "    return None"]
    words = ", ".join(f"{one.name}=value{i}" for i, one in enumerate(_table(cls).values()))
    body = "\n".join(f"        {line}" for line in [*lines, f"return cls({words})"])
    unusual = "    except (KeyError, TypeError, ValueError):\n        return None\n"
    exec(f"def read(wire):\n    try:\n{body}\n{unusual}", known)  # noqa: S102 - as above
    _readers[cls] = known["read"]
    return _readers[cls]


def _table(cls: type[Record]) -> dict[Any, _KnownField]:
    """Return the fields of a class by their keys."""
    if cls not in _tables:
        _tables[cls] = _made_table(cls)
    return _tables[cls]


def _made_table(cls: type[Record]) -> dict[Any, _KnownField]:
    hints = typing.get_type_hints(cls)
    table = {}
    for one in fields(cls):
        if one.name != "extra":
            own = one.metadata
            hint = hints[one.name]
            read = own["read"] if "read" in own else _reader(hint)
            kind = None if "read" in own else _kind(hint)
            write, later = own.get("write", _writer(hint)), own.get("later", False)
            table[own.get("key", one.name)] = _KnownField(
                one.name, kind, read, write, later, one.default
            )
    return table


def _kind(hint: Any) -> type | None:
    """Return the type whose values need no reading; None if there is none."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (one for one in typing.get_args(hint) if one is not types.NoneType)
    return hint if hint in _PLAIN else None


def _writer(hint: Any) -> Callable[[Any], Any]:
    """Return how a value is written."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (tuple, typing.Union, types.UnionType):
        return _same if set(arguments) <= {*_PLAIN, ...} else _plain
    return _same if hint in _PLAIN else _plain


def _reader(hint: Any) -> Read:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return _same
    if origin in (typing.Union, types.UnionType):
        (inner,) = (one for one in arguments if one is not types.NoneType)
        read = _reader(inner)
        return lambda value: None if value is None else read(value)
    if origin is tuple:
        return _tuple_reader(arguments)
    if origin is dict:
        return _dict_reader(_reader(arguments[1]))
    if issubclass(hint, Record):
        record: Read = hint.from_wire
        return record
    return _exact(hint)


def _same(value: Any) -> Any:
    return value


def _exact(kind: type) -> Read:
    kinds = (int, float) if kind is float else (kind,)

    def read(value: Any) -> Any:
        if type(value) not in kinds:
            raise TypeError(f"{_short(value)} is no {kind.__name__}")
        return value

    return read


def _tuple_reader(arguments: tuple[Any, ...]) -> Read:
    if arguments[-1] is Ellipsis:
        each, count = [_reader(arguments[0])], None
    else:
        each, count = [_reader(one) for one in arguments], len(arguments)

    kind = _kind(arguments[0]) if count is None else None
    kinds = None if count is None else [_kind(one) for one in arguments]

    def read(value: Any) -> Any:
        if kind is not None and type(value) is list and set(map(type, value)) <= {kind}:
            return tuple(value)
        if kinds is not None and type(value) is list and [*map(type, value)] == kinds:
            return tuple(value)
        if not isinstance(value, (list, tuple)) or count not in (None, len(value)):
            raise TypeError(f"{_short(value)} is no list of {'any' if count is None else count}")
        readers = each * len(value) if count is None else each
        return tuple(reader(item) for reader, item in zip(readers, value, strict=True))

    return read


def _dict_reader(reader: Read) -> Read:
    def read(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise TypeError(f"{_short(value)} is no map")
        return {str(key): reader(item) for key, item in value.items()}

    return read


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_wire()
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
