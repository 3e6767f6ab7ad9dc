"""Plug-ins of the daemon's Python: the client asks, and knows nothing of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import arrayd
from arrayd import cli
from arrayd.datasets import cache
from arrayd.datasets.scan import scan
from arrayd.errors import BadFile, LoaderCrashed, LoadError, MissingDependency, SpecMismatch
from tests.support import fake_packages
from tests.support.daemons import Daemon

CRASHES = """
import os
from linelib import probe

SUFFIXES = (".bang",)


def fill(source, plan, part):
    os.abort()
"""


@pytest.fixture
def served(
    start_daemon: Callable[..., Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Daemon:
    """Give a daemon whose Python has packages that this process does not have."""
    site = tmp_path / "site"
    fake_packages.install(site, "linelib", {"lines": "linelib"}, linelib=fake_packages.LINES)
    fake_packages.install(site, "bang", {"bang": "bang"}, bang=CRASHES)
    fake_packages.install(site, "broken", {"broken": "broken"}, broken="import gone_for_good")
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{before}" if before else str(site))
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return start_daemon("--budget", "64M", "--workers", "2")


def test_the_daemon_has_the_plugin(served: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    """Suffix, ``format=`` and options go to it; what is asked for otherwise is another block."""
    Path("a.lines").write_text("abc\n\nde\n")
    Path("a.dat").write_text("abcd\n")
    with arrayd.connect(served.endpoint) as client:
        assert client.get("a.lines").tolist() == [3, 0, 2]
        assert client.get("a.lines", times=3, cast="f4").tolist() == [9, 0, 6]
        assert client.get("a.dat", format="lines").tolist() == [4]
        assert client.info("a.lines").format == "lines"
        with pytest.raises(SpecMismatch, match="format lines has no option skip"):
            client.get("a.lines", skip=1)
        with pytest.raises(SpecMismatch, match=r"'xls': the daemon has .*bang.*lines"):
            client.get("a.dat", format="xls")
    assert cli.main(["get", "--endpoint", served.endpoint, "--format", "lines", "a.dat"]) == 0
    assert "(1,) int64" in capsys.readouterr().out


def test_a_broken_plugin_costs_its_own_suffix(served: Daemon) -> None:
    """The error names the package; a crash costs one load; all others are read."""
    Path("a.lines").write_text("abc\n")
    Path("a.bang").write_text("abc\n")
    Path("a.brk").write_bytes(b"\0")
    np.save("a.npy", np.arange(3))
    with arrayd.connect(served.endpoint) as client:
        with pytest.raises(MissingDependency, match=r"'broken' of broken 1\.5 needs gone_for_good"):
            client.get("a.npy", format="broken")
        with pytest.raises(MissingDependency, match=r"\.brk names no format.*'broken' of broken"):
            client.get("a.brk")
        with pytest.raises((LoaderCrashed, LoadError), match="died"):
            client.get("a.bang")
        assert client.get("a.lines").tolist() == [3]
        assert client.get("a.npy").tolist() == [0, 1, 2]


def test_a_dataset_of_its_files(served: Daemon) -> None:
    """Rows of several files, or a file each: as of any format."""
    for name in ("a", "b"):
        Path(f"{name}.lines").write_text("abc\nde\n")
    Path("all.txt").write_text("a.lines\nb.lines\n")
    with arrayd.connect(served.endpoint) as client:
        rows = scan(client, "*.lines")
        assert (rows.rows, rows.field("x").dtype) == (4, np.dtype("i8"))
        path = rows.save(cache.folder())
        assert client.get(path, format="dataset").tolist() == [3, 2, 3, 2]
        whole = scan(client, "all.txt")
        assert (whole.rows, whole.field("x").row_shape) == (2, (2,))


def test_images(client: arrayd.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plug-in that comes with arrayd reads images, also as a dataset of one sample each."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    values = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), np.uint8)
    for number, one in enumerate(values):
        Image.fromarray(one).save(tmp_path / f"{number}.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:-30])
    np.testing.assert_array_equal(client.get(tmp_path / "0.png"), values[0])
    (tmp_path / "0").write_bytes((tmp_path / "0.png").read_bytes())
    with pytest.raises(BadFile, match=r"PNG image.*format='image'"):
        client.get(tmp_path / "0")
    np.testing.assert_array_equal(client.get(tmp_path / "0", format="image"), values[0])
    with pytest.raises(BadFile, match=r"cut\.png is no whole image"):
        client.get(tmp_path / "cut.png")
    (tmp_path / "all.txt").write_text("0.png\n1.png\n2.png\n3.png\n")
    made = scan(client, str(tmp_path / "all.txt"))
    loaded = client.get(made.save(cache.folder()), format="dataset")
    np.testing.assert_array_equal(loaded, values)
