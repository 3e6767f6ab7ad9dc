"""Images come as Pillow's own arrays have them, whole, or as a typed error."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from arrayd.errors import ArraydError, BadFile, SourceChanged, SpecMismatch
from arrayd.source import Source
from arrayd_server.loaders import image as image_format
from arrayd_server.loaders.validation import os_errors

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), np.uint8)
RGBA = RNG.integers(1, 256, (5, 7, 4), np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7), np.uint16)


def loaded(path: Path, **options: Any) -> np.ndarray[Any, Any]:
    """Return the values of an image."""
    source = Source.of(path, format="image", **options)
    with os_errors(path):
        plan = image_format.probe(source)
        chunks = [chunk for part in plan.parts for chunk in image_format.fill(source, plan, part)]
    values = np.concatenate(chunks) if chunks else np.empty(plan.shape, plan.dtype)
    assert (values.shape, values.dtype) == (plan.shape, plan.dtype)
    return values


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
@pytest.mark.parametrize("values", [GREY, RGB, RGBA], ids=["grey", "rgb", "rgba"])
def test_values_are_those_stored(tmp_path: Path, suffix: str, values: np.ndarray[Any, Any]) -> None:
    """Formats without loss give back what was saved (WebP has no grey, Pillow's BMP no alpha)."""
    if (suffix, values.ndim) == (".webp", 2):
        values = np.stack([values] * 3, axis=-1)
    if suffix == ".bmp":
        values = values[..., :3] if values.ndim == 3 else values
    path = tmp_path / f"a{suffix}"
    Image.fromarray(values).save(path, lossless=True, exact=True)  # both are words of WebP alone
    np.testing.assert_array_equal(loaded(path), values)
    np.testing.assert_array_equal(loaded(path, rows=slice(4, 0, -2)), values[4:0:-2])
    assert loaded(path, rows=slice(0, 0)).shape == (0, *values.shape[1:])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_of_16_bits(tmp_path: Path, suffix: str) -> None:
    """It comes as uint16, from big-endian files too."""
    Image.fromarray(DEEP).save(tmp_path / f"a{suffix}")
    found = loaded(tmp_path / f"a{suffix}")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, DEEP)


def test_numbers_in_tiff(tmp_path: Path) -> None:
    """Whole and floating numbers of 32 bits stay what they are."""
    for values in (DEEP.astype(np.int32) - 70_000, DEEP.astype(np.float32) / 3):
        Image.fromarray(values).save(tmp_path / "a.tif")
        np.testing.assert_array_equal(loaded(tmp_path / "a.tif"), values)


def test_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    """Its orientation is not applied, and CMYK comes as RGB."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif)
    np.testing.assert_array_equal(
        loaded(tmp_path / "a.jpg"), np.asarray(Image.open(tmp_path / "a.jpg"))
    )
    assert loaded(tmp_path / "a.jpg").shape == (5, 7, 3)
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "b.jpg")
    assert loaded(tmp_path / "b.jpg").shape == (5, 7, 3)


def test_palettes_and_bits(tmp_path: Path) -> None:
    """Colours, with alpha if some are transparent; the numbers if they are asked for."""
    indexed = Image.fromarray(GREY // 64, mode=None).convert("P")
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    indexed.save(tmp_path / "p.png")
    indexed.save(tmp_path / "t.png", transparency=1)
    colours = np.array([10, 20, 30], np.uint8) + 30 * (GREY // 64)[..., None]
    np.testing.assert_array_equal(loaded(tmp_path / "p.png"), colours)
    np.testing.assert_array_equal(loaded(tmp_path / "t.png")[..., :3], colours)
    np.testing.assert_array_equal(loaded(tmp_path / "t.png")[..., 3] == 0, GREY // 64 == 1)
    np.testing.assert_array_equal(loaded(tmp_path / "p.png", palette="index"), GREY // 64)
    Image.fromarray(GREY > 99).save(tmp_path / "b.png")
    np.testing.assert_array_equal(loaded(tmp_path / "b.png"), np.where(GREY > 99, 255, 0))


def png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    """Return a PNG file of these raw bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def frames(path: Path) -> Path:
    """Write a TIFF with two frames."""
    Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(RGB[:3])])
    return path


