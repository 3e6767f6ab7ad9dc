"""Users and groups by name: of those who share an array, and with whom it is shared."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from arrayd.errors import SpecMismatch

_OF_USER = re.compile(r"~([^/]+)/")


def absolute_name(name: str) -> str:
    """Return the name of a published block with its user's number: ``~1001/x`` for ``~ann/x``.

    A name of which there is no such user stays as it is.
    """
    found = _OF_USER.match(name)
    if found is None or found[1].isdigit():
        return name
    import pwd  # as few ask for what others have published

    try:
        return f"~{pwd.getpwnam(found[1]).pw_uid}/{name[found.end() :]}"
    except KeyError:
        return name


@cache
def user_name(uid: int) -> str:
    """Return the name of a user, or the number of one without.

    The system is asked once: it may have to ask a directory in the network.
    """
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def share(value: Any) -> str | None:
    """Return whom a block is shared with: None, ``"all"``, or ``"group:NUMBER"``.

    Raises
    ------
    SpecMismatch
        It is none of these, or the system knows no such group.
    """
    if value is None or value == "all":
        return None if value is None else "all"
    kind, _, group = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind != "group" or not group:
        raise SpecMismatch(f"share={value!r}: it can be None, 'all' or 'group:NAME'.")
    if group.isascii() and group.isdigit():
        return f"group:{int(group)}"
    import grp

    try:
        return f"group:{grp.getgrnam(group).gr_gid}"
    except KeyError:
        raise SpecMismatch(f"share={value!r}: the system knows no group {group}.") from None
