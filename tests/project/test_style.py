"""Rules for the code itself: linters, types, names, which module imports which, and sizes."""

from __future__ import annotations

import ast
import graphlib
import importlib
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "client" / "arrayd"
SERVER = ROOT / "server" / "arrayd_server"
TESTS = ROOT / "tests"
CORE = SERVER / "core"

SHARED = {"common", "errors", "samples", "source", "wire"}
"""The rooms of `arrayd` that the server may import."""

# A room is a folder, or a module that lies in none. A room imports those named here and itself,
# types included. Each entry is needed: strike out one that no import uses any more.
CLIENT_ROOMS = {
    "errors": "",
    "wire": "errors",
    "common": "errors wire",
    "source": "common errors wire",
    "samples": "common errors source wire",
    "system": "common errors wire",
    "results": "common errors source wire",
    "array": "common errors source system wire",
    "session": "array common errors results source system wire",
    "client": "array common errors integrations results session source system wire",
    "api": "array client results session system",
    "integrations": "array",
    "reference": "wire",
    "reduction": "api array common errors reference results session source system wire",
    "gather": "client common errors results session source wire",
    "datasets": "api array client common errors gather results samples session source wire",
    "torch": "common datasets errors integrations samples",
    "cli": "client common datasets errors gather results samples source system wire",
}
"""Which room of the client imports which; the first ones are the lowest."""

SERVER_ROOMS = {
    "core": "",
    "access": "",
    "kernel": "access core",
    "transport": "access",
    "loaders": "kernel",
    "identity": "core loading",
    "events": "",
    "journal": "events",
    "loading": "core events identity kernel loaders",
    "stream_identity": "",
    "streams": "kernel loaders loading stream_identity",
    "config_file": "",
    "option_parsing": "core kernel",
    "quota_parsing": "access core option_parsing",
    "config": "access config_file core option_parsing quota_parsing",
    "config_check": "config",
    "option_text": "config",
    "systemd": "",
    "log_limit": "access",
    "logs": "config config_file journal log_limit systemd",
    "segments": "core identity kernel",
    "doctor": "config config_file kernel segments",
    "service": "access core events identity kernel loading segments stream_identity streams "
    "transport",
    "reloading": "config config_file core events loading logs service streams systemd",
    "metrics": "core identity",
    "upkeep": "core events logs segments service systemd transport",
    "takeover": "core events segments service systemd transport",
    "daemon": "config core events kernel loading logs metrics reloading segments service streams "
    "systemd takeover transport upkeep",
    "program": "config config_file daemon logs segments systemd",
    "__main__": "loading program",
}
"""The same of the server. A loader process (`loading.worker`) has nothing above `loading`."""

IMPURE = {
    *("asyncio", "concurrent", "ctypes", "datetime", "fcntl", "h5py", "logging", "mmap"),
    *("msgpack", "multiprocessing", "numpy", "os", "pathlib", "random", "secrets", "select"),
    *("shutil", "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time"),
    *("uuid", "zmq"),
}
"""What the core must not depend on: the clock, the system, threads, chance, messages."""

TOP_LEVEL = {"pyproject.toml", "server", "client", "tests", "deploy", "README.md", "LICENSE"}

MAX_LINES = 400

SAME_NAME = {"Block", "Session"}
"""Names of two classes each: one that users of `arrayd` see, and what the core remembers of it."""


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


def arrows(package: Path) -> dict[str, set[str]]:
    """Return which rooms of a package import which others."""
    modules = {path.relative_to(package).with_suffix("").parts for path in sources(package)}
    rooms = {parts[0] for parts in modules} - {"__init__"}
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for path in sources(package):
        room = path.relative_to(package).with_suffix("").parts[0]
        for name in imports(path):
            first, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if first == package.name and room in rooms and target in rooms - {room}:
                found[room].add(target)
    return found


@pytest.mark.parametrize(
    ("package", "rooms"),
    [(CLIENT, CLIENT_ROOMS), (SERVER, SERVER_ROOMS)],
    ids=["client", "server"],
)
def test_each_room_imports_what_it_may(package: Path, rooms: dict[str, str]) -> None:
    """The arrows between folders are those of the table, no more and no fewer."""
    assert arrows(package) == {room: set(below.split()) for room, below in rooms.items()}


