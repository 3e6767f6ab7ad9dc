"""Images, through Pillow: PNG, JPEG, TIFF, BMP and WebP, as ``(height, width[, channels])``.

A plug-in like any other (`plugins.py`), installed with ``arrayd[images]``. Values are as stored:
uint8; uint16 for grey of 12 and 16 bits; int32 and float32 from TIFF. Grey of fewer than 8 bits is
scaled to 0 … 255, as by libpng. Colour profiles, gamma and the EXIF orientation are not applied, as
by Pillow, imageio and torchvision unless told to: a photo may lie on its side.

- A palette image comes as its colours, RGB or RGBA (as by imageio and `torchvision.io`);
  ``palette="index"`` gives the numbers instead, which masks of classes are.
- CMYK and YCbCr come as RGB. What Pillow reads with fewer bits than the file has (colour of 16
  bits) is refused: nothing is lost silently.
- Of a file with several frames ``frame=`` says which; a photo with a preview (MPO) is its first.
- ``max_pixels=`` (default: Pillow's 89 million) is the limit beyond which a file is taken for a
  decompression bomb.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from arrayd.errors import ArraydError, BadFile, SourceChanged, SpecMismatch
from arrayd.source import Source
from arrayd_server.loaders.base import Chunks, LoadPlan, Part
from arrayd_server.loaders.validation import check_dtype, check_options, open_regular, selected

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

MAX_PIXELS = 89_478_485
"""Pillow's own limit: a quarter of a GB of RGB."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")

Array = np.ndarray[Any, Any]


class Form(NamedTuple):
    """How the values of a Pillow mode come out: the mode to convert to, dtype and channels."""

    mode: str
    kind: str = "u1"
    channels: int = 0


_FORMS = {
    "1": Form("L"),
    "L": Form("L"),
    "LA": Form("LA", channels=2),
    "La": Form("LA", channels=2),
    "RGB": Form("RGB", channels=3),
    "RGBX": Form("RGB", channels=3),
    "CMYK": Form("RGB", channels=3),
    "YCbCr": Form("RGB", channels=3),
    "RGBA": Form("RGBA", channels=4),
    "RGBa": Form("RGBA", channels=4),
    "PA": Form("RGBA", channels=4),
    "I;16": Form("I;16", "u2"),
    "I;16B": Form("I;16B", "u2"),
    "I;16L": Form("I;16L", "u2"),
    "I": Form("I", "i4"),
    "F": Form("F", "f4"),
}


def probe(source: Source) -> LoadPlan:
    """Return the plan of an image, from its header.

    Raises
    ------
    BadFile
        It is no image, or a decompression bomb.
    SpecMismatch
        An option is wrong; there are several frames; Pillow would drop bits.
    """
    with _opened(source) as image:
        form = _form(source, image)
        shape = _shape(image, form)
    rows = selected(source, shape)
    dtype = check_dtype(source, np.dtype(form.kind))
    parts = (Part(0, len(rows)),) if rows else ()  # to decode a part takes as long as all
    return LoadPlan((len(rows), *shape[1:]), dtype, "C", parts)


def fill(source: Source, plan: LoadPlan, part: Part) -> Chunks:
    """Yield the rows of an image.

    Raises
    ------
    BadFile
        It is corrupt or cut off.
    SourceChanged
        It is another image than `plan` was made for.
    """
    with _opened(source) as image:
        form = _form(source, image)
        image.load()
        values = np.asarray(image if image.mode == form.mode else image.convert(form.mode))
    rows = values[source.slice]
    if rows.shape != plan.shape or np.dtype(form.kind) != plan.dtype:
        raise SourceChanged(f"{source} became another image while it was read. Ask again.")
    yield np.ascontiguousarray(rows[part.start : part.stop], plan.dtype)


def _shape(image: Any, form: Form) -> tuple[int, ...]:
    return (image.height, image.width, *((form.channels,) if form.channels else ()))


def _form(source: Source, image: Any) -> Form:
    """Return how the values of an image come out."""
    mode = str(image.mode)
    if mode == "P" and source.option.get("palette") == "index":
        return Form("P")
    if mode == "P":
        alpha = "transparency" in image.info
        return _FORMS["RGBA" if alpha else "RGB"]
    if mode not in _FORMS:
        raise SpecMismatch(
            f"{source}: images of Pillow's mode {mode} are not read. Convert it, to RGB say, or "
            "read it yourself and share the array with arrayd.put."
        )
    form = _FORMS[mode]
    raw = image.tile[0][3] if image.tile else mode
    raw = str(raw[0] if isinstance(raw, tuple) else raw)
    if ";16" in raw and form.kind == "u1":
        raise SpecMismatch(
            f"{source} has 16 bits for each colour, of which Pillow would drop 8. Read it with "
            "tifffile or opencv, and share the array with arrayd.put."
        )
    return Form("I", "u2") if mode == "I" and image.format == "PNG" else form


class ImageTerms(NamedTuple):
    """The options of a request."""

    frame: int | None
    max_pixels: int


def _terms(source: Source) -> ImageTerms:
    check_options(source, ("frame", "max_pixels", "palette"))
    option = source.option
    palette = option.get("palette", "rgb")
    if palette not in ("rgb", "index"):
        raise SpecMismatch(f"{source}: palette={palette!r}: it can be 'rgb' or 'index'.")
    frame, pixels = option.get("frame"), option.get("max_pixels", MAX_PIXELS)
    for name, value, least in ("frame", frame or 0, 0), ("max_pixels", pixels, 1):
        if type(value) is not int or value < least:
            raise SpecMismatch(f"{source}: {name}={value!r}: it is a whole number from {least} on.")
    return ImageTerms(frame, pixels)


@contextmanager
def _opened(source: Source) -> Iterator[Any]:
    """Give the image asked for, its header read.

    Raises
    ------
    BadFile
        Here or within: it is no image, corrupt, cut off, or a bomb.
    """
    try:
        from PIL import Image  # here: the suffixes are known without it
    except ImportError as error:
        raise ImportError(str(error), name="Pillow") from None
    terms = _terms(source)
    Image.MAX_IMAGE_PIXELS = terms.max_pixels
    with open_regular(source.path) as raw, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF data, which are not read
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BufferedReader(raw), formats=_FORMATS) as image:
                _choose_frame(source, image, terms)
                yield image
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise _bomb(source, terms) from None
        except (ArraydError, MemoryError):
            raise
        except Exception as error:  # bytes of a stranger: anything can come out of a decoder
            if getattr(error, "errno", None) is not None:
                raise
            reason = str(error) or type(error).__name__
            raise BadFile(f"{source} is no whole image that Pillow can read: {reason}.") from None


def _choose_frame(source: Source, image: Any, terms: ImageTerms) -> None:
    frames = int(getattr(image, "n_frames", 1))
    if terms.frame is None and frames > 1 and image.format != "MPO":
        raise SpecMismatch(
            f"{source} has {frames} frames. Say which: frame=0 is the first. To read all, write "
            "them to one .npy first, or get each."
        )
    if terms.frame is not None:
        if terms.frame >= frames:
            raise SpecMismatch(f"{source}: frame={terms.frame}: it has {frames}.")
        image.seek(terms.frame)
    if image.width * image.height > terms.max_pixels:
        raise _bomb(source, terms)


def _bomb(source: Source, terms: ImageTerms) -> BadFile:
    return BadFile(
        f"{source} says that it has more than {terms.max_pixels:,} pixels, and is taken for a "
        "decompression bomb. If you trust it, pass max_pixels= with a larger number."
    )
