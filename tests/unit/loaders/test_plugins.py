"""Formats of other packages: found, loaded, and what happens if something is wrong with one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrayd.errors import (
    ArraydError,
    BadFile,
    LoadError,
    MissingDependency,
    SourceNotFound,
    SpecMismatch,
)
from arrayd.source import Source
from arrayd_server.loaders import formats, plugins
from arrayd_server.loaders.recognise import recognised
from arrayd_server.loaders.validation import os_errors
from tests.support import fake_packages

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give ``install(package, {format: module}, module=code)``: for this process and test alone."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    before = set(sys.modules)

    def run(package: str, names: dict[str, str], **modules: str) -> None:
        fake_packages.install(tmp_path / "site", package, names, **modules)
        forget()

    def forget() -> None:
        plugins.installed.cache_clear()
        plugins.load.cache_clear()

    yield run
    forget()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def loaded(path: Path, **options: Any) -> np.ndarray[Any, Any]:
    """Return the values of a file, through whichever format."""
    source = recognised(Source.of(path, **options))
    plan = formats.probe(source)
    module = formats.load_format(source.resolved_format())
    chunks = [chunk.copy() for part in plan.parts for chunk in module.fill(source, plan, part)]
    return np.concatenate([np.empty(0, plan.dtype), *map(np.ravel, chunks)])


def test_a_plugin_reads_its_files(tmp_path: Path, install: Install) -> None:
    """By its suffix or its name, with options of its own."""
    install("linelib", {"lines": "linelib"}, linelib=fake_packages.LINES)
    for name in ("a.lines", "b.LINES", "c.txt"):
        (tmp_path / name).write_bytes(b"abc\n\nde\n")
    assert loaded(tmp_path / "a.lines").tolist() == [3, 0, 2]
    assert loaded(tmp_path / "b.LINES", times=2).tolist() == [6, 0, 4]
    assert loaded(tmp_path / "c.txt", format="lines").tolist() == [3, 0, 2]
    assert recognised(Source.of(tmp_path / "a.lines")).format == "lines"
    with pytest.raises(SpecMismatch, match="format lines has no option skip"):
        loaded(tmp_path / "a.lines", skip=1)
    with pytest.raises(SpecMismatch, match="a lines file holds one array"):
        loaded(tmp_path / "a.lines", dataset="x")


def test_own_formats_are_not_replaced(tmp_path: Path, install: Install) -> None:
    """Neither a name nor a suffix of arrayd's, nor what the first bytes say."""
    thief = fake_packages.LINES.replace('(".lines",', '(".npy", ".npz", ".txt", ".lines",')
    install("thief", {"npy": "thief", "lines": "thief"}, thief=thief)
    assert "npy" not in plugins.installed()
    np.save(tmp_path / "a.npy", np.arange(3.0))
    (tmp_path / "b.lines").write_bytes((tmp_path / "a.npy").read_bytes())
    (tmp_path / "c.txt").write_text("1\n2\n")
    assert loaded(tmp_path / "a.npy").tolist() == [0, 1, 2]
    assert loaded(tmp_path / "b.lines").tolist() == [0, 1, 2]
    assert loaded(tmp_path / "c.txt").tolist() == [1, 2]


def test_an_unknown_format_lists_those_known(tmp_path: Path, install: Install) -> None:
    """The error says what the daemon has; a name is never a way to a module of arrayd's."""
    install("linelib", {"lines": "linelib"}, linelib=fake_packages.LINES)
    (tmp_path / "a.xyz").write_bytes(b"\0\1\2")
    for name in ("xls", "base", "hdf5.loader", "plugins"):
        with pytest.raises(SpecMismatch, match=rf"'{name}': the daemon has npy, .*lines.*stop`"):
            formats.look(Source.of(tmp_path / "a.xyz", format=name))
    with pytest.raises(SpecMismatch, match=r"suffix \.xyz names no format"):
        formats.look(Source.of(tmp_path / "a.xyz"))


BROKEN: list[tuple[str, type[ArraydError], str]] = [
    ("import nowhere_to_be_found", MissingDependency, "needs nowhere_to_be_found.*pip install"),
    ("1 / 0", LoadError, "import fails with ZeroDivisionError"),
    ("def", LoadError, "import fails with SyntaxError"),
    ("raise SystemExit(3)", LoadError, "import fails with SystemExit"),
    ("SUFFIXES = ('.odd',)", LoadError, "no functions probe and fill"),
    (fake_packages.LINES + "SUFFIXES = '.odd'", LoadError, "SUFFIXES are '.odd'"),
    (fake_packages.LINES + "SUFFIXES = ('odd',)", LoadError, "SUFFIXES are"),
]


