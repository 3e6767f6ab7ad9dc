"""Options: precedence, forms, errors, and the table in the README."""

from __future__ import annotations

import logging
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from arrayd.system.launch import private_endpoint
from arrayd_server import logs, systemd
from arrayd_server.config import Config, problems
from arrayd_server.config_file import ConfigError
from arrayd_server.kernel import memory_limits
from arrayd_server.option_text import markdown_table, toml_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the variables of whoever runs the tests out of them."""
    for field in fields(Config):
        monkeypatch.delenv(f"ARRAYD_{field.name.upper()}", raising=False)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """Return a configuration file with a value for each type."""
    path = tmp_path / "arrayd.toml"
    path.write_text('budget = "3M"\nworkers = 3\nprivate = true\nidle_exit = 0.5\n')
    return path


def refusal(*argv: str) -> str:
    """Return the one line with which `argv` is refused."""
    with pytest.raises(ConfigError) as caught:
        Config.load(argv)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_flag_beats_variable_beats_file_beats_default(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer is used only where no layer above it speaks."""
    default = Config.load()
    assert (default.idle_exit, default.private, default.log_file) == (0, False, None)
    argv = ["--config", str(toml)]
    assert Config.load(argv).workers == 3
    monkeypatch.setenv("ARRAYD_WORKERS", "4")
    assert Config.load(argv).workers == 4
    config = Config.load([*argv, "--workers", "5"])
    assert (config.workers, config.budget, config.idle_exit) == (5, 3 << 20, 0.5)


def test_the_file_may_be_named_by_the_variable(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ARRAYD_CONFIG names the file as --config does."""
    monkeypatch.setenv("ARRAYD_CONFIG", str(toml))
    config = Config.load()
    assert (config.config, config.private) == (toml, True)


def test_a_switch_can_be_turned_off_again(toml: Path) -> None:
    """--no-private overrules the file's true."""
    assert Config.load(["--config", str(toml)]).private is True
    assert Config.load(["--config", str(toml), "--no-private"]).private is False


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """ARRAYD_WORKERS= in a unit or shell means the default."""
    monkeypatch.setenv("ARRAYD_WORKERS", "")
    assert Config.load().workers == Config.load(["--workers", "auto"]).workers


def test_a_config_cannot_be_changed() -> None:
    """What the daemon was told stays what it was told."""
    with pytest.raises(FrozenInstanceError):
        Config.load().workers = 3  # type: ignore[misc]  # that is the point


def test_the_private_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default the socket is the user's own: in the runtime directory, else in /tmp."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert Config.load().endpoint == "ipc:///run/user/7/arrayd/sock"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert Config.load().endpoint == f"ipc:///tmp/arrayd-{os.getuid()}/sock"


@pytest.mark.parametrize("runtime", ["/run/user/7", "//run/user/../7/", ""])
def test_client_and_daemon_agree_where_private_is(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides use the rule of `arrayd.common.endpoints`, and make one spelling of it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert Config.load().endpoint == private_endpoint()


def test_an_endpoint_has_one_spelling() -> None:
    """Two spellings of one path are one scope, so the path is normalised."""
    assert Config.load(["--endpoint", "ipc:////a/./b/../sock"]).endpoint == "ipc:///a/sock"


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("tcp://127.0.0.1:5555", "listens on no network"),
        ("tcp://*:1", "listens on no network"),
        ("ipc://relative/sock", "write ipc:///absolute/path"),
        ("ipc://@abstract", "write ipc:///absolute/path"),
        ("ipc://*", "write ipc:///absolute/path"),
        ("ipc:///", "write ipc:///absolute/path"),
        ("run/arrayd.sock", "write ipc:///absolute/path, /absolute/path or private"),
        ("ipc:///" + 107 * "x", "107 bytes of a Unix socket"),
    ],
)
def test_other_endpoints_are_refused(endpoint: str, reason: str) -> None:
    """Only an absolute path that fits a Unix socket will do, and the error says why."""
    message = refusal("--endpoint", endpoint)
    assert message.startswith(f"--endpoint {endpoint}: ")
    assert reason in message


