"""Packed files read as they are: the numbers of the bank, compressed or not, each chunk decoded once."""

from __future__ import annotations

import os
import pickle
import shutil
from importlib import import_module
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank.banks import (
    Archive,
    Bank,
    BankStore,
    CutArray,
    QuarantineRecord,
    _format,
    open_archive,
    pack,
)
from featbank.banks import archive as pack_reader
from featbank.errors import (
    BankFormatError,
    BankNotFoundError,
    CorruptBankError,
    IncompleteBankError,
    InvalidInputError,
    MissingPackageError,
    UnknownNameError,
)

#: Rows of a cut that fill a quarter of a chunk each.
BIG = (64, 64, 32)


@pytest.fixture(scope="module")
def made() -> dict[object, object]:
    """What is made once for all tests, none of which changes it."""
    return {}


@pytest.fixture
def full(made_once, kit, made, tmp_path_factory):
    """Removed rows, a second segment, an image twice, one quarantined; a cut of several chunks."""
    if "bank" in made:
        return made["bank"]
    root = tmp_path_factory.mktemp("archive") / "banks"
    bank = Bank.open(BankStore(shutil.copytree(made_once, root)).resolve())
    names = [*(f"image {i}" for i in range(4, 33)), "new 1", "new 2", "image 9", "image 9"]
    bank.set_manifest(kit.make_manifest(names))
    kit.extract(bank, quarantined=frozenset([kit.digest_of("new 2")]))
    bank.write_quarantine([QuarantineRecord(b"c0/0030.jpg", kit.digest_of("new 2").hex(), "truncated")])
    writer = bank.cut_writer("block2_pool", BIG, "float16")
    for plan in writer.missing():
        random = np.random.default_rng(plan.number)
        features = np.maximum(random.standard_normal((plan.n_rows, *BIG), np.float32), 0).astype(np.float16)
        writer.write(plan, features, np.zeros(plan.n_rows, np.uint8))
    writer.finish({"duration_s": 1.0})
    made["bank"] = bank
    return bank


@pytest.fixture
def pack_of(full, made, tmp_path, tmp_path_factory):
    """Give a fresh copy of the bank, packed."""

    def give(compression: str | None):
        if compression not in made:
            made[compression] = pack(
                full, tmp_path_factory.mktemp("packed") / "bank.h5", compression=compression
            )
        return Path(shutil.copy(made[compression], tmp_path / "bank.h5"))

    return give


@pytest.fixture(params=["zstd", "gzip", None])
def packed(request, pack_of):
    return pack_of(request.param), request.param


@pytest.mark.slow
def test_every_index_gives_what_the_bank_gives(full, packed):
    n = len(full)
    mask = np.zeros(n, bool)
    mask[[0, 5, 17, 31]] = True
    with Archive(packed[0]) as archive:
        assert (archive.cuts, len(archive), archive.compression) == (full.cuts, n, packed[1])
        assert archive.manifest.ids == full.manifest.ids
        assert archive.manifest.labels.tolist() == full.manifest.labels.tolist()
        assert (archive.classes, archive.dataset, archive.key) == (full.classes, "shapes", full.key)
        assert (archive.name, archive.provenance) == (full.name, full.provenance)
        for cut in full.cuts:
            ours, theirs = archive[cut], full[cut]
            assert isinstance(ours, CutArray)
            assert (ours.shape, ours.dtype, ours.n_features) == (
                theirs.shape,
                theirs.dtype,
                theirs.n_features,
            )
            np.testing.assert_array_equal(archive.rows_ok(cut), full.rows_ok(cut))
            assert archive.facts(cut) == full.facts(cut)
            keys = [3, -2, slice(2, 9), slice(20, 3, -4), [5, 5, -1, 0, 5, 31], mask, [], np.array([[1, 7]])]
            for key in [*keys, (slice(1, 6), 0), ([4, 2, 31], ..., 1)]:
                np.testing.assert_array_equal(ours[key], theirs[key], err_msg=f"{cut} {key}")
            rows = np.flatnonzero(archive.rows_ok(cut))
            np.testing.assert_array_equal(archive.features(cut, rows), full.features(cut, rows))
        np.testing.assert_array_equal(np.asarray(archive["block2_pool"]), full["block2_pool"].read())
        batches = list(archive["block2_pool"].iter_batches(7))
        assert [len(one) for one in batches] == [7, 7, 7, 7, 5]
        np.testing.assert_array_equal(np.concatenate(batches), full["block2_pool"].read())
        np.testing.assert_array_equal(archive.softmax(2.0, [1, 3]), full.softmax(2.0, [1, 3]))
        np.testing.assert_array_equal(archive["softmax"][4], full["softmax"][4])
        archive.verify()