@pytest.mark.parametrize(("code", "error", "says"), BROKEN)
def test_a_broken_plugin_costs_its_own_files(
    tmp_path: Path, install: Install, code: str, error: type[ArraydError], says: str
) -> None:
    """The error names the package; another plug-in's files, and arrayd's, are read."""
    install("linelib", {"lines": "linelib"}, linelib=fake_packages.LINES)
    install("odd-lib", {"odd": "oddlib"}, oddlib=code)
    (tmp_path / "a.lines").write_text("abc\n")
    (tmp_path / "a.txt").write_text("1\n")
    (tmp_path / "a.odd").write_bytes(b"\0\1")
    with pytest.raises(error, match=f"'odd' of odd-lib 1.5.*{says}"):
        formats.look(Source.of(tmp_path / "a.txt", format="odd"))
    with pytest.raises(
        error, match=rf"a\.odd: the suffix \.odd .*broken\..*'odd' of odd-lib.*{says}"
    ):
        formats.look(Source.of(tmp_path / "a.odd"))
    assert loaded(tmp_path / "a.lines").tolist() == [3]
    assert loaded(tmp_path / "a.txt").tolist() == [1]


def test_a_module_that_is_not_there(tmp_path: Path, install: Install) -> None:
    """An entry point may name no module, or a package may lack what it needs at the first use."""
    install("gone", {"gone": "gone_module"})
    (tmp_path / "a.lines").write_text("abc\n")
    with pytest.raises(MissingDependency, match=r"'gone' of gone 1\.5 needs gone_module"):
        formats.look(Source.of(tmp_path / "a.lines", format="gone"))
    late = fake_packages.LINES.replace("    check_options", "    import nowhere\n    check_options")
    install("late", {"late": "late"}, late=late)
    with pytest.raises(MissingDependency, match=r"'late' of late 1\.5 needs nowhere"):
        formats.look(Source.of(tmp_path / "a.lines"))


def test_images_without_pillow(
    tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suffix is known, and the error says which package to install, and where."""
    install("with-images", {"image": "arrayd_server.loaders.image"})
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(MissingDependency, match=r"'image' of .* needs Pillow.*pip install Pillow"):
        formats.look(Source.of(tmp_path / "a.png"))


def test_two_that_claim_the_same(tmp_path: Path, install: Install) -> None:
    """Of two packages with one name none is used, and of two with one suffix neither by it."""
    install("one", {"lines": "one"}, one=fake_packages.LINES)
    install("two", {"lines": "two"}, two=fake_packages.LINES)
    (tmp_path / "a.lines").write_text("abc\n")
    with pytest.raises(SpecMismatch, match=r"of (one|two) 1\.5 and .* both claim it"):
        formats.look(Source.of(tmp_path / "a.lines", format="lines"))
    install("three", {"third": "one", "fourth": "two"})
    with pytest.raises(SpecMismatch, match=r"fourth and third both read this suffix"):
        formats.look(Source.of(tmp_path / "a.lines"))
    assert loaded(tmp_path / "a.lines", format="third").tolist() == [3]


FAULTS = [
    ("LoadPlan((count,)", "dict((('a', 1),)) or ((count,)", "dict, no LoadPlan"),
    ("LoadPlan((count,)", "LoadPlan((-1,)", "shape"),
    ("LoadPlan((count,)", "LoadPlan((count + 1,)", "parts that do not cover its 2 rows"),
    ('np.dtype("i8")', '"i8"', "the dtype i8"),
    ('np.dtype("i8")', 'np.dtype("O")', "Python objects"),
    (
        "    check_options",
        "    {}['key']\n    check_options",
        r"'key' \(faulty.py, line ",
    ),
]


@pytest.mark.parametrize(("sound", "wrong", "says"), FAULTS)
def test_a_probe_that_fails(
    tmp_path: Path, install: Install, sound: str, wrong: str, says: str
) -> None:
    """Whatever it returns or raises, it is a typed error that says whose fault it is."""
    install("faulty", {"faulty": "faulty"}, faulty=fake_packages.LINES.replace(sound, wrong))
    (tmp_path / "a.lines").write_text("abc\n")
    with pytest.raises((LoadError, SpecMismatch), match=says):
        formats.look(Source.of(tmp_path / "a.lines"))


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ("yield [1]", LoadError, "its fill yields list and not int64"),
        ("yield np.ones(1, 'f4')", LoadError, "its fill yields float32 and not int64"),
        ("yield 1 / 0", LoadError, "faulty.py, line"),
        ("open('/none'); yield", SourceNotFound, "no such file"),
        ("from arrayd.errors import BadFile; raise BadFile('mine'); yield", BadFile, "mine"),
    ],
)
def test_a_fill_that_fails(
    tmp_path: Path, install: Install, line: str, error: type[ArraydError], says: str
) -> None:
    """The same of its values; what it means as an error of the file stays one."""
    start = fake_packages.LINES.index("    with", fake_packages.LINES.index("def fill"))
    install("faulty", {"faulty": "faulty"}, faulty=fake_packages.LINES[:start] + f"    {line}\n")
    (tmp_path / "a.lines").write_text("abc\n")
    source = Source.of(tmp_path / "a.lines", format="faulty")
    plan = formats.look(source)
    with pytest.raises(error, match=says), os_errors(source.path):
        list(formats.load_format("faulty").fill(source, plan, plan.parts[0]))
