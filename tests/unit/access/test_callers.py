"""Options that name users, groups and directories."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from arrayd_server.access.callers import Callers, parse_roots, parse_users
from arrayd_server.access.policy import Credentials


def test_users_by_name_and_number() -> None:
    """Both mean the same; a group means all who are in it, by their own credentials."""
    me = pwd.getpwuid(os.geteuid())
    group = grp.getgrgid(me.pw_gid)
    for text in (me.pw_name, str(me.pw_uid), f"60001, {me.pw_name}"):
        assert parse_users(text).has(Credentials(me.pw_uid, 1))
        assert not parse_users(text).has(Credentials(60002, me.pw_gid))
    for text in (f"@{group.gr_name}", f"@{group.gr_gid}"):
        assert parse_users(text).has(Credentials(60001, group.gr_gid))
        assert parse_users(text).has(Credentials(60001, 1, frozenset({group.gr_gid})))
        assert not parse_users(text).has(Credentials(60001, 1))


def test_everybody_and_nobody() -> None:
    """Two words."""
    assert parse_users("all").has(Credentials(60001, 1))
    assert not parse_users("none").has(Credentials(0, 0))
    assert str(parse_users("none")) == "none"


@pytest.mark.parametrize(
    ("text", "words"),
    [("no-such-user", "no user"), ("@no-such-group", "no group"), ("ann,,@lab", "write none, all")],
)
def test_users_that_are_none(text: str, words: str) -> None:
    """The error says what may be written."""
    with pytest.raises(ValueError, match=words):
        parse_users(text)


def test_who_may_use_a_daemon() -> None:
    """Its own user, root, those that are named; and of these the admins may see all."""
    callers = Callers(7, parse_users("60001"), parse_users("60002"))
    told = {
        uid: (callers.may_use(Credentials(uid, uid)), callers.is_admin(Credentials(uid, uid)))
        for uid in (0, 7, 60001, 60002, 60003)
    }
    yes, no = (True, True), (False, False)
    assert told == {0: yes, 7: yes, 60001: (True, False), 60002: yes, 60003: no}


def test_roots_are_real_paths(tmp_path: Path) -> None:
    """Links are followed once, at the start."""
    os.symlink(tmp_path, tmp_path / "link")
    assert parse_roots(f"{tmp_path}/link:/") == (os.path.realpath(tmp_path), "/")
    with pytest.raises(ValueError, match="absolute"):
        parse_roots("data:/home")
