"""Which JPEG files any decoder turns into the same picture, told from their headers."""

from __future__ import annotations

import struct

__all__ = ["plain_jpeg_size"]

_START, _END = b"\xff\xd8", b"\xff\xd9"
_SCAN, _EXIF_OR_XMP, _MPF, _ADOBE = 0xDA, 0xE1, 0xE2, 0xEE
#: Baseline and progressive; extended, lossless, hierarchical and arithmetic coding are not for every decoder.
_FRAMES = frozenset({0xC0, 0xC2})
#: Tables, restart interval, comment, application data: nothing that changes what the picture looks like.
_HARMLESS = frozenset({0xDB, 0xC4, 0xDD, 0xFE, *range(0xE0, 0xF0)})
#: Of the first of three components; the other two are (1, 1).
_SAMPLINGS = frozenset({(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)})
_ORIENTATION, _SHORT = 0x0112, 3


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    r"""Return the size of a plain JPEG; None for every other file.

    Plain is: baseline or progressive, 8 bits, grey or YCbCr, upright, one picture, with its end mark as its
    last bytes. Whatever is unusual or in doubt is not plain: to have it decoded by Pillow only costs time.

    Parameters
    ----------
    data : bytes
        The whole file.

    Returns
    -------
    tuple of int or None
        (width, height) in pixels, both at least 1.

    Examples
    --------
    >>> plain_jpeg_size(b"\xff\xd8\xff\xd9") is None
    True
    """
    if not data.startswith(_START) or not data.endswith(_END):
        return None
    size: tuple[int, int] | None = None
    n_exif, at = 0, 2
    while True:
        head = data[at : at + 4]
        if len(head) < 4 or head[0] != 0xFF:
            return None
        marker, length = head[1], int.from_bytes(head[2:], "big")
        body = data[at + 4 : at + 2 + length]
        if length < 2 or len(body) != length - 2:
            return None
        at += 2 + length
        if marker == _SCAN:
            break
        if marker in _FRAMES:
            if size is not None or (size := _frame_size(body)) is None:
                return None
        elif marker not in _HARMLESS:
            return None
        elif marker == _EXIF_OR_XMP:
            n_exif += body.startswith(b"Exif\0\0")
            if n_exif > 1 or not _is_upright(body):
                return None
        elif (marker == _MPF and body.startswith(b"MPF\0")) or (marker == _ADOBE and not _is_ycbcr(body)):
            return None
    # The end mark comes once: no second picture follows, and none was put in the place of a lost rest.
    return size if data.find(_END, at) == len(data) - 2 else None


def _frame_size(body: bytes) -> tuple[int, int] | None:
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        return None
    bits, height, width, n_components = struct.unpack_from(">BHHB", body)
    if bits != 8 or not width or not height or n_components not in (1, 3):
        return None
    numbers = body[6::3]
    samplings = [(one >> 4, one & 15) for one in body[7::3]]
    if n_components == 1:
        return (width, height) if samplings == [(1, 1)] else None
    # other numbers can mean RGB
    plain = numbers == b"\1\2\3" and samplings[0] in _SAMPLINGS and samplings[1:] == [(1, 1), (1, 1)]
    return (width, height) if plain else None


def _is_ycbcr(body: bytes) -> bool:
    """Whether an APP14 segment, where it is Adobe's, says YCbCr."""
    return not body.startswith(b"Adobe") or (len(body) >= 12 and body[11] == 1)


def _is_upright(body: bytes) -> bool:
    """Whether an APP1 segment leaves the picture as it is; False in doubt."""
    if not body.startswith(b"Exif\0\0"):
        return b"tiff:Orientation" not in body  # Pillow turns by XMP too
    tiff = body[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return False
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (n_entries,) = struct.unpack_from(order + "H", tiff, first)
        for number in range(n_entries):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, first + 2 + 12 * number)
            if tag == _ORIENTATION and (kind, count, value) != (_SHORT, 1, 1):
                return False
    except struct.error:
        return False
    return True
