"""Compressed chunks of features: byte shuffle, then zstd or gzip, coded here and never by HDF5's filters.

What is written is what HDF5's own ``shuffle`` and ``deflate`` filters and the Zstandard filter of hdf5plugin
write, so other readers decode it with theirs. featbank decodes it itself: the size of the result is known
before, nothing larger is ever made, and no plugin is loaded.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featbank._registry import nearest
from featbank.errors import InvalidInputError, MissingPackageError

#: About how many bytes of features one chunk holds, decoded; one row at least.
CHUNK_BYTES = 1024 * 1024
#: Larger rows are stored as they are: decoding one holds several copies of it.
LARGEST_ROW_BYTES = 32 * 1024 * 1024
#: HDF5's number of its shuffle filter.
SHUFFLE = 2

#: Features do not shrink so far: whatever claims more is made to fill a disk.
_MOST_RATIO, _SMALL_BYTES = 200, 64 * 1024 * 1024


class Codec(NamedTuple):
    """One way of compressing: its name, the number of its HDF5 filter, and its level."""

    name: str
    filter_id: int
    level: int


#: Chosen by `tests/benchmarks/test_compression.py`: higher levels gain a few per cent and cost several times
#: the time, lz4 and bitshuffle gain half as much, and blosc wraps the same codecs in a format of its own.
CODECS = {one.name: one for one in (Codec("zstd", 32015, 1), Codec("gzip", 1, 1))}


def codec_named(name: str) -> Codec:
    """Return a codec that can be used here; `InvalidInputError` for another name, or as `require`."""
    codec = CODECS.get(name)
    if codec is None:
        raise InvalidInputError(
            f"compression={name!r} is unknown, known are {nearest(str(name), CODECS)}; 'zstd' is the smaller "
            f"and faster one, 'gzip' is read without hdf5plugin"
        )
    require(codec)
    return codec


def require(codec: Codec) -> None:
    """Raise `MissingPackageError` if the package a codec needs is not installed."""
    if codec.name == "zstd":
        _zstd()


def library(codec: Codec) -> str:
    """Return the name and version of what compresses: another one may give other bytes."""
    return f"zstd {_zstd().zstd_version}" if codec.name == "zstd" else f"zlib {zlib.ZLIB_RUNTIME_VERSION}"


def chunk_rows(row_bytes: int, n_rows: int) -> int:
    """Return how many of `n_rows` rows of so many bytes make one chunk; the last one is filled with zeros.

    Examples
    --------
    >>> chunk_rows(401_408, 1280), chunk_rows(2_560, 1280), chunk_rows(2_560, 100), chunk_rows(6_422_528, 9)
    (2, 409, 100, 1)
    """
    return max(1, min(n_rows, CHUNK_BYTES // row_bytes))


def most_encoded(n_bytes: int) -> int:
    """Return more bytes than a chunk of `n_bytes` can take when it does not shrink at all."""
    return n_bytes + n_bytes // 200 + 128


def most_decoded(file_bytes: int) -> int:
    """Return how many bytes of features a packed file of this size may hold."""
    return _MOST_RATIO * file_bytes + _SMALL_BYTES


def encoder(codec: Codec) -> Callable[[NDArray[Any]], bytes]:
    """Return what turns a block of rows into the bytes of a chunk; equal blocks give equal bytes."""
    if codec.name == "gzip":
        return lambda block: zlib.compress(_shuffled(block), codec.level)
    zstd = _zstd()
    options = {
        zstd.CompressionParameter.compression_level: codec.level,
        zstd.CompressionParameter.checksum_flag: 1,  # a flipped bit is found when the chunk is read
    }
    return lambda block: bytes(zstd.compress(_shuffled(block), options=options))


def decode(codec: Codec, data: bytes, n_bytes: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the values in a chunk, on one axis; `ValueError` if it is damaged or has not `n_bytes`."""
    plain = _gunzip(data, n_bytes) if codec.name == "gzip" else _unzstd(data, n_bytes)
    if len(plain) != n_bytes:
        raise ValueError(f"it holds {len(plain)} bytes, not {n_bytes}")
    planes = np.frombuffer(plain, np.uint8).reshape(dtype.itemsize, -1)
    word = np.dtype(f"<u{dtype.itemsize}")
    values = planes[-1].astype(word)
    for plane in planes[-2::-1]:  # whole numbers are several times as fast as a transposition of bytes
        values <<= word.type(8)
        values |= plane
    features: NDArray[Any] = values.view(dtype)
    return features


def _shuffled(block: NDArray[Any]) -> bytes:
    flat = np.ascontiguousarray(block).reshape(-1)
    return flat.view(np.uint8).reshape(-1, block.itemsize).T.tobytes()


def _gunzip(data: bytes, n_bytes: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, n_bytes + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not stream.eof or stream.unused_data:
        raise ValueError("it does not end where it must")
    return plain


def _unzstd(data: bytes, n_bytes: int) -> bytes:
    zstd = _zstd()
    try:
        says = zstd.get_frame_info(data).decompressed_size
        if says != n_bytes:  # before anything is decoded
            raise ValueError(f"it says it holds {says} bytes, not {n_bytes}")
        # a window of the chunk's size is all it needs; a stranger's frame could ask for gigabytes
        most = {zstd.DecompressionParameter.window_log_max: max(10, (n_bytes - 1).bit_length())}
        stream = zstd.ZstdDecompressor(options=most)
        plain: bytes = stream.decompress(data, n_bytes + 1)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error
    if not stream.eof or stream.unused_data:
        raise ValueError("it does not end where it must")
    return plain


@cache
def _zstd() -> Any:
    # Once: a search of sys.path opens folders, which the process that reads a stranger's file may not.
    for name in ("compression.zstd", "backports.zstd"):  # a part of Python since 3.14
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise MissingPackageError(
        "compression 'zstd' needs the package backports.zstd, which is not installed: "
        "`pip install 'featbank[compression]'` brings it; 'gzip' needs nothing"
    )
