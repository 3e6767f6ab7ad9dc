"""`Finding`: what `arrayd doctor` says of one thing that it looks at."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a diagnosis.

    Parameters
    ----------
    state
        ``ok``, ``warn`` (it works, less well or not for all) or ``fail``.
    check
        What was looked at, in a word or two.
    words
        What was seen: a sentence with the numbers.
    remedy
        What to do about it: sentences; empty where all is well.
    """

    state: str
    check: str
    words: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.words} {self.remedy}".rstrip()
