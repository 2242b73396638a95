"""HDF5 files as byte strings: built and parsed in memory, so that libhdf5 never writes to a disk.

libhdf5 crashes the process when a disk runs full while it writes; an image in memory is hashed and
written by plain system calls instead. Nothing here has a variable length, a time stamp or a compression
filter: equal content gives equal bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featbank.banks._codecs import Codec

#: What h5py and libhdf5 raise on damaged files.
READ_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)

#: Checksummed metadata, readable since HDF5 1.10.
LIBVER = ("v110", "v110")

_ALIGNMENT = 4096
#: Where the superblock says whether a program has the file open for writing.
_MARK_AT = 11
_IMAGES = itertools.count()
_ROOM = 64 * 1024


def build_image(arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, int | float | str]) -> bytes:
    """Return the bytes of an HDF5 file with these contiguous datasets and root attributes.

    The first dataset starts on a page, so that it can be memory-mapped inside the file.
    """
    n_bytes = sum(array.nbytes for array in arrays.values())
    first = next(iter(arrays.values())).nbytes
    with h5py.File(
        image_name(),
        "w",
        driver="core",
        backing_store=False,
        block_size=n_bytes + _ROOM,
        libver=LIBVER,
        alignment_threshold=max(1, min(first, _ALIGNMENT)),
        alignment_interval=_ALIGNMENT,
    ) as file:
        for name, array in arrays.items():
            create_contiguous(file.id, name, np.ascontiguousarray(array))
        for name, value in attributes.items():
            if isinstance(value, str):
                file.attrs.create(name, np.bytes_(value.encode("ascii")))
            else:
                file.attrs.create(name, np.float64(value) if isinstance(value, float) else np.int64(value))
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def image_name() -> str:
    """Return a name for a file that is only in memory; libhdf5 refuses to open one name twice at a time."""
    return f"featbank-image-{next(_IMAGES)}"


def create_contiguous(parent: Any, name: str, array: NDArray[Any]) -> Any:
    """Create and fill one contiguous dataset under a low-level h5py group or file id."""
    dataset = allocate_contiguous(parent, name, array.shape, array.dtype)
    if array.size:
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return dataset


def allocate_contiguous(parent: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Create one contiguous dataset, its place reserved, without times and without fill values."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    return h5py.h5d.create(
        parent, name.encode(), h5py.h5t.py_create(dtype), h5py.h5s.create_simple(shape), plist
    )


def allocate_chunks(
    parent: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], step: int, codec: Codec
) -> Any:
    """Create one dataset in chunks of `step` rows, for `codec`; whoever fills it compresses."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((step, *shape[1:]))
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    plist.set_shuffle()
    # optional: a library that cannot compress so can still write what is compressed already
    plist.set_filter(codec.filter_id, h5py.h5z.FLAG_OPTIONAL, (codec.level,))
    return h5py.h5d.create(
        parent, name.encode(), h5py.h5t.py_create(dtype), h5py.h5s.create_simple(shape), plist
    )


@contextlib.contextmanager
def open_image(image: bytes) -> Iterator[Any]:
    """Open the bytes of an HDF5 file for reading."""
    with h5py.File(h5py.h5f.open_file_image(image)) as file:
        yield file


def end_of_file(head: bytes) -> int | None:
    """Return the length an HDF5 file says it has, from its first 48 bytes; None if they are no such start."""
    if len(head) < 48 or head[:8] != b"\x89HDF\r\n\x1a\n" or head[8] not in (2, 3) or head[9] != 8:
        return None
    return int.from_bytes(head[28:36], "little")


def as_closed(head: bytes) -> bytes:
    """Return the first 48 bytes of a file as they are while no program has it open for writing.

    libhdf5 marks a file when it opens it for writing, and takes the mark away when it closes it. A head that
    does not bear a whole mark, with the checksum that goes with it, is returned as it is.
    """
    marked = end_of_file(head) is not None and head[_MARK_AT] != 0
    if not marked or head[44:48] != _lookup3(head[:44]):
        return head
    closed = head[:_MARK_AT] + b"\0" + head[_MARK_AT + 1 : 44]
    return closed + _lookup3(closed)


def _lookup3(data: bytes) -> bytes:
    """Return the checksum of HDF5's metadata (Jenkins' lookup3) of `data`, 4 n bytes, not 12 n."""
    words = list(struct.unpack(f"<{len(data) // 4}I", data))
    a = b = c = 0xDEADBEEF + len(data)

    def rotated(value: int, bits: int) -> int:
        value &= 0xFFFFFFFF
        return value << bits | value >> 32 - bits

    while len(words) > 3:
        a, b, c = a + words.pop(0), b + words.pop(0), c + words.pop(0)
        for bits in (4, 6, 8, 16, 19, 4):
            a = (a - c) ^ rotated(c, bits)
            c += b
            a, b, c = b, c, a  # the next of the six does the same with the names moved on
    words += [0] * (3 - len(words))
    a, b, c = a + words[0], b + words[1], c + words[2]
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - rotated(b, bits)
        a, b, c = b, c, a
    return struct.pack("<I", b & 0xFFFFFFFF)


def read_attribute(file: Any, name: str) -> int | float | str:
    """Return one root attribute as `build_image` wrote it."""
    value = file.attrs[name]
    if isinstance(value, bytes):
        return value.decode("ascii")
    return float(value) if isinstance(value, np.floating) else int(value)