def test_one_of_several_frames(tmp_path: Path) -> None:
    """Which is to be said; another frame may have another shape."""
    path = frames(tmp_path / "a.tif")
    np.testing.assert_array_equal(loaded(path, frame=0), GREY)
    np.testing.assert_array_equal(loaded(path, frame=1), RGB[:3])
    with pytest.raises(SpecMismatch, match=r"2 frames.*frame=0"):
        loaded(path)
    with pytest.raises(SpecMismatch, match="frame=2: it has 2"):
        loaded(path, frame=2)


def test_a_photo_with_a_preview_is_the_photo(tmp_path: Path) -> None:
    """A JPEG of several pictures (MPO), as telephones write it, is its first one."""
    preview = Image.fromarray(RGB[:2])
    Image.fromarray(RGB).save(
        tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview]
    )
    assert loaded(tmp_path / "a.jpg").shape == (5, 7, 3)
    assert loaded(tmp_path / "a.jpg", frame=1).shape == (2, 7, 3)


def test_colour_of_16_bits_is_refused(tmp_path: Path) -> None:
    """Pillow would drop half of the bits."""
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 2, bytes(13)))
    with pytest.raises(SpecMismatch, match=r"16 bits for each colour.*drop 8"):
        loaded(tmp_path / "a.png")


def test_what_is_no_image(tmp_path: Path) -> None:
    """Cut off, corrupt, empty, another format: each is a BadFile that names the file."""
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "sound.png")
    sound = (tmp_path / "sound.png").read_bytes()
    bad = {
        "cut": sound[: len(sound) // 2],
        "corrupt": sound[:60] + b"\xff" * 200 + sound[260:],
        "header": sound[:20],
        "empty": b"",
        "text": b"hello",
        "gif": b"GIF89a" + bytes(20),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
    }
    for name, data in bad.items():
        (tmp_path / f"{name}.png").write_bytes(data)
        with pytest.raises(BadFile, match=rf"{name}\.png is no whole image"):
            loaded(tmp_path / f"{name}.png")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_bomb_is_refused(tmp_path: Path, side: int) -> None:
    """A few bytes that promise a hundred million pixels or more are not decoded."""
    (tmp_path / "a.png").write_bytes(png(side, side, 1, 0, b""))
    with pytest.raises(BadFile, match=r"89,478,485 pixels.*max_pixels="):
        loaded(tmp_path / "a.png")
    with pytest.raises(BadFile, match="more than 34 pixels"):
        loaded(frames(tmp_path / "b.tif"), max_pixels=34, frame=0)
    assert loaded(tmp_path / "b.tif", max_pixels=35, frame=0).shape == (5, 7)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"palette": "x"}, "'rgb' or 'index'"),
        ({"frame": -1}, "frame=-1"),
        ({"frame": "0"}, "frame='0'"),
        ({"max_pixels": 0}, "max_pixels=0"),
        ({"skip": 1}, "no option skip"),
        ({"dtype": "f4"}, "holds uint8, not float32"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    """Each is named, with what it can be."""
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with pytest.raises(SpecMismatch, match=says):
        loaded(tmp_path / "a.png", **options)


def test_an_image_that_became_another(tmp_path: Path) -> None:
    """What no longer fits the plan is said to have changed."""
    Image.fromarray(GREY).save(tmp_path / "a.png")
    source = Source.of(tmp_path / "a.png", format="image")
    plan = image_format.probe(source)
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(SourceChanged, match="another image"):
        list(image_format.fill(source, plan, plan.parts[0]))


def test_noise_is_a_typed_error(tmp_path: Path) -> None:
    """Whatever bytes of a sound file are changed, it is an image or a typed error."""
    for suffix in (".png", ".jpg", ".tif", ".bmp", ".webp"):
        path = tmp_path / f"a{suffix}"
        Image.fromarray(RGB).save(path)
        sound = path.read_bytes()
        for _ in range(60):
            data = bytearray(sound)
            for at in RNG.integers(0, len(data), 3):
                data[at] = RNG.integers(0, 256)
            path.write_bytes(data)
            try:
                loaded(path)
            except ArraydError as error:
                assert str(path) in str(error)
