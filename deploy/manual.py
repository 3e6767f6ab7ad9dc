r"""The manual pages arrayd(1) and arrayd.toml(5), in the macros of man(7).

A text of the parsers or of the table of options is plain, with names between backquotes. Here it
becomes roff: backslashes, hyphens and what is not ASCII are escaped, a line that would begin with
a dot or an apostrophe is guarded by ``\&``, and what is between backquotes is bold.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator

from arrayd import cli
from arrayd_server.config import TABLE, Option, variable
from arrayd_server.option_text import HEAD

_DESCRIPTION = """\
arrayd keeps one copy of each NumPy array in the memory of this machine. Programs ask for files
with `arrayd.get` of its Python package, and all get the same pages, read-only. A daemon loads the
files, counts who holds what, and frees what nobody has needed for the longest time when room is
needed. Of a command this is the short description; `arrayd` *COMMAND* `--help` shows its usage.

The commands talk to the daemon that *--endpoint* names, else `ARRAYD_ENDPOINT`, else to the one of
the machine if this user may connect to it, else to a private one of this user's."""

_ENVIRONMENT = {
    "ARRAYD_ENDPOINT": "the daemon's socket, `ipc:///path`, or `private`",
    "ARRAYD_CONFIG": "the file that `arrayd serve` and `arrayd config check` read",
    "ARRAYD_CACHE": "where a dataset keeps what it has decoded, unless it is told",
    "ARRAYD_*": "each option of `arrayd serve` in capitals, as `ARRAYD_BUDGET`",
}

_FILES = {
    "/etc/arrayd/arrayd.toml": "options of the daemon for this machine, see arrayd.toml(5)",
    "/run/arrayd/arrayd.sock": "where that daemon listens",
    "$XDG_RUNTIME_DIR/arrayd/sock": "where a user's own daemon listens; without that variable "
    "`/tmp/arrayd-<uid>/sock`",
    "/dev/shm/arrayd-*": "the arrays",
}

_FILE = """\
A file has lines `name = value`, as TOML has them. `arrayd config check` *FILE* tells what is wrong
in it, and in which line. With an error in it a daemon does not start. `systemctl reload arrayd`
(SIGHUP) has a daemon read it again, and nothing is dropped; a file with an error changes nothing
then. What waits for a restart waits for `systemctl restart arrayd`, which loses no block either.
Sizes are in binary units: `16M`, `4G`, `1.5T`."""


_GAP = "\n\n"


def actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return what a parser understands, but for ``--help``."""
    return [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]


def arrayd(parser: argparse.ArgumentParser) -> str:
    """Return arrayd(1).

    Parameters
    ----------
    parser
        Of the whole command line.
    """
    about = (parser.description or "").rstrip(".")
    lines = [*_title("ARRAYD", 1, "User Commands")]
    lines += [".SH NAME", rf"arrayd \- {_plain(about[0].lower() + about[1:])}"]
    lines += [".SH SYNOPSIS", r"\fBarrayd\fP \fICOMMAND\fP [\fIargument\fP ...]"]
    lines += [".br", r"\fBarrayd \-\-version\fP"]
    lines += [".SH DESCRIPTION", *_paragraphs(_DESCRIPTION)]
    lines += [".SH COMMANDS", *_commands(parser)]
    codes = re.search(r"Exit codes: (.*?)\.\n", cli.__doc__ or "", re.DOTALL)
    assert codes is not None
    known = [one.split(maxsplit=1) for one in codes[1].split("·")]
    lines += [".SH EXIT STATUS", *_entries((code, " ".join(w.split())) for code, w in known)]
    lines += [".SH ENVIRONMENT", *_entries(_ENVIRONMENT.items())]
    lines += [".SH FILES", *_entries(_FILES.items(), "I")]
    lines += [".SH SEE ALSO", ".BR arrayd.toml (5),", ".BR systemctl (1),", ".BR journalctl (1)"]
    return "\n".join(lines) + "\n"


def arrayd_toml() -> str:
    """Return arrayd.toml(5)."""
    lines = [*_title("ARRAYD.TOML", 5, "File Formats")]
    lines += [".SH NAME", r"arrayd.toml \- options of the arrayd daemon"]
    lines += [".SH SYNOPSIS", r"\fI/etc/arrayd/arrayd.toml\fP"]
    lines += [".SH DESCRIPTION", *_paragraphs(f"{HEAD.partition(_GAP)[0]}{_GAP}{_FILE}")]
    lines += [".SH OPTIONS"]
    lines += _entries((f"{n} =", _option(n, o)) for n, o in TABLE.items() if n != "config")
    example = ['budget = "90%"', 'allow = "@lab"', 'roots = "/data:/home"', "workers = 4"]
    lines += [".SH EXAMPLE", ".EX", *map(_plain, example), ".EE"]
    lines += [".SH SEE ALSO", ".BR arrayd (1)"]
    return "\n".join(lines) + "\n"


def _title(name: str, section: int, group: str) -> Iterator[str]:
    yield r".\" Made by `python -m deploy.documents`. Not to be changed by hand."
    yield f'.TH {name} {section} "" arrayd "{group}"'
    yield ".ad l"  # long names and paths: justified lines would be full of holes
    yield ".nh"


def _commands(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[str]:
    for action in actions(parser):
        if not isinstance(action, argparse._SubParsersAction):
            continue
        short = {one.dest: one.help or "" for one in action._choices_actions}
        for name, below in action.choices.items():
            if any(isinstance(one, argparse._SubParsersAction) for one in below._actions):
                yield from _commands(below, f"{prefix}{name} ")
                continue
            words = "".join(f" {_shown(a)}" for a in actions(below) if not a.option_strings)
            options = " [option ...]" * any(a.option_strings for a in actions(below))
            yield rf".SS {_bold('arrayd ' + prefix + name)}{_plain(options + words)}"
            yield _text(below.description or f"{short[name]}.".capitalize())
            yield from _entries((_usage(a), _help(a)) for a in actions(below))


def _shown(action: argparse.Action) -> str:
    """Return how a positional argument is written in a usage."""
    name = action.metavar if isinstance(action.metavar, str) else action.dest
    if action.choices and action.metavar is None:
        name = "|".join(map(str, action.choices))
    return {None: name, "+": f"{name} ...", "*": f"[{name} ...]", "?": f"[{name}]"}.get(
        action.nargs if not isinstance(action.nargs, int) else None, name
    )


def _usage(action: argparse.Action) -> str:
    """Return the head of an argument's entry: its flags, and what follows them."""
    if not action.option_strings:
        return _shown(action)
    choices = "|".join(map(str, action.choices or ()))
    value = action.metavar or choices or action.dest.upper()
    return ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {value}")


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%").replace("%(default)s", str(action.default))


def _option(name: str, option: Option) -> str:
    when = "" if option.live else " A change waits for a restart."
    meaning = option.help[0].upper() + option.help[1:]
    return f"{meaning}. Default: `{option.default}`. Variable: `{variable(name)}`.{when}"


# ---- roff ------------------------------------------------------------------------------------


def _entries(entries: Iterable[tuple[str, str]], font: str = "B") -> Iterator[str]:
    for head, words in entries:
        yield ".TP"
        yield rf"\f{font}{_plain(head)}\fP"
        yield _text(words)


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        yield _text(paragraph)


def _text(words: str) -> str:
    """Return a text, with its names between backquotes bold and those between stars italic."""
    plain = _plain(" ".join(words.split()))
    plain = re.sub(r"`([^`]*)`", r"\\fB\1\\fP", plain)
    return re.sub(r"(?<!\w)\*([\w\\-]+)\*(?!\w)", r"\\fI\1\\fP", plain)


def _bold(words: str) -> str:
    return rf"\fB{_plain(words)}\fP"


def _plain(words: str) -> str:
    escaped = words.replace("\\", r"\e").replace("-", r"\-")
    escaped = re.sub(r"[^\x00-\x7f]", lambda one: rf"\[u{ord(one[0]):04X}]", escaped)
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped
