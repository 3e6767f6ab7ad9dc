"""What `numpy.asarray` would silently change or drop of the values to be published or appended.

One rule: what an object states about its values (their type, a mask, a unit, attributes) is
compared with the array that numpy makes of them; for each item of a list, each column of a table.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from typing import Any

import numpy as np

DType = np.dtype[Any]

_SAME = "give np.asarray(values), if that is what is meant"


def loss(values: Any, dtype: DType) -> str | None:
    """Return what is lost, and what to give instead; None: nothing.

    Parameters
    ----------
    values
        Whatever numpy takes for an array.
    dtype
        Of the array that it makes of them.
    """
    if isinstance(values, (list, tuple)):
        plain = _plain(dtype)
        items: Iterator[Any] = (item for item in values if type(item) not in plain)
        return next((found for item in items if (found := loss(item, dtype))), None)
    if isinstance(values, (numbers.Number, str, bytes)) and not isinstance(values, np.generic):
        return _of_scalar(values, dtype)
    if found := _beside_values(values):
        return found
    if hasattr(values, "dtypes") and hasattr(values, "columns"):  # a table
        columns = (column for _, column in values.items())
        return next((found for column in columns if (found := loss(column, dtype))), None)
    if isinstance(getattr(values, "dtype", None), np.dtype):
        return _of_array(np.asarray(values), dtype)
    return _of_type(values, dtype) if hasattr(values, "dtype") else None


def _plain(dtype: DType) -> tuple[type, ...]:
    """Return the Python types of items that cannot lose anything; a list may have millions."""
    if dtype.kind in "biu":
        return (bool, int)
    return (bool, float, complex) if dtype.kind in "fc" else ()


def _beside_values(values: Any) -> str | None:
    """Return what an object has besides its values, and an array cannot have."""
    if b"\1" in np.asarray(np.ma.getmask(values)).tobytes():  # of records, too
        return (
            "the mask of this array: give array.filled(value) (pandas: to_numpy(na_value=…)), "
            "or data and mask as two arrays"
        )
    unit = getattr(values, "unit", None) or getattr(values, "units", None)
    if isinstance(values, np.ndarray) and unit is not None and str(unit):
        return f"the unit of this array ({unit}): give its plain numbers, np.asarray(array)"
    attributes: Any = getattr(values, "attrs", None)
    if hasattr(values, "__array__") and hasattr(attributes, "keys") and len(attributes):
        names = ", ".join(list(map(str, attributes))[:5])
        return f"the attributes of {type(values).__name__} ({names}): {_SAME}"
    return None


def _of_type(values: Any, dtype: DType) -> str | None:
    """Compare a type that is not numpy's by its name: ``Int64``, ``torch.float32``."""
    said = str(getattr(values.dtype, "name", None) or values.dtype)
    plain = said.removeprefix("torch.").removesuffix("[pyarrow]").lower().replace("boolean", "bool")
    if plain.replace("double", "float64") == dtype.name:
        return None
    return (
        f"the type {said} of {type(values).__name__}, and make {dtype} of it: convert it yourself "
        f"(missing values to one that you choose), and {_SAME}"
    )


def _of_array(values: np.ndarray[Any, Any], dtype: DType) -> str | None:
    if values.dtype == dtype or dtype.kind == "V":
        return None
    if _text(values.dtype.kind, dtype):
        return _as_text(f"an array of {values.dtype}", dtype)
    if values.dtype.kind in "iu" and dtype.kind in "fc":
        large = values[np.abs(values.astype(dtype)) >= 2.0 ** np.finfo(dtype).nmant]
        return next((found for one in large if (found := _of_integer(int(one), dtype))), None)
    if values.dtype.kind in "mM" and dtype.kind == values.dtype.kind:
        back = values.astype(dtype).astype(values.dtype)
        if not np.array_equal(back, values, equal_nan=True):
            return f"times: not all of {values.dtype} fit {dtype}. Give them in one unit"
    return None


def _of_scalar(value: numbers.Number | str | bytes, dtype: DType) -> str | None:
    if isinstance(value, (str, bytes)):
        kind = "U" if isinstance(value, str) else "S"
        if _text(kind, dtype):
            return _as_text(repr(value), dtype)
        if value[-1:] in ("\0", b"\0"):
            return f"the NUL at the end of {value!r}, as numpy does: give np.void or numbers"
        return None
    if dtype.kind in "SU":
        return _as_text(repr(value), dtype)
    return _of_integer(value, dtype) if isinstance(value, int) and dtype.kind in "fc" else None


def _text(kind: str, dtype: DType) -> bool:
    """Return whether one is text, and the other is not, or is text of the other kind."""
    return kind != dtype.kind and (kind in "SU" or dtype.kind in "SU")


def _as_text(what: str, dtype: DType) -> str:
    return (
        f"the kind of its values, and make {dtype} of {what}: give all of them one type, or "
        "give records (a dtype with a field for each column)"
    )


def _of_integer(value: int, dtype: DType) -> str | None:
    found = dtype.type(value)
    if np.isfinite(found) and int(found.real) == value:
        return None
    return (
        f"digits of the integer {value}, and make {found} of it ({dtype}, for the sake of other "
        f"values): give columns of different types as records, or {_SAME}"
    )
