"""Bank folders made to do harm: links, fifos, devices, holes, and shards that are not what they say."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import h5py
import made_bank
import numpy as np
from hostile_cases import CASES, LIBVER, replace


def in_folder(says: str) -> Callable[[Callable[[Path, Path], None]], None]:
    def register(change: Callable[[Path, Path], None]) -> None:
        def make(place: Path, pack: Path, folder: Path) -> Path:
            shutil.copytree(folder, place / "bank")
            change(place / "bank", place)
            return place / "bank"

        CASES[change.__name__] = (make, says)

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


def _rewritten(folder: Path, change: Callable[[h5py.File], None]) -> None:
    shard = a_shard(folder)
    with h5py.File(shard, "r+", libver=LIBVER) as file:
        change(file)
    digest = hashlib.sha256(shard.read_bytes()).hexdigest()
    shard.rename(shard.with_name(f"00000-{digest[:16]}.h5"))


@in_folder("keeps its values in another file")
def shard_with_external_storage(folder: Path, place: Path) -> None:
    _rewritten(
        folder,
        lambda file: replace(file, "features", external=[(str(place / "secret.bin"), 0, 10**4)]) and None,
    )


@in_folder("is a link to somewhere else")
def shard_with_an_external_link(folder: Path, place: Path) -> None:
    def change(file: h5py.File) -> None:
        del file["features"]
        file["features"] = h5py.ExternalLink(str(place / "secret.h5"), "/x")

    _rewritten(folder, change)


@in_folder("says of itself what is not so")
def shard_that_lies_of_its_numbers(folder: Path, place: Path) -> None:
    _rewritten(folder, lambda file: file.attrs.modify("max_abs", np.float64(1)))


@in_folder("says of itself what is not so")
def shard_of_another_bank(folder: Path, place: Path) -> None:
    _rewritten(folder, lambda file: file.attrs.modify("key", np.bytes_(b"0" * 64)))


@in_folder("holds other images")
def shard_of_other_images(folder: Path, place: Path) -> None:
    def change(file: h5py.File) -> None:
        file["digests"][0] = 1

    _rewritten(folder, change)


@in_folder("quarantine has entries featbank does not write")
def quarantine_with_escapes(folder: Path, place: Path) -> None:
    entry = json.loads((folder / "quarantine.jsonl").read_bytes())
    (folder / "quarantine.jsonl").write_bytes(made_bank.resealed({**entry, "reason": "\x1b[2J"}) + b"\n")
