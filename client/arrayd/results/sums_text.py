"""Sums of a status in words: of memory, of what each user holds, and has of its quota."""

from __future__ import annotations

import textwrap

from arrayd.common.bytesize import format_bytes
from arrayd.common.users import user_name
from arrayd.results.status import DaemonStatus, QuotaStatus, UserSum

_SOFT = "soft_bytes"

_SIZES = {"bytes": "", "pinned": "pinned "}


def memory_words(status: DaemonStatus) -> list[str]:
    """Return how much memory is in use, in parts."""
    budget, unit = format_bytes(status.budget).split()
    charged, held, idle = (
        in_unit(count, unit) for count in (status.charged, status.held, status.idle)
    )
    spare = f", spare {in_unit(status.spare, unit)}" if status.spare else ""
    total, shm_unit = format_bytes(status.shm_total).split()
    used = in_unit(status.shm_used, shm_unit)
    waiting = len(status.jobs) + status.jobs_more
    loads = sum(block.state == "loading" for block in status.blocks) + waiting
    return [
        f"memory  {charged} of {budget} {unit} budget (held {held}, idle {idle}{spare})",
        f"/dev/shm {used} of {total.removesuffix('.0')} {shm_unit}",
        f"loads {loads}",
    ]


def user_sums(status: DaemonStatus) -> list[str]:
    """Return what each user holds, where there is more than one."""
    words = [_user_sum(one) for one in status.users] if len(status.users) > 1 else []
    return [f"users   {words[0]}", *words[1:]] if words else []


def _user_sum(one: UserSum) -> str:
    who = "others" if one.uid is None else user_name(one.uid)
    return (
        f"{who} {format_bytes(one.held)} in {counted(one.blocks, 'block')}, "
        f"{counted(one.sessions, 'session')}"
    )


def quota_sums(status: DaemonStatus, width: int | None) -> list[str]:
    """Return what users and groups have of what they may have, in parts that fit that width."""
    words = [_quota(one) for one in status.quotas]
    if width is not None:
        room = max(20, width - len("quotas  "))
        words = [part for one in words for part in textwrap.wrap(one, room)]
    return [f"quotas  {words[0]}", *words[1:]] if words else []


def _quota(one: QuotaStatus) -> str:
    who = one.entry if one.uid is None else user_name(one.uid)
    parts = {n: _part(n, getattr(one, n), most) for n, most in one.limits.items() if n != _SOFT}
    if _SOFT in one.limits:
        has = parts.pop("bytes", format_bytes(one.bytes))
        parts = {"bytes": f"{has} (soft {format_bytes(one.limits[_SOFT])})", **parts}
    return f"{who} {', '.join(parts.values())}"


def _part(name: str, count: int, most: int) -> str:
    """Return ``1.5 of 9.0 GiB``, ``pinned 0 of 1.0 GiB``, ``3 of 8 sessions``."""
    if name not in _SIZES:
        return f"{count} of {most} {name}"
    number, unit = format_bytes(most).split()
    return f"{_SIZES[name]}{in_unit(count, unit)} of {number} {unit}"


def beside(status: DaemonStatus) -> list[str]:
    """Return what other daemons of the machine have, a line for each of their users."""
    lines = [
        f"beside  {format_bytes(one.size)} in {counted(one.blocks, 'block')} of other daemons, "
        f"{user_name(one.uid)}'s"
        for one in status.elsewhere
    ]
    if status.private_daemon:
        lines.append("beside  your private daemon runs as well: arrayd status --endpoint private")
    return lines


def counted(count: int, what: str) -> str:
    """Return ``1 block``, ``2 blocks``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def in_unit(count: int, unit: str) -> str:
    """Return bytes as a number of that unit, or with its own unit where that would read 0.0."""
    power = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB").index(unit)
    number = f"{count / 1024**power:.1f}"
    if count == 0:
        return "0"
    return format_bytes(count) if number == "0.0" else number
