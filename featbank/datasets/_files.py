"""Files on disk: which names are images, and reading one without hanging on a pipe or a device."""

# Names must survive byte for byte, and pathlib has no bytes paths.
# ruff: noqa: PTH122

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from io import FileIO
from types import MappingProxyType

from featbank._cache import user_path
from featbank.errors import ImageDecodeError

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "MAX_FILE_BYTES",
    "REFUSED_FORMATS",
    "UNDECODED_SUFFIXES",
    "open_regular_file",
    "read_image_file",
    "read_regular_file",
    "suffix_of",
]

#: What is decoded: Pillow's name of the format -> its plugin, and the suffixes of such files. What a file is
#: shows in its first bytes, asked in this order: those that look at few of them come last.
FORMATS: Mapping[str, tuple[str, bytes]] = MappingProxyType(
    {
        "JPEG": ("Jpeg", b".jpg .jpeg .jpe .jfif .mpo"),  # hands out MPO (several lenses) as well
        "PNG": ("Png", b".png .apng"),
        "GIF": ("Gif", b".gif"),
        "WEBP": ("WebP", b".webp"),
        "TIFF": ("Tiff", b".tif .tiff"),
        "BMP": ("Bmp", b".bmp"),
        "PPM": ("Ppm", b".ppm .pgm .pbm .pnm .pfm"),
        "JPEG2000": ("Jpeg2K", b".jp2 .j2k .j2c .jpc .jpf .jpx"),
        "AVIF": ("Avif", b".avif .avifs"),
        "QOI": ("Qoi", b".qoi"),
        "PSD": ("Psd", b".psd"),
        "DDS": ("Dds", b".dds"),
        "ICNS": ("Icns", b".icns"),
        "FITS": ("Fits", b".fit .fits"),
        "SGI": ("Sgi", b".sgi .rgb .rgba .bw"),
        "SUN": ("Sun", b".ras"),
        "XPM": ("Xpm", b".xpm"),
        "XBM": ("Xbm", b".xbm"),
        "XVTHUMB": ("XVThumb", b""),
        "BLP": ("Blp", b".blp"),
        "FTEX": ("Ftex", b".ftc .ftu"),
        "DCX": ("Dcx", b".dcx"),
        "MSP": ("Msp", b".msp"),
        "PIXAR": ("Pixar", b".pxr"),
        "MCIDAS": ("McIdas", b""),
        "FLI": ("Fli", b".fli .flc"),
        "GBR": ("Gbr", b".gbr"),
        "ICO": ("Ico", b".ico"),
        "CUR": ("Cur", b".cur"),
        "DIB": ("Bmp", b".dib"),
        "PCX": ("Pcx", b".pcx"),
        "PCD": ("Pcd", b".pcd"),
        "IMT": ("Imt", b""),
        "IM": ("Im", b".im"),
        "SPIDER": ("Spider", b""),
        "TGA": ("Tga", b".tga .icb .vda .vst"),
    }
)

#: Formats that Pillow knows and that are not decoded, and why.
REFUSED_FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "EPS": "it is a program, which Pillow would have Ghostscript run",
        "IPTC": "Pillow opens whatever lies inside it, EPS too",
        "WMF": "it is drawn by Windows alone",
        "FPX": "it lies in an OLE container, which Pillow has no reader for",
        "MIC": "it lies in an OLE container, which Pillow has no reader for",
        "MPEG": "it is a film, of which Pillow knows the size alone",
        "BUFR": "Pillow has no reader for its numbers",
        "GRIB": "Pillow has no reader for its numbers",
        "HDF5": "Pillow has no reader for its numbers",
    }
)

#: Suffixes (lower case) under which a file is taken for an image; its content decides what it is.
IMAGE_SUFFIXES = frozenset(suffix for _, suffixes in FORMATS.values() for suffix in suffixes.split())

#: Suffixes of images that are not decoded: photographs of telephones and cameras, drawings, scans.
UNDECODED_SUFFIXES = frozenset(
    b".heic .heif .hif .jxl .jxr .hdp .wdp .dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .orf .rw2 .raf .pef .srw "
    b".raw .exr .hdr .svg .svgz .eps .ps .ai .wmf .emf .iim .fpx .mic .pdf .xcf .kra .dcm .djvu .jb2".split()
)

#: A single image of more bytes is refused: it would be held in memory whole.
MAX_FILE_BYTES = 1 << 30
_PART_BYTES = 1 << 24


def suffix_of(name: bytes) -> bytes:
    """Return the suffix of a file name, lower case, with its dot; empty if it has none.

    Examples
    --------
    >>> suffix_of(b"IMG_1.JPG"), suffix_of(b"README")
    (b'.jpg', b'')
    """
    return os.path.splitext(name)[1].lower()


def read_regular_file(path: bytes) -> bytes:
    """Return the content of a regular file.

    Raises
    ------
    OSError
        If the file cannot be opened or read, or is no regular file.
    ImageDecodeError
        With the reason ``"too-many-bytes"`` above `MAX_FILE_BYTES`.
    """
    with open_regular_file(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes > MAX_FILE_BYTES:
            raise ImageDecodeError("too-many-bytes", f"{n_bytes} bytes is over the limit of {MAX_FILE_BYTES}")
        parts, size = [], 0
        while (part := file.read(_PART_BYTES)) != b"":
            if part is None:  # such as /proc/kmsg: a regular file by its name
                raise BlockingIOError(errno.EAGAIN, "it gives no bytes now, as a log or a pipe does")
            parts.append(part)
            size += len(part)
            if size > MAX_FILE_BYTES:  # it grows, or its size is not known before
                raise ImageDecodeError("too-many-bytes", f"it has more than the limit of {MAX_FILE_BYTES}")
        return b"".join(parts)


def open_regular_file(path: bytes) -> FileIO:
    """Open a regular file for reading, unbuffered; raises `OSError` if it cannot be, or is none."""
    # Non-blocking, so that a pipe put in the place of an image does not hang the run.
    file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{os.fsdecode(path)!r} is not a regular file")
    return file


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of one image file; raises `OSError` or `ImageDecodeError`."""
    return read_regular_file(os.fsencode(user_path(path)))
