"""``featbank banks``."""

from __future__ import annotations

import io
import os
import shutil
from datetime import datetime

import h5py
import pytest

from featbank.errors import MissingDataError
from featbank.extraction import repair_bank


def test_ls(call, place, bank):
    done = call("banks", "ls")
    assert done.code == 0
    (header, _, line) = done.out.splitlines()
    assert header.split() == ["bank", "changed", "rows", "classes", "size", "cuts"]
    name, day, clock, rows, classes, *_ = line.split()
    assert (name, rows, classes) == (f"photos/{bank.name}", "36", "3")
    changed = datetime.fromtimestamp(
        max((bank / one).stat().st_mtime for one in ("bank.json", "manifest.h5"))
    )
    assert f"{day} {clock}" == f"{changed:%Y-%m-%d %H:%M}"
    assert line.split()[-3:] == ["block4_pool", "block5_pool", "logits"]
    (found,) = call("banks", "ls", "--json").json["banks"]
    assert (found["name"], found["path"], found["rows"]) == (f"photos/{bank.name}", str(bank), 36)
    assert found["splits"] == {"train": 18, "val": 9, "test": 9}


def test_ls_of_nothing(call, place):
    done = call("banks", "ls", "--cache-dir", "new")
    assert (done.code, done.out, done.err) == (0, "", "no banks yet; 'featbank extract' makes one\n")
    assert call("banks", "ls", "--cache-dir", "new", "--json").json == {"banks": []}


def test_ls_is_newest_first(call, place, bank):
    new = call("extract", "-c", "pool5", "--weights", "random", "--limit", 30, "--json").json["bank"]
    paths = [one["path"] for one in call("banks", "ls", "--json").json["banks"]]
    assert paths == [new, str(bank)]
    for file in ("bank.json", "manifest.h5", ".lock"):
        os.utime(f"{new}/{file}", (1, 1))  # clocks are no order
    paths = [one["path"] for one in call("banks", "ls", "--json").json["banks"]]
    assert paths == [new, str(bank)]


def test_ls_shows_a_bank_that_cannot_be_opened(call, place, bank):
    (bank / "bank.json").write_text("{")
    done = call("banks", "ls")
    assert done.code == 0
    assert f"photos/{bank.name}" in done.out
    assert "is damaged" in done.out


@pytest.mark.parametrize("which", [[], ["photos"], ["photos/minivgg"], ["{path}"]])
def test_info(call, place, bank, which):
    done = call("banks", "info", *[one.format(path=bank) for one in which])
    assert done.code == 0
    assert done.out.splitlines()[:2] == [f"bank           {bank}", "backbone       minivgg"]
    assert "rows           36 of 3 classes (18 train, 9 val, 9 test), 0 quarantined\n" in done.out
    assert "images from    " in done.out


def test_info_as_json(call, place, bank):
    found = call("banks", "info", "--json").json
    assert found["key"]["backbone"] == "minivgg"
    assert found["provenance"]["weights"] == "random"
    assert [cut["name"] for cut in found["cuts"]] == ["block4_pool", "block5_pool", "logits"]


def test_verify(call, place, bank):
    done = call("banks", "verify")
    assert done.code == 0
    assert done.out.startswith(f"{bank}: 3 shards, ")
    assert done.out.endswith(" checked: all as written\n")
    found = call("banks", "verify", "--json").json
    (one,) = found["banks"]
    assert (found["ok"], one["bank"], one["ok"], one["n_shards"], one["findings"], one["error"]) == (
        True,
        str(bank),
        True,
        3,
        [],
        None,
    )


def test_verify_of_what_cannot_be_read_is_no_damage(call, place, bank):
    path = next((bank / "logits").glob("*.h5"))
    path.rename(place / "kept")
    path.mkdir()
    for command in (["banks", "verify"], ["banks", "verify", "--repair"]):
        done = call(*command)
        assert done.code == 3
        said = done.out + done.err
        assert f"{path}' cannot be read now (Is a directory), which says nothing of its bytes" in said
        assert "damaged" not in said
    assert path.is_dir()
    path.rmdir()
    (place / "kept").rename(path)
    assert call("banks", "verify").code == 0


@pytest.fixture
def second(place, bank):
    """A second bank in the cache, whole, of another dataset."""
    other = place / "cache" / "banks" / "album" / bank.name
    shutil.copytree(bank, other)
    return other


def test_verify_takes_all_banks_unless_some_are_named(call, place, bank, second):
    for arguments in ([], ["--all"], ["photos", "album"], ["album", str(second), "photos"]):
        done = call("banks", "verify", *arguments)
        assert done.code == 0
        *lines, last = done.out.splitlines()
        assert {line.partition(": ")[0] for line in lines} == {str(bank), str(second)}
        assert last.startswith("2 banks, 6 shards, ")
        assert last.endswith(" checked: all as written")
    done = call("banks", "verify", "album")
    assert done.out.startswith(f"{second}: 3 shards, ")
    assert done.out.count("\n") == 1
    assert [one["bank"] for one in call("banks", "verify", "--json").json["banks"]] == [
        str(second),
        str(bank),
    ]
    done = call("banks", "verify", "photos", "--all")
    assert (done.code, done.message) == (2, "--all and 'photos' exclude each other; give names, or --all")
    for option in ("--data", "--weights"):
        done = call("banks", "verify", option, "x")
        assert (done.code, done.message) == (
            2,
            f"{option} 'x' is for one bank, and 2 are to be checked; name one",
        )


