"""The kernel's rules for permissions: a table, the kernel itself as the judge, and the encoding."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrayd_server.access import policy
from arrayd_server.access.policy import (
    GROUP,
    GROUP_OBJ,
    MASK,
    OTHER,
    READ,
    SEARCH,
    USER,
    USER_OBJ,
    AclEntry,
    Credentials,
    Inode,
    allows,
)

OWNER, FRIEND, STRANGER = (Credentials(uid, uid) for uid in (1, 2, 3))
MEMBER, EXTRA = Credentials(4, 10), Credentials(5, 5, frozenset({10}))


@pytest.mark.parametrize(
    ("mode", "who", "expected"),
    [
        (0o600, OWNER, True),
        (0o600, STRANGER, False),
        (0o640, MEMBER, True),
        (0o640, EXTRA, True),
        (0o640, STRANGER, False),
        (0o604, STRANGER, True),
        (0o604, MEMBER, False),  # the group's class says no, and that is all that is asked
        (0o044, OWNER, False),  # so is the owner's
        (0o000, Credentials(0, 0), True),
    ],
)
def test_the_classes_of_a_mode(mode: int, who: Credentials, expected: bool) -> None:
    """Of owner, group and others exactly one counts."""
    assert allows(Inode(1, 10, mode), who, READ) is expected


def listed(*named: AclEntry, mask: int = 7, group: int = 0, other: int = 0) -> Inode:
    """Return a file of user 1 and group 10 with a list."""
    rest = (AclEntry(GROUP_OBJ, group), AclEntry(MASK, mask), AclEntry(OTHER, other))
    return Inode(1, 10, 0o600 | mask << 3 | other, (AclEntry(USER_OBJ, 6), *named, *rest))


@pytest.mark.parametrize(
    ("inode", "who", "expected"),
    [
        (listed(AclEntry(USER, 4, 2)), FRIEND, True),
        (listed(AclEntry(USER, 4, 2)), STRANGER, False),
        (listed(AclEntry(USER, 4, 2), mask=0), FRIEND, False),
        (listed(AclEntry(USER, 0, 2), other=4), FRIEND, False),  # named: others' does not count
        (listed(AclEntry(GROUP, 4, 5)), EXTRA, True),
        (listed(AclEntry(GROUP, 4, 5), mask=3), EXTRA, False),
        (listed(AclEntry(GROUP, 0, 5), group=4), EXTRA, True),  # one of its groups says yes
        (listed(AclEntry(GROUP, 0, 5), other=4), Credentials(6, 5), False),
        (listed(other=4), STRANGER, True),
        (listed(mask=0), OWNER, True),  # the mask is not for the owner
    ],
)
def test_lists(inode: Inode, who: Credentials, expected: bool) -> None:
    """acl(5): the owner, a named user, all the groups, the others; in this order."""
    assert allows(inode, who, READ) is expected


BITS = st.sampled_from([0, 1, 4, 5])
IDS = st.sampled_from([60001, 60002, 60003])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes other users")
@settings(deadline=None, max_examples=60)
@given(
    mode=st.integers(0, 0o777),
    users=st.dictionaries(IDS, BITS, max_size=2),
    groups=st.dictionaries(IDS, BITS, max_size=2),
    mask=BITS,
    who=st.tuples(IDS, IDS, st.frozensets(IDS)),
)
def test_the_kernel_agrees(
    tmp_path_factory: pytest.TempPathFactory,
    mode: int,
    users: dict[int, int],
    groups: dict[int, int],
    mask: int,
    who: tuple[int, int, frozenset[int]],
) -> None:
    """For any mode and list, any user gets what open(2) and a search give it."""
    folder = _open_way(tmp_path_factory.getbasetemp() / "agree")
    place = folder / "place"
    place.mkdir(exist_ok=True)
    named = [
        *(AclEntry(USER, bits, uid) for uid, bits in users.items()),
        *(AclEntry(GROUP, bits, gid) for gid, bits in groups.items()),
    ]
    rest = [AclEntry(USER_OBJ, mode >> 6), AclEntry(GROUP_OBJ, mode >> 3 & 7)]
    acl = (*rest, *named, *([AclEntry(MASK, mask)] if named else []), AclEntry(OTHER, mode & 7))
    os.chown(place, 60001, 60002)
    os.setxattr(place, "system.posix_acl_access", policy.pack_acl(acl))
    info = os.stat(place)
    inode = Inode(info.st_uid, info.st_gid, info.st_mode & 0o777, acl if named else None)
    one = Credentials(*who)
    expected = _as(one, place)
    assert (allows(inode, one, READ), allows(inode, one, SEARCH)) == expected
    place.rmdir()


def _open_way(folder: Path) -> Path:
    """Return a folder that everybody can reach."""
    folder.mkdir(exist_ok=True)
    for one in (folder, *folder.parents):
        if one.stat().st_uid == os.geteuid() and one != Path("/"):
            one.chmod(one.stat().st_mode | 0o111)
    return folder


def _as(who: Credentials, place: Path) -> tuple[bool, bool]:
    """Return whether a user may list a folder, and search it."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            os.setgroups(sorted(who.groups))
            os.setresgid(who.gid, who.gid, who.gid)
            os.setresuid(who.uid, who.uid, who.uid)
            code = 2 * os.access(place, os.R_OK) + os.access(place, os.X_OK)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code < 4
    return bool(code & 2), bool(code & 1)


def test_lists_of_segments() -> None:
    """What is written for a segment names exactly its readers, and is understood again."""
    for readers, writers in itertools.product([(), (7,), (9, 7)], [(), (7,)]):
        acl = policy.parse_acl(policy.pack_acl(policy.segment_acl(readers, writers)))
        someone_writes = bool(set(readers) & set(writers))
        assert policy.readers_of(acl) == (None if someone_writes else frozenset(readers))
        inode = Inode(1, 1, 0o660 if readers else 0o600, acl)
        for uid in (7, 9):
            assert allows(inode, Credentials(uid, uid), READ) is (uid in readers)
            assert allows(inode, Credentials(uid, uid), 2) is (uid in readers and uid in writers)
        assert not allows(inode, Credentials(3, 1, frozenset({1})), READ)


@pytest.mark.parametrize(
    "acl",
    [
        (*policy.segment_acl(()), AclEntry(GROUP, 4, 7)),
        (AclEntry(USER_OBJ, 6), AclEntry(GROUP_OBJ, 4), AclEntry(OTHER, 0)),
        (AclEntry(USER_OBJ, 6), AclEntry(GROUP_OBJ, 0), AclEntry(OTHER, 4)),
        (AclEntry(USER_OBJ, 4), AclEntry(GROUP_OBJ, 0), AclEntry(OTHER, 0)),
    ],
)
def test_a_list_that_somebody_has_changed(acl: policy.Acl) -> None:
    """Who may open such a segment is not known."""
    assert policy.readers_of(acl) is None


@pytest.mark.parametrize("data", [b"", b"\x01\0\0\0", b"\x02\0\0\0123"])
def test_what_is_no_list(data: bytes) -> None:
    """Another version, and half an entry, are refused."""
    with pytest.raises(ValueError, match="no access control list"):
        policy.parse_acl(data)


def test_roots() -> None:
    """A path is under a root by whole names."""
    assert policy.is_under("/data/x", ["/data"])
    assert policy.is_under("/x", ["/"])
    assert not policy.is_under("/database/x", ["/data", "/home"])