def test_rows_without_features_are_named(packed):
    with Archive(packed[0]) as archive, pytest.raises(IncompleteBankError, match=r"c0/0030\.jpg"):
        archive["fc7"][30]


@pytest.fixture
def decoded(monkeypatch):
    """Sizes of the chunks that were decoded."""
    found = []

    def counted(codec, data, n_bytes, dtype):
        found.append(n_bytes)
        return _format.decode(codec, data, n_bytes, dtype)

    monkeypatch.setattr(pack_reader, "decode", counted)
    return found


def test_each_chunk_is_decoded_once_and_no_other(pack_of, decoded, monkeypatch):
    monkeypatch.setattr(pack_reader, "_KEPT_BYTES", 0)
    with Archive(pack_of("gzip")) as archive:
        assert decoded == []  # nothing is read before it is indexed
        cut = archive["block2_pool"]
        cut.read()
        assert decoded == [1 << 20] * 8  # 4 rows in each; the last rows are images that came before
        decoded.clear()
        cut[[1, 21, 0, 20, 3, 22, 1]]
        assert len(decoded) == 2
        decoded.clear()
        list(cut.iter_batches(4))
        assert len(decoded) == 10  # the chunk of an image that comes again is decoded again


def test_decoded_chunks_are_kept_for_the_next_reading(pack_of, monkeypatch):
    with Archive(pack_of("gzip")) as archive:
        wanted = archive["block2_pool"].read()
        monkeypatch.setattr(pack_reader, "decode", None)  # nobody may call it
        for row in (0, 5, 4, 32):
            block = archive["block2_pool"][row]
            np.testing.assert_array_equal(block, wanted[row])
            block[...] = 7  # what was handed out is the caller's own


def test_it_pickles_as_its_path(pack_of, full):
    with open_archive(pack_of("gzip")) as archive:
        again = pickle.loads(pickle.dumps(archive["fc7"]))
        np.testing.assert_array_equal(again[:3], full["fc7"][:3])
        again._bank.close()


def test_what_does_not_exist(packed, tmp_path):
    with Archive(packed[0]) as archive:
        with pytest.raises(UnknownNameError) as caught:
            archive["fc6"]
        assert str(caught.value) == (
            f"archive {str(packed[0])!r} holds no cut 'fc6', it holds 'fc7', 'block1_pool', "
            f"'block2_pool', 'logits'; the others stayed with the bank it was packed from"
        )
    with pytest.raises(BankNotFoundError) as missing:
        open_archive(tmp_path / "nothing.h5")
    assert str(missing.value) == (
        f"no packed bank {str(tmp_path / 'nothing.h5')!r} (No such file or directory); "
        f"`featbank banks pack` makes one"
    )
    with pytest.raises(CorruptBankError, match=r"cannot be read \(it is no file\): get it again"):
        Archive(tmp_path)


def test_a_closed_archive_says_so(packed):
    with Archive(packed[0]) as archive:
        cut = archive["fc7"]
    archive.close()  # again: nothing happens
    with pytest.raises(InvalidInputError) as caught:
        cut[0]
    assert str(caught.value) == "the archive of cut 'fc7' is closed; open it again with open_archive"


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_a_flipped_bit_in_a_chunk_is_found_when_it_is_read(full, pack_of, compression):
    path = pack_of(compression)
    with h5py.File(path) as file:
        chunks = []
        file["features/block2_pool"].id.chunk_iter(chunks.append)
    data = bytearray(path.read_bytes())
    place = chunks[3].byte_offset + chunks[3].size // 2
    for bit in (0, 7):
        spoiled = bytearray(data)
        spoiled[place] ^= 1 << bit
        path.write_bytes(spoiled)
        with Archive(path) as archive:  # its structure is whole
            cut = archive["block2_pool"]
            np.testing.assert_array_equal(cut[:12], full["block2_pool"][:12])
            with pytest.raises(
                CorruptBankError, match=r"cannot be read \(chunk 3 is damaged: .*get it again"
            ):
                cut[12]
            with pytest.raises(CorruptBankError, match="chunk 3 is damaged"):
                archive.verify()


def test_the_last_chunk_is_filled_with_zeros(pack_of):
    """Equal banks give equal bytes: nothing of what the memory held before is packed."""
    with h5py.File(pack_of("gzip")) as file:
        data = file["features/block2_pool"].id.read_direct_chunk((32, 0, 0, 0))[1]
    last = _format.decode(_format.CODECS["gzip"], data, 1 << 20, np.dtype(np.float16)).reshape(4, *BIG)
    assert last[0].any()
    assert not last[1:].any()


def test_changed_features_are_found_by_verify(pack_of):
    path = pack_of(None)
    with h5py.File(path, "r+") as file:
        file["features/fc7"][3] = 1
    with Archive(path) as archive:
        assert archive["fc7"][3].tolist() == [1] * 5
        with pytest.raises(CorruptBankError, match=r"shard \d of cut 'fc7' is not what was packed"):
            archive.verify()


def test_a_file_cut_short_while_it_is_open(pack_of):
    path = pack_of("gzip")
    with Archive(path) as archive:
        os.truncate(path, 4096)
        with pytest.raises(CorruptBankError, match=r"chunk \d is not all in the file"):
            archive["block2_pool"].read()


def test_another_format_version_is_refused(pack_of, kit):
    path = pack_of(None)
    path.write_bytes(kit.forged(path.read_bytes(), lambda header: header.update(format_version=3)))
    with pytest.raises(BankFormatError, match="has format version 3"):
        Archive(path)


def test_without_the_package_that_zstd_needs(full, pack_of, tmp_path, monkeypatch):
    path = pack_of("zstd")

    def missing(name: str) -> object:
        if name.endswith("zstd"):
            raise ModuleNotFoundError(name)
        return import_module(name)

    monkeypatch.setattr(_format, "import_module", missing)
    _format._zstd.cache_clear()  # found once, it is not looked for again
    for attempt in (
        lambda: Archive(path),
        lambda: pack(full, tmp_path / "other.h5", compression="zstd"),
    ):
        with pytest.raises(MissingPackageError) as caught:
            attempt()
        assert str(caught.value) == (
            "compression 'zstd' needs the package backports.zstd, which is not installed: "
            "`pip install 'featbank[compression]'` brings it; 'gzip' needs nothing"
        )
    assert not (tmp_path / "other.h5").exists()


def test_the_keeping_of_chunks_is_bounded(pack_of, decoded, monkeypatch):
    monkeypatch.setattr(pack_reader, "_KEPT_BYTES", 3 << 20)
    with Archive(pack_of("gzip")) as archive:
        cut = archive["block2_pool"]
        for row in range(28):
            cut[row]
        assert len(decoded) == 7  # four rows in each
        cut[24], cut[20], cut[16]
        assert len(decoded) == 7
        cut[0]
        assert len(decoded) == 8
        cut[16], cut[20]  # what was read last stays
        assert len(decoded) == 8
        cut[24]
        assert len(decoded) == 9


@pytest.mark.parametrize("split", [None, "train", "val"])
def test_features_and_labels_for_a_head(full, packed, split):
    rows = full.manifest.rows(split)
    assert len(rows) < (full.manifest.splits == 0).sum() if split == "val" else True
    with Archive(packed[0]) as archive:
        for bank in (full, archive):
            X, y = bank.load("block1_pool", split=split)
            assert (X.dtype, y.dtype, X.shape) == (np.float32, np.int64, (len(rows), 12))
            np.testing.assert_array_equal(X, full.features("block1_pool", rows))
            np.testing.assert_array_equal(y, full.manifest.labels[rows])
            X, y = bank.load("fc7", split=split, rows=[30, 4, 1, 4])  # row 30 could not be read
            kept = [row for row in (4, 1, 4) if split is None or row in rows]
            np.testing.assert_array_equal(X, full.features("fc7", kept))
            np.testing.assert_array_equal(y, full.manifest.labels[kept])
            with pytest.raises(InvalidInputError, match="split='all' is not one of train, val, test, none"):
                bank.load("fc7", split="all")


def test_an_archive_stands_in_for_a_bank_where_features_are_read(packed, full):
    with Archive(packed[0]) as archive:
        X, y = archive.features("logits", slice(0, 10)), archive.manifest.labels[:10]
        np.testing.assert_array_equal(X, full.features("logits", slice(0, 10)))
        assert y.tolist() == full.manifest.labels[:10].tolist()