def test_the_longest_path_of_a_socket_is_accepted() -> None:
    """107 bytes fit, as unix(7) says."""
    assert Config.load(["--endpoint", "ipc:///" + 106 * "x"]).endpoint.endswith("/" + 106 * "x")


def test_a_budget_is_a_size_or_a_share_of_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A percentage is of the smallest of RAM, /dev/shm and the cgroup; the default is half."""
    monkeypatch.setattr(memory_limits, "capacity", lambda: memory_limits.Capacity(4000, 3000, 2000))
    assert Config.load(["--budget", "1.5T"]).budget == 3 << 39
    assert Config.load(["--budget", "12.5%"]).budget == 250
    assert Config.load().budget == 1000


@pytest.mark.parametrize(
    ("sizes", "says", "remedy"),
    [
        ((4000, 64, None), "50% of /dev/shm (64 B)", "--shm-size=…"),
        ((4000, 3000, 64), "50% of the memory limit of the daemon's cgroup (64 B)", "--memory=…"),
        ((64, 3000, None), "50% of RAM (64 B)", "--budget"),
    ],
)
def test_a_share_says_of_what(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int, int | None], says: str, remedy: str
) -> None:
    """Whoever has no room is told what the budget is a part of, and how that grows."""
    monkeypatch.setattr(memory_limits, "capacity", lambda: memory_limits.Capacity(*sizes))
    bound = Config.load().budget.bound
    assert says in bound.words
    assert remedy in bound.remedy
    assert "`arrayd stop`" in bound.remedy
    assert Config.load(["--budget", "1M"]).budget.bound.remedy == "raise the daemon's --budget"


def test_workers_default_to_the_cpus_but_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPUs this process may run on count, and no more than eight."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(3)))
    assert Config.load().workers == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert Config.load().workers == 8


@pytest.mark.parametrize(
    ("ram", "cgroup", "memory"),
    [
        (64 << 30, None, 2 << 30),
        (8 << 30, None, 1 << 30),
        (64 << 30, 4 << 30, 512 << 20),
        (1 << 30, None, 256 << 20),
    ],
)
def test_loader_memory_defaults_to_an_eighth(
    ram: int, cgroup: int | None, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of RAM or the cgroup, whichever is smaller, from 256 MiB to 2 GiB; /dev/shm is not asked."""
    monkeypatch.setattr(
        memory_limits, "capacity", lambda: memory_limits.Capacity(ram, 64 << 20, cgroup)
    )
    assert Config.load().loader_memory == memory
    assert Config.load(["--loader-memory", "3G"]).loader_memory == 3 << 30


