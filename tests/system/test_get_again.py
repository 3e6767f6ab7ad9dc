"""To get again what is held already: the short way is taken, and is never wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import arrayd
from arrayd.session import shortcuts
from arrayd.session.locking import VARIABLE
from arrayd.session.request import FileRequest
from tests.support.processes import block_of, save, wait_until

pytestmark = pytest.mark.one_daemon

Looks = Callable[[], int]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    """Give a function that says how often a request was made at length since it was last asked."""
    made, whole = list[object](), FileRequest.of

    def counted(source: Any, options: Any) -> FileRequest:
        made.append(source)
        return whole(source, options)

    def since() -> int:
        count = len(made)
        made.clear()
        return count

    monkeypatch.setattr(FileRequest, "of", counted)
    return since


def test_the_third_time_is_short(
    client: arrayd.Client, tmp_path: Path, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is spelled: what the second call has found out, the third need not."""
    monkeypatch.chdir(tmp_path)
    x = np.arange(12.0).reshape(3, 4)
    save(tmp_path / "x.npy", x)
    save(tmp_path / "f.npy", np.asfortranarray(x))
    save(tmp_path / "odd:name.npy", x)
    np.savez(tmp_path / "z.npz", m=x)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["group/x"] = x
    (tmp_path / "raw.bin").write_bytes(x.tobytes())
    calls: list[tuple[Any, dict[str, Any]]] = [
        ("x.npy", {}),
        (f"{tmp_path}/x.npy", {}),
        (tmp_path / "f.npy", {}),
        ("odd:name.npy", {}),
        ("z.npz:m", {}),
        ("z.npz", {"dataset": "m"}),
        ("x.h5:/group/x", {}),
        ("raw.bin", {"dtype": "<f8", "shape": (3, 4)}),
        ("x.npy", {"cast": np.dtype("f4"), "rows": None}),
    ]
    for what, options in calls:
        first, second = client.get(what, **options), client.get(what, **options)
        assert looks() in (1, 2)  # 1: its block was held already, by other words
        third = client.get(what, **options)
        assert looks() == 0, what
        many = client.get_many([what, what], **options)
        assert looks() == 0
        for again in (first, second, third, *many):
            np.testing.assert_array_equal(again, x)
            assert (again.block, again.dtype) == (first.block, first.dtype)
            assert again.flags.f_contiguous == first.flags.f_contiguous
            assert not again.flags.writeable
            assert np.shares_memory(again, first)
        del first, second, third, many, again


def test_the_short_way_keeps_the_block(client: arrayd.Client, tmp_path: Path, looks: Looks) -> None:
    """An array that came by it is a hold as any other, and none that is over is used again."""
    save(tmp_path / "x.npy", np.arange(5))
    first = client.get(tmp_path / "x.npy")
    client.get(tmp_path / "x.npy")
    again = client.get(tmp_path / "x.npy")[1:]
    looks()
    name = block_of(first).name
    del first
    assert all(block.holders for block in client.status().blocks)
    np.testing.assert_array_equal(again, np.arange(1, 5))
    arrayd.release(again)
    anew = client.get(tmp_path / "x.npy")
    assert looks() == 1, "a hold that was released is none"
    assert block_of(anew).name == name
    del again, anew
    wait_until(lambda: not any(b.holders for b in client.status().blocks), "all is released")
    assert client.get(tmp_path / "x.npy")[4] == 4


def test_what_has_changed_is_seen(
    client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file, the folder, a longer name, the environment: each is looked at each time."""
    x, y = np.arange(3), np.arange(3) + 10
    path = tmp_path / "x.npy"
    kept = []

    def settled(what: Any, wanted: Any) -> None:
        kept.extend([client.get(what), client.get(what), client.get(what)])
        for one in kept[-3:]:
            np.testing.assert_array_equal(one, wanted)

    save(path, x)
    settled(path, x)
    os.replace(save_as(tmp_path / "new.npy", y), path)
    settled(path, y)
    path.unlink()
    with pytest.raises(arrayd.SourceNotFound):
        client.get(path)
    for name, values in (("a", x), ("b", y)):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "x.npy", values)
        monkeypatch.chdir(tmp_path / name)
        settled("x.npy", values)
    np.savez(tmp_path / "z.npz", m=x)
    settled(f"{tmp_path}/z.npz:m", x)
    os.replace(save_as(tmp_path / "z.npy", y), tmp_path / "z.npz:m")
    settled(f"{tmp_path}/z.npz:m", y)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = x
    settled(f"{tmp_path}/x.h5", x)
    monkeypatch.setenv(VARIABLE, "maybe")
    monkeypatch.setattr(FileRequest, "of", None)
    with pytest.raises(TypeError):  # looked at anew: what it says may mean something
        client.get(f"{tmp_path}/x.h5")
    kept.clear()


def save_as(path: Path, values: Any) -> Path:
    """Save values, and return where."""
    save(path, values)
    return path


def test_more_than_the_whole_array(client: arrayd.Client, tmp_path: Path) -> None:
    """Rows of a whole block are cut, a warning is given, and wrong words are wrong, each time."""
    save(tmp_path / "x.npy", np.array([1.0, 2.0, 1 / 3]))
    whole = client.get(tmp_path / "x.npy")
    for _ in range(4):
        part = client.get(tmp_path / "x.npy", rows=slice(1, None))
        np.testing.assert_array_equal(part, whole[1:])
        with pytest.warns(arrayd.PrecisionWarning):
            small = client.get(tmp_path / "x.npy", cast="f4")
        with pytest.raises(arrayd.SpecMismatch):
            client.get(tmp_path / "x.npy", order="Z")
        with pytest.raises(arrayd.SpecMismatch):
            client.get([str(tmp_path / "x.npy")])  # type: ignore[arg-type]
        own = client.get(tmp_path / "x.npy", mode="c")
        own[0] = 7
        assert whole[0] == 1
    del whole, part, small, own


def test_equal_words_of_other_types(client: arrayd.Client, tmp_path: Path) -> None:
    """A value that is equal to another, and means another thing, does not lead to its block."""
    path = tmp_path / "x.txt"
    path.write_text("1 2\n3 4\n")
    kept = [client.get(path, dtype="f8", skiprows=0) for _ in range(3)]
    for wrong in (False, 0.0):
        try:
            other = client.get(path, dtype="f8", skiprows=wrong)
        except arrayd.ArraydError:
            continue
        assert other.shape == np.loadtxt(path, skiprows=int(wrong)).shape
    kept.clear()


def test_few_words_are_remembered(client: arrayd.Client, tmp_path: Path, looks: Looks) -> None:
    """And none of them longer than the block is held."""
    save(tmp_path / "x.npy", np.arange(5))
    known = client._session.blocks.shortcuts._known
    kept = [client.get(f"{tmp_path}/{'./' * n}x.npy") for n in range(20) for _ in range(2)]
    assert len(known) == shortcuts.MAX_WORDINGS
    assert client.get(f"{tmp_path}/{'./' * 19}x.npy")[4] == 4
    kept.clear()
    wait_until(lambda: not known, "nothing is remembered")
    assert looks() == 2 + 7 + 2 * 12 + 1, "the first ways were found at their first use"
