"""Users and groups by name, as they are written in a source and in share=."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from arrayd.common.users import absolute_name, share
from arrayd.errors import SpecMismatch
from arrayd.source import Source


def test_names_of_users() -> None:
    """A user in front of a name becomes a number; whoever is none stays as it is."""
    me = pwd.getpwuid(os.geteuid())
    assert absolute_name(f"~{me.pw_name}/a/b") == f"~{me.pw_uid}/a/b"
    for name in ("x", "~x", "~7/x", "~no-such-user/x", "a/~root/x"):
        assert absolute_name(name) == name
    assert Source.of(f"name:~{me.pw_name}/x").name == f"~{me.pw_uid}/x"


def test_whom_it_is_shared_with() -> None:
    """Nobody, all, or a group."""
    mine = grp.getgrgid(os.getegid())
    assert (share(None), share("all")) == (None, "all")
    assert share(f"group:{mine.gr_name}") == share(f"group:{mine.gr_gid}")
    assert share(f"group:{mine.gr_gid}") == f"group:{mine.gr_gid}"


@pytest.mark.parametrize("value", ["", "everybody", "group:", "group:no-such-group", 7, True])
def test_what_is_nobody(value: object) -> None:
    """The error says what can be written."""
    with pytest.raises(SpecMismatch, match="share="):
        share(value)
