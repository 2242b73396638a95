"""What featbank writes, any HDF5 reader sees; featbank reads it by its header alone."""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise

import h5py
import numpy as np
import pytest

from featbank.banks._format import BLOCK, Contents, Draft, FormatError, Place, VersionError, digest_of, encode

SHAPES = [(0,), (1,), (7,), (5000,), (0, 3), (3, 1), (11, 3, 2, 2), (300, 5), (2, 1, 1, 1, 1, 1, 1, 2)]
DTYPES = ["<f2", "<f4", "<i4", "<i8", "|u1", "|S1", "|S9", "|S255"]


def made(dtype, shape):
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(len(shape)).bytes(n_bytes), dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sealed", [False, True])
def test_h5py_sees_the_same_arrays(tmp_path, dtype, sealed):
    arrays = {f"a/b{place}": made(dtype, shape) for place, shape in enumerate(SHAPES)}
    arrays |= {"ids": made("|u1", (77,)), "offsets": np.array([0, 70, 77])}
    data = b"".join(encode("manifest", arrays, {"n": 3, "x": 0.5, "s": "t"}, checked=["ids"], sealed=sealed))
    (tmp_path / "x.h5").write_bytes(data)
    contents = Contents(data, "manifest")
    with h5py.File(tmp_path / "x.h5") as file, (tmp_path / "x.h5").open("rb") as opened:
        assert file.userblock_size == contents.block == BLOCK
        assert (file.attrs["n"], file.attrs["x"], file.attrs["s"]) == (3, 0.5, b"t")
        assert {name.lstrip("/") for name in contents.places} == set(arrays)
        from_file = Contents(opened.fileno(), "manifest")
        for name, array in arrays.items():
            seen = file[name]
            assert (seen.shape, seen.dtype) == (array.shape, array.dtype)
            for found in (seen[()], contents.read(name), from_file.read(name), from_file.map(name)):
                assert found.tobytes() == array.tobytes()
                assert (found.shape, found.dtype.str) == (
                    array.shape,
                    dtype if "/" in name else array.dtype.str,
                )
            if array.size:
                assert seen.id.get_offset() == contents.places[name].offset


@pytest.mark.parametrize("ids", [[], [b""], [b"a\xff\n", "日本/é.jpg".encode(), b"\0", b"x" * 4096]])
def test_ids_of_any_bytes_come_back(store, kit, ids):
    bank = store.create_or_open("names", kit.KEY, {})
    bank.set_manifest(kit.make_manifest([str(place) for place in range(len(ids))], ids))
    with h5py.File(bank.path / "manifest.h5") as file:
        data, offsets = file["ids"][()].tobytes(), file["id_offsets"][()].tolist()
    assert [data[a:b] for a, b in pairwise(offsets)] == ids == list(bank.manifest.ids)


def test_a_long_header_takes_more_blocks(tmp_path):
    arrays = {f"array{number}": np.arange(number) for number in range(1, 300)}
    parts = encode("pack", arrays, {"long": "x" * 20_000}, checked=arrays)
    (tmp_path / "x.h5").write_bytes(b"".join(parts))
    assert digest_of(parts) == hashlib.sha256((tmp_path / "x.h5").read_bytes()).hexdigest()
    contents = Contents(b"".join(parts), "pack")
    assert contents.block == 65_536
    with h5py.File(tmp_path / "x.h5") as file:
        for name, array in arrays.items():
            np.testing.assert_array_equal(file[name][()], array)
            np.testing.assert_array_equal(contents.read(name), array)


def test_no_large_array_is_copied():
    features = np.zeros((1000, 1000), np.float32)
    parts = encode("shard", {"features": features, "statuses": np.zeros(1000, np.uint8)}, {})
    assert [
        part.obj is features for part in parts if isinstance(part, memoryview) and len(part) > 10_000
    ] == [True]
    assert sum(len(part) for part in parts if isinstance(part, bytes)) < 20_000


def test_what_was_written_meanwhile_or_is_no_file_of_featbank():
    data = b"".join(encode("shard", {"a": np.arange(3)}, {}))
    assert Contents(data, "shard").read("a").tolist() == [0, 1, 2]
    for wrong, said in (
        (data[:-1], "it should have"),
        (b"", "it is empty"),
        (data[BLOCK:], "format version 1"),
        (data.replace(b'"facts":{}', b'"facts":[]'), "does not match its own sha256"),
    ):
        with pytest.raises(FormatError, match=said):
            Contents(wrong, "shard")
    with pytest.raises(VersionError):
        Contents(data[BLOCK:], "shard")
    with pytest.raises(FormatError, match="it lacks 'b'"):
        Contents(data, "shard").read("b")
    with pytest.raises(FormatError, match="it is a 'shard' of featbank, no 'pack'"):
        Contents(data, "pack")


def test_an_error_of_the_disk_is_raised_once_hdf5_is_done(tmp_path):
    descriptor = os.open(tmp_path / "x", os.O_RDONLY | os.O_CREAT)
    try:
        with pytest.raises(OSError, match=r"Bad file descriptor|Invalid argument"):
            Draft("pack", {"a": Place(np.dtype("<i8"), (3,))}, {}, descriptor=descriptor)
    finally:
        os.close(descriptor)
