"""Bytes of one image file to pixels: one decoder, one documented result for each kind of image."""

from __future__ import annotations

import io
import logging
import struct
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from featbank.datasets._files import FORMATS, REFUSED_FORMATS
from featbank.errors import ImageDecodeError, InvalidInputError, one_line

__all__ = ["DECODE_REASONS", "decode_image", "decoder_errors", "upright", "upright_rgb"]

logger = logging.getLogger(__name__)

#: Every `reason` an `ImageDecodeError` of this package can carry, and what it means.
DECODE_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "empty": "the file has no bytes",
        "not-an-image": "no decoder among JPEG, PNG, BMP, GIF, WebP, TIFF, PPM, JPEG 2000, AVIF and "
        f"{len(FORMATS) - 9} rarer ones knows these bytes",
        "truncated": "the file ends before its last pixel",
        "too-many-pixels": "more pixels than the limit, counted before any memory is taken",
        "too-many-bytes": "a file larger than the limit",
        "unsupported-mode": "pixels without an agreed white (Lab, 32-bit integers, floats outside 0..1)",
        "out-of-memory": "the decoder asked for more memory than there is",
        "decoder-error": "the decoder gave up; the detail has its words",
        "crop-outside": "the box of a crop is not inside its image",
        "crashed": "the decoding process died on this image, twice",
        "timeout": "the decoder was not done with this image in time",
    }
)

# One by one, and now: Pillow's own search imports all of its plugins, in whichever thread comes first.
for _plugin, _ in FORMATS.values():
    import_module(f"PIL.{_plugin}ImagePlugin")
import_module("PIL.MpoImagePlugin")


class _Quiet(threading.local):
    """Whether this thread decodes now."""

    depth = 0

    # What Pillow's modules, from here on, find in the place of the module `warnings`: the filters of the real
    # one belong to whoever runs the program, one list for all threads, and
    # ``warnings.catch_warnings`` in two threads can leave the wrong one behind.
    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)

    def warn(self, message: Any, category: Any = None, stacklevel: int = 1, **options: Any) -> None:
        if not self.depth:
            warnings.warn(message, category, stacklevel + 1, **options)


_quiet = _Quiet()
for _name, _module in list(sys.modules.items()):
    if _name.startswith("PIL.") and getattr(_module, "warnings", None) is warnings:
        _module.warnings = _quiet  # type: ignore[attr-defined]

#: First bytes of images that are not decoded, and what they are.
_REFUSED_STARTS = (
    (b"%!PS", f"PostScript is not decoded: {REFUSED_FORMATS['EPS']}"),
    (b"\xc5\xd0\xd3\xc6", f"EPS is not decoded: {REFUSED_FORMATS['EPS']}"),
    (b"%PDF", "PDF is not decoded: it is a document; export its pages as images"),
    (b"\xff\x0a", "JPEG XL is not decoded: Pillow has no reader for it; convert it to JPEG or PNG"),
    (b"\0\0\0\x0cJXL ", "JPEG XL is not decoded: Pillow has no reader for it; convert it to JPEG or PNG"),
    (b"\xd7\xcd\xc6\x9a", f"WMF is not decoded: {REFUSED_FORMATS['WMF']}"),
)
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_PLAIN_MODES = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"})
_ALPHA_MODES = frozenset({"LA", "PA", "RGBA", "La", "RGBa"})
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262


def decode_image(data: bytes, *, max_pixels: int = 100_000_000) -> Image.Image:
    r"""Decode one image as a person sees it.

    The EXIF orientation is applied. Transparency is composited on white. 16-bit grey keeps its upper eight
    bits; floats are read when they lie within 0..1. CMYK is converted as Pillow does. Of an animation or a
    stack of pages the first is taken. Colour profiles are ignored, as torchvision's transforms do.

    Parameters
    ----------
    data : bytes
        The file's content. The format is told from it, never from a name.
    max_pixels : int, default=100_000_000
        Refuse larger images before memory is taken for them. Pillow's own ceiling
        (``2 * PIL.Image.MAX_IMAGE_PIXELS``, about 179 million) stands above it.

    Returns
    -------
    PIL.Image.Image
        Mode ``"RGB"``, detached from any file.

    Raises
    ------
    ImageDecodeError
        For every image that gives no pixels; its `reason` is a key of `DECODE_REASONS`.
    InvalidInputError
        If ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` is set, or `max_pixels` is below 1.

    Notes
    -----
    Damage inside a JPEG's pixel data is not always seen by the decoder; the digest in the manifest is what
    tells two versions of a file apart.

    Examples
    --------
    >>> decode_image(b"P5 2 1 255 \x00\xff").getpixel((1, 0))
    (255, 255, 255)
    >>> decode_image(b"")
    Traceback (most recent call last):
        ...
    featbank.errors.ImageDecodeError: empty: the file has no bytes
    """
    if max_pixels < 1:
        raise InvalidInputError(f"max_pixels={max_pixels!r} must be at least 1")
    with decoder_errors():
        if not data:
            raise ImageDecodeError("empty", DECODE_REASONS["empty"])
        with _opened(data) as image:
            width, height = image.size
            if width < 1 or height < 1:
                raise ImageDecodeError("decoder-error", f"{width} x {height} has no pixels")
            if width * height > max_pixels:
                raise ImageDecodeError(
                    "too-many-pixels", f"{width} x {height} is over the limit of {max_pixels} pixels"
                )
            if any(tile[0] == "fits_gzip" for tile in getattr(image, "tile", ())):
                told = "a FITS file of compressed tiles is not decoded: how much they unpack to is not known"
                raise ImageDecodeError("decoder-error", told)
            return upright_rgb(image)


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=list(FORMATS))
    except UnidentifiedImageError as error:
        for start, told in _REFUSED_STARTS:
            if data.startswith(start):
                raise ImageDecodeError("not-an-image", told) from error
        if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
            told = "HEIC is not decoded: Pillow has no reader for it; convert it to JPEG or PNG"
            raise ImageDecodeError("not-an-image", told) from error
        raise


