"""The compiled parser of text as a part of the format, and as something that may be missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrayd.common.compiling import compile_library
from arrayd.errors import ArraydError
from arrayd.source import Source
from arrayd_server.loaders.text import loader as text
from arrayd_server.loaders.text import plain_rows, row_scan
from arrayd_server.loaders.text.parser import RowParser
from tests.support.plain_rows import MANY, compiled, equal, functions
from tests.support.text_files import METHYLATION, RECORD, Array, expected, load, written

__all__ = ["compiled", "functions"]

SOURCE = Path(plain_rows.__file__).with_name("plain_rows.c")

TABLE = "".join(f"chr{i % 22} {i} {i / 7:.2f} {i % 9} {i % 11}\n" for i in range(400))


@pytest.mark.parametrize(
    "odd", ["", "# a comment\n", "\n \n", "chr1 1 1e5 2 3 # five\n", "é 1 2 3 4\n"]
)
def test_pieces_that_are_not_plain_are_numpys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    """A line in the middle that is not plain changes nothing but who reads its piece."""
    monkeypatch.setattr(text, "PIECE_BYTES", 1000)
    taken: list[bool] = []
    parse = plain_rows.PlainRows.parse

    def noted(self: plain_rows.PlainRows, piece: bytes) -> Array | None:
        found = parse(self, piece)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(plain_rows.PlainRows, "parse", noted)
    lines = TABLE.splitlines(keepends=True)
    path = written(tmp_path, "".join([*lines[:200], odd, *lines[200:]]))
    dtype = RECORD if odd != "é 1 2 3 4\n" else "U10,i4,f4,i4,i4"
    equal(load(path, dtype=dtype), expected(path, dtype=dtype))
    assert taken.count(False) <= 1
    assert taken.count(True) > 5
    equal(
        load(path, dtype=dtype, rows=slice(300, 9, -3)),
        expected(path, slice(300, 9, -3), dtype=dtype),
    )


SAID = st.sampled_from(["1", "2.5", "-3e4", "nan", "007", "1e400", "300", "16777217.0", "16777217"])


@MANY
@given(
    rows=st.lists(st.lists(SAID, min_size=2, max_size=2), min_size=1, max_size=12),
    end=st.sampled_from(["\n", "\n", "\r\n", " \n", "\n\n", "\n#\n"]),
    wish=st.fixed_dictionaries(
        {"dtype": st.sampled_from(["f8", "f4", "i4", "u1", "S4", "U3", "f4,S9", "S2,i8"])},
        optional={
            "skiprows": st.integers(0, 3),
            "max_rows": st.integers(0, 9),
            "ndmin": st.integers(0, 2),
            "usecols": st.sampled_from([(0, 1), (1, 0)]),
            "overflow": st.sampled_from(["clip", "inf"]),
            "rows": st.builds(slice, st.integers(0, 3), st.integers(4, 9), st.sampled_from([1, 2])),
        },
    ),
)
def test_with_and_without_it_all_is_the_same(
    tmp_path: Path, rows: list[list[str]], end: str, wish: dict[str, Any]
) -> None:
    """Whole files in many parts: values, shapes and the words of errors."""
    path = written(tmp_path, "".join(" ".join(row) + end for row in rows))

    def said() -> Any:
        try:
            array = load(path, **wish)
        except ArraydError as error:
            return type(error), str(error)
        return array.shape, array.dtype, array.tobytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_scan, "BLOCK_BYTES", 16)
        patch.setattr(text, "PART_BYTES", 40)
        patch.setattr(text, "PIECE_BYTES", 12)
        with_it = said()
        patch.setattr(plain_rows, "library", lambda: None)
        assert with_it == said()


def test_without_the_library_numpy_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was compiled the same comes out."""
    path = written(tmp_path, TABLE)
    fast = load(path, dtype=RECORD)
    monkeypatch.setattr(plain_rows, "library", lambda: None)
    assert RowParser.of(Source.of(path, dtype=RECORD)).plain_rows(1) is None
    equal(load(path, dtype=RECORD), fast)


def test_a_library_that_does_not_load_is_none(tmp_path: Path) -> None:
    """Neither a missing one nor one for another machine is an error."""
    assert plain_rows.loaded(tmp_path / "missing") is None
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"\x7fELF of another world")
    assert plain_rows.loaded(wrong) is None


def test_no_compiler_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler, or with one that fails, nothing is made, and the reason is returned."""
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "no C compiler" in compile_library(SOURCE, tmp_path / "made")
    monkeypatch.setenv("CC", "false")
    assert "said" in compile_library(SOURCE, tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["test1", "test2", "control1", "control2"])
@pytest.mark.parametrize("separator", ["\t", " ", ", ", "\t "])
def test_methylation_files_are_plain(tmp_path: Path, name: str, separator: str) -> None:
    """The real samples are read without numpy, tab-separated as they are or otherwise."""
    source = METHYLATION / f"{name}.cov.txt"
    if not source.exists():
        pytest.skip(f"{METHYLATION} is not there: the sample data are no part of the project")
    content = source.read_bytes().replace(b"\t", separator.encode())
    delimiter = separator[0] if separator != " " else None
    path = written(tmp_path, content)
    request = Source.of(path, dtype=RECORD, delimiter=delimiter)
    plain = RowParser.of(request).plain_rows(5)
    assert plain is not None
    got = plain.parse(content)
    assert got is not None
    equal(got, expected(path, dtype=RECORD, delimiter=delimiter))
