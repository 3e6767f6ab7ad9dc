"""The schemas of what commands print as JSON: valid, described, and of all that there is."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from arrayd import cli
from arrayd.cli import schemas
from arrayd.results.status import (
    DaemonStatus,
    FailureStatus,
    JobStatus,
    ProcessStatus,
    QuotaStatus,
    UserSum,
)
from arrayd.results.uses import Uses
from tests.support.schemas import check
from tests.unit.client.test_status import IDLE, LOADING, block, status
from tests.unit.client.test_status_streams import STREAM

WITHOUT = {
    *("serve", "top", "demo", "completion", "schema"),  # a program, a screen, a show, a file, JSON
    *("collect", "pack", "list", "install-service"),  # they write files, and say so in a line
    *("plan", "receipt"),  # a text for people; `arrayd.dataset(…).plan()` and `Receipt` have more
    *("clean", "config"),  # the server's programs: a line for each name, or each error
}
"""The commands that have no ``--json``, and why."""


def commands_with_json() -> set[str]:
    """Return the commands whose parser takes ``--json``."""
    (subparsers,) = (one for one in cli.build_parser()._actions if isinstance(one.choices, dict))
    assert isinstance(subparsers.choices, dict)
    found: dict[str, Any] = subparsers.choices
    return {name for name, parser in found.items() if "--json" in parser._option_string_actions}


def test_every_command_has_a_schema_or_a_reason() -> None:
    """No command escapes: it has ``--json`` and a schema, or is listed with the reason."""
    assert commands_with_json() == set(schemas.COMMANDS)
    assert {*schemas.COMMANDS} | WITHOUT == {*cli.COMMANDS}
    assert not {*schemas.COMMANDS} & WITHOUT


@pytest.mark.parametrize("command", schemas.COMMANDS)
def test_they_are_schemas(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``arrayd schema`` prints it, and it is one of the dialect that it names."""
    assert cli.main(["schema", command]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"] == schemas.DIALECT
    jsonschema.Draft202012Validator.check_schema(schema)


def test_a_status_with_all_that_it_can_have() -> None:
    """Blocks in every state, work without a block, streams, users and failures."""
    process = ProcessStatus(7, 0, "x")
    whole = status(
        block(mapped_by=(7,), members=3, eta=1.5, name="x"),
        IDLE,
        LOADING,
        jobs=(JobStatus("probing", "/x", 0, IDLE.waiters, 1.0),),
        streams=(STREAM,),
        users=(UserSum(0, 1, 2, 3), UserSum(None, 1, 2, 3)),
        failures=(FailureStatus("/x", "BadFile", "no", 1.0, (process,)),),
        quotas=(QuotaStatus("@lab", None, 7, 1, 2, 3, 4, 5, {"bytes": 9}),),
        spare=5,
        draining=True,
    )
    assert check("status", json.dumps(whole.to_json()))["users"][1]["uid"] is None
    check("who", json.dumps(Uses((block(), IDLE), whole.jobs).to_json()))


def test_what_fields_mean_is_said() -> None:
    """By the docstrings of their classes; also where one entry is of several fields."""
    told = schemas.described(DaemonStatus)
    assert told["held"] == told["budget"] != ""
    found = schemas.of_class(DaemonStatus)["properties"]["blocks"]["items"]
    assert found["properties"]["number"]["description"] == "As ``arrayd evict --block`` takes it."
    assert "descr" in found["properties"]
    assert {"eta", "mapped_by", "members"}.isdisjoint(found["required"])


def test_what_differs_is_refused() -> None:
    """The check itself: a key too many, one too few, another type, no JSON."""
    good = {"blocks": 1, "bytes": 2, "arrays": 1}
    check("evict", json.dumps(good))
    for bad in ({**good, "more": 1}, {"blocks": 1}, {**good, "bytes": "2"}):
        with pytest.raises(jsonschema.ValidationError):
            check("evict", json.dumps(bad))
    with pytest.raises(AssertionError, match="no JSON"):
        check("evict", json.dumps({**good, "bytes": float("nan")}))
