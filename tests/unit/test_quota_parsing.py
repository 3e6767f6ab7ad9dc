"""The option ``quotas``: its two forms, what it means, and where an error is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arrayd_server.config import Config, problems
from arrayd_server.core.quotas import NO_LIMITS, Limits, Owner
from arrayd_server.kernel import memory_limits
from arrayd_server.quota_parsing import parse_quotas

MIB = 1 << 20

TABLE = """\
budget = "1G"
[quotas]
"60001" = {bytes = "80M", soft_bytes = "20M", pinned = 0, blocks = 9}
"@60010" = {bytes = "200M"}
"*" = {bytes = "25%", sessions = 8}
"""

TEXT = (
    "60001: bytes=80M, soft_bytes=20M, pinned=0, blocks=9; @60010: bytes=200M; "
    "*: bytes=25%, sessions=8"
)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a machine of 400 MiB."""
    monkeypatch.delenv("ARRAYD_QUOTAS", raising=False)
    capacity = memory_limits.Capacity(400 * MIB, 400 * MIB, None)
    monkeypatch.setattr(memory_limits, "capacity", lambda: capacity)


def load(tmp_path: Path, text: str) -> Config:
    """Return the options of a file."""
    (tmp_path / "a.toml").write_text(text)
    return Config.load(["--config", str(tmp_path / "a.toml")])


def test_the_table_and_the_line_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in the file can be written behind the flag, and in the variable."""
    filed = load(tmp_path, TABLE)
    assert str(filed.quotas) == TEXT
    assert Config.load(["--quotas", TEXT]).quotas == filed.quotas
    monkeypatch.setenv("ARRAYD_QUOTAS", TEXT)
    assert Config.load().quotas == filed.quotas
    monkeypatch.delenv("ARRAYD_QUOTAS")
    assert Config.load(["--quotas", "none"]).quotas.named == ()
    sections = '[quotas.60001]\nbytes = "80M"\nsoft_bytes = "20M"\npinned = 0\nblocks = 9\n'
    assert load(tmp_path, sections).quotas.named[0] == filed.quotas.named[0]
    assert load(tmp_path, "[quotas]\n").quotas.named == ()


def test_who_has_which_limits(tmp_path: Path) -> None:
    """Who is named has what its entry says, and else what each other user has; root has none."""
    quotas = load(tmp_path, TABLE).limits
    assert quotas.of(Owner(False, 60001)) == Limits(80 * MIB, 20 * MIB, 0, 9, sessions=8)
    assert quotas.of(Owner(False, 60002)) == Limits(bytes=100 * MIB, sessions=8)
    assert quotas.of(Owner(True, 60010)) == Limits(bytes=200 * MIB)
    for uid in (0, os.geteuid()):
        assert quotas.of(Owner(False, uid)) == NO_LIMITS
        assert quotas.owners(uid, frozenset({60010})) == (Owner(False, uid),)
    both = (Owner(False, 60001), Owner(True, 60010))
    assert quotas.owners(60001, frozenset({60010, 60011})) == both
    assert (quotas.entry(both[0]), quotas.entry(both[1])) == ("60001", "@60010")
    assert quotas.entry(Owner(False, 60002)) == "*"
    assert quotas.own is None


def test_the_short_way(tmp_path: Path) -> None:
    """`user_budget` is the limit of bytes of each other user, unless ``*`` sets one."""
    assert Config.load(["--user-budget", "7M"]).limits.others == Limits(bytes=7 * MIB)
    text = 'user_budget = "7M"\nquotas."*" = {loads = 5}\nquotas.root = {loads = 3}\n'
    quotas = load(tmp_path, text).limits
    assert quotas.others == Limits(bytes=7 * MIB, loads=5)
    assert quotas.of(Owner(False, 0)) == Limits(loads=3)
    assert quotas.own == (0 if os.geteuid() == 0 else None)
    assert load(tmp_path, f'user_budget = "7M"\n{TABLE}').limits.others.bytes == 100 * MIB


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (TABLE.replace("blocks", "blcks"), 3, "60001: no limit is called 'blcks' (did you mean "),
        (TABLE.replace("sessions = 8", "x = 8"), 5, "*: no limit is called 'x' (there are bytes, "),
        (TABLE.replace("200M", "200MB"), 4, "@60010: bytes = 200MB: not a size; write bytes or "),
        (TABLE.replace("= 8", "= -8"), 5, "*: sessions = -8: write a whole number."),
        (TABLE.replace('"*"', '"no one"'), 5, "no one: the system knows no user no one."),
        (TABLE.replace("@60010", "@nogrp"), 4, "@nogrp: the system knows no group nogrp."),
        (TABLE.replace('{bytes = "200M"}', '"200M"'), 4, '@60010: write "@60010" = {bytes = "80G"'),
        (TABLE.replace('"200M"', "[2]"), 4, '@60010: write "@60010" = {bytes = "80G"'),
        (TABLE.replace('"200M"', '"2M, blocks=1"'), 4, '@60010: write "@60010" = {'),
        (TABLE.replace('{bytes = "200M"}', "{}"), 4, '@60010: write "@60010" = {'),
        (TABLE + '"060001" = {blocks = 1}\n', 6, "060001: there are two entries for it."),
        (TABLE.replace("20M", "80M"), 3, "60001: soft_bytes is not below bytes, so nobody"),
        ("[quotas.60001]\nblcks = 1\n", 1, "60001: no limit is called 'blcks' (did you mean "),
        ('\nquotas."*" = {blcks = 1}\n', 2, "*: no limit is called 'blcks' (did you mean "),
        ('\nquotas = {"*" = {blcks = 1}}\n', 2, "*: no limit is called 'blcks' (did you mean "),
    ],
)
def test_an_error_has_its_line(content: str, line: int, reason: str, tmp_path: Path) -> None:
    """File, line, option, entry, what is wrong."""
    file = tmp_path / "a.toml"
    file.write_text(content)
    (message,) = problems(file)
    assert message.startswith(f"config {file}, line {line}: quotas: {reason}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("80G", "write none, or WHO: LIMIT=VALUE"),
        (": bytes=1", "write none, or WHO: LIMIT=VALUE"),
        ("7:", "7: no limit is called ''"),
        ("7: bytes", "7: bytes = : not a size"),
        ("7: blocks=1, blocks=2", "7: blocks is there twice"),
        ("*: blocks=1; *: blocks=1", r"\*: there are two entries"),
    ],
)
def test_another_text_is_refused(text: str, reason: str) -> None:
    """What the line can be wrong in, and the table cannot."""
    with pytest.raises(ValueError, match=reason):
        parse_quotas(text)
