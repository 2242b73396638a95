"""Damage of every kind, anywhere, is found and named, and never read as numbers."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank.banks import Bank, pack, verify_bank
from featbank.banks._format import Contents
from featbank.banks.verification import set_damaged_aside
from featbank.errors import (
    BankError,
    BankFormatError,
    BankNotFoundError,
    BankReadError,
    CorruptBankError,
    IncompleteBankError,
)

CUTS = ("block1_pool", "fc7", "logits")


def shards(bank, cut="fc7"):
    return sorted((bank.path / cut).glob("*.h5"))


def kinds(bank):
    return [(finding.kind, finding.path.name) for finding in verify_bank(bank.path).faults]


def read_all(path, kit, manifest):
    """Read everything; return the names of the cuts that gave other numbers than were written."""
    try:
        bank = Bank.open(path, check="size")
        return [cut for cut in ("fc7",) if not np.array_equal(bank[cut][:], kit.expected(cut, manifest))]
    except BankError:
        return []


def test_a_whole_bank_has_no_findings(bank):
    report = bank.verify()
    assert report.findings == []
    assert report.ok
    assert report.n_shards == 17
    assert report.size_bytes == sum(path.stat().st_size for cut in CUTS for path in shards(bank, cut))


def files_of(bank):
    return [
        bank.path / "bank.json",
        bank.path / "manifest.h5",
        bank.path / "fc7" / "cut.json",
        shards(bank)[1],
    ]


@pytest.mark.parametrize("place", range(4), ids=["bank.json", "manifest.h5", "cut.json", "shard"])
def test_a_flipped_bit_anywhere_is_found(bank, place):
    path = files_of(bank)[place]
    data = path.read_bytes()
    rng = np.random.default_rng(place)
    positions = {0, len(data) - 1, *rng.integers(0, len(data), 60).tolist()}
    missed = []
    for position in sorted(positions):
        spoiled = bytearray(data)
        spoiled[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoiled)
        report = verify_bank(bank.path)
        if not any(fault.path in (path, path.parent) and fault.kind == "corrupt" for fault in report.faults):
            missed.append(position)
    assert missed == []
    path.write_bytes(data)
    assert bank.verify().ok


@pytest.mark.parametrize("place", range(4), ids=["bank.json", "manifest.h5", "cut.json", "shard"])
def test_a_cut_short_file_is_found_and_never_read(bank, place, kit, manifest):
    path = files_of(bank)[place]
    data = path.read_bytes()
    rng = np.random.default_rng(place)
    last = (
        len(data.rstrip(b"\n")) - 1 if path.suffix == ".json" else len(data) - 1
    )  # JSON is whole without its newline
    for length in (0, 1, 48, last, *rng.integers(0, last, 12).tolist(), len(data) + 1):
        path.write_bytes((data + b"\0")[:length])
        assert ("corrupt", path.name) in kinds(bank), length
        with pytest.raises(CorruptBankError, match=path.name):
            Bank.open(bank.path, check="size")["fc7"][:]
    path.write_bytes(data)


def test_flipped_features_are_refused_after_a_copy_and_on_request(bank):
    path = shards(bank)[1]
    data = bytearray(path.read_bytes())
    data[bank["fc7"]._reader.shard(1).offset + 4] ^= 64
    path.write_bytes(data)
    with pytest.raises(CorruptBankError) as caught:
        Bank.open(bank.path, check="sha256")
    assert str(caught.value).startswith(f"shard {str(path)!r} is damaged: its bytes have sha256 ")
    assert str(caught.value).endswith(
        ", not what its name says; `featbank banks verify --repair` sets it aside and extracts its rows again"
    )


def test_a_flipped_bit_outside_the_features_gives_no_other_numbers(bank, kit, manifest):
    path = shards(bank)[1]
    data, offset = path.read_bytes(), bank["fc7"]._reader.shard(1).offset
    rng = np.random.default_rng(0)
    for position in rng.integers(0, offset, 60).tolist():
        spoiled = bytearray(data)
        spoiled[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoiled)
        assert read_all(bank.path, kit, manifest) == []


def test_a_missing_shard_is_named(bank):
    gone = shards(bank)[1]
    gone.unlink()
    report = bank.verify()
    assert [(fault.kind, fault.path, fault.detail) for fault in report.faults] == [
        ("missing", bank.path / "fc7", "shard 1 (slots 12 to 23) is gone")
    ]
    assert str(report.faults[0]) == f"missing: {bank.path / 'fc7'}: shard 1 (slots 12 to 23) is gone"
    assert Bank.open(bank.path).cuts == ("block1_pool", "logits")
    with pytest.raises(IncompleteBankError, match=r"lacks shard 1 \(slots 12 to 23\)"):
        Bank.open(bank.path)["fc7"][:]
    np.testing.assert_array_equal(Bank.open(bank.path).rows_ok("fc7")[:12], [True] * 12)


def test_the_file_of_a_deleted_shard_in_the_current_folder_is_not_read(bank, tmp_path, monkeypatch):
    gone = shards(bank)[1]
    gone.rename(tmp_path / gone.name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IncompleteBankError):
        Bank.open(bank.path)["fc7"][:]


def test_a_missing_shard_is_extracted_again(bank, kit):
    before = kit.tree(bank.path)
    shards(bank)[1].unlink()
    assert kit.extract(Bank.open(bank.path)) == 12
    assert kit.tree(bank.path) == before


def test_swapped_contents_are_found(bank):
    one, other = shards(bank)[:2]
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    assert kinds(bank) == [("corrupt", one.name), ("corrupt", other.name)]
    with pytest.raises(
        CorruptBankError, match=r"it does not belong here: shard number is 1, not 0; slots is \(12, 24\)"
    ):
        Bank.open(bank.path)["fc7"][0]


def test_swapped_names_are_found(bank):
    one, other = shards(bank)[:2]
    one.rename(one.with_name("00001" + one.name[5:]))
    other.rename(other.with_name("00000" + other.name[5:]))
    assert [kind for kind, _ in kinds(bank)] == ["foreign", "foreign"]
    with pytest.raises(CorruptBankError, match="it does not belong here: shard number is 1, not 0"):
        Bank.open(bank.path)["fc7"][0]


def test_a_shard_of_another_bank_is_found(bank, store, manifest, kit):
    other = store.create_or_open("shapes", kit.new_key(decoder="other"), {})
    other.set_manifest(manifest)
    kit.extract(other, ["fc7"])
    mine, foreign = shards(bank)[1], shards(other)[1]
    mine.unlink()
    shutil.copy(foreign, mine.parent)
    assert kinds(bank) == [("foreign", foreign.name)]
    with pytest.raises(CorruptBankError, match="it does not belong here: bank key is "):
        Bank.open(bank.path)["fc7"][:]


def test_a_shard_of_another_cut_is_found(bank):
    mine, foreign = shards(bank)[1], shards(bank, "logits")[1]
    mine.unlink()
    shutil.copy(foreign, mine.parent)
    assert kinds(bank) == [("foreign", foreign.name)]
    with pytest.raises(CorruptBankError, match="it does not belong here: cut is 'logits', not 'fc7'"):
        Bank.open(bank.path)["fc7"][:]


def test_a_shard_with_other_images_is_found(bank, store, kit):
    # the same key and place, but of a dataset with other images
    other = store.create_or_open("others", kit.KEY, {})
    other.set_manifest(kit.make_manifest([f"other {i}" for i in range(33)]))
    kit.extract(other, ["fc7"])
    mine, foreign = shards(bank)[1], shards(other)[1]
    mine.unlink()
    shutil.copy(foreign, mine.parent)
    assert kinds(bank) == [("foreign", foreign.name)]
    with pytest.raises(CorruptBankError, match="it holds other images than the manifest says"):
        Bank.open(bank.path)["fc7"][:]


def test_two_files_of_one_shard_are_found(bank, store, manifest, kit):
    other = store.create_or_open("twice", kit.KEY, {})
    other.set_manifest(manifest)
    writer = other.cut_writer("fc7", (5,), "float16", shard_bytes=140)
    plan = writer.missing()[0]
    second = writer.write(plan, np.ones((12, 5), np.float16), np.zeros(12, np.uint8))
    shutil.copy(second, bank.path / "fc7")
    first, twin = sorted(path.name for path in shards(bank)[:2])
    assert kinds(bank) == [("duplicate", twin)]
    with pytest.raises(CorruptBankError) as caught:
        Bank.open(bank.path)["fc7"][:]
    assert str(caught.value) == (
        f"shard 0 stands twice in {str(bank.path / 'fc7')!r}: {first!r} and {twin!r}; delete the one that "
        f"`featbank banks verify` calls damaged, or both, and run `featbank extract` again"
    )


def test_a_shard_nobody_planned_is_found(bank):
    extra = shards(bank)[0]
    shutil.copy(extra, extra.with_name("00009" + extra.name[5:]))
    assert [kind for kind, _ in kinds(bank)] == ["foreign"]


def rename(path):
    """Give a shard the name its bytes stand for."""
    return path.rename(path.with_name(f"00001-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.h5"))


def test_something_that_is_no_shard_under_a_right_hash_is_found(bank):
    path = shards(bank)[1]
    path.write_bytes(b"something else" * 1000)
    fake = rename(path)
    assert kinds(bank) == [("unreadable", fake.name)]
    with pytest.raises(BankReadError, match=f"{fake.name}.*though its bytes are those its name stands for"):
        Bank.open(bank.path)["fc7"][:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: h["arrays"].pop("digests"), "its arrays are not those of a shard"),
        (
            lambda h: h["arrays"]["features"].__setitem__(0, "<i4"),
            "its features are not stored in one piece inside it",
        ),
        (lambda h: h["facts"].update(start=None), "it does not say which shard it is"),
        (lambda h: h.update(kind="pack"), "it is a 'pack' of featbank, no 'shard'"),
        (lambda h: h["arrays"]["statuses"].__setitem__(1, [11]), "do not have the 12 rows it says it has"),
    ],
)
def test_a_shard_that_makes_no_sense_is_refused(bank, kit, change, said):
    path = shards(bank)[1]
    path.write_bytes(kit.forged(path.read_bytes(), lambda header: change(header) and None))
    path = rename(path)
    with pytest.raises(BankReadError, match=said):
        Bank.open(bank.path)["fc7"][:]
    assert kinds(bank) == [("unreadable", path.name)]


@pytest.mark.parametrize("name", ["bank.json", "manifest.h5"])
def test_a_missing_small_file_is_found(bank, name):
    (bank.path / name).unlink()
    assert kinds(bank) == [("missing", name)]


def test_an_unfinished_cut_is_no_fault(store, manifest, kit):
    bank = store.create_or_open("shapes", kit.KEY, {})
    assert [finding.kind for finding in bank.verify().findings] == ["unfinished"]
    bank.set_manifest(manifest)
    kit.extract(bank, ["fc7"], finish=False, limit=2)
    report = bank.verify()
    assert report.ok
    assert [(finding.kind, finding.detail) for finding in report.findings] == [
        ("unfinished", "2 of 3 shards are extracted")
    ]


def test_strange_files_are_noted(bank):
    (bank.path / "notes.txt").write_text("mine")
    (bank.path / "fc7" / ".DS_Store").write_text("x")
    report = bank.verify()
    assert report.ok
    assert [(finding.kind, finding.path.name) for finding in report.findings] == [
        ("unknown", "notes.txt"),
        ("unknown", ".DS_Store"),
    ]


def test_damaged_quarantine_is_found(bank):
    (bank.path / "quarantine.jsonl").write_text(json.dumps({"id": "x"}) + "\n")
    assert kinds(bank) == [("corrupt", "quarantine.jsonl")]


def test_no_bank(tmp_path):
    for folder in (tmp_path / "nothing", tmp_path):
        with pytest.raises(BankNotFoundError, match="no bank in"):
            verify_bank(folder)


NUMBERS = ("EACCES", "EPERM", "EMFILE", "ENFILE", "ENOMEM", "EIO", "EAGAIN", "ESTALE", "ETIMEDOUT")


def refuse(monkeypatch, name, number):
    """Let the system refuse to open, or to list, what has this name."""
    for call in ("open", "scandir", "listdir"):
        real = getattr(os, call)

        def refusing(path, *args, real=real, **kwargs):
            if isinstance(path, (str, os.PathLike)) and Path(path).name == name:
                raise OSError(number, os.strerror(number), os.fspath(path))
            return real(path, *args, **kwargs)

        monkeypatch.setattr(os, call, refusing)


def read_every_byte(path):
    return [Bank.open(path, check="sha256")[cut][:] for cut in CUTS]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("place", range(4), ids=["bank.json", "manifest.h5", "cut.json", "shard"])
def test_what_the_system_does_not_open_is_not_called_damaged(bank, kit, monkeypatch, place, number):
    path = files_of(bank)[place]
    before = kit.tree(bank.path)
    with monkeypatch.context() as patched:
        refuse(patched, path.name, getattr(errno, number))
        report = verify_bank(bank.path)
        assert not report.ok
        assert {(fault.kind, fault.path.name) for fault in report.faults} == {("unreadable", path.name)}
        with pytest.raises(BankReadError, match="cannot be read now"):
            set_damaged_aside(report)
        with pytest.raises(BankReadError) as caught:
            read_every_byte(bank.path)
        assert os.strerror(getattr(errno, number)) in str(caught.value)
        assert "damaged" not in str(caught.value)
        assert not isinstance(caught.value, CorruptBankError)
    assert kit.tree(bank.path) == before
    assert bank.verify().ok


@pytest.mark.parametrize("name", ["fc7", "shapes"])
def test_a_folder_that_cannot_be_listed_is_not_called_damaged(bank, kit, monkeypatch, name):
    before = kit.tree(bank.path)
    with monkeypatch.context() as patched:
        refuse(patched, name if name == "fc7" else bank.path.name, errno.EACCES)
        with pytest.raises(BankReadError, match="check its permissions"):
            _ = Bank.open(bank.path, check="size").cuts
        with pytest.raises(BankReadError, match="check its permissions"):
            set_damaged_aside(verify_bank(bank.path))
    assert kit.tree(bank.path) == before


@pytest.mark.parametrize("how", ["folder", "fifo", "circle"])
def test_what_is_no_file_is_neither_waited_for_nor_called_damaged(bank, how):
    path = shards(bank)[1]
    path.unlink()
    make = {
        "folder": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "circle": lambda: path.symlink_to(path.name),
    }
    make[how]()
    assert kinds(bank) == [("unreadable", path.name)]
    with pytest.raises(BankReadError, match=path.name):
        Bank.open(bank.path)["fc7"][:]
    with pytest.raises(BankReadError, match="nothing was changed"):
        set_damaged_aside(bank.verify())


@pytest.mark.parametrize("mode", ["r", "r+", "a"])
def test_a_shard_that_this_process_has_open_can_be_read(bank, kit, manifest, mode):
    whole = [h5py.File(path, mode) for cut in CUTS for path in shards(bank, cut)]
    try:
        np.testing.assert_array_equal(Bank.open(bank.path)["fc7"][:], kit.expected("fc7", manifest))
        assert bank.verify().ok
    finally:
        for file in whole:
            file.close()


def test_the_mark_of_a_program_that_writes_hides_no_damage(bank):
    path = shards(bank)[0]
    with h5py.File(path, "r+") as file:
        file["features"][0] = 9
        file.flush()
        assert kinds(bank) == [("corrupt", path.name)]
    assert kinds(bank) == [("corrupt", path.name)]


def test_a_shard_that_another_process_has_locked_can_be_read(bank, kit, manifest):
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    with (
        subprocess.Popen(
            [sys.executable, "-c", code, str(shards(bank)[0])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other,
        shards(bank)[1].open("rb") as file,
    ):
        assert other.stdout.readline() == "open\n"
        fcntl.flock(file, fcntl.LOCK_EX)
        np.testing.assert_array_equal(Bank.open(bank.path)["fc7"][:], kit.expected("fc7", manifest))
        assert bank.verify().ok
        other.communicate()


def test_without_memory_a_shard_is_not_called_damaged(bank, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    opened = Bank.open(bank.path)
    with monkeypatch.context() as patched:
        patched.setattr(Contents, "read", fail)
        assert {kind for kind, _ in kinds(bank)} == {"unreadable"}
        with pytest.raises(BankReadError, match=r"Cannot allocate memory.*free some memory"):
            opened["fc7"][:]
    assert bank.verify().ok


def test_a_shard_of_another_format_version_is_not_called_damaged(bank, kit):
    path = shards(bank)[1]
    path.write_bytes(kit.forged(path.read_bytes(), lambda header: header.update(format_version=99)))
    newer = rename(path)
    assert kinds(bank) == [("unreadable", newer.name)]
    with pytest.raises(BankFormatError, match="format version 99"):
        Bank.open(bank.path)["fc7"][:]


def test_a_bank_with_a_file_that_cannot_be_read_is_not_packed(bank, tmp_path, monkeypatch):
    refuse(monkeypatch, shards(bank)[0].name, errno.EIO)
    with pytest.raises(BankReadError, match="is not packed"):
        pack(bank, tmp_path / "pack.h5")