@pytest.mark.parametrize(
    ("hard", "clients"),
    [(1024, 192), (64, 8), (1 << 20, 4096), (resource.RLIM_INFINITY, 4096)],
)
def test_clients_default_to_what_descriptors_allow(
    hard: int, clients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four descriptors a client beside the daemon's own 256, between 8 and 4096."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, hard))
    assert Config.load().max_clients == clients


@pytest.mark.parametrize(
    ("flag", "value", "form"),
    [
        ("--metrics-listen", "0.0.0.0:80", "for this machine alone"),
        ("--metrics-listen", "example.org:80", "write 127.0.0.1:PORT"),
        ("--metrics-listen", "127.0.0.1", "write 127.0.0.1:PORT"),
        ("--metrics-listen", "127.0.0.1:70000", "write 127.0.0.1:PORT"),
        ("--budget", "12Q", "16M, 4G, 1.5T (binary units), or a percentage"),
        ("--budget", "0", "above 0"),
        ("--budget", "0%", "above 0%"),
        ("--budget", "101%", "up to 100%"),
        ("--budget", "nan%", "percentage"),
        ("--workers", "0", "a whole number above 0, or auto"),
        ("--workers", "two", "a whole number above 0, or auto"),
        ("--max-clients", "1.5", "a whole number above 0, or auto"),
        ("--load-timeout", "0", "seconds, above 0"),
        ("--load-timeout", "inf", "seconds, above 0"),
        ("--loader-memory", "10%", "or auto"),
        ("--loader-memory", "64M", "128M or more"),
        ("--idle-exit", "-1", "seconds, 0 for never"),
        ("--idle-exit", "soon", "seconds, 0 for never"),
        ("--log-level", "loud", "debug, info, warning or error"),
    ],
)
def test_a_bad_value_is_named_with_its_origin_and_form(
    flag: str, value: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same sentence from flag, variable and file, each beginning with where to mend it."""
    name = flag.removeprefix("--").replace("-", "_")
    assert refusal(f"{flag}={value}").startswith(f"{flag} {value}: ")
    assert form in refusal(f"{flag}={value}")
    file = tmp_path / "arrayd.toml"
    file.write_text(f'{name} = "{value}"\n')
    message = refusal("--config", str(file))
    assert message.startswith(f"config {file}, line 1: {name} = {value}: ")
    assert form in message
    monkeypatch.setenv(f"ARRAYD_{name.upper()}", value)
    assert refusal().startswith(f"ARRAYD_{name.upper()}={value}: ")


def test_a_switch_knows_yes_and_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables say true or false in the usual words, and nothing else passes for either."""
    monkeypatch.setenv("ARRAYD_CHECK", "yes")
    assert Config.load().check is True
    monkeypatch.setenv("ARRAYD_CHECK", "False")
    assert Config.load().check is False
    monkeypatch.setenv("ARRAYD_CHECK", "maybe")
    assert refusal() == "ARRAYD_CHECK=maybe: write true or false."


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        ("wokers = 3", ", line 1", "unknown option wokers; did you mean workers?"),
        ("idle-exit = 3", ", line 1", "unknown option idle-exit; did you mean idle_exit?"),
        ("# a\n\n  zzz = 3", ", line 3", "unknown option zzz; options are endpoint, budget,"),
        ('config = "b.toml"', ", line 1", "unknown option config; "),
        ("workers = [3]", ", line 1", "workers: write a string, a number, true or false."),
        (
            "#workers = 1\n[workers]",
            ", line 2",
            "workers: write a string, a number, true or false.",
        ),
        ('"workers" = 0', ", line 1", "workers = 0: write a whole number above 0"),
        ('"work\\u0065rs" = 0', "", "workers = 0: write a whole number above 0"),
        ("workers = ", "", "not a TOML file: "),
    ],
)
def test_a_bad_file_is_an_error(content: str, place: str, reason: str, tmp_path: Path) -> None:
    """A key that would be ignored silently, or a file that cannot be read as TOML, is refused."""
    file = tmp_path / "arrayd.toml"
    file.write_text(content)
    message = refusal("--config", str(file))
    assert message.startswith(f"config {file}{place}: {reason}")
    assert problems(file) == [message]


def test_all_that_is_wrong_is_told(tmp_path: Path) -> None:
    """``arrayd config check`` lists the errors of a file; the daemon stops at the first."""
    file = tmp_path / "arrayd.toml"
    file.write_text('workers = 2\nbudget = "x"\n\nidle_exit = -1\nzzz = 1\n')
    lines = [message.partition(": ")[0] for message in problems(file)]
    assert lines == [f"config {file}, line {number}" for number in (2, 4, 5)]


def test_a_missing_or_binary_file_is_an_error(tmp_path: Path) -> None:
    """The file one names must be there, and be text."""
    file = tmp_path / "arrayd.toml"
    assert refusal("--config", str(file)) == f"config {file}: No such file or directory."
    file.write_bytes(b"\xff\xfe")
    assert refusal("--config", str(file)).startswith(f"config {file}: not a TOML file: ")


