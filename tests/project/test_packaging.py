"""What pip installed is complete. The README's command installs before it runs this."""

from __future__ import annotations

import importlib
import runpy
import shutil
import sys
import tomllib
import types
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

C_FILES = (
    "client/arrayd/common/casts/floats.c",
    "client/arrayd/system/attach.c",
    "server/arrayd_server/loaders/text/plain_rows.c",
)


@pytest.fixture
def installed() -> metadata.Distribution:
    """Return the installed distribution."""
    try:
        return metadata.distribution("arrayd")
    except metadata.PackageNotFoundError:
        pytest.skip("arrayd runs from its source tree here; pip has not installed it")


def test_one_version(installed: metadata.Distribution) -> None:
    """Pip and ``arrayd.__version__`` agree."""
    assert importlib.import_module("arrayd").__version__ == installed.version


def test_the_command(installed: metadata.Distribution) -> None:
    """``arrayd`` is the one program, and its entry point is there."""
    (script,) = installed.entry_points.select(group="console_scripts")
    assert script.name == "arrayd"
    assert callable(script.load())


@pytest.mark.parametrize("package", ["arrayd", "arrayd_server"])
def test_type_checkers_see_the_types(package: str, installed: metadata.Distribution) -> None:
    """Both packages carry py.typed."""
    assert (resources.files(package) / "py.typed").is_file()


def test_what_is_no_python_is_installed(installed: metadata.Distribution) -> None:
    """Units, completions and manual pages are in the environment, the user unit at its place."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert {"share/arrayd/user", "share/man/man1/arrayd.1"} <= set(shared.values())
    for source, place in shared.items():
        for path in (ROOT / source, *(ROOT / source).rglob("*")):
            if path.is_file():
                copy = Path(sys.prefix, place) / path.relative_to(ROOT / source)
                assert copy.read_text() == path.read_text(), "install again"


def test_the_web_page_is_installed(installed: metadata.Distribution) -> None:
    """All of its files are beside the modules of the metrics."""
    source = ROOT / "server" / "arrayd_server" / "metrics" / "assets"
    copies = resources.files("arrayd_server") / "metrics" / "assets"
    names = sorted(path.name for path in source.iterdir())
    assert names == ["page.css", "page.html", "page.js"]
    for name in names:
        assert (copies / name).read_text() == (source / name).read_text(), "install again"


def test_every_extra_is_known(installed: metadata.Distribution) -> None:
    """``arrayd[test]``, ``[images]``, ``[all]`` and so on exist, and nothing else is promised."""
    extras = {"test", "images", "top", "metrics", "all"}
    assert set(installed.metadata.get_all("Provides-Extra") or ()) == extras, "install again"


def test_the_plugin_of_images(installed: metadata.Distribution) -> None:
    """The format ``image`` is an entry point, as that of any other package would be."""
    plugins = installed.entry_points.select(group="arrayd.loaders")
    assert [(one.name, one.value) for one in plugins] == [
        ("image", "arrayd_server.loaders.image")
    ], "install again"


@pytest.mark.parametrize("version", ["standard", "editable"])
@pytest.mark.parametrize("compiler", ["", "no-such-compiler"])
def test_what_is_c_is_compiled_if_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, compiler: str
) -> None:
    """Pip puts the libraries into the wheel, or next to their sources; or says why it did not."""
    if not compiler and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler")
    monkeypatch.setenv("CC", compiler)
    # hatchling, which is there only while pip builds, has no part in what is looked at here.
    interface = types.ModuleType("hatchling.builders.hooks.plugin.interface")
    monkeypatch.setattr(interface, "BuildHookInterface", object, raising=False)
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    hook = runpy.run_path(str(ROOT / "server" / "build_hook.py"))["CompileWhatIsC"]()
    for path in (*C_FILES, "client/arrayd/common/compiling.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    said: list[str] = []
    hook.root, hook.target_name = str(tmp_path), "wheel"
    hook.app = types.SimpleNamespace(display_warning=said.append)
    data: dict[str, Any] = {"force_include": {}}
    hook.initialize(version, data)
    assert all(Path(made).exists() for made in data["force_include"])
    hook.finalize(version, data, "")
    assert not any(Path(made).exists() for made in data["force_include"])
    assert len(said) == (len(C_FILES) if compiler else 0)
    beside = list(tmp_path.rglob("*.so.*"))
    assert len(beside) == (len(C_FILES) if version == "editable" and not compiler else 0)
    if version == "editable" or compiler:
        assert data == {"force_include": {}}
    else:
        assert set(data["force_include"].values()) == {
            "arrayd/common/casts/floats.so.1",
            "arrayd/system/attach.so.1",
            "arrayd_server/loaders/text/plain_rows.so.1",
        }
        assert data["tag"].startswith("py3-none-linux")
        assert not data["pure_python"]


def test_the_c_files() -> None:
    """Those that are looked at above are all there are."""
    found = [path for root in ("client", "server") for path in (ROOT / root).rglob("*.c")]
    assert {str(path.relative_to(ROOT)) for path in found} == set(C_FILES)