def test_verify_finds_the_one_that_is_not_whole(call, place, bank, second):
    (second / "bank.json").write_text("{")
    done = call("banks", "verify")
    assert done.code == 1
    assert f"{bank}: 3 shards, " in done.out
    assert done.out.splitlines()[-1].endswith(" checked: 1 of 2 banks with faults")
    found = call("banks", "verify", "--json")
    assert found.code == 1
    assert (found.json["ok"], [one["ok"] for one in found.json["banks"]]) == (False, [False, True])


def test_verify_goes_on_behind_a_bank_that_cannot_be_repaired(call, place, bank, second, monkeypatch):
    for one in (bank, second):
        (shard,) = (one / "logits").glob("*.h5")
        shard.unlink()
    repair = repair_bank

    def gone(folder, **options):
        if folder == second:
            raise MissingDataError("the images are gone; say where they are with --data")
        return repair(folder, **options)

    monkeypatch.setattr("featbank.extraction.repair_bank", gone)
    done = call("banks", "verify", "--repair", "--json")
    assert done.code == 1
    first, other = done.json["banks"]
    assert (done.json["ok"], first["ok"], other["ok"]) == (False, False, True)
    assert first["error"] == "the images are gone; say where they are with --data"
    assert (other["error"], other["repair"]["shards"]) == (None, 1)
    done = call("banks", "verify", "--repair")
    assert done.code == 1
    assert f"{second}: the images are gone; say where they are with --data" in done.out.splitlines()
    assert done.out.splitlines()[-1].endswith(" checked: 1 of 2 banks with faults")
    # one bank alone ends as it always did, with the code of what is missing
    done = call("banks", "verify", "album", "--repair")
    assert done.code == 3


def test_verify_of_an_empty_cache(call, place):
    done = call("banks", "verify", "--cache-dir", "new")
    assert done.code == 3
    assert done.message.startswith(f"no bank in '{place}/new/banks'; `featbank extract ")


def test_verify_names_what_is_damaged(call, place, bank):
    (shard,) = (bank / "logits").glob("*.h5")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    done = call("banks", "verify", "photos")
    assert done.code == 1
    assert done.out.startswith(f"corrupt: {shard}: ")
    assert done.out.endswith(" checked: 1 fault\n")
    done = call("banks", "verify", "--json")
    assert done.code == 1
    (finding,) = done.json["banks"][0]["findings"]
    assert (finding["kind"], finding["path"]) == ("corrupt", str(shard))


def test_verify_works_on_a_bank_that_cannot_be_opened(call, place, bank):
    (bank / "bank.json").unlink()
    for which in ("photos", bank):
        done = call("banks", "verify", which)
        assert done.code == 1
        assert f"missing: {bank / 'bank.json'}: the bank file is gone\n" in done.out


def test_verify_tells_what_is_no_fault_too(call, place, bank):
    (bank / "notes.txt").write_text("mine")
    done = call("banks", "verify")
    assert done.code == 0
    assert done.out.startswith(f"unknown: {bank / 'notes.txt'}: featbank has not written this\n")


def test_pack_and_unpack(call, place, bank):
    found = call("banks", "pack", "photos", "packed.h5", "--json").json
    size_bytes = (place / "packed.h5").stat().st_size
    assert found == {"file": "packed.h5", "size_bytes": size_bytes, "compression": None}
    with h5py.File(place / "packed.h5") as file:
        assert file["features/block5_pool"].shape == (36, 128, 1, 1)
    done = call("banks", "unpack", "packed.h5")
    assert (done.code, done.message) == (
        2,
        f"'{bank}' exists already; remove it with `featbank banks rm`, or unpack into another cache",
    )
    done = call("banks", "unpack", "packed.h5", "--cache-dir", "other")
    again = place / "other" / "banks" / "photos" / bank.name
    assert (done.code, done.out) == (0, f"{again}\n")
    for shard in bank.rglob("*-*.h5"):
        assert (again / shard.relative_to(bank)).read_bytes() == shard.read_bytes()
    done = call("banks", "unpack", "gone.h5")
    assert (done.code, done.message) == (3, "no packed bank 'gone.h5'; `featbank banks pack` makes one")


def test_rm(call, place, bank):
    found = call("banks", "rm", "photos", "--cut", "logits", "--yes", "--json").json
    assert (found["bank"], found["cut"]) == (str(bank), "logits")
    assert found["freed_bytes"] > 1000
    assert found["shared_bytes"] == 0
    assert not (bank / "logits").exists()
    done = call("banks", "rm", "photos", "--cut", "fc9", "-y")
    assert (done.code, done.message) == (
        2,
        f"bank 'photos/{bank.name}' holds no cut 'fc9', it holds 'block4_pool', 'block5_pool'",
    )
    done = call("banks", "rm", "photos", "-y")
    assert done.code == 0
    assert done.out.startswith(f"removed {bank}: ")
    assert not bank.exists()


def test_rm_asks_first(call, place, bank, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    done = call("banks", "rm", "photos")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"Delete {bank}? [y/N]: nothing was removed; --yes removes without asking\n"
    assert bank.exists()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert call("banks", "rm", "photos").code == 0
    assert not bank.exists()


def test_rm_says_what_another_bank_shares(call, place, bank):
    (shard,) = (bank / "logits").glob("*.h5")
    os.link(shard, place / "same.h5")
    size = shard.stat().st_size
    done = call("banks", "rm", "photos", "--cut", "logits", "-y")
    assert "are shared with another bank and stay" in done.out
    os.link(next((bank / "block5_pool").glob("*.h5")), place / "too.h5")
    total = sum(one.stat().st_size for one in bank.rglob("*") if one.is_file())
    found = call("banks", "rm", "photos", "-y", "--json").json
    assert found["shared_bytes"] == (place / "too.h5").stat().st_size
    assert found["freed_bytes"] == total - found["shared_bytes"]
    assert size == (place / "same.h5").stat().st_size
