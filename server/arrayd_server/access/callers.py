"""Who may use the daemon, and who runs it: options of the form ``alice,1001,@lab``."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from arrayd_server.access.policy import Credentials


@dataclass(frozen=True, slots=True)
class Users:
    """A set of users: some by name, and all of some groups; or everybody."""

    words: str
    everybody: bool = False
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def __str__(self) -> str:
        return self.words

    def has(self, who: Credentials) -> bool:
        """Say whether a process is of one of them, by its own credentials."""
        return self.everybody or who.uid in self.uids or any(map(who.is_in, self.gids))


@dataclass(frozen=True, slots=True)
class Callers:
    """Who may use the daemon: its own user, root, and whom the options name.

    Parameters
    ----------
    own
        The daemon's user.
    allow, admins
        Other users who may use it; and those of them who may see, and end, what is others'.
    """

    own: int
    allow: Users
    admins: Users

    @property
    def socket_mode(self) -> int:
        """The mode of the daemon's socket: who may use it is known here, not by the kernel."""
        return 0o600 if self.allow.words == "none" else 0o666

    def may_use(self, who: Credentials) -> bool:
        """Say whether a process may use the daemon."""
        return who.uid == self.own or self.allow.has(who) or self.is_admin(who)

    def is_admin(self, who: Credentials) -> bool:
        """Say whether a process may see and end what is other users'."""
        return who.uid in (self.own, 0) or self.admins.has(who)


def parse_users(text: str) -> Users:
    """Return the users that an option names: ``nobody``, ``all``, or users and groups.

    Raises
    ------
    ValueError
        The system knows no such user or group.
    """
    if text in ("none", "all"):
        return Users(text, text == "all")
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise ValueError("write none, all, or users and groups: alice,1001,@lab")
    uids = frozenset(uid_of(word) for word in words if not word.startswith("@"))
    gids = frozenset(gid_of(word[1:]) for word in words if word.startswith("@"))
    return Users(text, False, uids, gids)


def uid_of(word: str) -> int:
    """Return the user of a name or number.

    Raises
    ------
    ValueError
        The system knows no such user.
    """
    if word.isascii() and word.isdigit():
        return int(word)
    try:
        return pwd.getpwnam(word).pw_uid
    except KeyError:
        raise ValueError(f"the system knows no user {word}") from None


def gid_of(word: str) -> int:
    """Return the group of a name or number; raises as `uid_of`."""
    if word.isascii() and word.isdigit():
        return int(word)
    try:
        return grp.getgrnam(word).gr_gid
    except KeyError:
        raise ValueError(f"the system knows no group {word}") from None


def parse_roots(text: str) -> tuple[str, ...]:
    """Return the directories that an option names, ``/data:/home``, as real paths.

    Raises
    ------
    ValueError
        One is not absolute.
    """
    paths = text.split(":")
    if not all(path.startswith("/") for path in paths):
        raise ValueError("write absolute paths, separated by colons: /data:/home")
    return tuple(os.path.realpath(path) for path in paths)
