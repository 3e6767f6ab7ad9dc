"""``arrayd install-service``: write the units of systemd, with this arrayd's path, and enable them.

What is to be done is a list of steps, which ``--dry-run`` prints instead: files to be written, and
commands. To do it twice is to upgrade: what runs hands its blocks over to the new version.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import arrayd
from arrayd.cli.common import Subparsers, UsageError, complain
from arrayd.common.endpoints import PRIVATE
from arrayd.errors import NoDaemon
from arrayd.system import daemon_probe

HELP = "have systemd run the daemon: for the machine, or for you"

MARK = "# Written by `arrayd install-service`, which overwrites it: change it by `systemctl edit`."

_ETC = Path("/etc")
_PACKAGED = Path("/usr/lib/systemd/system/arrayd.service")
_SYSTEM_PROGRAM, _USER_PROGRAM = "/opt/arrayd/bin/arrayd", "%Y/../../../bin/arrayd"
_NOBODY, _MEMBERS = '\n#allow = "none"\n', '\nallow = "@arrayd"\n'
_EXPLAINS_LINK = re.compile(r"# %Y .*?\n(?=# %t)", re.DOTALL)
_ODD = re.compile(r"[\s\"'\\$;]")
_HAND_OVER_SECONDS = 30.0


class Refused(Exception):
    """The service cannot be installed like this: what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class Write:
    """A file to be written; with `keep`, unless there is one, which somebody may have changed."""

    path: Path
    text: str
    keep: bool = False

    def __str__(self) -> str:
        if self.keep and self.path.exists():
            return f"keep {self.path}\n"
        return f"write {self.path}\n" + "".join(
            f"    {line}" for line in self.text.splitlines(True)
        )

    def do(self) -> None:
        """Write it, whole or not at all."""
        if self.keep and self.path.exists():
            return
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = self.path.with_name(f".{self.path.name}.new")
        new.write_text(self.text)
        new.chmod(0o644)
        new.replace(self.path)


@dataclass(frozen=True, slots=True)
class Run:
    """A command to be run."""

    command: tuple[str, ...]

    def __str__(self) -> str:
        return f"run {shlex.join(self.command)}\n"

    def do(self) -> None:
        """Run it; what it says is for the user."""
        if subprocess.run(self.command, check=False).returncode:
            raise Refused(f"`{shlex.join(self.command)}` has failed: see what it says above.")


@dataclass(frozen=True, slots=True)
class HandOver:
    """A private daemon, which has the place of the user's service, to be ended: it hands over."""

    find: Callable[[], int]

    def __str__(self) -> str:
        pid = self.find()
        return f"run kill -USR1 {pid}  # your private daemon: the service adopts its blocks\n" * (
            pid > 0
        )

    def do(self) -> None:
        """End it, if it runs, and wait for that."""
        pid = self.find()
        if pid:
            os.kill(pid, signal.SIGUSR1)
            if not daemon_probe.wait_ended(pid, _HAND_OVER_SECONDS):
                raise Refused(f"Your private daemon (pid {pid}) does not end: `arrayd stop`.")


