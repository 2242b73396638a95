"""Manifest, cuts, facts and the small files of a bank."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from featbank.banks import Bank, CutProgress, QuarantineRecord, open_bank
from featbank.banks.documents import sealed
from featbank.banks.shards import Measures
from featbank.errors import (
    BankChangedError,
    BankFormatError,
    BankNotFoundError,
    CacheWriteError,
    CorruptBankError,
    IncompleteBankError,
    InvalidInputError,
    UnknownNameError,
)
from featbank.manifest import SPLITS, RowStatus, printable

CUTS = ("block1_pool", "fc7", "logits")


def same(one, other):
    return (
        one.ids == other.ids
        and one.classes == other.classes
        and all(
            np.array_equal(getattr(one, name), getattr(other, name))
            and getattr(one, name).dtype == getattr(other, name).dtype
            for name in ("labels", "splits", "digests", "statuses")
        )
    )


def test_manifest_comes_back_as_it_was(bank, manifest):
    assert same(Bank.open(bank.path).manifest, manifest)
    assert len(bank) == 37
    assert bank.classes == manifest.classes


def test_any_name_a_file_system_allows_comes_back(store, kit):
    rng = np.random.default_rng(3)
    ids = [bytes(rng.integers(1, 256, rng.integers(1, 255)).astype(np.uint8)) for _ in range(300)]
    ids += [b"caf\xe9/\xff\xfe.jpg", "日本/é.jpg".encode(), b"a\nb", b"-rf", b" ", b"x" * 4096]
    ids = list(dict.fromkeys(ids))
    manifest = kit.make_manifest([str(i) for i in range(len(ids))], ids)
    manifest = manifest.replaced(classes=("caf\udce9", "日本", "plain"))
    bank = store.create_or_open("names", kit.KEY, {"location": "/data/caf\udce9"})
    bank.set_manifest(manifest)
    again = Bank.open(bank.path)
    assert same(again.manifest, manifest)
    assert again.provenance == {"location": "/data/caf\udce9"}
    again.write_quarantine([QuarantineRecord(ids[0], "0" * 64, "truncated", "caf\udce9")])
    assert Bank.open(bank.path).quarantine() == [QuarantineRecord(ids[0], "0" * 64, "truncated", "caf\udce9")]


def test_an_equal_manifest_rewrites_nothing(bank, manifest):
    path = bank.path / "manifest.h5"
    before, stat = path.read_bytes(), path.stat()
    bank.set_manifest(manifest)
    Bank.open(bank.path).set_manifest(manifest)
    assert path.read_bytes() == before
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (stat.st_mtime_ns, stat.st_ino)
    assert bank.slot_table.segments.tolist() == [0, 33]


def test_a_manifest_is_copied_as_it_stands_on_disk_or_made_anew(bank, kit, tmp_path, monkeypatch):
    file = bank.path / "manifest.h5"
    whole = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "h5py", None)  # whose import takes longer than the copy
        bank.copy_manifest(tmp_path)
    assert (tmp_path / "manifest.h5").read_bytes() == whole
    made_since = Bank.open(bank.path)
    made_since.set_manifest(kit.make_manifest(["image 1", "image 2"]))
    changed = file.read_bytes()
    for spoilt in (changed, whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], b"", None):
        file.unlink(missing_ok=True)
        if spoilt is not None:
            file.write_bytes(spoilt)
        bank.copy_manifest(tmp_path)
        assert (tmp_path / "manifest.h5").read_bytes() == whole
    assert changed != whole


def test_manifest_is_readable_by_any_hdf5_reader(bank, manifest):
    with h5py.File(bank.path / "manifest.h5") as file:
        assert file["labels"][()].tolist() == manifest.labels.tolist()
        assert file["segments"][()].tolist() == [0, 33]
        offsets = file["id_offsets"][()]
        assert file["ids"][()].tobytes()[offsets[1] : offsets[2]] == manifest.ids[1]
        assert not any(dataset.dtype.hasobject or dataset.chunks for dataset in file.values())


def test_a_bank_without_a_manifest_says_so(store, kit):
    bank = store.create_or_open("empty", kit.KEY, {})
    for use in (
        lambda: bank.manifest,
        lambda: bank.row_slots,
        lambda: bank.cut_writer("fc7", (5,), "float16"),
    ):
        with pytest.raises(IncompleteBankError, match="has no rows yet"):
            use()
    assert (len(bank), bank.cuts, bank.partial_cuts, len(bank.slot_table)) == (0, (), {}, 0)
    assert bank.info().rows == 0


def test_only_new_images_are_pushed_again(bank, kit):
    contents = [f"image {i}" for i in range(33)]
    bank.set_manifest(kit.make_manifest([*contents[10:], "new 1", "new 2", "new 1"]))
    assert bank.cuts == ()
    assert bank.partial_cuts == dict.fromkeys(CUTS, CutProgress(23, 26))
    assert kit.extract(bank) == 2 * len(CUTS)
    assert bank.cuts == CUTS
    assert bank.slot_table.segments.tolist() == [0, 33, 35]
    assert kit.extract(bank) == 0
    bank.set_manifest(kit.make_manifest(contents))  # the removed ones are still there
    assert bank.cuts == CUTS
    assert kit.extract(bank) == 0


def test_a_new_cut_leaves_the_others_alone(store, manifest, kit):
    bank = store.create_or_open("shapes", kit.KEY, {})
    bank.set_manifest(manifest)
    kit.extract(bank, ["fc7"])
    before = kit.tree(bank.path)
    kit.extract(bank, ["logits"])
    after = kit.tree(bank.path)
    assert {name: after[name] for name in before} == before
    shutil.rmtree(bank.path / "logits")  # how a cut is deleted
    assert bank.cuts == ("fc7",)
    assert bank.verify().ok


def test_shards_without_a_row_are_not_asked_for(bank, kit):
    bank.set_manifest(kit.make_manifest(["later 1", "later 2"]))
    shutil.rmtree(bank.path / "fc7")
    assert kit.extract(bank, ["fc7"]) == 2
    assert [path.name[:5] for path in sorted((bank.path / "fc7").glob("*.h5"))] == ["00003"]
    assert "fc7" in bank
    assert bank.verify().ok
    bank.set_manifest(kit.make_manifest(["image 1", "image 30"]))  # back again
    assert bank.partial_cuts["fc7"] == CutProgress(0, 2)
    kit.extract(bank, ["fc7"])
    np.testing.assert_array_equal(bank["fc7"][:], kit.expected("fc7", bank.manifest))


def test_absent_images_are_renewed_when_they_come_back(bank, kit):
    contents = [f"image {i}" for i in range(33)]
    bank.set_manifest(kit.make_manifest(contents[1:]))  # image 0 is gone
    shutil.rmtree(bank.path / "fc7")
    kit.extract(bank, ["fc7"])
    whole = kit.make_manifest(contents)
    bank.set_manifest(whole)
    assert bank.rows_ok("fc7").tolist() == [False] + [True] * 32
    assert bank.partial_cuts == {"fc7": CutProgress(32, 33)}  # nobody has looked whether it is gone
    assert (bank.manifest.statuses == RowStatus.OK).all()
    with pytest.raises(IncompleteBankError, match=r"'fc7' has no features of 'c0/0000\.jpg'"):
        bank["fc7"][:]
    renew = bank.cut_writer("fc7", (5,), "float16").absent()
    assert renew == {kit.digest_of("image 0")}
    assert bank.cut_writer("block1_pool", (3, 2, 2), "float16").absent() == set()
    bank.set_manifest(whole, renew=renew)
    assert bank.slot_table.segments.tolist() == [0, 33, 34]
    kit.extract(bank)
    for cut in CUTS:
        np.testing.assert_array_equal(bank[cut][:], kit.expected(cut, whole))
    assert bank.cut_writer("fc7", (5,), "float16").absent() == set()
    assert (bank.manifest.statuses == RowStatus.OK).all()
    assert bank.verify().ok


def test_statuses_of_the_dataset_are_kept(bank, manifest):
    statuses = manifest.statuses.copy()
    statuses[4] = RowStatus.QUARANTINED
    bank.set_manifest(manifest.replaced(statuses=statuses))
    assert Bank.open(bank.path).manifest.statuses.tolist() == statuses.tolist()


def test_partly_extracted_cuts(store, manifest, kit):
    bank = store.create_or_open("shapes", kit.KEY, kit.PROVENANCE)
    bank.set_manifest(manifest)
    kit.extract(bank, ["fc7"], finish=False, limit=2)
    assert bank.cuts == ()
    assert bank.partial_cuts == {"fc7": CutProgress(26 + 1, 37)}
    assert bank.facts("fc7") == {}
    reference = kit.expected("fc7", manifest)
    np.testing.assert_array_equal(bank["fc7"][:20], reference[:20])
    mask = bank.rows_ok("fc7")
    assert mask.sum() == 27
    np.testing.assert_array_equal(bank["fc7"][mask], reference[mask])
    with pytest.raises(IncompleteBankError) as caught:
        bank["fc7"][:]
    assert str(caught.value) == (
        "cut 'fc7' of bank 'shapes/minivgg-fa4f2b3c' lacks shard 2 (slots 24 to 32); "
        "`featbank extract '/data/my photos' --backbone minivgg --cut fc7` again extracts it"
    )
    array = bank["fc7"]
    kit.extract(bank, ["fc7"], finish=False)
    np.testing.assert_array_equal(array[:], reference)  # an open array sees the new shards
    assert bank.partial_cuts == {"fc7": CutProgress(37, 37)}  # all stored, not recorded
    kit.extract(bank, ["fc7"])
    assert bank.cuts == ("fc7",)


def test_facts(bank, kit):
    measured = measured_facts(bank, "fc7")
    assert bank.facts("fc7") == {"precision_error": 0.01, "duration_s": 0.25, **measured}
    assert json.loads((bank.path / "fc7" / "cut.json").read_text())["shape"] == [5]
    kit.extract(bank, ["fc7"], facts={"duration_s": 1.0})
    assert Bank.open(bank.path).facts("fc7") == {"duration_s": 1.0, **measured}


def measured_facts(bank, cut):
    """What the shards hold: each distinct image once."""
    _, rows = np.unique(bank.row_slots, return_index=True)
    values = bank.features(cut, rows[bank.rows_ok(cut)[rows]])
    return {
        "max_abs": float(np.abs(values).max()),
        "n_zero": int((values == 0).sum()),
        "n_nonfinite": 0,
        "n_values": values.size,
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_measures_of_a_shard(dtype):
    features = np.array([[1, -2, 0], [np.nan, 3, -np.inf], [9, 9, 9], [0, 0, 0.5]], dtype)
    statuses = np.array([RowStatus.OK, RowStatus.OK, RowStatus.QUARANTINED, RowStatus.OK], np.uint8)
    assert Measures.of(features, statuses) == Measures(max_abs=3.0, n_zero=3, n_nonfinite=2, n_values=9)
    assert Measures.of(features, np.full(4, RowStatus.ABSENT, np.uint8)) == Measures()
    wide = np.linspace(-1, 2, 3_000_000, dtype=dtype).reshape(3, -1)
    assert Measures.of(wide, np.zeros(3, np.uint8)).max_abs == 2.0


def test_quarantine_is_rewritten_whole(bank):
    records = [
        QuarantineRecord(b"a\xff.jpg", "ab" * 32, "truncated", "cut short"),
        QuarantineRecord(b"b", "", "empty"),
    ]
    bank.write_quarantine(records)
    lines = (bank.path / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a\\xff.jpg", "b"]
    assert json.loads(lines[0])["id_hex"] == "61ff2e6a7067"
    assert bank.quarantine() == records
    bank.write_quarantine(records[1:])
    assert bank.quarantine() == records[1:]
    bank.write_quarantine([])
    assert bank.quarantine() == []


@pytest.mark.parametrize(
    "line",
    [b'{"id": "x"}\n', b"not json\n", b"[1]\n", json.dumps(sealed({"id": "x"})).encode() + b"\n"],
)
def test_damaged_quarantine_is_an_error(bank, line):
    (bank.path / "quarantine.jsonl").write_bytes(line)
    with pytest.raises(CorruptBankError, match="quarantine"):
        bank.quarantine()


def test_no_bank_there(tmp_path):
    with pytest.raises(BankNotFoundError) as caught:
        Bank.open(tmp_path / "nowhere")
    assert str(caught.value) == (
        f"no bank in {str(tmp_path / 'nowhere')!r} (it has no bank.json): `featbank banks ls` lists the "
        f"banks there are, `featbank extract` makes one"
    )
    assert caught.value.exit_code == 3


def reseal(path, **changes):
    document = json.loads(path.read_text())
    document.pop("sha256")
    path.write_text(json.dumps(sealed({**document, **changes})))


@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize("file", ["bank.json", "fc7/cut.json"])
def test_another_format_version_is_refused(bank, file, version):
    reseal(bank.path / file, format_version=version)
    with pytest.raises(BankFormatError) as caught:
        Bank.open(bank.path)["fc7"]
    what = "featbank extract"
    if file == "bank.json":
        what += " '/data/my photos' --backbone minivgg"
    assert str(caught.value) == (
        f"{str(bank.path / file)!r} has format version {version}, this featbank reads version 2: install the "
        f"featbank that wrote it, or extract the bank again with this one, `{what}` "
        f"(another --cache-dir keeps the old one)"
    )


def test_another_manifest_version_is_refused(bank, kit):
    path = bank.path / "manifest.h5"
    data = path.read_bytes()
    path.write_bytes(kit.forged(data, lambda header: header.update(format_version=7)))
    with pytest.raises(BankFormatError, match="has format version 7, this featbank reads version 2"):
        Bank.open(bank.path)
    # how it began before: 512 bytes, then HDF5
    path.write_bytes(
        b"featbank manifest; sha256 of the HDF5 file behind this block: 0\n".ljust(512, b"\0") + data
    )
    with pytest.raises(BankFormatError, match=r"format version 1, this .*`featbank extract`"):
        Bank.open(bank.path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"{}",
        lambda data: b"[1, 2]",
        lambda data: data.replace(b"minivgg", b"minivgh", 1),
        lambda data: data.replace(b"photos", b"phot0s"),
        lambda data: data.replace(b'"image_size": 32', b'"image_size": 33'),
        lambda data: b"\xff" + data,
    ],
)
def test_damaged_bank_file(bank, spoil):
    path = bank.path / "bank.json"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(CorruptBankError, match=r"bank file '.*bank\.json' is damaged"):
        Bank.open(bank.path)


def test_a_cut_of_another_bank_is_refused(bank, store, manifest, kit):
    other = store.create_or_open("shapes", kit.new_key(decoder="other"), {})
    other.set_manifest(manifest)
    shutil.copytree(bank.path / "fc7", other.path / "fc7")
    with pytest.raises(CorruptBankError, match="it belongs to cut 'fc7' of the bank with key fa4f2b3c"):
        other["fc7"]
    (other.path / "fc7" / "cut.json").unlink()
    with pytest.raises(CorruptBankError, match="it belongs to cut 'fc7' of the bank with key fa4f2b3c"):
        other["fc7"]


def test_a_renamed_cut_is_refused(bank):
    (bank.path / "fc7").rename(bank.path / "fc6")
    with pytest.raises(CorruptBankError, match="it belongs to cut 'fc7'"):
        bank["fc6"]


@pytest.mark.parametrize("how", ["move", "copy", "link", "relative"])
def test_a_bank_works_anywhere(bank, manifest, kit, tmp_path, how, monkeypatch):
    place = tmp_path / "else where"
    if how == "move":
        bank.path.rename(place)
    elif how == "copy":
        shutil.copytree(bank.path, place)
    elif how == "link":
        place.symlink_to(bank.path)
    else:
        monkeypatch.chdir(bank.path.parent)
        place = bank.path.name
    moved = Bank.open(place)
    np.testing.assert_array_equal(moved["fc7"][:], kit.expected("fc7", manifest))
    assert moved.verify().ok


def test_a_copied_bank_is_hashed_once(bank, tmp_path, monkeypatch):
    from featbank.banks import shards

    hashed = []
    monkeypatch.setattr(shards, "check_hash", lambda path: hashed.append(path.name))
    Bank.open(bank.path)
    assert hashed == []
    shutil.copytree(bank.path, tmp_path / "copy")
    Bank.open(tmp_path / "copy", check="size")
    assert hashed == []
    Bank.open(tmp_path / "copy")
    assert len(hashed) == 17
    Bank.open(tmp_path / "copy")
    assert len(hashed) == 17
    (tmp_path / "copy" / ".verified.json").unlink()
    Bank.open(tmp_path / "copy")
    assert len(hashed) == 34
    Bank.open(tmp_path / "copy", check="sha256")
    assert len(hashed) == 51
    with pytest.raises(InvalidInputError, match=r"^check='all' is not one of 'auto', 'size', 'sha256'$"):
        Bank.open(bank.path, check="all")


def test_a_copy_with_damage_is_refused_when_opened(bank, tmp_path):
    shutil.copytree(bank.path, tmp_path / "copy")
    path = sorted((tmp_path / "copy" / "fc7").glob("*.h5"))[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptBankError, match=path.name):
        Bank.open(tmp_path / "copy")


def test_cannot_write_below_a_file(tmp_path, kit):
    from featbank.banks import BankStore

    (tmp_path / "file").write_text("x")
    with pytest.raises(CacheWriteError) as caught:
        BankStore(tmp_path / "file" / "banks").create_or_open("shapes", kit.KEY, {})
    assert str(caught.value) == (
        f"cannot write {str(tmp_path / 'file' / 'banks' / 'shapes' / 'minivgg-fa4f2b3c')!r} (Not a "
        f"directory): a file stands where a folder is needed; choose another place with --cache-dir"
    )


def test_a_read_only_cache_can_be_read(bank, manifest, kit, tmp_path, monkeypatch):
    from featbank import _atomic

    shutil.copytree(bank.path, tmp_path / "copy")
    monkeypatch.setattr(os, "open", _refuse(os.open))
    read = Bank.open(tmp_path / "copy")
    np.testing.assert_array_equal(read["fc7"][:], kit.expected("fc7", manifest))
    assert read.verify().ok
    assert read.info().rows == 37
    with pytest.raises(
        CacheWriteError, match=r"read-only; choose another place with --cache-dir or FEATBANK_CACHE$"
    ):
        read.write_quarantine([QuarantineRecord(b"a", "", "x")])
    assert _atomic.os is os


def _refuse(real):
    import errno

    def opened(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real(path, flags, *args, **kwargs)

    return opened


def test_open_bank(bank, store):
    cache = store.root.parent
    assert open_bank(cache_dir=cache).path == bank.path
    assert open_bank("shapes", cache_dir=cache).path == bank.path
    assert open_bank(bank.path).path == bank.path


def test_info_loads_no_features(bank, monkeypatch):
    from featbank.banks.shards import Shard

    monkeypatch.setattr(Shard, "features", None)
    info = bank.info()
    assert (info.name, info.rows, info.classes) == ("shapes/minivgg-fa4f2b3c", 37, ("c0", "c1", "c2"))
    assert info.splits == {"train": 10, "val": 9, "test": 9, "none": 9}
    assert info.created == "2026-01-02T03:04:05+00:00"
    assert [(cut.name, cut.shape, cut.dtype, cut.complete, cut.rows_stored) for cut in info.cuts] == [
        ("block1_pool", (3, 2, 2), "float16", True, 37),
        ("fc7", (5,), "float16", True, 37),
        ("logits", (4,), "float32", True, 37),
    ]
    assert info.cuts[0].facts == bank.facts(info.cuts[0].name)
    assert info.cuts[0].facts["duration_s"] == 0.25
    assert info.size_bytes == sum(path.stat().st_size for path in bank.path.rglob("*") if path.is_file())
    assert info.error is None


@pytest.mark.slow
def test_a_sweep_in_other_processes_never_mixes_rows_and_labels(store, kit):
    from sklearn.neighbors import NearestCentroid

    from featbank.sweep import run_sweep

    contents = [f"image {i}" for i in range(48)]
    bank = store.create_or_open("swept", kit.KEY, {})
    # training rows of three classes, then validation and test
    manifest = kit.make_manifest(contents)
    manifest = manifest.replaced(splits=np.repeat(np.array([0, 1, 2, 0], np.uint8), 12))
    bank.set_manifest(manifest)
    kit.extract(bank, ["fc7"])
    centroid = ("centroid", NearestCentroid())
    sweep = {"cuts": ["fc7"], "heads": [centroid], "samples_per_class": "4", "repeats": 2}
    right = [fit.top1 for fit in run_sweep(bank, **sweep).fits]
    assert [fit.top1 for fit in run_sweep(bank, n_jobs=2, **sweep).fits] == right
    other = Bank.open(bank.path)
    other.set_manifest(kit.make_manifest(contents[::-1]))
    kit.extract(other, ["fc7"])
    assert [fit.top1 for fit in run_sweep(bank, **sweep).fits] == right  # the rows it was opened with
    with pytest.raises(BankChangedError, match="open it again"):
        run_sweep(bank, n_jobs=2, **sweep)


@pytest.fixture
def hashed(monkeypatch):
    from featbank.banks import shards

    names = []
    monkeypatch.setattr(shards, "check_hash", lambda path: names.append(path.name))
    return names


@pytest.mark.slow
def test_hosts_that_open_a_bank_in_turn_hash_it_once(bank, tmp_path, hashed, monkeypatch):
    shutil.copytree(bank.path, tmp_path / "copy")
    found = []
    for host in "AABABBC":
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        hashed.clear()
        Bank.open(tmp_path / "copy")
        found.append(len(hashed))
    assert found == [17, 0, 0, 0, 0, 0, 0]
    # a file system that shows every host another inode
    real, inode = Path.stat, {}

    def stat(path, **options):
        found = real(path, **options)
        if path.name != "bank.json" or not inode:
            return found
        return SimpleNamespace(st_ino=inode["n"], st_ctime_ns=found.st_ctime_ns, st_mode=found.st_mode)

    monkeypatch.setattr(Path, "stat", stat)
    found = []
    for host in (1, 1, 2, 1, 2, 2, *range(3, 60), 1, 2):
        inode["n"] = host
        hashed.clear()
        Bank.open(tmp_path / "copy")
        found.append(len(hashed))
    assert found == [17, 0, 17, 0, 0, 0, *[17] * 57, 0, 0]
    for host in range(60, 300):
        inode["n"] = host
        Bank.open(tmp_path / "copy")
    assert (tmp_path / "copy" / ".verified.json").stat().st_size < 8192


def test_a_copy_on_the_same_inode_is_hashed(bank, tmp_path, hashed):
    # a file system may give the inode of a removed folder to the next one
    shutil.copytree(bank.path, tmp_path / "copy")
    Bank.open(tmp_path / "copy")
    (tmp_path / "copy" / "bank.json").write_bytes((bank.path / "bank.json").read_bytes())
    hashed.clear()
    Bank.open(tmp_path / "copy")
    assert len(hashed) == 17


def test_a_read_only_copy_is_hashed_once_by_each_process(bank, tmp_path, hashed, monkeypatch):
    shutil.copytree(bank.path, tmp_path / "copy")
    monkeypatch.setattr(os, "open", _refuse(os.open))
    for n_hashed in (17, 17):
        Bank.open(tmp_path / "copy")
        assert len(hashed) == n_hashed


@pytest.mark.parametrize("content", [b"", b"{}", b'{"host": "a", "inode": 1}', b"[[]]", b"[" * 100_000])
def test_a_mark_of_a_checked_copy_that_says_nothing_is_none(bank, hashed, content):
    (bank.path / ".verified.json").write_bytes(content)
    Bank.open(bank.path)
    assert len(hashed) == 17
    Bank.open(bank.path)
    assert len(hashed) == 17


def test_rows_that_are_there_already_are_set_in_a_read_only_bank(bank, kit, manifest, monkeypatch):
    monkeypatch.setattr(os, "open", _refuse(os.open))
    read = Bank.open(bank.path)
    read.set_manifest(manifest)
    with read.held():
        np.testing.assert_array_equal(read["fc7"][:], kit.expected("fc7", manifest))
    read.write_quarantine(read.quarantine())
    read.touch()
    with pytest.raises(CacheWriteError, match="read-only"):
        read.set_manifest(kit.make_manifest(["image 1"]))


def test_a_question_about_one_cut_looks_at_one_cut(bank, monkeypatch):
    parsed = []
    from featbank.banks.documents import CutDocument

    real = CutDocument.parse
    monkeypatch.setattr(
        CutDocument,
        "parse",
        lambda path, *rest: parsed.append(path.parent.name) or real(path, *rest),
    )
    assert "fc7" in bank
    assert not any(one in bank for one in ("fc8", "", ".", "..", "../fc7", "bank.json", "softmax", 3, None))
    assert parsed == ["fc7"]
    assert bank["fc7"].shape == (37, 5)
    assert parsed == ["fc7"] * 2
    parsed.clear()
    assert len(bank.info().cuts) == 3
    assert sorted(parsed) == ["block1_pool", "fc7", "logits"]
    for name in ("", "..", "../fc7", "bank.json", 3):
        with pytest.raises(UnknownNameError, match="it holds"):
            bank[name]


def test_a_notebook_shows_the_cuts_or_why_there_are_none(bank, monkeypatch):
    html = bank._repr_html_()
    for cut in bank.cuts:
        shape = "x".join(map(str, bank[cut].shape[1:]))
        assert f"<tr><td>{cut}</td><td>{shape}</td><td>{bank[cut].dtype}</td>" in html
    assert f"{len(bank):,} images (" in html
    monkeypatch.setattr(Bank, "info", lambda self: (_ for _ in ()).throw(OSError("no such disk")))
    assert "no such disk" in bank._repr_html_()


def test_the_rows_are_a_frame(bank, manifest):
    pytest.importorskip("pandas")
    frame = bank.to_frame()
    assert list(frame["id"]) == [printable(one) for one in manifest.ids]
    assert list(frame["label"]) == manifest.labels.tolist()
    assert list(frame["class"]) == [manifest.classes[at] if at >= 0 else "" for at in manifest.labels]
    assert list(frame["split"]) == [SPLITS[at] for at in manifest.splits]


def test_repr_reads_nothing_and_never_fails(bank, monkeypatch):
    said = f"<Bank {bank.name!r}, 37 rows>"
    with monkeypatch.context() as patched:
        for call in ("open", "scandir", "listdir", "stat"):
            patched.setattr(os, call, None)
        assert repr(bank) == said
    (bank.path / "fc7" / "cut.json").write_bytes(b"{")
    assert repr(bank) == said
    shutil.rmtree(bank.path)
    assert repr(bank) == said
