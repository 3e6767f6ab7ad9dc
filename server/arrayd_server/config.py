"""The daemon's options: every name, default and meaning, in one table, `Config`.

An option is taken from its flag, else from ``ARRAYD_<OPTION>``, else from the TOML
file, else it is its default. A default is a text like any other: what the table
shows can be written. `option_text` makes the README's table and arrayd.toml of it.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, Self

from arrayd.common import endpoints
from arrayd.common.bytesize import format_bytes, parse_bytes
from arrayd_server import config_file
from arrayd_server.access.callers import Callers, Users, parse_roots, parse_users
from arrayd_server.config_file import ConfigError, Given, text_of
from arrayd_server.core import bounds
from arrayd_server.core.bounds import Bound
from arrayd_server.kernel import memory_limits

LEAST_LOADER_MEMORY = 128 << 20
"""Bytes with which a loader can do anything at all: Python, numpy and h5py take 60 MiB."""

# How the text of an option becomes its value. A ValueError says what may be written.


def _endpoint(text: str) -> str:
    url = f"ipc://{endpoints.private_socket()}" if text == endpoints.PRIVATE else text
    scheme, _, path = url.partition("://")
    if path and scheme != "ipc":
        raise ValueError("arrayd listens on no network; write ipc:///absolute/path or private")
    if not path.startswith("/") or not path.strip("/"):
        raise ValueError("write ipc:///absolute/path or private")
    endpoint, most = endpoints.normalize(path), endpoints.SOCKET_PATH_BYTES
    if endpoints.path_bytes(endpoint) > most:
        raise ValueError(f"the path is longer than the {most} bytes of a Unix socket")
    return endpoint


class Budget(int):
    """Bytes to keep in shared memory, and what sets this limit."""

    bound: Bound = bounds.GIVEN


def _budget(text: str) -> Budget:
    if not text.endswith("%"):
        return Budget(_positive(_bytes(text)))
    try:
        percent = float(text[:-1])
    except ValueError:
        percent = math.nan
    if not 0 < percent <= 100:
        raise ValueError("write a percentage above 0% and up to 100%")
    capacity = memory_limits.capacity()
    budget = Budget(_positive(int(capacity.smallest * percent / 100)))
    budget.bound = bounds.share(capacity.tightest, text, format_bytes(capacity.smallest))
    return budget


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise ValueError(f"{error}, or a percentage") from None


def _positive(count: int) -> int:
    if count < 1:
        raise ValueError("write a number above 0")
    return count


def _count(auto: Callable[[], int]) -> Callable[[str], int]:
    """Return the parser of a whole number above 0, or ``auto`` for what `auto` finds."""

    def parse(text: str) -> int:
        if text == "auto":
            return auto()
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            raise ValueError("write a whole number above 0, or auto")
        return int(text)

    return parse


def _auto_workers() -> int:
    # Fresh pages soon limit a load, not CPUs; the other CPUs are for those who asked.
    return min(len(os.sched_getaffinity(0)), 8)


def _auto_clients() -> int:
    # The hard limit, for the daemon raises its own to it. A client costs its connection
    # and a pidfd; twice that, since one that reconnects is here twice for a moment.
    # 256 are the daemon's: segments, workers, log. Without a descriptor it can neither
    # make nor ask of a segment, so this errs on the small side.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 4096 if hard == resource.RLIM_INFINITY else max(8, min((hard - 256) // 4, 4096))


def _memory(text: str) -> int:
    if text == "auto":
        return _auto_memory()
    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None
    if size < LEAST_LOADER_MEMORY:
        raise ValueError("write 128M or more: a loader that reads nothing has 60M")
    return size


def _auto_memory() -> int:
    # What must fit is one HDF5 chunk, twice, or one line of text, five times: libraries advise
    # chunks up to 1 MiB, and 2 GiB leave room for those that nobody advised. An eighth of a
    # small machine, for several loaders may meet a bomb at a time; the kernel, should that be
    # too much still, kills a loader first (worker.py).
    capacity = memory_limits.capacity()
    memory = min(capacity.ram, capacity.cgroup or capacity.ram)
    return max(2 * LEAST_LOADER_MEMORY, min(memory // 8, 2 << 30))


def _seconds(minimum: float, form: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (minimum <= value < math.inf):
            raise ValueError(f"write seconds, {form}")
        return value

    return parse


def _switch(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return words[text.lower()]
    except KeyError:
        raise ValueError("write true or false") from None


def _level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError("write debug, info, warning or error")
    return text.upper()


def _file(text: str) -> Path | None:
    # Absolute, for the daemon works in /.
    return None if text == "-" else Path(text).expanduser().absolute()


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table: how its text is read, how it is described, and whether it is `live`.

    A live option can change while the daemon runs: a reload is enough.
    """

    parse: Callable[[str], Any]
    default: str
    metavar: str
    help: str
    live: bool

    @property
    def is_switch(self) -> bool:
        """Whether its flag takes no value."""
        return self.parse is _switch