@contextmanager
def decoder_errors() -> Iterator[None]:
    """Turn whatever Pillow raises inside the block into an `ImageDecodeError`, without warnings.

    Raises
    ------
    ImageDecodeError
        For every exception inside the block.
    InvalidInputError
        If ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` is set: half a file would load, grey where it was cut.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise InvalidInputError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, so damaged images would load with grey areas; "
            "set it to False"
        )
    _quiet.depth += 1
    try:
        yield
    except ImageDecodeError:
        raise
    except UnidentifiedImageError as error:
        raise ImageDecodeError("not-an-image", DECODE_REASONS["not-an-image"]) from error
    except Image.DecompressionBombError as error:
        raise ImageDecodeError("too-many-pixels", _one_line(error)) from error
    except MemoryError as error:
        raise ImageDecodeError("out-of-memory", _one_line(error)) from error
    except Exception as error:  # decoders raise nearly every built-in on damaged files
        cut = "truncated" in str(error).lower() or isinstance(error, EOFError)
        raise ImageDecodeError("truncated" if cut else "decoder-error", _one_line(error)) from error
    finally:
        _quiet.depth -= 1


def _one_line(error: Exception) -> str:
    text = one_line(error)
    named = isinstance(error, OSError) or text == type(error).__name__
    return text if named else f"{type(error).__name__}: {text}"


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return `image` in mode ``"RGB"``, turned as its EXIF says, transparency on white.

    Raises
    ------
    ImageDecodeError
        With the reason ``"unsupported-mode"``.
    """
    # 16-bit colour names its transparent colour in 16 bits, but Pillow hands out 8-bit pixels.
    tiles = getattr(image, "tile", None) or []
    deep_colour = any("RGB;16" in str(tile[3]) for tile in tiles[:1])
    image.load()
    if deep_colour and isinstance(image.info.get("transparency"), tuple):
        image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
    return upright(_to_rgb(image), like=image)


def upright(image: Image.Image, *, like: Image.Image | None = None) -> Image.Image:
    """Turn `image` as the EXIF orientation of `like` (default: its own) says; pixels only move.

    An orientation that cannot be parsed counts as upright, as in a browser.
    """
    try:
        orientation = (like or image).getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError, LookupError, AttributeError, OSError, struct.error) as error:
        logger.debug("unreadable EXIF block taken as upright: %s", error)
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16"):
        return _from_grey16(image)
    if mode == "I":
        return _from_integers(image)
    if mode == "F":
        return _from_floats(image)
    if mode in _ALPHA_MODES or (mode in _PLAIN_MODES and "transparency" in image.info):
        return _on_white(image)
    if mode in _PLAIN_MODES:
        return image.convert("RGB")
    raise ImageDecodeError("unsupported-mode", f"mode {mode!r} has no agreed conversion to RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    # paste() rounds once per value; alpha_composite() goes over a division by the resulting alpha.
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return white


def _from_grey16(image: Image.Image) -> Image.Image:
    grey = np.asarray(image).astype(np.uint16)  # (h, w), whatever the byte order was
    bits, white_is_zero = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = int(image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0])
        white_is_zero = image.tag_v2.get(_PHOTOMETRIC) == 0
    small = (grey >> (bits - 8)).astype(np.uint8)
    if white_is_zero:
        small = 255 - small
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        small[grey == transparent] = 255
    return Image.fromarray(small).convert("RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    if image.format not in ("PPM", None):
        raise ImageDecodeError(
            "unsupported-mode", f"a {image.format} of signed or 32-bit integers has no agreed white"
        )
    grey = np.asarray(image)  # (h, w) int32; Pillow's form of 16-bit PGM
    low, high = int(grey.min()), int(grey.max())
    if low < 0 or high > 65535:
        raise ImageDecodeError("unsupported-mode", f"integers {low}..{high} do not fit 16-bit grey")
    return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")


def _from_floats(image: Image.Image) -> Image.Image:
    grey = np.asarray(image, dtype=np.float64)  # (h, w)
    low, high = float(grey.min()), float(grey.max())
    if not (low >= 0.0 and high <= 1.0):  # also false for NaN
        raise ImageDecodeError("unsupported-mode", f"float pixels {low:.6g}..{high:.6g} are not within 0..1")
    white_is_zero = isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0
    small = np.rint((1.0 - grey if white_is_zero else grey) * 255.0).astype(np.uint8)
    return Image.fromarray(small).convert("RGB")
