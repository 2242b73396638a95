"""What one HDF5 dataset of featbank may be: its type, its shape, and where its bytes stand in the file."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from featbank.banks._codecs import (
    CODECS,
    LARGEST_ROW_BYTES,
    SHUFFLE,
    Codec,
    chunk_rows,
    most_decoded,
    most_encoded,
)

_MOST_DIMENSIONS = 8
_LONGEST_STRING = 64 * 1024


class Refused(Exception):  # noqa: N818 - a verdict, which becomes an error of featbank in the parent
    """The file has something that is not on the list; the text says what."""


class Column(NamedTuple):
    """What one dataset may be: its types, how many dimensions (0: two or more), and whether compressed."""

    types: tuple[str, ...]
    dimensions: int = 1
    may_be_compressed: bool = False


class Chunks(NamedTuple):
    """A compressed dataset: its codec, and where each chunk begins and how many bytes it takes."""

    codec: Codec
    places: NDArray[np.int64]


def check_dataset(dataset: Any, path: str, column: Column) -> None:
    if h5py.h5a.get_num_attrs(dataset):
        raise Refused(f"{path!r} has attributes")
    plist = dataset.get_create_plist()
    if plist.get_external_count():
        raise Refused(f"{path!r} keeps its values in another file")
    if plist.get_layout() == h5py.h5d.CHUNKED and column.may_be_compressed:
        codec_of(plist, path, dataset.get_type().get_size())
    elif plist.get_layout() != h5py.h5d.CONTIGUOUS:
        raise Refused(
            f"{path!r} is not stored in one piece (chunks, a virtual dataset, or inside its header)"
        )
    elif plist.get_nfilters():
        raise Refused(f"{path!r} has filters")
    check_type(dataset.get_type(), path, column.types)
    space = dataset.get_space()
    if space.get_simple_extent_type() != h5py.h5s.SIMPLE:
        raise Refused(f"{path!r} is no array")
    shape, limits = space.get_simple_extent_dims(), space.get_simple_extent_dims(True)
    rank = len(shape)
    wanted = rank == column.dimensions if column.dimensions else 2 <= rank <= _MOST_DIMENSIONS
    if not wanted or shape != limits or min(shape[1:], default=1) < 1:
        raise Refused(f"{path!r} has shape {shape}")


def check_type(kind: Any, path: str, types: tuple[str, ...]) -> None:
    if kind.committed():
        raise Refused(f"{path!r} has a type that stands elsewhere in the file")
    if types == ("S",):
        if not isinstance(kind, h5py.h5t.TypeStringID) or kind.is_variable_str():
            raise Refused(f"{path!r} is no text of fixed length")
        if kind.get_size() > _LONGEST_STRING:
            raise Refused(f"{path!r} has texts of {kind.get_size()} bytes")
        kind_class = h5py.h5t.py_create(np.dtype(f"S{kind.get_size()}"))
        if kind != kind_class:
            raise Refused(f"{path!r} is a kind of text featbank does not write")
    elif not any(kind == h5py.h5t.py_create(np.dtype(one)) for one in types):
        raise Refused(f"{path!r} has another type than {' or '.join(types)}")


def codec_of(plist: Any, path: str, itemsize: int) -> Codec:
    """Return the codec of a chunked dataset: byte shuffle and one of ours, as we set it, nothing else."""
    try:
        found = [plist.get_filter(index)[:3] for index in range(min(plist.get_nfilters(), 3))]
    except AssertionError as error:  # what h5py says to more options than it has room for
        raise Refused(f"{path!r} is compressed as no file of featbank is (options without end)") from error
    for codec in CODECS.values():
        wanted = [(SHUFFLE, (itemsize,)), (codec.filter_id, (codec.level,))]
        if [(number, values) for number, _, values in found] == wanted and all(
            flags in (0, h5py.h5z.FLAG_OPTIONAL) for _, flags, _ in found
        ):
            return codec
    shown = ", ".join(f"{number}{values}" for number, _, values in found) or "none"
    raise Refused(f"{path!r} is compressed as no file of featbank is (filters: {shown})")


def check_places(datasets: dict[str, Any], size: int) -> dict[str, Chunks]:
    """Each dataset has its own bytes inside the file, so that all together are no more than the file.

    Returns
    -------
    dict of Chunks
        The compressed datasets, by path.
    """
    places: list[tuple[int, int, str]] = []
    chunked: dict[str, Chunks] = {}
    for path, dataset in datasets.items():
        n_bytes = dataset.get_type().get_size()
        for side in dataset.shape:
            n_bytes *= side  # Python's integers do not overflow
        if dataset.get_create_plist().get_layout() == h5py.h5d.CHUNKED:
            chunked[path] = _chunks(dataset, path, n_bytes, size)
            places += [(begin, begin + stored, path) for begin, stored in chunked[path].places.tolist()]
        elif n_bytes:
            offset = dataset.get_offset()
            if offset is None or dataset.get_storage_size() != n_bytes or offset + n_bytes > size:
                raise Refused(f"{path!r} says it has {n_bytes} bytes, which are not in the file")
            places.append((offset, offset + n_bytes, path))
    places.sort()
    for (_, end, path), (begin, _, other) in pairwise(places):
        if begin < end:
            raise Refused(f"{path!r} and {other!r} share bytes")
    return chunked


def _chunks(dataset: Any, path: str, n_bytes: int, size: int) -> Chunks:
    """Check shape, number, order and size of the chunks of one dataset; none of them is read."""
    plist, shape = dataset.get_create_plist(), dataset.shape
    if not shape[0]:
        raise Refused(f"{path!r} is compressed and has no rows")
    row_bytes = n_bytes // shape[0]
    if row_bytes > LARGEST_ROW_BYTES:
        raise Refused(f"{path!r} is compressed and has rows of {row_bytes} bytes")
    step = chunk_rows(row_bytes, shape[0])
    if plist.get_chunk() != (step, *shape[1:]):
        raise Refused(f"{path!r} has chunks of shape {plist.get_chunk()}, not {(step, *shape[1:])}")
    n_chunks = -(-shape[0] // step)
    if n_bytes > most_decoded(size) or n_chunks > size:
        raise Refused(f"{path!r} says it has {n_bytes} bytes, far more than a file of {size} bytes can hold")
    found: list[tuple[int, int]] = []
    wrong: list[int] = []

    def collect(chunk: Any) -> bool | None:
        begin, stored = int(chunk.byte_offset), int(chunk.size)
        if (
            chunk.chunk_offset != (len(found) * step, *[0] * (len(shape) - 1))
            or chunk.filter_mask
            or not 0 < stored <= most_encoded(step * row_bytes)
            or begin < 0
            or begin + stored > size
        ):
            wrong.append(len(found))
        found.append((begin, stored))
        return True if wrong or len(found) > n_chunks else None  # True ends the iteration

    dataset.chunk_iter(collect)
    if wrong:
        raise Refused(f"chunk {wrong[0]} of {path!r} is not where or what it must be")
    if len(found) != n_chunks:
        raise Refused(f"{path!r} has {len(found)} chunks, not {n_chunks}")
    return Chunks(codec_of(plist, path, dataset.get_type().get_size()), np.array(found, np.int64))
