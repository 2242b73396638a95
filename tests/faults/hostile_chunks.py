"""Compressed packed files made to do harm by what stands in their chunks; each breaks one rule."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import headers
import numpy as np
from hostile_cases import in_pack

from featbank.banks._format import CODECS, encoder

TABLE = "bank/cuts/block5_pool/chunks"
SHAPE = (11, 3, 2, 2)
N_BYTES = 11 * 24
MAGIC = b"\x28\xb5\x2f\xfd"


def in_archive(says: str, compression: str = "zstd") -> Callable[[Callable[[bytes], bytes]], None]:
    """Register another first chunk of the features, made from the one that was packed."""

    def register(change: Callable[[bytes], bytes]) -> None:
        def forge(data: bytes) -> bytes:
            begin, size = np.frombuffer(
                data, np.int64, 2, headers.header_of(data)["arrays"][TABLE][2]
            ).tolist()
            chunk = change(data[begin : begin + size])
            row = [len(data), len(chunk)]
            data = headers.forged(data + chunk, lambda d: d.update(size=len(data) + len(chunk)))
            return headers.with_array(data, TABLE, lambda table: table.__setitem__(0, row))

        forge.__name__ = change.__name__
        in_pack(says, compression)(forge)

    return register


def frame(block: bytes, says: int, window: int | None = None) -> bytes:
    """A zstd frame with this one block, which says how much it holds, and what window it needs."""
    single = window is None
    head = MAGIC + bytes([0xC0 | (0x20 if single else 0)])
    return head + (b"" if single else bytes([(window - 10) << 3])) + says.to_bytes(8, "little") + block


def repeated(n_bytes: int, last: bool = True) -> bytes:
    """A zstd block that says: so many zeros."""
    return (n_bytes << 3 | 1 << 1 | last).to_bytes(3, "little") + b"\0"


@in_archive("says it holds 1073741824 bytes, not 264")
def bomb_that_says_so(chunk: bytes) -> bytes:
    return frame(b"".join(repeated(1 << 17, False) for _ in range(80)), 1 << 30)


@in_archive("says it holds 1125899906842624 bytes")
def petabyte_in_a_chunk(chunk: bytes) -> bytes:
    return frame(repeated(N_BYTES), 1 << 50)


@in_archive("chunk 0 is damaged")
def bomb_that_lies(chunk: bytes) -> bytes:
    return frame(b"".join(repeated(1 << 17, False) for _ in range(80)) + repeated(8), N_BYTES)


@in_archive("chunk 0 is damaged")
def chunk_that_holds_less_than_it_says(chunk: bytes) -> bytes:
    return frame(repeated(N_BYTES - 1), N_BYTES)


@in_archive("says it holds 263 bytes, not 264")
def chunk_that_is_too_small(chunk: bytes) -> bytes:
    return frame(repeated(N_BYTES - 1), N_BYTES - 1)


@in_archive("is not what was packed")  # it takes no more memory than any other
def window_of_gigabytes(chunk: bytes) -> bytes:
    return frame(repeated(N_BYTES), N_BYTES, window=31)


@in_archive("chunk 0 is damaged")
def frame_of_unknown_size(chunk: bytes) -> bytes:
    return MAGIC + bytes([0, 0]) + repeated(N_BYTES)


@in_archive("does not end where it must")
def two_frames_in_a_chunk(chunk: bytes) -> bytes:
    return chunk + frame(repeated(8), 8)


@in_archive("chunk 0 is damaged")
def skippable_frame_first(chunk: bytes) -> bytes:
    return b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"evil" + chunk


@in_archive("does not end where it must")
def chunk_cut_short(chunk: bytes) -> bytes:
    return chunk[:-3]


@in_archive("chunk 0 is damaged")
def bit_flipped_in_a_chunk(chunk: bytes) -> bytes:
    data = bytearray(chunk)
    data[len(data) // 2] ^= 4
    return bytes(data)


@in_archive("chunk 0 is damaged")
def noise_in_a_chunk(chunk: bytes) -> bytes:
    return np.random.default_rng(0).bytes(300)


@in_archive("is not what was packed")
def other_features_in_a_chunk(chunk: bytes) -> bytes:
    return encoder(CODECS["zstd"])(np.ones(SHAPE, np.float16))


@in_archive("chunk 0 is damaged", "gzip")
def bomb_of_zeros_in_gzip(chunk: bytes) -> bytes:
    return zlib.compress(bytes(300_000), 9)[:390]


@in_archive("it holds 200 bytes, not 264", "gzip")
def gzip_that_holds_too_little(chunk: bytes) -> bytes:
    return zlib.compress(bytes(200))


@in_archive("does not end where it must", "gzip")
def gzip_with_something_behind_it(chunk: bytes) -> bytes:
    return chunk + b"x"


@in_archive("is not where or what it must be", "gzip")
def bomb_of_gigabytes_in_gzip(chunk: bytes) -> bytes:
    return zlib.compress(bytes(1 << 28), 9)
