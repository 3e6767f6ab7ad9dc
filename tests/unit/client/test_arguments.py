"""Every argument and flag with values that make no sense: an ArraydError, at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayd
from arrayd import cli
from arrayd.errors import ArraydError, NoDaemon, SpecMismatch
from arrayd.source import Source
from tests.support.daemons import Daemon
from tests.support.processes import leaves_nothing_behind, save

Client = arrayd.Client

NO_TIME = [-1, math.nan, "1", True, [1], object(), -math.inf, 1j]
NO_WORD = ["x", "", 5, b"r", ["r"], np.zeros(2), object()]
NO_DTYPE = ["nonsense", object, 5, "", [("a", "O")], {"names": 1}, [[]], b"\xff", 1.5, object()]
NO_ROWS = [5, (0, 5), "0:5", slice(0, 0.5), slice(0, "a"), slice(None, None, 0), [0, 1], 1.5]
NO_NAME = ["", "a\0b", 5, b"name", ["n"], "x" * 256, object()]
NO_SHAPE = [-1, (3, -1), 1.5, "3", (2.0,), None, [[1]], 2**70, (2**40, 2**40), (1,) * 70, object()]
NO_FLAG = ["yes", 1, None, [], object()]
NO_SOURCE = [5, None, b"x.npy", ["x.npy"], 1.5, object(), np.zeros(2), "", "\0", slice(1), open]


def cases() -> list[Any]:
    """Return one test for each argument and value: a name, and the call."""
    calls: list[tuple[str, list[Any], Callable[[Client, str, Any], Any]]] = [
        ("get source", NO_SOURCE, lambda c, p, v: c.get(v)),
        ("get mode", NO_WORD, lambda c, p, v: c.get(p, mode=v)),
        ("get timeout", NO_TIME, lambda c, p, v: c.get(p, timeout=v)),
        ("get pin", [v for v in NO_TIME if v is not True], lambda c, p, v: c.get(p, pin=v)),
        ("get progress", ["x", 5, [1]], lambda c, p, v: c.get(p, progress=v)),
        ("get dtype", NO_DTYPE, lambda c, p, v: c.get(p, dtype=v)),
        ("get cast", NO_DTYPE, lambda c, p, v: c.get(p, cast=v)),
        ("get overflow", [*NO_WORD, None], lambda c, p, v: c.get(p, overflow=v)),
        ("get rows", NO_ROWS, lambda c, p, v: c.get(p, rows=v)),
        ("get order", NO_WORD, lambda c, p, v: c.get(p, order=v)),
        ("get format", NO_WORD, lambda c, p, v: c.get(p, format=v)),
        ("get dataset", ["", 5, b"x", ["x"], "x"], lambda c, p, v: c.get(p, dataset=v)),
        ("get option", [1, ",", open, 2**70], lambda c, p, v: c.get(p, delimiter=v)),
        ("get shape", NO_SHAPE[2:], lambda c, p, v: c.get(p, format="raw", dtype="u1", shape=v)),
        ("get offset", NO_SHAPE, lambda c, p, v: c.get(p, format="raw", dtype="u1", offset=v)),
        ("get foreign", [True], lambda c, p, v: c.get(p, keep=v)),
        ("get text", [2**70, -1, "x", 1.5], lambda c, p, v: c.get(p, format="text", skiprows=v)),
        ("get name", ["f4"], lambda c, p, v: c.get("name:x", cast=v)),
        ("many sources", ["x.npy", b"x", 5, None, Path("x")], lambda c, p, v: c.get_many(v)),
        ("many errors", NO_FLAG, lambda c, p, v: c.get_many([p], return_errors=v)),
        ("info source", NO_SOURCE, lambda c, p, v: c.info(v)),
        ("info timeout", NO_TIME, lambda c, p, v: c.info(p, timeout=v)),
        ("info foreign", ["mode", "pin", "progress"], lambda c, p, v: c.info(p, **{v: 1})),
        ("prefetch source", NO_SOURCE, lambda c, p, v: c.prefetch(v)),
        ("prefetch foreign", ["mode", "pin", "timeout"], lambda c, p, v: c.prefetch(p, **{v: 1})),
        ("evict source", NO_SOURCE, lambda c, p, v: c.evict(v)),
        ("evict foreign", ["mode", "pin", "timeout"], lambda c, p, v: c.evict(p, **{v: 1})),
        ("evict block", [1.5, b"x", [1], None, 2**70], lambda c, p, v: c.evict(block=v)),
        ("evict both", [1], lambda c, p, v: c.evict(p, block=v)),
        ("evict options", ["f4"], lambda c, p, v: c.evict(block=1, cast=v)),
        ("release", [None, 5, np.zeros(2), "x"], lambda c, p, v: c.release(v)),
        ("put values", [[[1, 2], [3]], None, object(), {"a": 1}], lambda c, p, v: c.put(v)),
        ("put masked", [np.ma.masked_equal([1, 2], 1)], lambda c, p, v: c.put(v)),
        ("put name", NO_NAME, lambda c, p, v: c.put([1], v)),
        ("put keep", NO_FLAG, lambda c, p, v: c.put([1], keep=v)),
        ("put timeout", NO_TIME, lambda c, p, v: c.put([1], timeout=v)),
        ("create shape", NO_SHAPE, lambda c, p, v: c.create(v).__enter__()),
        ("create dtype", NO_DTYPE, lambda c, p, v: c.create(3, v).__enter__()),
        ("create name", NO_NAME, lambda c, p, v: c.create(3, "f4", v).__enter__()),
        ("create order", [*NO_WORD, None], lambda c, p, v: c.create(3, order=v).__enter__()),
        ("create replace", NO_FLAG, lambda c, p, v: c.create(3, replace=v).__enter__()),
        ("create timeout", NO_TIME, lambda c, p, v: c.create(3, timeout=v).__enter__()),
    ]
    return [
        pytest.param(call, value, id=f"{name}-{i}")
        for name, values, call in calls
        for i, value in enumerate(values)
    ]


def test_what_makes_no_sense_is_an_error_of_arrayd(daemon: Daemon, tmp_path: Path) -> None:
    """No bare TypeError, no hang, nothing left behind; every bad value is reported."""
    save(tmp_path / "x.npy", np.arange(9))
    bad: list[str] = []
    with arrayd.connect(daemon.endpoint) as client:
        client.info(tmp_path / "x.npy")
        for case in cases():
            call, value = case.values
            began = time.monotonic()
            try:
                call(client, str(tmp_path / "x.npy"), value)
                bad.append(f"{case.id} {value!r:.60}: accepted")
            except ArraydError as error:
                if "bug" in str(error) or len(str(error)) < 20:
                    bad.append(f"{case.id} {value!r:.60}: {error}")
            except Exception as error:
                bad.append(f"{case.id} {value!r:.60}: {type(error).__name__}: {error}")
            if time.monotonic() - began > 5:
                bad.append(f"{case.id} {value!r:.60}: took long")
        assert bad == []
        leaves_nothing_behind(client)


@pytest.mark.parametrize("endpoint", [5, b"\0", "tcp://host:1", "ipc://", "a\0b", "x" * 200, [1]])
def test_what_is_no_endpoint(endpoint: Any) -> None:
    """An invalid endpoint is reported before anything is tried."""
    with pytest.raises((NoDaemon, SpecMismatch)):
        arrayd.connect(endpoint)


def test_options_beside_a_source_are_not_left_out(tmp_path: Path) -> None:
    """A `Source` has its options; others beside it would be silently ignored."""
    source = Source.of(tmp_path / "x.npy")
    for options in ({"rows": slice(3)}, {"cast": np.dtype("f8")}, {"delimiter": ","}):
        with pytest.raises(SpecMismatch, match="beside a Source"):
            Source.of(source, **options)
    assert Source.of(source, rows=None, overflow="error") is source


@pytest.mark.parametrize(
    "words",
    [
        "get {file} --timeout -1",
        "get {file} --timeout nan",
        "get {file} --pin -1",
        "get {file} --pin nan",
        "get {file} --overflow clip",
        "get {file} -o delimiter=,",
        "get {file} -o shape=3",
        "get {file} --dataset x",
        "get {file}:x",
        "info {file} --timeout -1",
        "info {file} -o timeout=1",
        "info {file} -o keep=True",
        "evict {file}",
        "evict --block -1",
        "collect {file} -o {file}.h5 --option mode=c",
    ],
)
def test_flags_that_make_no_sense(
    daemon: Daemon, tmp_path: Path, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command line reports it in one line, without a traceback."""
    save(tmp_path / "x.npy", np.arange(9))
    argv = words.format(file=tmp_path / "x.npy").split()
    assert cli.main([argv[0], "--endpoint", daemon.endpoint, *argv[1:]]) in (1, 2)
    complaint = capfd.readouterr().err
    assert complaint.startswith("arrayd: ")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ({"csat": "f2"}, "Did you mean cast=?"),
        ({"delimeter": ",", "skiprow": 1}, "Did you mean delimiter= and skiprows=?"),
        ({"xyzzy": 1}, ""),
    ],
)
def test_a_misspelt_option(
    client: arrayd.Client, tmp_path: Path, wrong: dict[str, Any], meant: str
) -> None:
    """The error names what may be meant: an argument of `get`, or an option of the format."""
    (tmp_path / "x.txt").write_text("1\n")
    with pytest.raises(SpecMismatch, match="has no option") as caught:
        client.get(tmp_path / "x.txt", **wrong)
    assert str(caught.value).endswith(meant or "usecols.")
