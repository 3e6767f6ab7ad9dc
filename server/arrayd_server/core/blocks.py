"""All blocks, and what is counted and indexed of them: the charge, the idle list, aliases.

It decides nothing: the rules are in `registry`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Hashable, Iterator, Sequence

from arrayd_server.core import bounds, lifecycle
from arrayd_server.core.accounts import Accounts
from arrayd_server.core.bounds import Bound
from arrayd_server.core.model import Block, BlockMember, Edition, Job, Place, State
from arrayd_server.core.quotas import Quotas

MAX_ALIASES = 64
"""Spellings of one block that are remembered; more are probed again, never wrong."""

Naming = Callable[[int], str]
"""Returns the segment's name of the block of a number, the same each time."""


class BlockTable:
    """All blocks of the daemon, from the reservation to the last page given back.

    Parameters
    ----------
    name
        How segments are called. Numbers count up, so no name comes twice.
    budget, bound
        Bytes the daemon may keep in segments, and what sets this limit.
    """

    def __init__(self, name: Naming, budget: int, bound: Bound = bounds.GIVEN) -> None:
        self.name = name
        self.budget = budget
        self.bound = bound  # what sets the budget
        self.headroom = budget  # what /dev/shm and the cgroup still give, as last measured
        self.tightest = bounds.SHM  # which of them gives no more
        self.accounts = Accounts()
        self.charged = 0
        self.excused_bytes = 0  # adopted, or there when the budget was set: they may exceed it
        self.table: dict[str, Block] = {}
        #: of each its blocks, and what in them was loaded from it
        self.files: dict[Hashable, dict[str, list[Block | BlockMember]]] = {}
        self.by_user: dict[int, dict[str, Block]] = {}  # made for others than the daemon's user
        self.idle: dict[str, None] = {}  # least recently used first
        self.idle_bytes = 0
        self.unlinked: dict[str, Block] = {}
        self.spares: dict[str, Block] = {}  # oldest first
        self.spare_bytes = 0
        self.aliases: dict[Hashable, tuple[str, BlockMember | None]] = {}  # where each leads
        #: those that lead elsewhere than before; the shell clears it
        self.changed_aliases: dict[Hashable, None] = {}
        self._numbers = itertools.count(1)

    def change_quotas(self, quotas: Quotas) -> None:
        """Go by other quotas from now on; nothing goes that is there."""
        self.accounts.change(quotas, self.table.values())

    def new_number(self) -> int:
        """Return the number of the next block."""
        return next(self._numbers)

    def add(self, block: Block) -> None:
        """Add a block to the table and charge it."""
        lifecycle.check_step(None, block.state)
        self.table[block.segment] = block
        self.charged += block.size
        if block.user is not None:
            self.by_user.setdefault(block.user, {})[block.segment] = block
        self.accounts.update(block)
        self._add_files(block)

    def keep_loaded(self, block: Block) -> None:
        """Let a block have those of its members alone that are loaded."""
        if all(member.spec is not None for member in block.members):
            return
        self._forget_files(block)
        block.members = [member for member in block.members if member.spec is not None]
        self._add_files(block)

    def _add_files(self, block: Block) -> None:
        for part in block.parts():
            if part.edition is not None:
                parts = self.files.setdefault(part.edition.file, {}).setdefault(block.segment, [])
                parts.append(part)

    def _forget_files(self, block: Block) -> None:
        for file in {part.edition.file for part in block.parts() if part.edition is not None}:
            alike = self.files[file]
            del alike[block.segment]
            if not alike:
                del self.files[file]

    def note(self, latest: Edition) -> list[Block]:
        """Note the state that a file is in now; return the blocks that may be no cache any more."""
        outdated: dict[str, Block] = {}
        for segment, parts in self.files.get(latest.file, {}).items():
            for part in parts:
                part.outdated = part.edition != latest
                if part.outdated:
                    outdated[segment] = self.table[segment]
        return list(outdated.values())

    def reserve(self, job: Job, state: State, now: float, spare: Block | None = None) -> Block:
        """Make and charge the block of an admitted job, of the pages of a spare if there is one."""
        assert job.spec is not None
        if spare is not None:
            self.take_spare(spare)
            job.given = min(spare.size, job.size)
        number = self.new_number() if spare is None else spare.number
        block = Block(
            segment=self.name(number),
            number=number,
            spec=job.spec,
            size=job.size,
            identity=job.identity,
            state=state,
            since=now,
            used=now,
            job=job.number,
            published=state is State.WRITING,
            keep=job.draft is not None and job.draft.keep,
            edition=job.edition,
            linked=job.linked,
            members=job.members,
            user=job.user,
        )
        self.add(block)
        job.segment = block.segment
        return block

    def remove(self, block: Block) -> None:
        """Take a block off: the kernel has its pages back."""
        lifecycle.check_step(block.state, None)
        del self.table[block.segment]
        self.unlinked.pop(block.segment, None)
        self.charged -= block.size
        self.accounts.forget(block)
        if block.user is not None:
            mine = self.by_user[block.user]
            del mine[block.segment]
            if not mine:
                del self.by_user[block.user]
        self._forget_files(block)

    def add_spare(self, old: Block, now: float) -> None:
        """Let a new block, which nobody can ask for, have the pages of an unlinked one."""
        number, old.heir = old.heir, None
        assert number is not None
        self.remove(old)
        spare = Block(
            segment=self.name(number),
            number=number,
            spec=old.spec,
            size=old.size,
            identity=old.identity,
            state=State.SPARE,
            since=now,
            used=now,
        )
        self.add(spare)
        self.spares[spare.segment] = spare
        self.spare_bytes += spare.size

    def take_spare(self, spare: Block) -> None:
        """Take a spare off: its pages, and its name, are to be those of another block."""
        self._forget_spare(spare)
        self.remove(spare)

    def _forget_spare(self, spare: Block) -> None:
        del self.spares[spare.segment]
        self.spare_bytes -= spare.size

    def mark_idle(self, block: Block) -> None:
        """Put a block on the idle list, as the one used last, unless it is there."""
        if block.segment not in self.idle:
            self.idle[block.segment] = None
            self.idle_bytes += block.size
            self.accounts.mark_idle(block)

    def unmark_idle(self, block: Block) -> None:
        """Take a block off the idle list, if it is there."""
        if block.segment in self.idle:
            del self.idle[block.segment]
            self.idle_bytes -= block.size
            self.accounts.unmark_idle(block)

    def mark_unlinked(self, block: Block) -> None:
        """Count a block among those that the shell was asked to unlink."""
        if block.state is State.SPARE:
            self._forget_spare(block)
        lifecycle.set_state(block, State.UNLINKED)
        block.mapped = False  # `still_mapped` may say otherwise
        self.unlinked[block.segment] = block
        self.accounts.update(block)

    def mark_mapped(self, block: Block) -> None:
        """Note that somebody maps an unlinked block: its pages do not come back yet."""
        block.mapped = True
        self.accounts.update(block)

    def restore(self, block: Block, to: State) -> None:
        """Give a block whose unlink was refused the state back that it had before."""
        lifecycle.set_state(block, to)
        block.heir = None
        del self.unlinked[block.segment]
        self.accounts.update(block)

    # These four alone change `aliases`.

    def index(self, block: Block) -> None:
        """Make a sealed block findable; what another block has taken meanwhile stays taken."""
        for part in block.parts():
            place = block.segment, _member(part)
            for alias in part.aliases:
                if alias not in self.aliases:
                    self._lead(alias, place)

    def add_alias(self, place: Place, alias: Hashable) -> None:
        """Remember one more spelling of what is sealed.

        A block takes it over from a member: not all clients understand a grant of that.
        """
        _, other = self.aliases.get(alias, (None, None))
        if other is not None and place.member is None:
            self.forget_alias(alias)
        known = place.part.aliases
        if alias not in self.aliases and len(known) < MAX_ALIASES:
            known.append(alias)
            self._lead(alias, (place.block.segment, place.member))

    def forget_alias(self, alias: Hashable) -> Block | None:
        """Take an alias away from what it leads to; return the block."""
        place = self.locate(alias)
        if place is None:
            return None
        place.part.aliases.remove(alias)
        self._lead(alias, None)
        return place.block

    def unindex(self, block: Block) -> None:
        """Make a block unfindable and not idle."""
        self.unmark_idle(block)
        for part in block.parts():
            for alias in part.aliases:
                if self.aliases.get(alias, ("",))[0] == block.segment:
                    self._lead(alias, None)

    def _lead(self, alias: Hashable, to: tuple[str, BlockMember | None] | None) -> None:
        if to is None:
            del self.aliases[alias]
        else:
            self.aliases[alias] = to
        self.changed_aliases[alias] = None

    def locate(self, alias: Hashable) -> Place | None:
        """Return the sealed block, or the member of one, that an alias leads to."""
        found = self.aliases.get(alias)
        return None if found is None else Place(self.table[found[0]], found[1])

    def find(self, alias: Hashable) -> Block | None:
        """Return the sealed block that an alias leads to."""
        place = self.locate(alias)
        return None if place is None else place.block

    def available(self, unfilled: int) -> int:
        """Bytes that can be reserved now; `unfilled` are reserved but not yet in the kernel."""
        return min(self.budget - self.charged, self.headroom - unfilled)

    def bytes_being_freed(self) -> int:
        """Bytes that are on their way back to the kernel."""
        return sum(block.size for block in self.unlinked.values() if not block.mapped)

    def victims(
        self,
        shortage: int,
        now: float,
        others: Sequence[Block] = (),
        wanted: Container[str] = (),
    ) -> list[Block] | None:
        """Return blocks that cover `shortage`: spares, idle ones by their last use, then others.

        Of the idle ones those of who is above a soft limit come first (see `quotas`). None: they
        do not. `wanted` spares are left out. It looks at no more of the idle ones than
        it needs: there may be a hundred thousand.
        """
        chosen: list[Block] = []
        if shortage > self.idle_bytes + self.spare_bytes + sum(block.size for block in others):
            return None
        for block in self.evictable(shortage, now, others, wanted):
            chosen.append(block)
            shortage -= block.size
        return chosen if shortage <= 0 else None

    def evictable(
        self,
        shortage: int,
        now: float,
        others: Sequence[Block] = (),
        wanted: Container[str] = (),
    ) -> Iterator[Block]:
        """Yield blocks as `victims` returns them, as many as are needed, or all if they are few."""
        spares = [spare for spare in self.spares.values() if spare.segment not in wanted]
        first = self.accounts.above_soft(lambda block: self.may_go(block, now))
        idle = (self.table[segment] for segment in self.idle)
        unused = (block for block in idle if self.may_go(block, now))
        yielded: set[str] = set()
        for block in itertools.chain(spares, first, unused, others):
            if shortage <= 0:
                break
            if block.segment not in yielded:
                yielded.add(block.segment)
                yield block
                shortage -= block.size

    def may_go(self, block: Block, now: float) -> bool:
        """Say whether an idle block may go for others: it can be loaded again, nobody pins it."""
        return not block.published and block.pinned_until <= now

    def unevictable(self, now: float) -> Iterator[Block]:
        """Yield the blocks that cannot make room: held, lent, mapped, kept or unfinished."""
        for block in self.table.values():
            if block.state is State.SPARE:
                continue
            if block.segment not in self.idle or block.published or block.pinned_until > now:
                yield block


def _member(part: Block | BlockMember) -> BlockMember | None:
    return part if isinstance(part, BlockMember) else None
