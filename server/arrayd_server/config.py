"""The daemon's options: every name, default and meaning, in one table, `Config`.

An option is taken from its flag, else from ``ARRAYD_<OPTION>``, else from the TOML
file, else it is its default. A default is a text like any other: what the table
shows can be written. `option_text` makes the README's table and arrayd.toml of it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, Self

from arrayd_server import config_file, option_parsing
from arrayd_server.access.callers import Callers, Users, parse_roots, parse_users
from arrayd_server.config_file import ConfigError, Given, text_of
from arrayd_server.core.quotas import Quotas
from arrayd_server.option_parsing import Budget
from arrayd_server.quota_parsing import QuotaEntries, parse_quotas


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table: how its text is read, how it is described, and whether it is `live`.

    A live option can change while the daemon runs: a reload is enough. `example` are lines of the
    file, of an option that is a table there.
    """

    parse: Callable[[str], Any]
    default: str
    metavar: str
    help: str
    live: bool
    example: str = ""

    @property
    def is_switch(self) -> bool:
        """Whether its flag takes no value."""
        return self.parse is option_parsing.switch


def _option(
    parse: Callable[[str], Any],
    default: str,
    metavar: str,
    help: str,
    *,
    live: bool = False,
    example: str = "",
) -> Any:
    return field(metadata={"option": Option(parse, default, metavar, help, live, example)})


_QUOTAS = """\
[quotas]
"alice" = {bytes = "80G", soft_bytes = "20G", pinned = "10G", blocks = 100000, sessions = 200}
"@lab" = {bytes = "200G"}
"*" = {bytes = "25%", loads = 64}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The options of one run; see `load`. Times are in seconds, sizes in bytes."""

    config: Path | None = _option(  # noqa: RUF009  it is a dataclasses.field
        option_parsing.file,
        "-",
        "FILE",
        "TOML file with the options below, `name = value`; `-`: none",
    )
    endpoint: str = _option(
        option_parsing.endpoint,
        "private",
        "ipc://PATH",
        "socket to listen on; `private`: `$XDG_RUNTIME_DIR/arrayd/sock`, "
        "without that variable `/tmp/arrayd-<uid>/sock`",
    )
    budget: Budget = _option(  # noqa: RUF009  it is a dataclasses.field
        option_parsing.budget,
        "50%",
        "SIZE",
        "bytes to keep in shared memory: `16M`, `4G`, `1.5T` (binary units), or a percentage "
        "of the smallest of RAM, /dev/shm and the tightest memory cgroup",
        live=True,
    )
    workers: int = _option(
        option_parsing.count(option_parsing.auto_workers),
        "auto",
        "N",
        "loader processes; `auto`: one per CPU, at most 8",
        live=True,
    )
    load_timeout: float = _option(
        option_parsing.seconds(0.001, "above 0"),
        "3600",
        "SECONDS",
        "a look at a file, or the reading of it or of one part of a large one, that takes longer "
        "fails",
        live=True,
    )
    loader_memory: int = _option(
        option_parsing.memory,
        "auto",
        "SIZE",
        "memory of a loader process besides the block: a file that needs more fails; `auto`: an "
        "eighth of RAM or of the tightest memory cgroup, from 256M to 2G",
        live=True,
    )
    keep_pages: float = _option(
        option_parsing.seconds(0, "0 for never"),
        "5",
        "SECONDS",
        "keep the pages of a block that has gone so long for the next load, which is then faster, "
        "unless memory runs short; `0`: never",
        live=True,
    )
    idle_exit: float = _option(
        option_parsing.seconds(0, "0 for never"),
        "0",
        "SECONDS",
        "exit after so long without a session or a mapped block; `0`: never",
        live=True,
    )
    private: bool = _option(
        option_parsing.switch,
        "false",
        "",
        "one user's daemon, started by a client; `arrayd status` says so",
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
        option_parsing.budget,
        "25%",
        "SIZE",
        "bytes that may be in memory for one other user, as in `--budget`, where `quotas` says "
        "nothing of it",
        live=True,
    )
    max_clients: int = _option(
        option_parsing.count(option_parsing.auto_clients),
        "auto",
        "N",
        "sessions at a time; `auto`: what the limit of open files allows, at most 4096",
        live=True,
    )
    log_level: str = _option(
        option_parsing.level, "info", "LEVEL", "`debug`, `info`, `warning` or `error`", live=True
    )
    log_file: Path | None = _option(  # noqa: RUF009  it is a dataclasses.field
        option_parsing.file,
        "-",
        "FILE",
        "log here, in two files of at most 1 MiB; `-`: standard error",
        live=True,
    )
    metrics_textfile: Path | None = _option(  # noqa: RUF009  it is a dataclasses.field
        option_parsing.file,
        "-",
        "DIR",
        "write metrics to `arrayd.prom` in this directory, for node_exporter's textfile collector; "
        "`-`: no",
    )
    metrics_listen: tuple[str, int] | None = _option(
        option_parsing.loopback,
        "-",
        "127.0.0.1:PORT",
        "give metrics by HTTP at `/metrics`, to whoever is on this machine; port `0`: a free one, "
        "which the log names; `-`: no",
    )
    check: bool = _option(
        option_parsing.switch,
        "false",
        "",
        "verify the registry's rules after every event (for tests)",
    )
    quotas: QuotaEntries = _option(  # noqa: RUF009  it is a dataclasses.field
        parse_quotas,
        "none",
        "QUOTAS",
        "what users, and the members of groups together, may have: `alice: bytes=80G, loads=64; "
        "@lab: bytes=200G; *: soft_bytes=10%`, where `*` is each other user; limits are `bytes` "
        "and `blocks` in memory, `pinned` bytes, `sessions` (on at most half of all connections) "
        "and `loads` at a time, and `soft_bytes`: who is above has its unused blocks freed before "
        "others have",
        live=True,
        example=_QUOTAS,
    )

    @property
    def limits(self) -> Quotas:
        """What users and groups may have."""
        return self.quotas.quotas(os.geteuid(), self.user_budget)

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

_TABLES = [name for name, option in TABLE.items() if option.example]


def _value(name: str, given: Given | None) -> Any:
    option = TABLE[name]
    given = given or Given(option.default, f"default of {flag(name)}: {option.default}")
    try:
        return option.parse(given.text)
    except ValueError as error:
        place = given.parts.get(getattr(error, "part", ""), given.origin)
        raise ConfigError(f"{place}: {error}.") from None


def problems(path: Path) -> list[str]:
    """Return what is wrong with a file of options, a line for each; none: it can be used."""
    try:
        filed = config_file.read(path, _IN_FILES, _TABLES)
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
    filed = {} if path is None else config_file.read(path, _IN_FILES, _TABLES)
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
