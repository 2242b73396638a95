"""What is damaged is moved inside the bank, never deleted; what is whole stays."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from featbank.banks import verify_bank
from featbank.banks.verification import set_damaged_aside
from featbank.errors import CacheWriteError, CorruptBankError


def shards(bank, cut="fc7"):
    return sorted((bank.path / cut).glob("*.h5"))


def everything(bank):
    return sorted(
        path.read_bytes() for path in bank.path.rglob("*") if path.is_file() and path.name[0] != "."
    )


def test_damaged_files_are_moved_with_the_names_they_had(bank):
    victims = [shards(bank)[1], bank.path / "logits" / "cut.json"]
    for path in victims:
        path.write_bytes(path.read_bytes()[:-7])
    before = everything(bank)
    report = verify_bank(bank.path)
    done = set_damaged_aside(report)
    assert done.folder is not None
    assert done.folder.parent == bank.path
    assert done.folder.name.startswith("damaged-2")
    assert done.moved == tuple(sorted(victims))
    assert [path.relative_to(done.folder) for path in sorted(done.folder.rglob("*")) if path.is_file()] == [
        path.relative_to(bank.path) for path in sorted(victims)
    ]
    assert everything(bank) == before
    assert {plan.number for plan in report.lost["fc7"]} == {1}
    assert report.lost["logits"] == ()


def test_two_repairs_in_one_second_have_a_folder_each(bank):
    folders = []
    for path in shards(bank)[:3]:
        path.write_bytes(b"")
        folders.append(set_damaged_aside(verify_bank(bank.path)).folder)
    assert len(set(folders)) == 3


def test_of_two_whole_files_for_one_shard_one_stays(bank, store, manifest, kit):
    other = store.create_or_open("twice", kit.KEY, {})
    other.set_manifest(manifest)
    writer = other.cut_writer("fc7", (5,), "float16", shard_bytes=140)
    second = writer.write(writer.missing()[0], np.ones((12, 5), np.float16), np.zeros(12, np.uint8))
    shutil.copy(second, bank.path / "fc7")
    first, twin = [path for path in shards(bank) if path.name.startswith("00000")]
    assert set_damaged_aside(verify_bank(bank.path)).moved == (twin,)
    assert first.exists()
    assert [one.kind for one in verify_bank(bank.path).findings] == ["aside"]


def test_a_whole_bank_has_nothing_to_move(bank):
    assert set_damaged_aside(verify_bank(bank.path)) == type(set_damaged_aside(verify_bank(bank.path)))(
        None, ()
    )


def test_a_cut_of_which_nothing_can_be_read_is_lost_whole(bank):
    (bank.path / "fc7" / "cut.json").write_text("")
    for path in shards(bank):
        path.write_bytes(b"x")
    assert verify_bank(bank.path).lost == {"fc7": None}


@pytest.mark.parametrize("name", ["bank.json", "manifest.h5"])
def test_without_key_or_rows_nothing_is_moved(bank, name):
    (bank.path / name).write_text("")
    shards(bank)[0].write_bytes(b"")
    with pytest.raises(CorruptBankError, match=f"cannot be repaired, {name} is corrupt"):
        set_damaged_aside(verify_bank(bank.path))
    assert not list(bank.path.glob("damaged-*"))


def test_a_file_that_cannot_be_moved_is_one_error(bank, monkeypatch):
    shards(bank)[0].write_bytes(b"")
    report = verify_bank(bank.path)

    def refuse(*_):
        raise OSError(13, os.strerror(13))

    monkeypatch.setattr("featbank.banks.verification.os.replace", refuse)
    with pytest.raises(
        CacheWriteError, match=r"cannot move '.*' to '.*' \(Permission denied\): check the perm"
    ):
        set_damaged_aside(report)