def _option(
    parse: Callable[[str], Any], default: str, metavar: str, help: str, *, live: bool = False
) -> Any:
    return field(metadata={"option": Option(parse, default, metavar, help, live)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The options of one run; see `load`. Times are in seconds, sizes in bytes."""

    config: Path | None = _option(  # noqa: RUF009  it is a dataclasses.field
        _file, "-", "FILE", "TOML file with the options below, `name = value`; `-`: none"
    )
    endpoint: str = _option(
        _endpoint,
        "private",
        "ipc://PATH",
        "socket to listen on; `private`: `$XDG_RUNTIME_DIR/arrayd/sock`, "
        "without that variable `/tmp/arrayd-<uid>/sock`",
    )
    budget: Budget = _option(  # noqa: RUF009  it is a dataclasses.field
        _budget,
        "50%",
        "SIZE",
        "bytes to keep in shared memory: `16M`, `4G`, `1.5T` (binary units), or a percentage "
        "of the smallest of RAM, /dev/shm and the tightest memory cgroup",
        live=True,
    )
    workers: int = _option(
        _count(_auto_workers),
        "auto",
        "N",
        "loader processes; `auto`: one per CPU, at most 8",
        live=True,
    )
    load_timeout: float = _option(
        _seconds(0.001, "above 0"),
        "3600",
        "SECONDS",
        "a look at a file, or the reading of it or of one part of a large one, that takes longer "
        "fails",
        live=True,
    )
    loader_memory: int = _option(
        _memory,
        "auto",
        "SIZE",
        "memory of a loader process besides the block: a file that needs more fails; `auto`: an "
        "eighth of RAM or of the tightest memory cgroup, from 256M to 2G",
        live=True,
    )
    keep_pages: float = _option(
        _seconds(0, "0 for never"),
        "5",
        "SECONDS",
        "keep the pages of a block that has gone so long for the next load, which is then faster, "
        "unless memory runs short; `0`: never",
        live=True,
    )
    idle_exit: float = _option(
        _seconds(0, "0 for never"),
        "0",
        "SECONDS",
        "exit after so long without a session or a mapped block; `0`: never",
        live=True,
    )
    private: bool = _option(
        _switch, "false", "", "one user's daemon, started by a client; `arrayd status` says so"
    )
    allow: Users = _option(  # noqa: RUF009  it is a dataclasses.field
        parse_users,
        "none",
        "USERS",
        "users besides the daemon's own who may use it: `none`, `all`, or `alice,1001,@lab` (`@` "
        "begins a group); each gets what it could read itself",
        live=True,
    )
    admins: Users = _option(  # noqa: RUF009  it is a dataclasses.field
        parse_users,
        "none",
        "USERS",
        "users who may also see what others hold, free it, and stop the daemon, as root may",
        live=True,
    )
    roots: tuple[str, ...] = _option(
        parse_roots,
        "/",
        "DIRS",
        "directories outside which nothing is read for other users: `/data:/home`",
        live=True,
    )
    user_budget: Budget = _option(  # noqa: RUF009  it is a dataclasses.field
        _budget,
        "25%",
        "SIZE",
        "bytes that may be in memory for one other user, as in `--budget`",
        live=True,
    )
    max_clients: int = _option(
        _count(_auto_clients),
        "auto",
        "N",
        "sessions at a time; `auto`: what the limit of open files allows, at most 4096",
        live=True,
    )
    log_level: str = _option(
        _level, "info", "LEVEL", "`debug`, `info`, `warning` or `error`", live=True
    )
    log_file: Path | None = _option(  # noqa: RUF009  it is a dataclasses.field
        _file,
        "-",
        "FILE",
        "log here, in two files of at most 1 MiB; `-`: standard error",
        live=True,
    )
    check: bool = _option(
        _switch, "false", "", "verify the registry's rules after every event (for tests)"
    )

    @property
    def callers(self) -> Callers:
        """Who may use the daemon."""
        return Callers(os.geteuid(), self.allow, self.admins)

    def differing(self, other: Config) -> list[str]:
        """Return the names of the options that are not the same in `other`."""
        return [name for name in TABLE if getattr(self, name) != getattr(other, name)]

    @classmethod
    def load(cls, argv: Sequence[str] = ()) -> Self:
        """Return the options of the command line `argv` (without the program), environment, file.

        Raises
        ------
        ConfigError
            An option is unknown or has a value that it cannot have.
        """
        flags = {name: text_of(v) for name, v in vars(_parser().parse_args(argv)).items()}
        chosen = {name: _from_flag(name, flags[name]) or _from_variable(name) for name in TABLE}
        filed = _from_file(_value("config", chosen["config"]))
        return cls(
            **{name: _value(name, given or filed.get(name)) for name, given in chosen.items()}
        )


TABLE: dict[str, Option] = {f.name: f.metadata["option"] for f in fields(Config)}

_IN_FILES = [name for name in TABLE if name != "config"]  # a file names no other file


def _value(name: str, given: Given | None) -> Any:
    option = TABLE[name]
    given = given or Given(option.default, f"default of {flag(name)}: {option.default}")
    try:
        return option.parse(given.text)
    except ValueError as error:
        raise ConfigError(f"{given.origin}: {error}.") from None


def problems(path: Path) -> list[str]:
    """Return what is wrong with a file of options, a line for each; none: it can be used."""
    try:
        filed = config_file.read(path, _IN_FILES)
    except ConfigError as error:
        return [str(error)]
    found = []
    for name, given in filed.items():
        try:
            _value(name, _usable(given))
        except ConfigError as error:
            found.append(str(error))
    return found


def _from_file(path: Path | None) -> dict[str, Given]:
    """Return what the TOML file at `path` sets."""
    filed = {} if path is None else config_file.read(path, _IN_FILES)
    return {name: _usable(given) for name, given in filed.items()}


def _usable(given: Given | ConfigError) -> Given:
    if isinstance(given, ConfigError):
        raise given
    return given


def _from_flag(name: str, text: str | None) -> Given | None:
    return None if text is None else Given(text, f"{flag(name)} {text}")


def _from_variable(name: str) -> Given | None:
    # Empty is unset, as shells have it.
    text = os.environ.get(variable(name))
    return Given(text, f"{variable(name)}={text}") if text else None


def flag(name: str) -> str:
    """Return the flag of an option."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """Return the environment variable of an option."""
    return f"ARRAYD_{name.upper()}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="arrayd serve", description="Run the arrayd daemon.", allow_abbrev=False)
    for name, option in TABLE.items():
        shown = f"{option.help} (default: {option.default})".replace("%", "%%").replace("`", "")
        if option.is_switch:
            parser.add_argument(flag(name), action=argparse.BooleanOptionalAction, help=shown)
        else:
            parser.add_argument(flag(name), metavar=option.metavar, help=shown)
    return parser
