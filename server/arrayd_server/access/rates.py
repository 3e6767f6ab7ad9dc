"""How often somebody may cause something: a token bucket for each key. Pure: the time goes in.

(The algorithm: Turner, "New directions in communications", IEEE Communications Magazine, 1986.)
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float  # when there were so many
    refused: int = 0  # since that was told last
    since: float = 0.0  # when the first of them was


class TokenBuckets:
    """A bucket for each key, which holds `burst` tokens when full, and gets `per_second`.

    Parameters
    ----------
    most
        Keys that are told apart; those that come when so many have a bucket that is not full
        share one.
    """

    def __init__(self, burst: int, per_second: float, most: int = 1024) -> None:
        self._burst, self._per_second, self._most = burst, per_second, most
        self._buckets: dict[Hashable, _Bucket] = {}

    def take(self, key: Hashable, now: float) -> bool:
        """Take a token of a key; False: it has none, which is counted."""
        bucket = self._bucket(key, now)
        self._fill(bucket, now)
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return True
        if not bucket.refused:
            bucket.since = now
        bucket.refused += 1
        return False

    def refused(self, now: float, after: float = 0.0) -> dict[Hashable, int]:
        """Return how often each key was refused since this was told last; None: the shared ones.

        Of a key that was refused first less than `after` seconds ago it is told later.
        """
        due = {
            key: bucket
            for key, bucket in self._buckets.items()
            if bucket.refused and now - bucket.since >= after
        }
        told = {key: bucket.refused for key, bucket in due.items()}
        for bucket in due.values():
            bucket.refused = 0
        return told

    def _bucket(self, key: Hashable, now: float) -> _Bucket:
        if key not in self._buckets and len(self._buckets) >= self._most:
            self._forget(now)
            if len(self._buckets) >= self._most:
                key = None
        return self._buckets.setdefault(key, _Bucket(self._burst, now))

    def _fill(self, bucket: _Bucket, now: float) -> None:
        grown = bucket.tokens + (now - bucket.at) * self._per_second
        bucket.tokens, bucket.at = min(self._burst, grown), now

    def _forget(self, now: float) -> None:
        """Forget the keys of which nothing is to be remembered: their buckets are full."""
        for key, bucket in list(self._buckets.items()):
            self._fill(bucket, now)
            if bucket.tokens >= self._burst and not bucket.refused:
                del self._buckets[key]
