"""Is what a command prints with ``--json`` what its schema says: every key, and no other."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from arrayd.cli import schemas


def strict(schema: Any) -> Any:
    """Return a schema that refuses keys that it does not name, as users' copies do not."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(one) for key, one in schema.items()}
    if isinstance(schema.get("properties"), dict):
        closed["additionalProperties"] = False
    return closed


def check(command: str, printed: str) -> Any:
    """Assert that a command has printed JSON of its schema; return it."""
    value = json.loads(printed, parse_constant=_no_constant)
    jsonschema.validate(value, strict(schemas.schema(command)))
    return value


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")
