"""What becomes of values that a cast's target cannot hold: an error, the nearest one, infinity."""

from __future__ import annotations

from typing import Any

import numpy as np

from arrayd.errors import CastError

Array = np.ndarray[Any, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


class Limit:
    """The caller's ``overflow=`` during the cast of one chunk, and what it was needed for.

    Parameters
    ----------
    overflow
        One of `arrayd.source.OVERFLOWS`.
    infinite
        The target has infinity.
    """

    def __init__(self, overflow: str, *, infinite: bool) -> None:
        self._infinite = infinite
        self.clips = overflow == "clip"
        self.makes_infinite = overflow == "inf"
        self.beyond: Mask | None = None
        """Which values the target cannot hold; None: it holds all."""

    def meet(self, values: Array, bad: Mask, target: str, span: str) -> None:
        """Note which values do not fit; raise if none may take their place.

        Parameters
        ----------
        target, span
            The target in words, and from where to where it reaches.

        Raises
        ------
        CastError
            With the index of the first one in the flat array as ``details["at"]``, how many there
            are, and the one that is farthest from 0.
        """
        if not bad.any():
            return
        if not (self.clips or self.makes_infinite):
            raise _does_not_fit(values, bad, target, span, infinite=self._infinite)
        self.note(bad)

    def note(self, bad: Mask) -> None:
        """Note which values do not fit."""
        self.beyond = bad if self.beyond is None else self.beyond | bad


def _does_not_fit(values: Array, bad: Mask, target: str, span: str, *, infinite: bool) -> CastError:
    at, count = int(np.argmax(bad)), int(np.count_nonzero(bad))
    said = shown(values.flat[at])
    some, details = "", {"value": said, "at": at, "count": count, "of": values.size}
    if count > 1 and values.dtype.kind in "biufc":
        outside = values[bad]
        details["largest"] = shown(outside.flat[int(np.argmax(np.abs(outside.astype("g"))))])
        some = (
            f", nor {'does' if count == 2 else 'do'} {count - 1} more of the {values.size} values "
            f"that were read with it; the farthest from 0 is {details['largest']}"
        )
    infinity = " (or 'inf', if infinity may stand for them)" if infinite else ""
    return CastError(
        f"The value {said} does not fit {target} ({span}){some}. Cast to a wider type, or pass "
        f"overflow='clip' to have the nearest value that fits{infinity}.",
        **details,
    )


def refuse(values: Array, bad: Mask, why: str) -> None:
    """Raise CastError for the first bad value, if there is one, whatever ``overflow=`` says."""
    if bad.any():
        at = int(np.argmax(bad))
        text = shown(values.flat[at])
        count = int(np.count_nonzero(bad))
        raise CastError(f"The value {text} {why}", value=text, at=at, count=count, of=values.size)


def shown(value: Any) -> str:
    """Return a value as a message shows it."""
    return repr(value.item()) if value.dtype.kind in "SU" else str(value)
