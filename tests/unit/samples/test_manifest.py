"""A manifest is what was put into it, also after it was saved, and knows its files' rows."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arrayd.common.manifest_names import checked_name, label_of
from arrayd.errors import BadFile, ProtocolMismatch
from arrayd.samples.manifest import Field, Files, Manifest, changed, signed
from arrayd.wire.codec import pack


def files_of(*rows: int, folder: str = "/data") -> Files:
    """Return files with these numbers of rows."""
    stats = [[1, 10 + i, 100 * n, 1_000 + i, 2_000] for i, n in enumerate(rows)]
    return Files.of([f"{folder}/{i}.npy" for i in range(len(rows))], stats, rows)


def manifest_of(files: Files, **columns: np.ndarray[Any, Any]) -> Manifest:
    """Return a manifest with one field of these files."""
    kind = np.dtype([("a", "<f4"), ("b", "S3")])
    return Manifest(
        files.rows, (Field("x", kind, (2, 3), options=(("skiprows", 1),)),), (files,), columns
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_every_row_has_its_file(rows: list[int]) -> None:
    """`locate` finds what a loop over all files finds, also where files are empty."""
    wanted = [(number, row) for number, count in enumerate(rows) for row in range(count)]
    files, within = files_of(*rows).locate(np.arange(len(wanted)))
    assert list(zip(files.tolist(), within.tolist(), strict=True)) == wanted


def test_paths_are_what_the_system_has(tmp_path: Path) -> None:
    """A path may have any bytes, and each comes back from the disk."""
    odd = ["/a", "/b\udcff/ü", "/ "]
    files = Files.of(odd, [[0] * 5] * 3, [1, 1, 1])
    saved = Manifest.load(manifest_of(files).save(str(tmp_path)))
    assert [saved.files[0].path(i) for i in range(3)] == odd


def test_the_name_of_a_saved_manifest() -> None:
    """It tells the first file and how many more, and nothing that a path must not have."""
    made = manifest_of(files_of(2, 3))
    first = os.path.basename(made.files[0].path(0))
    digest = made.digest.hex()[:16]
    assert made.file_name == f"{first}+1.{digest}.manifest"
    assert label_of(f"/cache/{made.file_name}") == f"{first}+1"
    assert checked_name(made.file_name) == made.file_name
    stats = [[0] * 5]
    odd = manifest_of(Files.of([f"/a b/.hidden {'ü' * 300}\udcff:x.npy"], stats, [1]))
    assert odd.file_name == f"hidden_x.npy.{odd.digest.hex()[:16]}.manifest"
    for wrong in ("", "a.manifest", f"../a.{digest}.manifest", f"a.{digest}.manifest\n", digest):
        with pytest.raises(ValueError, match="no name of a manifest"):
            checked_name(wrong)
    assert label_of("/cache/train.manifest") == "train.manifest"


def test_it_comes_back(tmp_path: Path) -> None:
    """Rows, fields, files and columns are the same after saving; saved twice it is one file."""
    made = manifest_of(files_of(2, 3), label=np.array(["a", "b", "a", "c", "ü"]))
    path = made.save(str(tmp_path))
    assert made.save(str(tmp_path)) == path
    assert [p.name for p in tmp_path.iterdir()] == [made.file_name]
    found = Manifest.load(path)
    assert (found.rows, found.fields) == (made.rows, made.fields)
    assert found.columns["label"].tolist() == ["a", "b", "a", "c", "ü"]
    assert found.fingerprint == made.fingerprint
    assert found.digest == made.digest
    source = found.source_of(found.field("x"), 1)
    assert (source.path, source.dtype, source.options) == (
        "/data/1.npy",
        made.fields[0].dtype,
        (("skiprows", 1),),
    )


def test_the_fingerprint_is_of_the_contents() -> None:
    """It is the same in another folder, and another after a change of any kind."""
    made = manifest_of(files_of(2, 3), label=np.arange(5))
    elsewhere = manifest_of(files_of(2, 3, folder="/moved"), label=np.arange(5))
    assert elsewhere.fingerprint == made.fingerprint
    assert elsewhere.digest != made.digest
    packed = Manifest(5, (replace(made.fields[0], unit=64),), made.files, made.columns)
    assert packed.fingerprint == made.fingerprint
    assert packed.digest != made.digest
    touched = files_of(2, 3)
    touched.stats[1, 3] += 1
    other_field = replace(made.fields[0], row_shape=(3, 2))
    others = [
        manifest_of(touched, label=np.arange(5)),
        manifest_of(files_of(3, 2), label=np.arange(5)),
        manifest_of(files_of(2, 3), label=np.arange(5)[::-1]),
        manifest_of(files_of(2, 3), group=np.arange(5)),
        Manifest(5, (other_field,), made.files, made.columns),
    ]
    assert len({made.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_a_changed_file_is_seen() -> None:
    """Any entry of its stat that differs is a change."""
    files = files_of(4)
    stat = files.stats[0].tolist()
    assert not changed(files, 0, stat)
    assert all(changed(files, 0, [*stat[:i], stat[i] + 1, *stat[i + 1 :]]) for i in range(5))


def test_an_inode_may_have_64_bits() -> None:
    """It is kept as the int64 of these bits, and found equal."""
    files = files_of(4)
    files.stats[0, 1] = signed(2**64 - 5)
    stat = files.stats[0].tolist()
    assert not changed(files, 0, [stat[0], 2**64 - 5, *stat[2:]])
    assert changed(files, 0, [stat[0], 2**64 - 6, *stat[2:]])


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    """Other files, parts that do not fit, and a newer version are typed errors."""
    path = tmp_path / "x.manifest"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(BadFile, match="no manifest"):
        Manifest.load(str(path))
    files = files_of(2)
    made = Manifest(3, (Field("x", np.dtype("f4"), ()),), (files,), {})
    with pytest.raises(BadFile, match="3 rows"):
        Manifest.load(made.save(str(tmp_path)))
    newer = np.frombuffer(pack({"version": 99}), np.uint8)
    with path.open("wb") as file:
        np.savez(file, header=newer)
    with pytest.raises(ProtocolMismatch, match="newer"):
        Manifest.load(str(path))
