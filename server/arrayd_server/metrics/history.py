"""The memory of the last hour: sums every quarter of a minute, without names.

Users are numbered as they are first seen; the daemon's own user is number 1.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arrayd_server.metrics.sums import STATES, Sums

SAMPLES = 240
"""That are kept: with one every 15 s, an hour's."""

KEPT_USERS = 20
"""Of the users of a sample those with most bytes are kept, the others as one sum."""

SHOWN_USERS = 6
"""Of the users of all samples those with most bytes are shown, the others as one sum."""

OTHERS = 0
"""The number of what other users have together."""


class UserNumbers:
    """What users are called where their names are not to be shown."""

    def __init__(self) -> None:
        self._numbers: dict[int | None, int] = {None: 1}

    def of(self, user: int | None) -> int:
        """Return the number of a user by its `Block.user`."""
        return self._numbers.setdefault(user, len(self._numbers) + 1)


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Bytes of blocks at one moment, in Unix time; of users by their numbers."""

    at: float
    budget: int
    states: dict[str, int]
    users: dict[int, int]


class MemoryHistory:
    """The last `SAMPLES` samples."""

    def __init__(self) -> None:
        self.numbers = UserNumbers()
        self._samples: deque[MemorySample] = deque(maxlen=SAMPLES)

    def add(self, sums: Sums) -> None:
        """Remember these sums."""
        self._samples.append(self.sample(sums))

    def sample(self, sums: Sums) -> MemorySample:
        """Return what is shown of these sums; the daemon's own user has what no other has."""
        states = dict(sums.blocks.nbytes)
        own = sum(states.values()) - sums.blocks.users.total()
        most = sums.blocks.users.most_common(KEPT_USERS)
        users = {1: own, **{self.numbers.of(uid): nbytes for uid, nbytes in most}}
        rest = sums.blocks.users.total() - sum(nbytes for _, nbytes in most)
        return MemorySample(sums.at, sums.budget, states, {**users, OTHERS: rest})

    def samples(self, latest: MemorySample) -> list[MemorySample]:
        """Return all samples, and the latest at the end."""
        return [*(sample for sample in self._samples if sample.at < latest.at), latest]


def shown(samples: Sequence[MemorySample]) -> dict[str, Any]:
    """Return samples as lists of equal length; it takes milliseconds, in any thread."""
    most: Counter[int] = Counter()
    for sample in samples:
        most |= Counter(sample.users)
    del most[OTHERS]
    users = sorted(number for number, _ in most.most_common(SHOWN_USERS))
    lines = {str(user): [sample.users.get(user, 0) for sample in samples] for user in users}
    rest = [
        sum(nbytes for user, nbytes in sample.users.items() if user not in users)
        for sample in samples
    ]
    return {
        "at": [round(sample.at, 1) for sample in samples],
        "budget": [sample.budget for sample in samples],
        "states": {state: [sample.states[state] for sample in samples] for state in STATES},
        "users": {**lines, "others": rest} if any(rest) else lines,
    }
