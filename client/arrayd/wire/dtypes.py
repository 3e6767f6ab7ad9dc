"""Dtypes as plain data, without loss: `descr` describes a dtype, `from_descr` makes it again.

Most are described as in a ``.npy`` header (`numpy.lib.format.dtype_to_descr`): by a string, or by a
list of fields. What such a header cannot express, or would change, is a map:

=============================================  ==================================================
``{"names", "formats", "offsets", "itemsize"``  a structure whose fields are out of order or
``[, "titles"]}``                              overlap, or hold one of these
``{"ml_dtypes": name, "itemsize": n}``         a type of the package ml_dtypes, such as bfloat16,
                                               which numpy's own description makes ``V2``
=============================================  ==================================================
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from arrayd.errors import MissingDependency, SpecMismatch
from arrayd.wire import bounds

if TYPE_CHECKING:
    import numpy.typing as npt

DType = np.dtype[Any]

_OWN = 256  # from this number on (NPY_USERDEF), a type is not numpy's but a package's
_MAP = {"names", "formats", "offsets", "itemsize", "titles"}
_EXTENSION = r"b?float\d+(_\w+)?|u?int[1-4]"  # as ml_dtypes names its types


def descr(dtype: DType) -> Any:
    """Return `dtype` as plain data; ``dtype.str`` would lose the fields of a structure.

    What is attached to it (``dtype.metadata``, which h5py uses) is left out.

    Raises
    ------
    SpecMismatch
        It is a type of a package that arrayd does not know.
    """
    return _described(bare(dtype))


def _described(dtype: DType) -> Any:
    if dtype.num >= _OWN:
        return _extension(dtype)
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return (_described(base), shape)
    if dtype.names is None:
        return dtype.str
    try:
        form = np.lib.format.dtype_to_descr(dtype)
        if np.lib.format.descr_to_dtype(form) == dtype:
            return form
    except ValueError:  # fields that overlap, are out of order, or have names like others' titles
        pass
    return _structure(dtype)


def _extension(dtype: DType) -> dict[str, Any]:
    if dtype.type.__module__.partition(".")[0] != "ml_dtypes" or not dtype.isnative:
        raise SpecMismatch(
            f"{dtype!r} is a type of the package {dtype.type.__module__}, or in another byte order "
            "than this machine's: what it is cannot be told to other processes. Share its bytes: "
            f"array.view('V{dtype.itemsize}')."
        )
    return {"ml_dtypes": dtype.type.__name__, "itemsize": dtype.itemsize}


def _structure(dtype: DType) -> dict[str, Any]:
    assert dtype.names is not None
    assert dtype.fields is not None
    fields = [dtype.fields[name] for name in dtype.names]
    form = {
        "names": list(dtype.names),
        "formats": [_described(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "itemsize": dtype.itemsize,
    }
    titles = [field[2] if len(field) > 2 else None for field in fields]
    return {**form, "titles": titles} if any(titles) else form


def bare(dtype: DType) -> DType:
    """Return the dtype without ``dtype.metadata``, its own and its fields'; itself if it has none.

    `numpy.lib.format.drop_metadata` fails where a field has a title.
    """
    if not _has_metadata(dtype):
        return dtype
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return np.dtype((bare(base), shape))
    if dtype.names is None:
        return np.dtype(dtype.str)
    assert dtype.fields is not None
    fields = [dtype.fields[name] for name in dtype.names]
    return np.dtype(
        {
            "names": list(dtype.names),
            "formats": [bare(field[0]) for field in fields],
            "offsets": [field[1] for field in fields],
            "titles": [field[2] if len(field) > 2 else None for field in fields],
            "itemsize": dtype.itemsize,
        }
    )


def _has_metadata(dtype: DType) -> bool:
    if dtype.metadata or (dtype.subdtype is not None and _has_metadata(dtype.base)):
        return True
    return any(_has_metadata(dtype[name]) for name in dtype.names or ())


def from_descr(value: Any, *, stand_in: bool = False) -> DType:
    """Return the dtype `descr` described (lists from the wire count as tuples).

    Parameters
    ----------
    stand_in
        Take raw bytes (``V2``) for a type of ml_dtypes: for a caller that does not look at the
        values, and need not have the package.

    Raises
    ------
    ValueError, TypeError
        `value` describes no dtype: whoever wrote it is at fault.
    MissingDependency
        The type is one of ml_dtypes, which is not installed here.
    """
    try:
        return _made(value, stand_in)
    except (SyntaxError, OverflowError) as error:  # numpy reads "i4,f8" with Python's parser
        raise ValueError(f"{value!r} describes no dtype: {error}") from None


def _made(value: Any, stand_in: bool) -> DType:
    if isinstance(value, str):
        return _of_text(value)
    if isinstance(value, Mapping):
        return _made_of_map(value, stand_in)
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{value!r} describes no dtype")
    if _is_subarray(value):
        return np.dtype((_made(value[0], stand_in), tuple(value[1])))
    return _numpys([_field(field) for field in value])


@functools.lru_cache(1000)
def _of_text(text: str) -> DType:
    return _numpys(text)


def _numpys(form: Any) -> DType:
    dtype: DType = np.lib.format.descr_to_dtype(form)
    return dtype


def _is_subarray(value: list[Any] | tuple[Any, ...]) -> bool:
    return len(value) == 2 and (
        isinstance(value[0], (str, Mapping))
        or (isinstance(value[1], (list, tuple)) and all(isinstance(n, int) for n in value[1]))
    )


def _field(field: Any) -> tuple[Any, ...]:
    """Return a field in the form of `numpy.lib.format`, where padding is a field without name."""
    if not isinstance(field, (list, tuple)) or len(field) not in (2, 3):
        raise ValueError(f"{field!r} describes no field")
    name = tuple(field[0]) if isinstance(field[0], (list, tuple)) else field[0]
    shape = (tuple(field[2]),) if len(field) > 2 else ()
    return (name, _numpys_form(field[1]), *shape)


def _numpys_form(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{value!r} describes no dtype")
    if _is_subarray(value):
        return (_numpys_form(value[0]), tuple(value[1]))
    return [_field(field) for field in value]


def _made_of_map(value: Mapping[str, Any], stand_in: bool) -> DType:
    if value.keys() == {"ml_dtypes", "itemsize"}:
        return _made_of_name(value["ml_dtypes"], value["itemsize"], stand_in)
    if not _MAP - {"titles"} <= value.keys() <= _MAP:
        raise ValueError(f"{sorted(map(str, value))} describe no dtype")
    columns = {key: list(value[key]) for key in _MAP - {"itemsize"} if key in value}
    columns["formats"] = [_made(form, stand_in) for form in columns["formats"]]
    if len({len(column) for column in columns.values()}) != 1:
        raise ValueError("not as many names, formats and offsets")
    words = [*columns["names"], *(t for t in columns.get("titles", ()) if t is not None)]
    if not all(isinstance(word, str) for word in words):
        raise ValueError("the name of a field is no text")
    form: Any = {**columns, "itemsize": value["itemsize"]}
    dtype: DType = np.dtype(form)
    return dtype


def _made_of_name(name: Any, itemsize: Any, stand_in: bool) -> DType:
    if not isinstance(name, str) or type(itemsize) is not int or not 0 < itemsize <= 64:
        raise ValueError(f"{name!r} is no type of ml_dtypes")
    if stand_in:
        return np.dtype(f"V{itemsize}")
    dtype = _of_ml_dtypes(name)
    if dtype.itemsize != itemsize:
        raise ValueError(f"{name} has {dtype.itemsize} bytes here, not {itemsize}")
    return dtype


def _of_ml_dtypes(name: str) -> DType:
    try:
        package = importlib.import_module("ml_dtypes")
    except ImportError:
        raise MissingDependency(
            f"{name} is a type of the package ml_dtypes, which is not installed for "
            f"{sys.executable}: pip install ml_dtypes there. Without it an array of such values "
            "can be had as their bits: share array.view('u2') (u1 for types of one byte), or "
            "claim dtype='u2' of a file."
        ) from None
    scalar = getattr(package, name, None)
    if not (isinstance(scalar, type) and issubclass(scalar, np.generic)):
        raise ValueError(f"the package ml_dtypes {package.__version__} has no type {name}")
    return np.dtype(scalar)


# ---- what a caller wrote -----------------------------------------------------------------


def parsed(key: str, value: npt.DTypeLike) -> DType:
    """Return the dtype that a caller wrote for `key`; names such as ``bfloat16`` are known.

    Raises
    ------
    SpecMismatch
        It is none, or cannot be shared.
    MissingDependency
        It is a name of ml_dtypes, which is not installed.
    """
    return shareable(f"{key}={value!r}", understood(key, value))


def understood(key: str, value: npt.DTypeLike) -> DType:
    """Return the dtype that a caller wrote, whether it can be shared or not.

    Raises
    ------
    SpecMismatch, MissingDependency
    """
    try:
        try:
            return np.dtype(value)
        except TypeError:
            named = re.search(_EXTENSION, str(value))
            if named is None or "ml_dtypes" in sys.modules:
                raise
            _of_ml_dtypes(named[0])  # numpy knows these names once the package is imported
            return np.dtype(value)
    except (TypeError, ValueError, SyntaxError) as error:
        raise SpecMismatch(f"{key}={value!r} is no dtype: {error}") from None


def shareable(what: str, dtype: DType) -> DType:
    """Return `dtype` without ``dtype.metadata``, if it can be shared.

    Parameters
    ----------
    what
        The beginning of the error's text.

    Raises
    ------
    SpecMismatch
        It has Python objects, or more fields or longer names than a request can hold.
    """
    if dtype.hasobject:
        raise SpecMismatch(
            f"{what} holds Python objects: they cannot live in shared memory. "
            "Use a type of fixed size (numbers, S10, U10, a structure of these): for text, "
            "array.astype('S') and .astype('U') find the length."
        )
    form = descr(dtype)
    if not bounds.describable(form):
        raise SpecMismatch(
            f"{what[:100]}: the description of this type has {_characters(form)} characters in "
            f"names and {_fields(dtype)} fields, more than fit into a request (some "
            f"{bounds.MAX_DESCR_TEXT} characters, {bounds.MAX_DESCR_NODES // 3} fields). "
            "Shorten the names, or share several arrays of fewer fields."
        )
    return bare(dtype)


def _characters(form: Any) -> int:
    if isinstance(form, Mapping):
        form = [*form.keys(), *form.values()]
    if isinstance(form, (list, tuple)):
        return sum(map(_characters, form))
    return len(form) if isinstance(form, str) else 0


def _fields(dtype: DType) -> int:
    return sum(1 + _fields(dtype[name].base) for name in dtype.names or ())