@pytest.mark.parametrize("argv", [["--wrokers", "3"], ["--work", "3"], ["--workers"], ["extra"]])
def test_a_bad_command_line_is_a_config_error(argv: list[str]) -> None:
    """Unknown, abbreviated or incomplete flags are one line too, not argparse's usage text."""
    assert argv[0] in refusal(*argv)


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon works in /, so a relative path is taken from where it was started."""
    monkeypatch.chdir(tmp_path)
    assert Config.load(["--log-file", "log"]).log_file == tmp_path / "log"


def test_the_readme_shows_this_table() -> None:
    """The README's table is the one that ``python -m arrayd_server.option_text`` prints."""
    run = subprocess.run(
        [sys.executable, "-m", "arrayd_server.option_text"], capture_output=True, text=True
    )
    assert (run.stdout, run.stderr) == (markdown_table(), "")
    assert markdown_table() in (ROOT / "README.md").read_text()


def test_the_file_shows_every_option(tmp_path: Path) -> None:
    """It is what ``option_text toml`` prints; with all its lines in force, it changes nothing."""
    text = (ROOT / "deploy" / "arrayd.toml").read_text()
    assert text == toml_file(), "python -m arrayd_server.option_text toml >deploy/arrayd.toml"
    assert all(len(line) <= 100 for line in text.splitlines())
    file = tmp_path / "arrayd.toml"
    file.write_text(re.sub(r"(?m)^#(\w+ = )", r"\1", text))
    assert file.read_text().count("\n") - text.count("\n") == 0
    assert problems(file) == []
    shown = Config.load(["--config", str(file)])
    assert shown.differing(Config.load()) == ["config"]
    assert set(re.findall(r"(?m)^(\w+) = ", file.read_text())) == {
        f.name for f in fields(Config)
    } - {"config"}


def test_every_option_is_in_table_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """No option is without its flag, variable and meaning."""
    with pytest.raises(SystemExit) as caught:
        Config.load(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for field in fields(Config):
        flag = "--" + field.name.replace("_", "-")
        assert flag in shown
        assert f"| `ARRAYD_{field.name.upper()}` |" in markdown_table()


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Return the daemon's logger, and close its handlers afterwards."""
    logger = logging.getLogger("arrayd_server")
    yield logger
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


def test_a_log_file_cannot_grow_without_bound(tmp_path: Path, logger: logging.Logger) -> None:
    """After 3 MiB of lines there are two files of at most 1 MiB; debug lines are left out."""
    logs.configure(Config.load(["--log-file", str(tmp_path / "log")]))
    logger.debug("not asked for")
    for number in range(3 * 1024):
        logger.info("%d %s", number, 1000 * "x")
    sizes: dict[str, Any] = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"log", "log.1"}
    assert max(sizes.values()) <= logs.FILE_BYTES
    assert "not asked for" not in (tmp_path / "log.1").read_text()


def test_a_log_file_that_cannot_be_opened_is_a_config_error(tmp_path: Path) -> None:
    """The daemon ends with one line, not with a traceback."""
    file = tmp_path / "missing" / "log"
    with pytest.raises(ConfigError, match=f"log_file {file}: cannot be written: No such file"):
        logs.configure(Config.load(["--log-file", str(file)]))


def test_lines_for_the_journal_carry_their_priority(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The journal knows the time; each line of a message is marked as sd-daemon(3) says."""
    monkeypatch.setattr(systemd, "logs_to_journal", lambda: True)
    logs.configure(Config.load(["--log-level", "debug"]))
    logger.warning("a\nb")
    logger.debug("c")
    assert capsys.readouterr().err == "<4>a\n<4>b\n<7>c\n"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("-", None),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_where_metrics_are_given(text: str, address: tuple[str, int] | None) -> None:
    """At an address that the machine has for itself."""
    assert Config.load(["--metrics-listen", text]).metrics_listen == address
