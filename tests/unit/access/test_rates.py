"""Token buckets: how much passes, that nothing is lost count of, and that keys do not meet."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from arrayd_server.access.rates import TokenBuckets

STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 5)), max_size=60)


@settings(deadline=None)
@given(STEPS)
def test_what_passes_and_what_is_counted(steps: list[tuple[str, float]]) -> None:
    """In no stretch of time does more pass than the burst and what grows; the rest is told."""
    rates, now = TokenBuckets(3, 0.5), 0.0
    passed: dict[str, list[float]] = {key: [] for key in "abc"}
    told: Counter[object] = Counter()
    for number, (key, pause) in enumerate(steps):
        now += pause
        if rates.take(key, now):
            passed[key].append(now)
        if number % 7 == 0:
            told.update(rates.refused(now))
    told.update(rates.refused(now))
    for key, times in passed.items():
        asked = sum(one == key for one, _ in steps)
        assert len(times) + told[key] == asked
        for first, begin in enumerate(times):
            for last in range(first, len(times)):
                assert last - first + 1 <= 3 + (times[last] - begin) * 0.5 + 1e-6
    assert rates.refused(now) == {}


def test_keys_do_not_meet() -> None:
    """One that asks all the time takes nothing from another; one that waits gets its burst back."""
    rates = TokenBuckets(2, 1.0)
    assert [rates.take("b", 0.0) for _ in range(100)].count(True) == 2
    assert [rates.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert [rates.take("b", 50.0) for _ in range(3)] == [True, True, False]
    assert rates.refused(50.0, after=50.0) == {"a": 1, "b": 99}


def test_keys_without_end() -> None:
    """Of a hundred thousand keys no more are remembered than are told apart; the others share."""
    rates = TokenBuckets(2, 1.0, most=10)
    assert sum(rates.take(key, 0.0) for key in range(100_000)) == 12
    assert rates.refused(0.0) == {None: 99_988}
    assert rates.take(3, 0.0)
    assert sum(rates.take(key, 10.0) for key in range(1000, 1010)) == 10  # the old ones are full