Step = Write | Run | HandOver


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "install-service", help=HELP, description=f"{HELP[0].upper()}{HELP[1:]}."
    )
    parser.add_argument(
        "--user", action="store_true", help="a service of yours; else one for all users, as root"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be written and run, and do nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Do the steps, or print them."""
    if not (args.user or args.dry_run) and os.geteuid() != 0:
        raise UsageError("the service for all users is root's to install; or add --user")
    try:
        if shutil.which("systemctl") is None and not args.dry_run:
            raise Refused("There is no systemctl: this machine is not run by systemd.")
        steps = list(_for_user() if args.user else _for_machine())
        for step in steps:
            if args.dry_run:
                print(step, end="")
            else:
                step.do()
    except Refused as refused:
        complain(refused)
        return 1
    if not args.dry_run:
        print(_NEXT_USER if args.user else _NEXT_MACHINE)
    return 0


_NEXT_MACHINE = """\
The first program that asks starts arrayd. Who may ask is in the group arrayd:
    gpasswd -a alice arrayd
Options: /etc/arrayd/arrayd.toml, then `systemctl reload arrayd`. Log: `journalctl -u arrayd`."""

_NEXT_USER = """\
arrayd runs as a service of yours, and ends at your last logout; to have it stay:
    loginctl enable-linger
Log: `journalctl --user -u arrayd`."""


# ---- the steps -------------------------------------------------------------------------------


def _for_machine() -> Iterator[Step]:
    if _PACKAGED.exists():
        raise Refused(
            f"A package of this system has the service already ({_PACKAGED}), in its own version: "
            "`systemctl enable --now arrayd.socket`. To have this arrayd instead, remove it first."
        )
    program, files = _program(), shipped_files()
    _check_readable(program)
    sysusers = _ETC / "sysusers.d" / "arrayd.conf"
    yield _owned(sysusers, (files / "system" / "arrayd.sysusers.conf").read_text())
    yield Run(("systemd-sysusers", str(sysusers)))
    options = (files / "arrayd.toml").read_text()
    options = options.replace(_NOBODY, _MEMBERS)
    yield Write(_ETC / "arrayd" / "arrayd.toml", options, keep=True)
    for name in ("arrayd.service", "arrayd.socket"):
        text = (files / "system" / name).read_text().replace(_SYSTEM_PROGRAM, program)
        yield _owned(_ETC / "systemd" / "system" / name, text)
    catalog = (files / "system" / "arrayd.catalog").read_text()
    yield _owned(_ETC / "systemd" / "catalog" / "arrayd.catalog", catalog)
    yield Run(("journalctl", "--update-catalog"))
    yield Run(("systemctl", "daemon-reload"))
    yield Run(("systemctl", "try-restart", "arrayd.service"))
    yield Run(("systemctl", "enable", "--now", "arrayd.socket"))


def _for_user() -> Iterator[Step]:
    program = _program()
    text = (shipped_files() / "user" / "arrayd.service").read_text()
    text = _EXPLAINS_LINK.sub("", text.partition("\n\n")[2]).replace(_USER_PROGRAM, program)
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    yield _owned(Path(home, "systemd", "user", "arrayd.service"), text)
    yield HandOver(_private_daemon)
    yield Run(("systemctl", "--user", "daemon-reload"))
    yield Run(("systemctl", "--user", "try-restart", "arrayd.service"))
    yield Run(("systemctl", "--user", "enable", "--now", "arrayd.service"))


def _owned(path: Path, text: str) -> Write:
    """Return the step that writes a file of ours, unless somebody else's is there."""
    if path.exists() and not path.read_text().startswith(MARK):
        raise Refused(
            f"{path} is there, and not written by this command. Move it away, and put what you "
            "have changed in a drop-in (`systemctl edit arrayd`)."
        )
    return Write(path, f"{MARK}\n\n{text}")


def _private_daemon() -> int:
    """Return the process of this user's private daemon; 0: none runs."""
    try:
        with arrayd.connect(PRIVATE, start=False) as client:
            status = client.status()
    except NoDaemon:
        return 0
    return status.pid if status.private else 0


def shipped_files() -> Path:
    """Return the folder with the units: a checkout's, or what pip has put beside us."""
    shares = [Path(data, "share", "arrayd") for data in _data_folders()]
    for place in (Path(arrayd.__file__).parents[2] / "deploy", *shares):
        if (place / "system" / "arrayd.service").is_file():
            return place
    raise Refused(f"The units are not in {shares[0]}: install arrayd again.")


def _data_folders() -> list[str]:
    """Return where pip puts other files: of the environment, and of ``pip install --user``."""
    user = sysconfig.get_preferred_scheme("user")
    return [sysconfig.get_path("data"), sysconfig.get_path("data", user)]


def _scripts() -> str:
    """Return where the programs of this Python's packages are."""
    return sysconfig.get_path("scripts")


def _program() -> str:
    """Return the path of the ``arrayd`` beside this Python, as a unit writes it."""
    path = os.path.join(_scripts(), "arrayd")
    if not os.access(path, os.X_OK):
        raise Refused(f"There is no {path}: install arrayd with pip, uv or pipx.")
    if _ODD.search(path):
        raise Refused(f"{path!r}: a unit cannot have such a path. Install arrayd somewhere else.")
    return path.replace("%", "%%")


def _check_readable(program: str) -> None:
    """Assert that the service's user can read program, interpreter and packages.

    Raises
    ------
    Refused
        It cannot, as where root has installed them in its home.
    """
    used = [program.replace("%%", "%"), os.path.realpath(sys.executable), arrayd.__file__]
    used += [path for path in sys.path if path.endswith("-packages")]
    for path in map(Path, used):
        for place in (path, *path.parents):
            if not _open_to_all(place):
                raise Refused(
                    f"The service has a user of its own, who cannot read {path}, for {place} is "
                    "closed to others. Install arrayd and its Python where all can read it: "
                    "`python3 -m venv /opt/arrayd`, `pipx install --global`, or UV_TOOL_DIR="
                    "/opt/uv/tools UV_PYTHON_INSTALL_DIR=/opt/uv/python `uv tool install`."
                )


def _open_to_all(place: Path) -> bool:
    mode = place.stat().st_mode
    return bool(mode & (stat.S_IXOTH if place.is_dir() else stat.S_IROTH))
