"""What `arrayd status` says of quotas: of each, what counts in it, and what may."""

from __future__ import annotations

from typing import Any

from arrayd_server.core.accounts import Accounts
from arrayd_server.core.model import Peer
from arrayd_server.core.quotas import LIMITS, Owner


def build(accounts: Accounts, caller: Peer | None, now: float) -> list[dict[str, Any]]:
    """Return the quotas of all, or of a caller and its groups: those that limit something.

    Of a group a member is told the sum: that is what there is left for it.
    """
    if caller is not None:
        owners = list(accounts.owners_of(caller))
    else:
        users = [Owner(False, uid) for uid in accounts.sessions]
        owners = sorted({*accounts.sums, *users})
    told = [_quota(accounts, owner, now) for owner in owners]
    return [one for one in told if one["limits"]]


def _quota(accounts: Accounts, owner: Owner, now: float) -> dict[str, Any]:
    limits, has = accounts.quotas.of(owner), accounts.has(owner)
    return {
        "entry": accounts.quotas.entry(owner),
        "uid": None if owner.group else owner.id,
        "gid": owner.id if owner.group else None,
        "bytes": has.bytes,
        "blocks": has.blocks,
        "pinned": accounts.pinned(owner, now),
        "sessions": accounts.open_sessions(owner),
        "loads": accounts.in_flight(owner),
        "limits": {n: v for n in LIMITS if (v := getattr(limits, n)) is not None},
    }
