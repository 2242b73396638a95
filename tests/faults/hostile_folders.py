"""Bank folders made to do harm: links, fifos, devices, holes, and shards that are not what they say."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import headers
import made_bank
from hostile_cases import add


def in_folder(says: str) -> Callable[[Callable[[Path, Path], None]], None]:
    def register(change: Callable[[Path, Path], None]) -> None:
        def make(place: Path, pack: Path, folder: Path) -> Path:
            shutil.copytree(folder, place / "bank")
            change(place / "bank", place)
            return place / "bank"

        add(change.__name__, says, make)

    return register


def a_shard(folder: Path) -> Path:
    return sorted((folder / "logits").glob("*.h5"))[0]


@in_folder("neither a file nor a folder")
def link_for_a_shard(folder: Path, place: Path) -> None:
    shard = a_shard(folder)
    shard.unlink()
    shard.symlink_to(place / "secret.h5")


@in_folder("neither a file nor a folder")
def link_for_the_bank_file(folder: Path, place: Path) -> None:
    (folder / "bank.json").unlink()
    (folder / "bank.json").symlink_to(place / "secret.bin")


@in_folder("neither a file nor a folder")
def link_for_a_cut(folder: Path, place: Path) -> None:
    shutil.rmtree(folder / "logits")
    (folder / "logits").symlink_to(place)


@in_folder("neither a file nor a folder")
def fifo_for_a_shard(folder: Path, place: Path) -> None:
    shard = a_shard(folder)
    shard.unlink()
    os.mkfifo(shard)


@in_folder("neither a file nor a folder")
def fifo_for_the_manifest(folder: Path, place: Path) -> None:
    (folder / "manifest.h5").unlink()
    os.mkfifo(folder / "manifest.h5")


@in_folder("neither a file nor a folder")
def socket_beside_the_shards(folder: Path, place: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("s")
    os.chdir(here)


@in_folder("neither a file nor a folder")
def device(folder: Path, place: Path) -> None:
    try:
        os.mknod(folder / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:  # only the superuser makes devices: a link to one is as good
        (folder / "zero").symlink_to("/dev/zero")


@in_folder("nothing featbank writes")
def another_file(folder: Path, place: Path) -> None:
    (folder / "run_me.py").write_text("raise SystemExit")


@in_folder("nothing featbank writes")
def a_folder_in_a_cut(folder: Path, place: Path) -> None:
    (folder / "logits" / "deep").mkdir()


@in_folder("cannot name a folder")
def cut_with_an_odd_name(folder: Path, place: Path) -> None:
    (folder / "a\n\x1b[31m").mkdir()


@in_folder("are not what its name says")
def shard_damaged(folder: Path, place: Path) -> None:
    data = bytearray(a_shard(folder).read_bytes())
    data[-1] ^= 1
    a_shard(folder).write_bytes(data)


@in_folder("its rows take less|GB free")
def hole_of_a_terabyte(folder: Path, place: Path) -> None:
    os.truncate(a_shard(folder), 2**40)


@in_folder("more than")
def manifest_of_a_terabyte(folder: Path, place: Path) -> None:
    os.truncate(folder / "manifest.h5", 2**40)


@in_folder("lacks shards")
def shard_missing(folder: Path, place: Path) -> None:
    a_shard(folder).unlink()


@in_folder("one shard too many")
def shard_nobody_planned(folder: Path, place: Path) -> None:
    a_shard(folder).rename(a_shard(folder).with_name("00099" + a_shard(folder).name[5:]))


def _rewritten(folder: Path, change: Callable[[bytes], bytes]) -> None:
    shard = a_shard(folder)
    shard.write_bytes(change(shard.read_bytes()))
    digest = hashlib.sha256(shard.read_bytes()).hexdigest()
    shard.rename(shard.with_name(f"00000-{digest[:16]}.h5"))


def in_shard(name: str, says: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Register a change to the header of a shard, sealed and named again."""

    def forge(folder: Path, place: Path) -> None:
        _rewritten(folder, lambda data: headers.forged(data, lambda document: change(document) and None))

    forge.__name__ = f"shard_{name}"
    in_folder(says)(forge)


