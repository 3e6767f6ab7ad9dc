"""What `core_naive` knows of quotas: what may be refused, and that nobody gets more than there is.

The sums themselves are counted anew by `invariants.check`, after every event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arrayd.errors import NoRoom
from arrayd_server.core.quotas import NO_LIMITS, Limits, Owner, Quotas

if TYPE_CHECKING:
    from tests.support.core_model import Shell

USER, GROUP = Owner(False, 8), Owner(True, 8)
"""The user of the walk's strangers, and their group."""

EXCUSES = {"adopt", "change_quotas", "hello", "still_mapped", "unlink_refused"}
"""Events that leave a user with more than before, whatever its limits are."""


def quotas(user: Limits, group: Limits) -> Quotas:
    """Return these quotas; none of the limits is named twice."""
    entries = {USER: "user", GROUP: "@group"}
    named = {owner: one for owner, one in ((USER, user), (GROUP, group)) if one != NO_LIMITS}
    return Quotas(named, {owner: entries[owner] for owner in named}, exempt=frozenset({0, 7}))


class NaiveQuotas:
    """Watches the quotas of the strangers."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._before = {USER: (0, 0), GROUP: (0, 0)}

    @property
    def limited(self) -> bool:
        """Whether there are any limits."""
        return bool(self._shell.registry.blocks.accounts.quotas.named)

    def is_strangers(self, segment: str) -> bool:
        """Say whether a block was made for the strangers."""
        return self._shell.registry.blocks.table[segment].user is not None

    def _reserved(self, owner: Owner) -> tuple[int, int]:
        """Return bytes and blocks that count, those that jobs wait for among them."""
        accounts = self._shell.registry.blocks.accounts
        has = accounts.has(owner)
        jobs = self._shell.registry.jobs.queued()
        mine = [job.size for job in jobs if owner in accounts.owners(job.user)]
        return has.bytes + sum(mine), has.blocks + len(mine)

    def compare(self) -> None:
        """Assert that nobody has got more than the limits allow."""
        for owner, before in self._before.items():
            limits = self._shell.registry.blocks.accounts.quotas.of(owner)
            now = self._reserved(owner)
            for most, count, had in zip((limits.bytes, limits.blocks), now, before, strict=True):
                excused = EXCUSES.intersection(self._shell.fed)
                assert most is None or count <= max(most, had) or excused, "beyond a quota"
            self._before[owner] = now

    def refused(self, error: NoRoom) -> None:
        """Assert that a limit was reached, even with all gone that is idle."""
        words = str(error)
        kind = error.details["limit"]
        owner = GROUP if "group group together" in words else USER
        accounts = self._shell.registry.blocks.accounts
        held, needed, most = (error.details[key] for key in ("held", "needed", "quota"))
        assert most == getattr(accounts.quotas.of(owner), kind), "another limit"
        if kind in ("pinned", "loads"):
            assert held + needed > most, f"refused though there is room: {words}"
            return
        naive = self._shell.naive
        idle = {s for s in naive.idle() - set(self._shell.closed) if self.is_strangers(s)}
        idle = {s for s in idle if not naive.published(s) and not naive.is_pinned(s)}
        index = ("bytes", "blocks").index(kind)
        spare = (sum(naive.sizes[s] for s in idle), len(idle))[index]
        more = needed if kind == "bytes" else 1
        total = self._reserved(owner)[index]
        assert total + more - spare > most, f"refused though there is room: {words}"
