"""The options in words: ``python -m arrayd_server.option_text``, for the README's table.

With ``toml`` after it, for ``deploy/arrayd.toml``.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator

from arrayd_server.config import TABLE, Option, flag, variable

_WIDTH = 100

HEAD = """\
The options of arrayd's daemon. The service for the machine reads them from
/etc/arrayd/arrayd.toml, any other from the file that --config or ARRAYD_CONFIG names. A
flag or a variable goes before the file: in arrayd.service the endpoint is a flag.

A line that begins with #NAME shows the default; take the # away to change it. Then
`arrayd config check FILE` tells what is wrong with it, and `systemctl reload arrayd` (SIGHUP) has
the daemon read it again: a file with an error changes nothing. Options marked [restart] wait for
`systemctl restart arrayd`, which loses no block either. A table ([quotas]) stands at the end."""


def markdown_table() -> str:
    """Return the options as the README shows them."""
    return "\n".join(_rows()) + "\n"


def toml_file() -> str:
    """Return a file of options that changes none of them, and explains all."""
    parts = ["\n".join(f"# {line}".rstrip() for line in HEAD.splitlines())]
    parts += [_explained(name, option) for name, option in TABLE.items() if name != "config"]
    return "\n\n".join(parts) + "\n"


def _rows() -> Iterator[str]:
    yield "| flag | environment | default | meaning |"
    yield "|---|---|---|---|"
    for name, option in TABLE.items():
        usage = f"{flag(name)} {option.metavar}".rstrip()
        yield f"| `{usage}` | `{variable(name)}` | `{option.default}` | {option.help} |"


def _explained(name: str, option: Option) -> str:
    meaning = option.help.replace("`", '"')
    meaning = meaning[0].upper() + meaning[1:]
    words = f"{meaning}.{'' if option.live else ' [restart]'}"
    lines = textwrap.wrap(words, _WIDTH, initial_indent="# ", subsequent_indent="# ")
    example = [f"#{line}" for line in option.example.splitlines()]
    return "\n".join([*lines, f"#{name} = {_toml(option.default)}", *example])


def _toml(text: str) -> str:
    bare = text in ("true", "false") or text.isdecimal()
    return text if bare else f'"{text}"'


if __name__ == "__main__":
    sys.stdout.write(toml_file() if sys.argv[1:] == ["toml"] else markdown_table())
