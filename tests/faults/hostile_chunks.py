"""Compressed packed files made to do harm: filters, chunks, and what stands in them; each breaks one rule."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import made_bank
import numpy as np
from hostile_cases import CASES, LIBVER

from featbank.banks import Bank
from featbank.banks._codecs import CODECS, encoder

F = "features/block5_pool"
SHAPE = (11, 3, 2, 2)
N_BYTES = 11 * 24
MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD, GZIP, BLOSC, LZ4, FLETCHER = 32015, 1, 32001, 32004, 3
OURS = ((2, (2,)), (ZSTD, (1,)))


@lru_cache
def _good(folder: Path, compression: str) -> Path:
    return made_bank.packed(
        Bank.open(folder), folder.parents[2] / f"good-{compression}.h5", compression=compression
    )


def in_archive(says: str, compression: str = "zstd") -> Callable[[Callable[[h5py.File, Path], None]], None]:
    """Register a change to an open pack that is compressed."""

    def register(change: Callable[[h5py.File, Path], None]) -> None:
        def make(place: Path, pack: Path, folder: Path) -> Path:
            target = Path(shutil.copy(_good(folder, compression), place / "bank.h5"))
            with h5py.File(target, "r+", libver=LIBVER) as file:
                change(file, place)
            return target

        CASES[change.__name__] = (make, says)

    return register


def put(
    file: h5py.File,
    data: bytes | None,
    *,
    filters: Sequence[tuple[int, tuple[int, ...]]] = OURS,
    shape: tuple[int, ...] = SHAPE,
    chunk: tuple[int, ...] | None = None,
    most: tuple[Any, ...] | None = None,
    mask: int = 0,
    name: str = F,
) -> None:
    """Store the features anew, in chunks of any kind, the first of which has these bytes."""
    del file[name]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(chunk or shape)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    for number, values in filters:
        if number == 2:  # HDF5 sets the size by itself when the dataset is made
            plist.set_shuffle()
        else:
            plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL, values)
    space = h5py.h5s.create_simple(shape, most)
    group, _, last = name.rpartition("/")
    made = h5py.h5d.create(file[group].id, last.encode(), h5py.h5t.IEEE_F16LE, space, plist)
    if data is not None:
        made.write_direct_chunk((0,) * len(shape), data, mask)


def chunk_of(file: h5py.File) -> bytes:
    """The bytes of the chunk as it was packed."""
    data: bytes = file[F].id.read_direct_chunk((0, 0, 0, 0))[1]
    return data


def frame(block: bytes, says: int, window: int | None = None) -> bytes:
    """A zstd frame with this one block, which says how much it holds, and what window it needs."""
    single = window is None
    head = MAGIC + bytes([0xC0 | (0x20 if single else 0)])
    return head + (b"" if single else bytes([(window - 10) << 3])) + says.to_bytes(8, "little") + block


def repeated(n_bytes: int, last: bool = True) -> bytes:
    """A zstd block that says: so many zeros."""
    return (n_bytes << 3 | 1 << 1 | last).to_bytes(3, "little") + b"\0"


@in_archive("says it holds 1073741824 bytes, not 264")
def bomb_that_says_so(file: h5py.File, place: Path) -> None:
    put(file, frame(b"".join(repeated(1 << 17, False) for _ in range(80)), 1 << 30))


@in_archive("says it holds 1125899906842624 bytes")
def petabyte_in_a_chunk(file: h5py.File, place: Path) -> None:
    put(file, frame(repeated(N_BYTES), 1 << 50))


@in_archive("chunk 0 is damaged")
def bomb_that_lies(file: h5py.File, place: Path) -> None:
    put(file, frame(b"".join(repeated(1 << 17, False) for _ in range(80)) + repeated(8), N_BYTES))


@in_archive("chunk 0 is damaged")
def chunk_that_holds_less_than_it_says(file: h5py.File, place: Path) -> None:
    put(file, frame(repeated(N_BYTES - 1), N_BYTES))


@in_archive("says it holds 263 bytes, not 264")
def chunk_that_is_too_small(file: h5py.File, place: Path) -> None:
    put(file, frame(repeated(N_BYTES - 1), N_BYTES - 1))


@in_archive("is not what was packed")  # it takes no more memory than any other
def window_of_gigabytes(file: h5py.File, place: Path) -> None:
    put(file, frame(repeated(N_BYTES), N_BYTES, window=31))


@in_archive("chunk 0 is damaged")
def frame_of_unknown_size(file: h5py.File, place: Path) -> None:
    put(file, MAGIC + bytes([0, 0]) + repeated(N_BYTES))


@in_archive("does not end where it must")
def two_frames_in_a_chunk(file: h5py.File, place: Path) -> None:
    put(file, chunk_of(file) + frame(repeated(8), 8))


@in_archive("chunk 0 is damaged")
def skippable_frame_first(file: h5py.File, place: Path) -> None:
    put(file, b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"evil" + chunk_of(file))


@in_archive("does not end where it must")
def chunk_cut_short(file: h5py.File, place: Path) -> None:
    put(file, chunk_of(file)[:-3])


@in_archive("chunk 0 is damaged")
def bit_flipped_in_a_chunk(file: h5py.File, place: Path) -> None:
    data = bytearray(chunk_of(file))
    data[len(data) // 2] ^= 4
    put(file, bytes(data))


@in_archive("chunk 0 is damaged")
def noise_in_a_chunk(file: h5py.File, place: Path) -> None:
    put(file, np.random.default_rng(0).bytes(300))


@in_archive("is not what was packed")
def other_features_in_a_chunk(file: h5py.File, place: Path) -> None:
    put(file, encoder(CODECS["zstd"])(np.ones(SHAPE, np.float16)))


@in_archive("is not where or what it must be")
def chunk_larger_than_any(file: h5py.File, place: Path) -> None:
    put(file, chunk_of(file).ljust(2000, b"\0"))


@in_archive("is not where or what it must be")
def chunk_without_its_filters(file: h5py.File, place: Path) -> None:
    put(file, b"\0" * N_BYTES, mask=3)


@in_archive("has 0 chunks, not 1")
def chunk_that_is_not_there(file: h5py.File, place: Path) -> None:
    put(file, None)


@in_archive("has 0 chunks, not 62")
def chunks_that_are_not_there(file: h5py.File, place: Path) -> None:
    put(file, None, shape=(62 * 43690, 3, 2, 2), chunk=(43690, 3, 2, 2))


@in_archive("far more than a file of")
def terabytes_of_chunks(file: h5py.File, place: Path) -> None:
    put(file, None, shape=(10**11, 3, 2, 2), chunk=(43690, 3, 2, 2))


@in_archive("has chunks of shape")
def half_the_rows_in_a_chunk(file: h5py.File, place: Path) -> None:
    put(file, None, chunk=(5, 3, 2, 2))


@in_archive("has chunks of shape")
def chunks_across_the_rows(file: h5py.File, place: Path) -> None:
    put(file, None, chunk=(11, 3, 2, 1))


@in_archive("has chunks of shape")
def chunk_of_gigabytes(file: h5py.File, place: Path) -> None:
    put(file, chunk_of(file), shape=(2**20, 3, 2, 2), chunk=(2**20, 3, 2, 2))


@in_archive("has rows of")
def row_of_gigabytes(file: h5py.File, place: Path) -> None:
    put(file, chunk_of(file), shape=(1, 2**25, 1, 1), chunk=(1, 2**25, 1, 1))


@in_archive("has shape")
def rows_that_can_grow(file: h5py.File, place: Path) -> None:
    put(file, chunk_of(file), most=(h5py.h5s.UNLIMITED, 3, 2, 2))


@in_archive("has no rows")
def chunks_of_nothing(file: h5py.File, place: Path) -> None:
    put(file, None, shape=(0, 3, 2, 2), chunk=(1, 3, 2, 2), most=(0, 3, 2, 2))


def _filters(name: str, filters: Sequence[tuple[int, tuple[int, ...]]]) -> None:
    def change(file: h5py.File, place: Path) -> None:
        put(file, None, filters=filters)

    change.__name__ = name
    in_archive("is compressed as no file of featbank is")(change)


_filters("no_filter", ())
_filters("shuffle_alone", ((2, (2,)),))
_filters("zstd_alone", ((ZSTD, (1,)),))
_filters("filters_the_other_way_round", ((ZSTD, (1,)), (2, (2,))))
_filters("shuffled_twice", ((2, (2,)), (2, (2,)), (ZSTD, (1,))))
_filters("one_filter_more", (*OURS, (FLETCHER, ())))
_filters("a_dozen_filters_more", (*OURS, *[(GZIP, (1,))] * 12))
_filters("blosc", ((2, (2,)), (BLOSC, (2, 2, 2, 264, 1, 1, 5))))
_filters("lz4", ((2, (2,)), (LZ4, (0,))))
_filters("filter_nobody_knows", ((2, (2,)), (65000, (1,))))
_filters("level_that_is_not_ours", ((2, (2,)), (ZSTD, (22,))))
_filters("no_level", ((2, (2,)), (ZSTD, ())))
_filters("level_and_more", ((2, (2,)), (ZSTD, (1, 2**31))))
_filters("hundreds_of_options", ((2, (2,)), (ZSTD, tuple(range(1, 400)))))


@in_archive("is not stored in one piece")
def labels_in_chunks(file: h5py.File, place: Path) -> None:
    labels = file["labels"][()]
    del file["labels"]
    file.create_dataset("labels", data=labels, compression="gzip", shuffle=True)


@in_archive("compressed otherwise than it says")
def another_compression_than_it_says(file: h5py.File, place: Path) -> None:
    file.attrs.modify("compression", np.bytes_(b"gzip"))


@in_archive("compressed otherwise than it says")
def compression_it_does_not_mention(file: h5py.File, place: Path) -> None:
    del file.attrs["compression"]


@in_archive("chunk 0 is damaged", "gzip")
def bomb_of_zeros_in_gzip(file: h5py.File, place: Path) -> None:
    put(file, zlib.compress(bytes(300_000), 9)[:390], filters=((2, (2,)), (GZIP, (1,))))


@in_archive("it holds 200 bytes, not 264", "gzip")
def gzip_that_holds_too_little(file: h5py.File, place: Path) -> None:
    put(file, zlib.compress(bytes(200)), filters=((2, (2,)), (GZIP, (1,))))


@in_archive("does not end where it must", "gzip")
def gzip_with_something_behind_it(file: h5py.File, place: Path) -> None:
    put(file, chunk_of(file) + b"x", filters=((2, (2,)), (GZIP, (1,))))


@in_archive("is not where or what it must be", "gzip")
def bomb_of_gigabytes_in_gzip(file: h5py.File, place: Path) -> None:
    put(file, zlib.compress(bytes(1 << 28), 9), filters=((2, (2,)), (GZIP, (1,))))
