"""The one form of shards, manifests and packs: a checked JSON header, then plain HDF5 for everybody else.

::

    featbank 2 <bytes of the header> <sha256 of the header>
    {"arrays": {name: [dtype, shape, offset]}, "checksums": {...}, "facts": {...}, "kind": ..., "size": ...}
    zeros up to byte 4,096, or twice as many as often as the header needs it
    an HDF5 file, for which all this is a user block

featbank reads the header, checks that every array lies inside the file and on no other, and maps the bytes.
It writes HDF5 and never parses it: no file, damaged or made to do harm, meets libhdf5 here.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import canonical_json, sha256
from featbank._registry import nearest
from featbank.banks.documents import FORMAT_VERSION
from featbank.errors import InvalidInputError, MissingPackageError

# Compressed chunks of features: byte shuffle, then zstd or gzip, coded here, never by HDF5's filters ---
#
# What is written is what HDF5's own ``shuffle`` and ``deflate`` filters and the Zstandard filter of
# hdf5plugin write, so other readers decode it with theirs. featbank decodes it itself: the size of the result
# is known before, nothing larger is ever made, and no plugin is loaded.

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


#: Bytes before the HDF5 file, unless the header is longer; also what features are aligned to.
BLOCK = 4096
#: Longest header that is read.
_MOST_HEADER = 1 << 20
_MOST_DIMENSIONS, _MOST_SIDE = 8, 1 << 48
#: Longest text that HDF5 takes for an attribute is 64 kB.
_LONGEST_ATTRIBUTE = 60_000
_LINE = re.compile(rb"featbank ([1-9]\d{0,5}) (\d{1,7}) ([0-9a-f]{64})\n")
_DTYPE = re.compile(r"<f2|<f4|<i4|<i8|\|u1|\|S[1-9]\d{0,4}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,99}){0,3}")
#: How files of featbank began before.
_FORMAT_1 = (b"\x89HDF\r\n\x1a\n", b"featbank manifest;")

Buffer = bytes | memoryview


class FormatError(ValueError):
    """What is wrong with a file, without its name; whoever knows the name says it."""


class VersionError(FormatError):
    """The file is whole, as far as can be seen, and of another version of the format."""

    def __init__(self, version: int) -> None:
        super().__init__(f"it has format version {version}, this featbank reads {FORMAT_VERSION}")
        self.version = version


class Place(NamedTuple):
    """Type and shape of an array, and where its bytes begin; or its codec, and the array of its chunks."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int = 0
    codec: Codec | None = None
    table: str = ""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; Python's integers do not overflow."""
        n_bytes = self.dtype.itemsize
        for side in self.shape[1:]:
            n_bytes *= side
        return n_bytes

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows, decoded."""
        return self.shape[0] * self.row_bytes

    @property
    def chunk_rows(self) -> int:
        """Rows of one chunk, if it is compressed; the last one is filled with zeros."""
        return chunk_rows(self.row_bytes, self.shape[0])


class Source(Protocol):
    """A file of which parts are read; it has `size` bytes."""

    size: int

    def bytes_at(self, offset: int, size: int) -> bytes:
        """Return so many bytes, or what there is of them."""


class Contents:
    """What is in a file, open for reading or given as its bytes: its facts, and its arrays by name.

    Raises `FormatError` if it is not as featbank writes a ``"shard"``, ``"manifest"`` or ``"pack"``;
    `VersionError` if another featbank wrote it; `MissingPackageError` if it is compressed and that is needed.
    """

    def __init__(self, source: int | bytes | Source, kind: str) -> None:
        self.source = source
        if isinstance(source, bytes):
            self.size = len(source)
        else:
            self.size = os.fstat(source).st_size if isinstance(source, int) else source.size
        document, self.block = self._header()
        said = document.get("size")
        if document.get("kind") != kind:
            raise FormatError(f"it is a {str(document.get('kind'))[:40]!r} of featbank, no {kind!r}")
        if said != self.size:
            raise FormatError(f"it has {self.size} bytes, it should have {said!r:.40}")
        #: Digest of all bytes behind the header, where the writer gave one.
        self.rest: Any = document.get("rest")
        tables: list[Any] = [document.get(name) for name in ("facts", "checksums", "arrays")]
        if not all(isinstance(one, dict) for one in tables):
            raise FormatError("its header is not made of what it must be made of")
        self.facts: dict[str, Any]
        self.checksums: dict[str, Any]
        self.facts, self.checksums, arrays = tables
        self.places: dict[str, Place] = {name: self._place(name, one) for name, one in arrays.items()}
        decoded = sum(place.n_bytes for place in self.places.values())
        is_compressed = any(place.codec for place in self.places.values())
        if decoded > (most_decoded(self.size) if is_compressed else self.size):
            raise FormatError(f"it says it holds {decoded} bytes, far more than a file of {self.size} can")
        spans = [
            np.array([[place.offset, place.offset + place.n_bytes]], np.int64)
            for place in self.places.values()
            if place.codec is None and place.n_bytes
        ]
        #: Begin and length of each chunk of the compressed arrays.
        self.chunks = {}
        for name, place in self.places.items():
            if place.codec is not None:
                self.chunks[name] = self._chunks(name)
                require(place.codec)
        spans += [np.stack([one[:, 0], one.sum(axis=1)], axis=1) for one in self.chunks.values()]
        ordered = np.concatenate(spans or [np.zeros((0, 2), np.int64)])
        ordered = ordered[np.argsort(ordered[:, 0], kind="stable")]
        if (ordered[1:, 0] < ordered[:-1, 1]).any():
            raise FormatError("two of its arrays share bytes")

    def _header(self) -> tuple[dict[str, Any], int]:
        head = self.bytes_at(0, min(self.size, BLOCK))
        match = _LINE.match(head)
        if match is None:
            if head.startswith(_FORMAT_1):
                raise VersionError(1)
            raise FormatError("it does not start like a file of featbank" if head else "it is empty")
        version, length, block = int(match[1]), int(match[2]), block_of(head)
        if not block:
            raise FormatError(f"it says it has a header of {length} bytes, more than {_MOST_HEADER}")
        if block > self.size:
            raise FormatError(f"it has {self.size} bytes, its header alone takes {block}")
        head = head if block == BLOCK else self.bytes_at(0, block)
        data, padding = head[match.end() : match.end() + length], head[match.end() + length :]
        if sha256(data).encode() != match[3] or padding.strip(b"\0"):
            raise FormatError("its header does not match its own sha256")
        try:
            document = json.loads(data)
            # twice the same name, no numbers, spaces: whatever featbank does not write is refused here
            as_written = isinstance(document, dict) and canonical_json(document) == data
        except (ValueError, RecursionError):  # the latter: lists in lists in lists
            as_written = False
        if not as_written or document.get("format_version") != version:
            raise FormatError("its header is not JSON as featbank writes it")
        if version != FORMAT_VERSION:
            raise VersionError(version)
        return document, block

    def _place(self, name: str, said: Any) -> Place:
        if not _NAME.fullmatch(name):
            raise FormatError(f"it has an array named {name[:80]!r}")
        if not isinstance(said, list) or len(said) not in (3, 4) or not isinstance(said[1], list):
            raise FormatError(f"it does not say what {name!r} is")
        dtype, shape, offset = said[:3]
        if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
            raise FormatError(f"{name!r} has another type than features, numbers or texts")
        if not 1 <= len(shape) <= _MOST_DIMENSIONS or not all(_is_count(one, _MOST_SIDE) for one in shape):
            raise FormatError(f"{name!r} has shape {str(shape)[:80]}")
        if min(shape[1:], default=1) < 1:
            raise FormatError(f"{name!r} has shape {str(shape)[:80]}")
        place = Place(np.dtype(dtype), tuple(shape))
        if len(said) == 4:
            codec = CODECS.get(said[3]) if isinstance(said[3], str) else None
            if codec is None or not isinstance(offset, str):
                raise FormatError(f"{name!r} is compressed as no file of featbank is")
            return place._replace(codec=codec, table=offset)
        if not _is_count(offset, self.size + 1) or offset < self.block or offset + place.n_bytes > self.size:
            raise FormatError(f"{name!r} says it has {place.n_bytes} bytes, which are not in the file")
        return place._replace(offset=offset)

    def _chunks(self, name: str) -> NDArray[np.int64]:
        """Check number, order and size of the chunks of a compressed array; none of them is read."""
        place = self.places[name]
        if not place.shape[0] or place.dtype.kind != "f" or place.row_bytes > LARGEST_ROW_BYTES:
            raise FormatError(f"{name!r} is compressed and has rows of {place.row_bytes} bytes")
        step = place.chunk_rows
        table = self.places.get(place.table)
        if table is None or (table.dtype.str, table.shape) != ("<i8", (-(-place.shape[0] // step), 2)):
            raise FormatError(f"{name!r} does not say where its chunks are")
        found = self.read(place.table)
        begins, sizes = found[:, 0], found[:, 1]
        # each bound first, so that no sum overflows
        good = (begins >= self.block) & (begins <= self.size) & (sizes > 0)
        good &= sizes <= most_encoded(step * place.row_bytes)
        if not good.all() or (begins + sizes > self.size).any():
            raise FormatError(f"chunk {int(np.argmin(good))} of {name!r} is not where or what it must be")
        return found

    def bytes_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes of the file."""
        if isinstance(self.source, bytes):
            return self.source[offset : offset + size]
        if not isinstance(self.source, int):
            part = self.source.bytes_at(offset, size)
            if len(part) < size:
                raise FormatError("it was cut short while it was read")
            return part
        parts = []
        while size and (part := os.pread(self.source, min(size, 1 << 30), offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        if size:
            raise FormatError("it was cut short while it was read")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read(self, name: str) -> NDArray[Any]:
        """Return a plain array, read and compared with its checksum if it has one."""
        place = self.places.get(name)
        if place is None or place.codec is not None:
            raise FormatError(f"it lacks {name!r}")
        if isinstance(self.source, bytes):
            array = np.frombuffer(
                self.source, place.dtype, place.n_bytes // place.dtype.itemsize, place.offset
            )
        else:
            array = np.frombuffer(self.bytes_at(place.offset, place.n_bytes), place.dtype)
        wanted = self.checksums.get(name)
        if wanted is not None and sha256(array.data.cast("B") if array.size else b"") != wanted:
            raise FormatError(f"{name!r} does not match its sha256")
        return array.reshape(place.shape)

    def map(self, name: str) -> NDArray[Any]:
        """Return a plain array of an open file, memory-mapped."""
        place = self.places.get(name)
        if place is None or place.codec is not None or not isinstance(self.source, int):
            raise FormatError(f"it lacks {name!r}")
        return map_rows(self.source, place.dtype, place.shape, place.offset)


def block_of(head: bytes) -> int:
    """Return where the HDF5 file begins in a file with these first bytes, if they say so; else 0."""
    match = _LINE.match(head)
    if match is None or int(match[2]) > _MOST_HEADER:
        return 0
    block = BLOCK
    while block < match.end() + int(match[2]):
        block *= 2
    return block


def map_rows(descriptor: int, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> NDArray[Any]:
    """Map an array in an open file, read-only; nothing cannot be mapped, and is made."""
    if not shape[0]:
        return np.zeros(shape, dtype)
    begin, n = offset - offset % mmap.ALLOCATIONGRANULARITY, prod(shape)
    length = offset - begin + n * dtype.itemsize
    mapped = mmap.mmap(descriptor, length, access=mmap.ACCESS_READ, offset=begin)
    return np.frombuffer(mapped, dtype, n, offset - begin).reshape(shape)


def _is_count(value: Any, below: int) -> bool:
    return type(value) is int and 0 <= value < below


# Writing ---------------------------------------------------------------------------------------------


class Draft:
    """A file to be written: the header, and the HDF5 around the arrays, whose bytes go to their places.

    libhdf5 lays the file out and gets no file for it: a disk that runs full while it writes would bring the
    process down. Nothing has a variable length or a time stamp: equal content gives equal bytes.

    Parameters
    ----------
    kind : str
        What it is.
    arrays : mapping of str to Place
        Type and shape of each, codec and table of those that come in chunks, by `add_chunk`; those of at
        least as many bytes as the first, or as a page, begin on a page.
    facts : mapping of str to JSON values
        What the header says; the HDF5 file has it as attributes.
    checked : iterable of str, default=()
        Arrays that get a checksum.
    sealed : bool, default=False
        Whether the header carries the digest of everything behind it.
    descriptor : int, optional
        The file, open for reading and writing; without it `parts` gives the bytes.
    """

    def __init__(
        self,
        kind: str,
        arrays: Mapping[str, Place],
        facts: Mapping[str, Any],
        *,
        checked: Iterable[str] = (),
        sealed: bool = False,
        descriptor: int | None = None,
    ) -> None:
        import h5py

        self.places = {name: place._replace(offset=1 << 50) for name, place in arrays.items()}
        self._compressed = [name for name, place in arrays.items() if place.codec is not None]
        self._document: dict[str, Any] = {
            "kind": kind,
            "format_version": FORMAT_VERSION,
            "facts": dict(facts),
            "checksums": dict.fromkeys(checked, "0" * 64),
            "size": 1 << 50,
            **({"rest": "0" * 64} if sealed else {}),
        }
        self.block = BLOCK
        while len(self._head()) > self.block:  # the longest it can become
            self.block *= 2
        self._image = _Image(descriptor)
        first = next(iter(self.places.values()))
        self._file = h5py.File(
            self._image,
            "w",
            libver=("v110", "v110"),  # checksummed metadata, readable since HDF5 1.10
            userblock_size=self.block,
            alignment_threshold=max(1, min(first.n_bytes, BLOCK)),
            alignment_interval=BLOCK,
        )
        self._datasets = {name: self._allocate(name, place) for name, place in self.places.items()}
        for name, value in facts.items():
            self._add_attribute(name, value)
        for name, place in self.places.items():
            if place.codec is None:
                offset = self._datasets[name].get_offset() if place.n_bytes else self.block
                self.places[name] = place._replace(offset=int(offset))
        if not self._compressed:
            self.close()

    def _allocate(self, name: str, place: Place) -> Any:
        from h5py import h5d, h5g, h5p, h5s, h5t, h5z

        parent: Any = self._file.id
        timeless = h5p.create(h5p.GROUP_CREATE)
        timeless.set_obj_track_times(False)
        *groups, last = name.encode().split(b"/")
        for group in groups:
            known = parent.links.exists(group)
            parent = h5g.open(parent, group) if known else h5g.create(parent, group, gcpl=timeless)
        plist = h5p.create(h5p.DATASET_CREATE)
        if place.codec is not None:
            plist.set_chunk((place.chunk_rows, *place.shape[1:]))
            plist.set_shuffle()
            # optional: a library that cannot compress so can still write what is compressed already
            plist.set_filter(place.codec.filter_id, h5z.FLAG_OPTIONAL, (place.codec.level,))
        else:
            plist.set_layout(h5d.CONTIGUOUS)
            plist.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5d.FILL_TIME_NEVER)
        plist.set_obj_track_times(False)
        return h5d.create(parent, last, h5t.py_create(place.dtype), h5s.create_simple(place.shape), plist)

    def _add_attribute(self, name: str, value: Any) -> None:
        if isinstance(value, float):
            self._file.attrs.create(name, np.float64(value))
        elif isinstance(value, int):
            self._file.attrs.create(name, np.int64(value))
        else:
            text = value.encode() if isinstance(value, str) else canonical_json(value)
            if 0 < len(text) <= _LONGEST_ATTRIBUTE:
                self._file.attrs.create(name, np.bytes_(text))

    def add_chunk(self, name: str, row: int, data: bytes) -> None:
        """Write one compressed chunk, which begins with this row."""
        place = self.places[name]
        self._datasets[name].write_direct_chunk((row, *[0] * (len(place.shape) - 1)), data)
        self._image.raise_error()

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write bytes to their place in the file; `OSError` if that cannot be done."""
        self._image.seek(offset)
        self._image.write(data)
        self._image.raise_error()

    def close(self) -> dict[str, NDArray[np.int64]]:
        """End the HDF5 file; return where the chunks of each compressed array are, by their table."""
        found: dict[str, NDArray[np.int64]] = {}
        try:
            for name in self._compressed:
                chunks: list[tuple[int, int]] = []
                self._datasets[name].chunk_iter(
                    lambda chunk, chunks=chunks: chunks.append((int(chunk.byte_offset), int(chunk.size)))
                )
                found[self.places[name].table] = np.array(chunks, np.int64).reshape(-1, 2)
        finally:
            self._datasets = {}
            self._file.close()
        self._image.raise_error()
        self._document["size"] = self._image.size
        return found

    def _head(self) -> bytes:
        arrays = {
            name: [
                one.dtype.str,
                list(one.shape),
                *([one.table, one.codec.name] if one.codec else [one.offset]),
            ]
            for name, one in self.places.items()
        }
        data = canonical_json({**self._document, "arrays": arrays})
        return f"featbank {FORMAT_VERSION} {len(data)} {sha256(data)}\n".encode() + data

    def head(self, checksums: Mapping[str, str], rest: str | None = None) -> bytes:
        """Return the bytes before the HDF5 file."""
        self._document["checksums"] = {name: checksums[name] for name in self._document["checksums"]}
        if rest is not None:
            self._document["rest"] = rest
        return self._head().ljust(self.block, b"\0")

    def parts(self, arrays: Mapping[str, NDArray[Any]]) -> list[Buffer]:
        """Return the whole file, the large arrays as they are and not copied."""
        found: list[Buffer] = []
        end = self.block
        views = {name: np.ascontiguousarray(one).data.cast("B") for name, one in arrays.items() if one.size}
        for name in sorted(views, key=lambda name: self.places[name].offset):
            found += [self._image.pread(self.places[name].offset - end, end), views[name]]
            end = self.places[name].offset + self.places[name].n_bytes
        found.append(self._image.pread(self._image.size - end, end))
        digest = hashlib.sha256()
        if "rest" in self._document:
            for part in found:
                digest.update(part)
        checksums = {name: sha256(views.get(name, b"")) for name in self._document["checksums"]}
        found.insert(0, self.head(checksums, digest.hexdigest() if "rest" in self._document else None))
        return found


def encode(
    kind: str,
    arrays: Mapping[str, NDArray[Any]],
    facts: Mapping[str, Any],
    *,
    checked: Iterable[str] = (),
    sealed: bool = False,
) -> list[Buffer]:
    """Return a file as its parts; see `Draft`."""
    places = {name: Place(one.dtype, one.shape) for name, one in arrays.items()}
    return Draft(kind, places, facts, checked=checked, sealed=sealed).parts(arrays)


def digest_of(parts: Sequence[Buffer]) -> str:
    """Return the SHA-256 of the parts of a file."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


class _Image:
    """The file object that libhdf5 writes to: pages in memory, or a descriptor; it never fails.

    What libhdf5 makes of an error while it writes is a crash, now or when the process ends. So the first
    error is kept, and raised once the HDF5 file is closed.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor, self._pages, self._place = descriptor, dict[int, bytearray](), 0
        self._error: BaseException | None = None
        self.size = 0

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        self._place = self.size if whence == os.SEEK_END else place
        return self._place

    def tell(self) -> int:
        return self._place

    def flush(self) -> None:
        """All is written already."""

    def truncate(self, size: int) -> None:
        self.size = size
        if self._descriptor is not None:
            try:
                os.ftruncate(self._descriptor, size)
            except OSError as error:
                self._error = self._error or error

    def write(self, data: Any) -> int:
        view, place = memoryview(data).cast("B"), self._place
        self._place += len(view)
        self.size = max(self.size, self._place)
        try:
            while view:
                if self._descriptor is not None:
                    done = os.pwrite(self._descriptor, view, place)
                else:
                    page, at = divmod(place, BLOCK)
                    done = min(len(view), BLOCK - at)
                    self._pages.setdefault(page, bytearray(BLOCK))[at : at + done] = view[:done]
                view, place = view[done:], place + done
        except BaseException as error:  # noqa: BLE001 - raised when libhdf5 is done
            self._error = self._error or error
        return memoryview(data).nbytes

    def pread(self, size: int, place: int) -> bytes:
        """Return bytes; what was never written is zeros."""
        if self._descriptor is not None:
            return os.pread(self._descriptor, size, place).ljust(size, b"\0")
        found = bytearray(size)
        for page in range(place // BLOCK, -(-(place + size) // BLOCK)):
            known = self._pages.get(page)
            if known is not None:
                low, high = max(place, page * BLOCK), min(place + size, (page + 1) * BLOCK)
                found[low - place : high - place] = known[low - page * BLOCK : high - page * BLOCK]
        return bytes(found)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        try:
            view[:] = self.pread(len(view), self._place)
        except BaseException as error:  # noqa: BLE001 - raised when libhdf5 is done
            self._error = self._error or error
        self._place += len(view)
        return len(view)

    def read(self, size: int) -> bytes:
        """Return bytes; h5py takes what can do this for a file."""
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)