in_shard(
    "that_lies_of_its_numbers", "says of itself what is not so", lambda d: d["facts"].update(max_abs=1.0)
)
in_shard("that_has_no_numbers", "cannot be taken in", lambda d: d["facts"].pop("max_abs") and None)
in_shard("of_another_bank", "bank key is", lambda d: d["facts"].update(key="0" * 64))
in_shard("of_another_cut", "cut is", lambda d: d["facts"].update(cut="../../evil"))
in_shard(
    "of_another_place",
    "slots is",
    lambda d: d["facts"].update(start=d["facts"]["start"] + 4, stop=d["facts"]["stop"] + 4),
)
in_shard("of_any_number", "which shard it is", lambda d: d["facts"].update(shard=1.0))
in_shard("of_a_text", "which shard it is", lambda d: d["facts"].update(stop="8"))
in_shard("of_a_truth", "which shard it is", lambda d: d["facts"].update(shard_rows=True))
in_shard("of_another_kind", "no 'shard'", lambda d: d.update(kind="pack"))
in_shard("without_digests", "not those of a shard", lambda d: d["arrays"].pop("digests") and None)
in_shard("with_more", "not those of a shard", lambda d: d["arrays"].update(more=["|u1", [0], 4096]))
in_shard("of_another_version", "format version 1", lambda d: d.update(format_version=1))
in_shard("of_objects", "another type", lambda d: d["arrays"]["features"].__setitem__(0, "O"))
in_shard("of_integers", "not stored in one piece", lambda d: d["arrays"]["features"].__setitem__(0, "<i4"))
in_shard("in_the_header", "not in the file", lambda d: d["arrays"]["features"].__setitem__(2, 0))
in_shard("before_the_file", "not in the file", lambda d: d["arrays"]["features"].__setitem__(2, -64))
in_shard("beyond_the_end", "not in the file", lambda d: d["arrays"]["features"].__setitem__(2, 10**9))
in_shard("of_terabytes", "not in the file", lambda d: d["arrays"]["features"].__setitem__(1, [2**40, 4]))
in_shard(
    "on_its_own_digests",
    "share bytes",
    lambda d: d["arrays"]["features"].__setitem__(2, d["arrays"]["digests"][2]),
)
in_shard(
    "in_chunks",
    "is compressed and has rows of|does not say where",
    lambda d: d["arrays"]["features"].__setitem__(slice(2, 4), ["digests", "zstd"]),
)


@in_folder("holds other images")
def shard_of_other_images(folder: Path, place: Path) -> None:
    _rewritten(folder, lambda data: headers.with_array(data, "digests", lambda one: one.__setitem__(0, 1)))


@in_folder("rows that cannot be|says of itself what is not so")
def shard_of_rows_that_cannot_be(folder: Path, place: Path) -> None:
    _rewritten(folder, lambda data: headers.with_array(data, "statuses", lambda one: one.__setitem__(0, 1)))


@in_folder("status that does not exist")
def shard_of_a_status_that_does_not_exist(folder: Path, place: Path) -> None:
    _rewritten(folder, lambda data: headers.with_array(data, "statuses", lambda one: one.__setitem__(0, 9)))


@in_folder("format version 1")
def shard_of_hdf5_alone(folder: Path, place: Path) -> None:
    _rewritten(folder, lambda data: data[headers.block_of(data) :])


@in_folder("format version 1")
def bank_of_before(folder: Path, place: Path) -> None:
    document = json.loads((folder / "bank.json").read_bytes())
    (folder / "bank.json").write_bytes(made_bank.resealed({**document, "format_version": 1}))


@in_folder("do not match its own sha256")
def manifest_of_two_kinds(folder: Path, place: Path) -> None:
    data = (folder / "manifest.h5").read_bytes()
    (folder / "manifest.h5").write_bytes(headers.forged(data, lambda d: d.update(kind="shard")))


@in_folder("quarantine has entries featbank does not write")
def quarantine_with_escapes(folder: Path, place: Path) -> None:
    entry = json.loads((folder / "quarantine.jsonl").read_bytes())
    (folder / "quarantine.jsonl").write_bytes(made_bank.resealed({**entry, "reason": "\x1b[2J"}) + b"\n")
