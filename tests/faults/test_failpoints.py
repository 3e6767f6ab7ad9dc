"""Failpoints do what they say, cost nothing when off, and cannot be misspelt."""

from __future__ import annotations

import ast
import errno
import os
import signal
import subprocess
import sys
import timeit
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from arrayd.common import failpoints
from arrayd.errors import ArraydError
from tests.support.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
CLIENT, SERVER = ROOT / "client" / "arrayd", ROOT / "server" / "arrayd_server"
POINT = "client.granted"


def start(script: str, setting: object) -> subprocess.Popen[str]:
    """Start a Python process whose failpoints are armed so."""
    return subprocess.Popen(
        [sys.executable, "-c", f"from arrayd.common.failpoints import hit\n{script}"],
        env={**os.environ, failpoints.VARIABLE: str(setting)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, setting: object) -> tuple[int, str, str]:
    """Run a Python process whose failpoints are armed so; return its status and its words."""
    process = start(script, setting)
    said, complained = process.communicate(timeout=20)
    return process.returncode, said, complained


def hits(path: Path) -> Iterator[str]:
    """Yield the names of the points that a source file passes; each is written out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.hit":
            (name,) = node.args
            assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: a name is a literal"
            yield str(name.value)


def test_every_point_is_passed_in_one_place() -> None:
    """The table is the truth: no call names another point, no point is named twice or never."""
    passed = Counter(name for p in (CLIENT, SERVER) for f in p.rglob("*.py") for name in hits(f))
    assert passed == Counter(failpoints.POINTS.keys())


def test_the_name_says_whose_point_it_is() -> None:
    """Points of the client are in its package; the core has none."""
    in_client = {name for file in CLIENT.rglob("*.py") for name in hits(file)}
    assert in_client == {name for name in failpoints.POINTS if name.startswith("client.")}
    assert [name for file in (SERVER / "core").rglob("*.py") for name in hits(file)] == []


def test_a_misspelt_call_is_seen(tmp_path: Path) -> None:
    """The test above looks at calls in functions too, and at nothing else."""
    (tmp_path / "x.py").write_text("def f():\n    failpoints.hit('client.grnted')\n    hit('no')\n")
    assert list(hits(tmp_path / "x.py")) == ["client.grnted"]


def test_off_costs_nothing() -> None:
    """Without the variable a point costs less than 100 ns."""
    script = (
        "import timeit; from arrayd.common import failpoints\n"
        "timer = timeit.Timer(\"failpoints.hit('client.granted')\", globals=globals())\n"
        "print(min(timer.repeat(20, 20_000)) / 20_000)"
    )
    code, said, complained = run(script, "")
    assert code == 0, complained
    assert float(said) < 100e-9


def test_off_is_the_default() -> None:
    """An empty or absent variable arms nothing: `hit` is the function that does nothing."""
    assert failpoints.VARIABLE not in os.environ
    assert failpoints.hit.__module__ == "arrayd.common.failpoints"
    assert timeit.timeit(lambda: failpoints.hit(POINT), number=1) < 1
    assert run(f"hit('{POINT}'); print(hit.__qualname__)", "")[:2] == (0, "hit\n")


@pytest.mark.parametrize(
    ("action", "status"),
    [("kill", -signal.SIGKILL), ("term", -signal.SIGTERM), ("exit", 1), ("int", -signal.SIGINT)],
)
def test_an_action_ends_the_process_there(action: str, status: int) -> None:
    """Nothing after the point is done, and the status is that of the action."""
    script = f"print('before', flush=True); hit('{POINT}'); print('after', flush=True)"
    assert run(script, f"{POINT}={action}")[:2] == (status, "before\n")


def test_stop_stops_the_process_there() -> None:
    """It is stopped before its next line, and goes on when it is told to."""
    script = f"hit('{POINT}'); print('after', flush=True)"
    process = start(script, f"{POINT}=stop")
    stat = Path(f"/proc/{process.pid}/stat")
    try:
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it stops")
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=20)[0] == "after\n"
    finally:
        process.kill()
        process.wait()


def test_sleep_sleeps() -> None:
    """It takes so many seconds."""
    script = f"import time; t = time.monotonic(); hit('{POINT}'); print(time.monotonic() - t)"
    assert float(run(script, f"{POINT}=sleep:0.25")[1]) >= 0.25


@pytest.mark.parametrize("name", ["ENOSPC", "EMFILE", "EIO", "ENOENT"])
def test_an_errno_is_raised(name: str) -> None:
    """It is the OSError that the kernel would have given, and names the point."""
    script = f"try: hit('{POINT}')\nexcept OSError as e: print(e.errno, e.filename)"
    for setting in (f"{POINT}={name}", f"worker.chunk=kill; {POINT} = {name};"):
        expected = f"{getattr(errno, name)} failpoint {POINT}\n"
        assert run(script, setting)[:2] == (0, expected)


@pytest.mark.parametrize(("action", "acted"), [("EIO", 0), ("EIO:3", 2), ("EIO:5", None)])
def test_it_acts_once_at_the_hit_named(action: str, acted: int | None) -> None:
    """``:N`` is the N-th hit; after it the point is spent."""
    script = (
        "acted = []\n"
        f"for i in range(4):\n  try: hit('{POINT}')\n  except OSError: acted.append(i)\n"
        "print(acted)"
    )
    assert run(script, f"{POINT}={action}")[1] == f"{[] if acted is None else [acted]}\n"


def test_chance_is_a_chance() -> None:
    """``:P%`` acts sooner or later; 0 % never does."""
    script = (
        f"try:\n  for i in range(10_000): hit('{POINT}')\n"
        "except OSError: print('acted')\nelse: print('never')"
    )
    assert run(script, f"{POINT}=EIO:2:10%")[1] == "acted\n"
    assert run(script, f"{POINT}=EIO:0%")[1] == "never\n"


@pytest.mark.parametrize(
    "setting",
    [
        "client.grnted=kill",
        "client.granted=kil",
        "client.granted",
        "client.granted=sleep",
        "client.granted=kill:x",
        "client.granted=kill:1:2:3",
        "client.granted=sleep:1:2:x%",
    ],
)
def test_nonsense_refuses_to_start(setting: str) -> None:
    """Neither side can be imported with it, and the error says in one line what is wrong."""
    for script in ("import arrayd", "import arrayd_server.daemon"):
        code, _, complained = run(script, setting)
        assert code == 1
        assert complained.splitlines()[-1].startswith("ImportError: ARRAYD_FAILPOINTS: ")
    wrong = setting.partition("=")[0 if "grnted" in setting else 2]
    assert repr(wrong) in complained


def test_a_folder_arms_a_running_process(tmp_path: Path) -> None:
    """Armed while it runs, a point acts once, and leaves the number of its process."""
    script = (
        "import os\nprint(os.getpid(), flush=True)\n"
        f"try:\n  while True: hit('{POINT}')\n"
        f"except OSError as e: hit('{POINT}'); print(e.errno)"
    )
    process = start(script, tmp_path)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    failpoints.arm(tmp_path, POINT, "EIO")
    try:
        assert process.communicate(timeout=20)[0] == f"{errno.EIO}\n"
    finally:
        process.kill()
        process.wait()
    assert os.listdir(tmp_path) == [f"{POINT}.{pid}"]


def test_a_folder_arms_one_process_of_many(tmp_path: Path) -> None:
    """Whoever passes first takes the fault; all others go on, armed or not."""
    failpoints.arm(tmp_path, POINT, "kill:3")
    script = f"for _ in range(1000): hit('{POINT}')"
    processes = [start(script, tmp_path) for _ in range(4)]
    for process in processes:
        process.communicate(timeout=20)
    codes = sorted(process.returncode for process in processes)
    assert codes == [-signal.SIGKILL, 0, 0, 0]
    failpoints.arm(tmp_path, POINT, "kill")  # again
    assert run(script, tmp_path)[0] == -signal.SIGKILL


def test_a_folder_knows_its_names(tmp_path: Path) -> None:
    """Neither arming nor starting with a name that is none goes unnoticed."""
    for name, action in (("client.grnted", "kill"), (POINT, "kil")):
        with pytest.raises(ArraydError, match=r"grnted|kil"):
            failpoints.arm(tmp_path, name, action)
    assert os.listdir(tmp_path) == []
    (tmp_path / "client.grnted").write_text("kill")
    code, _, complained = run("", tmp_path)
    assert code == 1
    assert "'client.grnted'" in complained
