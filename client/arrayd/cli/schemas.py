"""What ``--json`` prints: the JSON Schema (draft 2020-12) of each command's output.

Those of dataclasses are made of their types, and described by the *Parameters* of their
docstrings, so that they cannot differ from them. Keys may be added in later versions; a key that
is not in ``required`` is left out where it says nothing.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable
from typing import Any

import numpy as np

from arrayd.common.findings import Finding
from arrayd.datasets.report import CastReport
from arrayd.results.info import Info, LinkedFile
from arrayd.results.status import DaemonStatus
from arrayd.results.uses import Uses

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null"}

_PARAMETERS = re.compile(r"Parameters\n-+\n(.*?)(?:\n\n\S|\Z)", re.DOTALL)
_ENTRY = re.compile(r"(?m)^(\S.*)\n((?:(?: .*)?(?:\n|\Z))+)")

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
SHAPE: Schema = {"type": "array", "items": {"type": "integer"}}
ORDER: Schema = {"enum": ["C", "F"]}
DTYPE: Schema = {
    "type": ["string", "array", "object"],
    "description": "As in the header of a .npy file: '<f4', or a list of fields; else a map.",
}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(optional: Schema | None = None, /, **properties: Schema) -> Schema:
    """Return the schema of a map with these keys, and perhaps the `optional` ones."""
    required = list(properties)
    return {
        "type": "object",
        "properties": {**properties, **(optional or {})},
        "required": required,
    }


def _about(words: str, schema: Schema) -> Schema:
    return {**schema, "description": words}


# ---- of dataclasses ------------------------------------------------------------------------------


def of_class(cls: type[Any]) -> Schema:
    """Return the schema of a dataclass as `to_json` and `dataclasses.asdict` write it."""
    hints, told = typing.get_type_hints(cls), described(cls)
    properties, required = {}, []
    for field in dataclasses.fields(cls):
        if field.name == "extra":  # what a newer daemon says besides
            continue
        key = field.metadata.get("key", field.name)
        schema = _of_hint(hints[field.name])
        properties[key] = _about(told[field.name], schema) if field.name in told else schema
        if not field.metadata.get("later"):
            required.append(key)
    summary = (inspect.getdoc(cls) or "").partition("\n")[0]
    return {
        "type": "object",
        "description": summary,
        "properties": properties,
        "required": required,
    }


def described(cls: type[Any]) -> dict[str, str]:
    """Return what the docstring of a class, or of those it is made of, says of its fields."""
    told: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        found = _PARAMETERS.search(inspect.cleandoc(one.__doc__ or ""))
        for names, words in _ENTRY.findall(found[1] if found else ""):
            told |= dict.fromkeys(names.split(", "), " ".join(words.split()))
    return told


def _of_hint(hint: Any) -> Schema:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if np.dtype in (hint, origin):
        return DTYPE
    if origin is tuple:
        return _list(_of_hint(arguments[0]))
    if origin is dict:
        return {"type": "object", "additionalProperties": _of_hint(arguments[1])}
    if origin in (typing.Union, types.UnionType):
        (inner,) = (one for one in arguments if one is not types.NoneType)
        return _nullable(_of_hint(inner))
    return of_class(hint)


# ---- of commands ---------------------------------------------------------------------------------


def _get() -> Schema:
    array = _object(
        {"attach": _about("With --attach: a line of Python that attaches it.", TEXT)},
        source=TEXT,
        shape=SHAPE,
        dtype=DTYPE,
        order=ORDER,
        bytes=WHOLE,
        block=_about("The name of its segment in /dev/shm.", TEXT),
        offset=_about("Where it begins in the segment, in bytes.", WHOLE),
    )
    return _object(seconds=NUMBER, arrays=_list({"anyOf": [array, _failed()]}))


def _failed() -> Schema:
    """Return the schema of a source that cannot be had."""
    details = {"type": "object", "description": "The numbers of the message, for programs."}
    error = _object(code=_about("The class of the error.", TEXT), message=TEXT, details=details)
    return _object(source=TEXT, error=error)


def _info() -> Schema:
    problem = _about("Why it cannot be loaded; null: it can.", _nullable(TEXT))
    member = _object(name=TEXT, shape=SHAPE, dtype=DTYPE, problem=problem)
    of_file = described(Info)
    found = _object(
        source=TEXT,
        format=_about(of_file["format"], TEXT),
        bytes=_about(of_file["bytes"], WHOLE),
        shape=_about(of_file["shape"], _nullable(SHAPE)),
        dtype=_nullable(DTYPE),
        order=_nullable(ORDER),
        unit=_about(of_file["unit"], _nullable(WHOLE)),
        members=_list(member),
        files=_about(of_file["files"], _list(of_class(LinkedFile))),
    )
    return _list({"anyOf": [found, _failed()]})


def _report() -> Schema:
    one = of_class(CastReport)
    derived = {"bytes_before": WHOLE, "bytes_after": WHOLE, "same": NUMBER, "verdict": TEXT}
    for name, schema in {**derived, "scale": _nullable(NUMBER)}.items():
        about = inspect.getdoc(getattr(CastReport, name)) or ""
        one["properties"][name] = _about(about.partition("\n")[0], schema)
        one["required"].append(name)
    fields = _about(
        "By the name of a field; the empty name where there are none.",
        {"type": "object", "additionalProperties": one},
    )
    return _object(
        source=TEXT, shape=SHAPE, dtype=DTYPE, reports=_list(_object(target=DTYPE, fields=fields))
    )


def _evict() -> Schema:
    errors = _about("Those of sources that were not freed, if there are any.", _list(_failed()))
    return _object(
        {"errors": errors},
        blocks=_about("How many were freed.", WHOLE),
        bytes=_about("What they took of the budget.", WHOLE),
        arrays=_about("In these blocks: one of several small files has many.", WHOLE),
    )


def _kick() -> Schema:
    return _object(
        sessions=_about("How many have ended.", WHOLE),
        holds=_about("How many have ended with them.", WHOLE),
        program=TEXT,
        uid=WHOLE,
    )


def _health() -> Schema:
    return _object(
        healthy={"type": "boolean"},
        words=_about("What is said without --json.", TEXT),
        pid=_about("Of the daemon; null: it has not answered.", _nullable(WHOLE)),
        milliseconds=_about("Until it answered.", NUMBER),
    )


def _stop() -> Schema:
    return _object(
        endpoint=TEXT,
        pid=WHOLE,
        ended=_about("False: it still gives memory back.", {"type": "boolean"}),
    )


_OF: dict[str, Callable[[], Schema]] = {
    "status": lambda: of_class(DaemonStatus),
    "get": _get,
    "info": _info,
    "evict": _evict,
    "who": lambda: of_class(Uses),
    "kick": _kick,
    "drain": _stop,
    "stop": _stop,
    "doctor": lambda: _list(of_class(Finding)),
    "health": _health,
    "report": _report,
}

COMMANDS = tuple(_OF)
"""The commands that have ``--json``."""


def schema(command: str) -> Schema:
    """Return the JSON Schema of what a command prints with ``--json``."""
    return {"$schema": DIALECT, "title": f"arrayd {command} --json", **_OF[command]()}
