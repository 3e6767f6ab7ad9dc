"""The house rules: linters, types, who imports whom, and the size of things."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "client" / "arrayd"
SERVER = ROOT / "server" / "arrayd_server"
TESTS = ROOT / "tests"
CORE = SERVER / "core"

SHARED = {"common", "errors", "source", "wire"}
"""The modules of `arrayd` that the server may import."""

IMPURE = {
    *("asyncio", "concurrent", "ctypes", "datetime", "fcntl", "h5py", "logging", "mmap"),
    *("msgpack", "multiprocessing", "numpy", "os", "pathlib", "random", "secrets", "select"),
    *("shutil", "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time"),
    *("uuid", "zmq"),
}
"""What decisions must not depend on: the clock, the system, threads, chance, the wire."""

TOP_LEVEL = {"pyproject.toml", "server", "client", "tests", "deploy", "README.md", "LICENSE"}

MAX_LINES = 400


def sources(*folders: Path) -> list[Path]:
    """Return the Python files below `folders`."""
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything that `path` imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide who imports whom"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offending(path: Path, *allowed: str, of: str) -> list[str]:
    """Return what `path` imports from the package `of` beyond the modules `allowed`."""
    inside = [name for name in imports(path) if f"{name}.".startswith(f"{of}.")]
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for name in inside
        if not any(f"{name}.".startswith(f"{of}.{module}.") for module in allowed)
    ]


def run(*command: str) -> None:
    """Run a Python module on the project; fail with all that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"


def test_ruff_finds_nothing() -> None:
    """``ruff check`` passes on the whole project."""
    run("ruff", "check", "--quiet", ".")


def test_the_code_is_formatted() -> None:
    """``ruff format`` would change nothing."""
    run("ruff", "format", "--check", "--quiet", ".")


def test_the_types_hold() -> None:
    """``mypy --strict`` passes on client, server and tests."""
    run("mypy", "--strict", "--no-error-summary")


@pytest.mark.parametrize("path", sources(CLIENT), ids=lambda path: str(path.relative_to(CLIENT)))
def test_the_client_never_imports_the_server(path: Path) -> None:
    """A client starts the daemon as a program; it does not load it."""
    assert offending(path, of="arrayd_server") == []


@pytest.mark.parametrize("path", sources(SERVER), ids=lambda path: str(path.relative_to(SERVER)))
def test_the_server_imports_what_is_shared(path: Path) -> None:
    """From the client the server takes the wire, the errors and the types of requests only."""
    assert offending(path, *SHARED, of="arrayd") == []


@pytest.mark.parametrize("path", sources(CORE), ids=lambda path: path.name)
def test_the_core_is_pure(path: Path) -> None:
    """The core decides from its arguments alone, and imports nothing that could do more."""
    assert {name.partition(".")[0] for name in imports(path)} & IMPURE == set()
    assert offending(path, "core", of="arrayd_server") == []


def test_the_core_has_the_registry() -> None:
    """The rules of the lifecycle live in the core, so the test above looks at them."""
    assert CORE / "registry.py" in sources(CORE)


def test_the_import_table_can_fail(tmp_path: Path) -> None:
    """Every way of importing is seen: plain, from, aliased, in a function."""
    module = tmp_path / "module.py"
    module.write_text(
        "import arrayd.client\nfrom arrayd import launch as go, errors\n"
        "def f():\n    from arrayd.cli.main import x\n    import arrayd_server as s, os.path\n"
    )
    assert list(imports(module)) == [
        "arrayd.client",
        "arrayd.system.launch",
        "arrayd.errors",
        "arrayd.cli.main.x",
        "arrayd_server",
        "os.path",
    ]


def test_no_file_is_long() -> None:
    """A file is one thing; above 400 lines it is two."""
    lengths = {p: len(p.read_text().splitlines()) for p in sources(CLIENT, SERVER, TESTS)}
    assert {path.name: n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_everything_says_what_it_is_for() -> None:
    """Every module of the product and every test function has a docstring."""
    silent = []
    for path in sources(CLIENT, SERVER, TESTS):
        tree = ast.parse(path.read_text())
        if TESTS not in path.parents and not ast.get_docstring(tree):
            silent.append(str(path))
        functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
        tests = (node for node in functions if node.name.startswith("test_"))
        silent += [f"{path}:{test.name}" for test in tests if not ast.get_docstring(test)]
    assert silent == []


def test_importing_arrayd_is_cheap() -> None:
    """``import arrayd`` loads numpy, pyzmq and msgpack; no h5py, tqdm, argparse or server."""
    script = (
        "import sys, json; before = set(sys.modules); import arrayd; "
        "loaded = {n: getattr(m, '__file__', None) for n, m in sys.modules.items()}; "
        "print(json.dumps([n for n in loaded if n not in before and loaded[n]]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    roots = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert roots - sys.stdlib_module_names == {"arrayd", "numpy", "zmq", "msgpack"}
    assert not roots & {"argparse", "unittest", "sqlite3", "http", "xml"}


def test_the_top_level_is_short() -> None:
    """A visitor sees seven names, and hidden files."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    command = [git, "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"not a git clone: {done.stderr.strip()}")
    names = {line.partition("/")[0] for line in done.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL
