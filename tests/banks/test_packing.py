"""One file and back: the same shards, the same bytes, nothing half."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank.banks import BankStore, QuarantineRecord, _format, pack, packing, unpack
from featbank.errors import (
    BankFormatError,
    BankNotFoundError,
    CacheWriteError,
    CorruptBankError,
    IncompleteBankError,
    InvalidInputError,
)

CUTS = ("block1_pool", "fc7", "logits")

#: SHA-256 of the pack of the small bank in format 2.
GOLDEN = "73b436a9503556bd222afe33bde8a93b8cac261059a35ffbd4480e05c1d38e68"


@pytest.fixture
def full(bank, kit):
    """Removed rows, a second segment, a quarantined and an absent image."""
    bank.set_manifest(kit.make_manifest([*(f"image {i}" for i in range(4, 33)), "new 1", "new 2", "image 9"]))
    kit.extract(bank, quarantined=frozenset([kit.digest_of("new 2")]))
    bank.write_quarantine([QuarantineRecord(b"c0/0030.jpg", kit.digest_of("new 2").hex(), "truncated")])
    return bank


def test_unpack_gives_the_same_files(full, kit, tmp_path):
    path = pack(full, tmp_path / "out" / "bank.h5")
    assert [one.name for one in path.parent.iterdir()] == ["bank.h5"]
    again = unpack(path, BankStore(tmp_path / "other"))
    assert kit.tree(again.path) == kit.tree(full.path)
    assert again.verify().findings == []
    assert again.path == tmp_path / "other" / "shapes" / "minivgg-fa4f2b3c"
    assert [one.name for one in again.path.parent.iterdir()] == [again.path.name]
    mask = again.rows_ok("fc7")
    np.testing.assert_array_equal(again["fc7"][mask], kit.expected("fc7", full.manifest)[mask])


def test_packing_twice_gives_the_same_bytes(full, tmp_path):
    first = pack(full, tmp_path / "1.h5").read_bytes()
    time.sleep(1.1)  # HDF5 time stamps count seconds
    assert pack(full, tmp_path / "2.h5").read_bytes() == first


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_a_compressed_pack_gives_the_same_files_and_is_the_same_each_time(full, kit, tmp_path, compression):
    path = pack(full, tmp_path / "out" / "bank.h5", compression=compression)
    assert [one.name for one in path.parent.iterdir()] == ["bank.h5"]
    again = unpack(path, BankStore(tmp_path / "other"))
    assert kit.tree(again.path) == kit.tree(full.path)
    assert again.verify().findings == []
    time.sleep(1.1)  # HDF5 time stamps count seconds
    assert pack(full, tmp_path / "2.h5", compression=compression).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_a_folder_python_imports_from_may_change_meanwhile(full, kit, tmp_path, monkeypatch):
    """As with a new cache beside an editable install: the reader may open no folder to import again."""
    path = pack(full, tmp_path / "bank.h5", compression="zstd")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    again = unpack(path, BankStore(tmp_path / "elsewhere" / "banks"))
    assert kit.tree(again.path) == kit.tree(full.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compression", "number", "library"), [("zstd", 32015, b"zstd "), ("gzip", 1, b"zlib ")]
)
def test_what_a_compressed_pack_says_of_itself(full, kit, tmp_path, compression, number, library):
    with h5py.File(pack(full, tmp_path / "bank.h5", compression=compression)) as file:
        assert file.attrs["compression"] == compression.encode()
        assert file.attrs["compression_library"].startswith(library)
        for one in (file["features/fc7"], file["bank/cuts/fc7/extra_features"]):
            plist = one.id.get_create_plist()
            found = [plist.get_filter(index)[:3] for index in range(plist.get_nfilters())]
            assert found == [(2, 1, (2,)), (number, 1, (1,))]
            assert one.chunks == one.shape  # it is far below 1 MiB
        assert file["labels"].chunks is None
        if compression == "gzip":  # HDF5 reads it by itself
            good = full.manifest.statuses == 0
            for cut in CUTS:
                wanted = kit.expected(cut, full.manifest)[good]
                np.testing.assert_array_equal(file["features"][cut][good], wanted)


@pytest.mark.slow
def test_plugins_in_the_environment_are_not_loaded(full, tmp_path, monkeypatch):
    """HDF5 would write the name of a filter it has found into the file."""
    wanted = pack(full, tmp_path / "bank.h5", compression="zstd").read_bytes()
    found = importlib.util.find_spec("hdf5plugin")
    if found is None:
        pytest.skip("hdf5plugin is not installed, there is no plugin to load")
    monkeypatch.setenv("HDF5_PLUGIN_PATH", str(Path(found.origin).parent / "plugins"))
    assert pack(full, tmp_path / "other.h5", compression="zstd").read_bytes() == wanted


def test_h5py_reads_zstd_with_hdf5plugin_whose_presence_changes_no_byte(full, tmp_path):
    """In a process of its own: filters are registered for good. HDF5 writes the name of one it knows."""
    pytest.importorskip("hdf5plugin")
    path = pack(full, tmp_path / "bank.h5", compression="zstd")
    rows = np.flatnonzero(full.rows_ok("block1_pool"))
    np.savez(tmp_path / "wanted.npz", rows=rows, features=full["block1_pool"][rows])
    code = (
        "import sys, h5py, hdf5plugin, numpy as np\n"
        "from featbank.banks import Bank, pack\n"
        "wanted = np.load(sys.argv[2])\n"
        "with h5py.File(sys.argv[1]) as file:\n"
        "    found = file['features/block1_pool'][:][wanted['rows']]\n"
        "pack(Bank.open(sys.argv[3]), sys.argv[4], compression='zstd')\n"
        "sys.exit(not np.array_equal(found, wanted['features']))"
    )
    names = [str(one) for one in (path, tmp_path / "wanted.npz", full.path, tmp_path / "other.h5")]
    done = subprocess.run([sys.executable, "-c", code, *names], check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert path.read_bytes() == (tmp_path / "other.h5").read_bytes()


@pytest.mark.skipif(
    h5py.version.hdf5_version != "2.0.0", reason="another HDF5 may lay the file out otherwise"
)
def test_without_compression_a_pack_is_what_it_always_was(bank, tmp_path):
    data = pack(bank, tmp_path / "bank.h5").read_bytes()
    with h5py.File(tmp_path / "bank.h5") as file:
        assert "compression" not in file.attrs
        assert file["features/fc7"].chunks is None
    assert hashlib.sha256(data).hexdigest() == GOLDEN


def test_features_that_shrink_beyond_belief_are_not_packed(bank, tmp_path, monkeypatch):
    monkeypatch.setattr(_format, "_SMALL_BYTES", 0)
    monkeypatch.setattr(_format, "_MOST_RATIO", 0.1)
    with pytest.raises(InvalidInputError, match=r"shrinks from \d+ bytes to \d+, which no import takes"):
        pack(bank, tmp_path / "bank.h5", compression="gzip")
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == []


def test_a_compression_nobody_knows(bank, tmp_path):
    with pytest.raises(InvalidInputError) as caught:
        pack(bank, tmp_path / "bank.h5", compression="zstandard")
    assert str(caught.value) == (
        "compression='zstandard' is unknown, known are 'zstd', 'gzip'; 'zstd' is the smaller and faster "
        "one, 'gzip' is read without hdf5plugin"
    )


def test_any_hdf5_reader_shows_it(full, kit, tmp_path):
    manifest = full.manifest
    with h5py.File(pack(full, tmp_path / "bank.h5")) as file:
        assert set(file) == {"ids", "labels", "split", "classes", "features", "statuses", "bank"}
        assert tuple(file["ids"][()].tolist()) == manifest.ids
        assert file["labels"][()].tolist() == manifest.labels.tolist()
        assert file["split"][:4].tolist() == [b"train", b"val", b"test", b"none"]
        assert file["classes"][()].tolist() == [b"c0", b"c1", b"c2"]
        assert set(file["features"]) == set(CUTS)
        good = manifest.statuses == 0
        for cut in CUTS:
            np.testing.assert_array_equal(file["features"][cut][good], kit.expected(cut, manifest)[good])
            assert file["statuses"][cut][()].tolist() == manifest.statuses.tolist()
            assert not file["features"][cut][~good].any()
        assert file.attrs["backbone"] == b"minivgg"
        assert (
            file.attrs["provenance"]
            == b'{"created":"2026-01-02T03:04:05+00:00","location":"/data/my photos"}'
        )


def test_partial_cuts_are_left_out_and_named(full, tmp_path, caplog):
    full.cut_writer("fc6", (5,), "float16", shard_bytes=140)
    writer = full.cut_writer("fc6", (5,), "float16", shard_bytes=140)
    plan = writer.missing()[0]
    writer.write(plan, np.zeros((plan.n_rows, 5), np.float16), np.zeros(plan.n_rows, np.uint8))
    path = pack(full, tmp_path / "bank.h5")
    assert "cut 'fc6' is not packed" in caplog.text
    assert unpack(path, BankStore(tmp_path / "other")).cuts == CUTS


def test_a_damaged_bank_is_not_packed(full, tmp_path):
    victim = sorted((full.path / "fc7").glob("*.h5"))[0]
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x07")
    with pytest.raises(CorruptBankError, match=f"is not packed, it has a fault: corrupt: .*{victim.name}"):
        pack(full, tmp_path / "bank.h5")
    assert not (tmp_path / "bank.h5").exists()


def test_an_empty_bank_is_not_packed(store, kit, tmp_path):
    with pytest.raises(IncompleteBankError, match="has no rows yet"):
        pack(store.create_or_open("empty", kit.KEY, {}), tmp_path / "bank.h5")


def test_a_bank_that_is_there_is_not_overwritten(full, store, tmp_path):
    path = pack(full, tmp_path / "bank.h5")
    with pytest.raises(InvalidInputError, match="exists already; remove it with `featbank banks rm`"):
        unpack(path, store)


@pytest.mark.slow
def test_damage_to_the_pack_is_found_or_harmless(full, kit, tmp_path):
    path = pack(full, tmp_path / "bank.h5")
    data, want = path.read_bytes(), kit.tree(full.path)
    rng = np.random.default_rng(0)
    caught = 0
    for trial, position in enumerate(rng.integers(0, len(data), 40).tolist()):
        spoiled = bytearray(data)
        spoiled[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoiled)
        store = BankStore(tmp_path / str(trial))
        try:
            again = unpack(path, store)
        except (CorruptBankError, BankFormatError):
            caught += 1
            assert store.paths() == []
            assert not list(store.root.rglob(".tmp-*"))
        else:  # a copy for other readers was hit, or nothing at all
            assert kit.tree(again.path) == want
    assert caught > 5


@pytest.mark.parametrize("cut", CUTS)
def test_changed_features_in_a_pack_are_found(full, tmp_path, cut):
    path = pack(full, tmp_path / "bank.h5")
    with h5py.File(path, "r+") as file:
        row = file["features"][cut][3]
        file["features"][cut][3] = -row
    with pytest.raises(CorruptBankError, match=rf"shard \d of cut '{cut}' is not what was packed"):
        unpack(path, BankStore(tmp_path / "other"))


def test_what_is_no_pack(tmp_path, store):
    with pytest.raises(BankNotFoundError, match="no packed bank"):
        unpack(tmp_path / "nothing.h5", store)
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(CorruptBankError, match="it does not start like a file of featbank"):
        unpack(tmp_path / "text.h5", store)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(
        BankFormatError, match=r"format version 1, this featbank reads version 2: .*`featbank extract`"
    ):
        unpack(tmp_path / "other.h5", store)


def test_another_format_version_is_refused(full, kit, tmp_path, store):
    path = pack(full, tmp_path / "bank.h5")
    path.write_bytes(kit.forged(path.read_bytes(), lambda header: header.update(format_version=3)))
    with pytest.raises(BankFormatError) as caught:
        unpack(path, store)
    assert str(caught.value) == (
        f"{str(path)!r} has format version 3, this featbank reads version 2: install the featbank that wrote "
        f"it, or extract the bank again with this one, `featbank extract` (another --cache-dir keeps the old "
        f"one)"
    )


def test_a_child_that_dies_leaves_nothing_and_the_old_file(full, tmp_path, monkeypatch):
    monkeypatch.setattr(packing.sys, "executable", "/bin/false")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "bank.h5").write_text("old")
    with pytest.raises(CacheWriteError, match=r"it ended with code 1.*: the disk may be full"):
        pack(full, tmp_path / "out" / "bank.h5", compression="gzip")
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["bank.h5"]
    assert (tmp_path / "out" / "bank.h5").read_text() == "old"


@pytest.mark.parametrize("at", [1, 2, 5, 20, 40])
def test_a_disk_that_runs_full_is_one_error_and_leaves_the_old_file(full, tmp_path, monkeypatch, at):
    """Whether it is HDF5 that writes, or the features: libhdf5 never hears of it."""
    real, calls = os.pwrite, [0]

    def pwrite(*args):
        calls[0] += 1
        if calls[0] >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "bank.h5").write_text("old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", pwrite)
        with pytest.raises(CacheWriteError, match=r"No space left on device.*: the disk may be full"):
            pack(full, tmp_path / "out" / "bank.h5")
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["bank.h5"]
    assert (tmp_path / "out" / "bank.h5").read_text() == "old"
    assert calls[0] >= at