def test_no_modules_import_each_other() -> None:
    """Imports make no circle, those of types and in functions included.

    The package `arrayd` itself is left out: it imports its parts for the user.
    """
    modules = {}
    for path in sources(CLIENT, SERVER):
        root = CLIENT.parent if path.is_relative_to(CLIENT) else SERVER.parent
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        modules[name.removesuffix(".__init__")] = path
    graph = {
        name: {one if one in modules else one.rpartition(".")[0] for one in imports(path)}
        for name, path in modules.items()
    }
    del graph["arrayd"]
    graphlib.TopologicalSorter(graph).prepare()  # raises a CycleError that names the circle


def test_a_class_name_means_one_thing() -> None:
    """No two classes of the product have the same name, but for those known."""
    names = [
        node.name
        for path in sources(CLIENT, SERVER)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    assert {name for name in names if names.count(name) > 1} == SAME_NAME


@pytest.mark.parametrize("package", ["arrayd", "arrayd_server"])
def test_a_module_is_found_by_its_name(package: str) -> None:
    """After ``import arrayd.x``, ``arrayd.x`` is that module, no function or class of this name."""
    found = importlib.import_module(package)
    names = [one.name for one in pkgutil.walk_packages(found.__path__, f"{package}.")]
    modules = {name: importlib.import_module(name) for name in names}
    hidden = []
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        if getattr(sys.modules[parent], last) is not module:
            hidden.append(name)
    assert hidden == []


def test_the_shell_reads_one_thing_of_the_registry() -> None:
    """The executor feeds events; of the core's tables it sees what `Registry.block` returns."""
    executor = (SERVER / "service" / "executor.py").read_text()
    used = set(re.findall(r"_registry\.(\w+)", executor))
    tables = {"blocks", "counters", "evictions", "holds", "jobs", "sessions"}
    assert "block" in used
    assert not used & tables


def test_the_core_has_the_registry() -> None:
    """The rules of the lifecycle live in the core, so the test above looks at them."""
    assert CORE / "registry.py" in sources(CORE)


def test_the_import_table_can_fail(tmp_path: Path) -> None:
    """Every way of importing is seen: plain, from, aliased, in a function."""
    module = tmp_path / "module.py"
    module.write_text(
        "import arrayd.client\nfrom arrayd.system import launch as go\nfrom arrayd import errors\n"
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
    """A file has one subject; above 400 lines it has two."""
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
    """``import arrayd`` loads numpy, pyzmq, msgpack and what it needs of itself; nothing slow."""
    script = (
        "import sys, json, numpy, zmq, msgpack; before = set(sys.modules); import arrayd; "
        "loaded = {n: getattr(m, '__file__', None) for n, m in sys.modules.items()}; "
        "print(json.dumps([n for n in loaded if n not in before and loaded[n]]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert not [name for name in loaded if name.startswith("arrayd.datasets")]
    assert "arrayd.reference" not in loaded
    roots = {name.partition(".")[0] for name in loaded}
    assert {"arrayd"} <= roots - sys.stdlib_module_names <= {"arrayd", "numpy", "zmq", "msgpack"}
    slow = {"argparse", "hashlib", "multiprocessing", "pathlib", "signal", "socket"}
    assert not roots & {*slow, "subprocess", "urllib"}


def test_a_daemon_leaves_the_client_out() -> None:
    """A process of the server loads no libzmq and no session; what asks for them gets all."""
    script = (
        "import sys, arrayd_server.program, arrayd; from multiprocessing import reduction; "
        "print(*(n for n in sys.modules if n == 'zmq' or n.startswith('arrayd.session'))); "
        "import arrayd.client; print(arrayd.array.reduced in vars(reduction.ForkingPickler)"
        "['_extra_reducers'].values(), arrayd.get.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "\nTrue arrayd.api\n", done.stderr


def test_the_top_level_is_short() -> None:
    """The repository has seven entries at its top, besides hidden files."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    command = [git, "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"not a git clone: {done.stderr.strip()}")
    names = {line.partition("/")[0] for line in done.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL
