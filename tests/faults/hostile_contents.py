"""Packed files made to do harm by what they say: values, documents, digests, bytes; each breaks one rule."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import made_bank
import numpy as np
from hostile_cases import CASES, case, in_pack

F = "features/block5_pool"


@in_pack("is not what was packed")
def other_features(file: h5py.File, place: Path) -> None:
    file[F][3] = 1


@in_pack("are not those of its manifest")
def other_labels_for_other_readers(file: h5py.File, place: Path) -> None:
    file["labels"][0] = 1 - file["labels"][0]


@in_pack("cannot be taken in")
def deeply_nested_json(file: h5py.File, place: Path) -> None:
    _blob(file, "bank/bank_json", b"[" * 200_000 + b"]" * 200_000)


@in_pack("more than 1048576")
def endless_json(file: h5py.File, place: Path) -> None:
    _blob(file, "bank/bank_json", b'{"a":"' + b"x" * 2_000_000 + b'"}')


@in_pack("numbers of its shards make no sense")
def a_billion_shards(file: h5py.File, place: Path) -> None:
    _edit_json(file, "bank/cuts/logits/cut_json", shards=[[0, 10**12]])


@in_pack("cannot name a folder")
def dataset_that_goes_up(file: h5py.File, place: Path) -> None:
    _edit_json(file, "bank/bank_json", dataset="../../../evil")


@in_pack("none of features")
def objects_for_features(file: h5py.File, place: Path) -> None:
    _edit_json(file, "bank/cuts/logits/cut_json", dtype="O")


@in_pack("a fact 'precision_error'")
def text_where_a_number_is_shown(file: h5py.File, place: Path) -> None:
    _edit_json(file, "bank/cuts/logits/cut_json", facts={"precision_error": "\x1b[31m"})


@in_pack("says of itself what is not so: max_abs")
def facts_that_lie(file: h5py.File, place: Path) -> None:
    _edit_json(file, "bank/cuts/logits/cut_json", facts={"max_abs": 1.0})


@in_pack("does not match its own sha256")
def manifest_damaged(file: h5py.File, place: Path) -> None:
    file["bank/manifest"][700] ^= 1


def _forged_manifest(file: h5py.File, name: str, row: int, value: int) -> None:
    data = file["bank/manifest"][()].tobytes()[512:]
    with h5py.File(h5py.h5f.open_file_image(data, h5py.h5f.FILE_IMAGE_OPEN_RW), "r+") as manifest:
        manifest[name][row] = value
        manifest.flush()
        data = manifest.id.get_file_image()
    text = (
        f"featbank manifest; sha256 of the HDF5 file behind this block: {hashlib.sha256(data).hexdigest()}\n"
    )
    _blob(file, "bank/manifest", text.encode().ljust(512, b"\0") + data)


@in_pack("row_slots do not hold together")
def row_that_points_outside(file: h5py.File, place: Path) -> None:
    _forged_manifest(file, "row_slots", 0, 10**9)


@in_pack("row_slots do not hold together")
def row_that_points_before(file: h5py.File, place: Path) -> None:
    _forged_manifest(file, "row_slots", 0, -3)


@in_pack("id_offsets do not hold together")
def ids_that_overlap(file: h5py.File, place: Path) -> None:
    _forged_manifest(file, "id_offsets", 2, -50)


@in_pack("a label is outside")
def label_without_a_class(file: h5py.File, place: Path) -> None:
    _forged_manifest(file, "labels", 0, 99)


@in_pack("statuses do not hold together")
def status_that_does_not_exist(file: h5py.File, place: Path) -> None:
    _forged_manifest(file, "slot_statuses", 0, 9)


@in_pack("digests do not hold together")
def rows_of_other_images(file: h5py.File, place: Path) -> None:
    _forged_manifest(file, "digests", 0, 7)


@in_pack("no finite numbers")
def features_that_are_no_numbers(file: h5py.File, place: Path) -> None:
    values = file["features/logits"][()]
    values[0, 0] = np.nan
    file["features/logits"][...] = values
    _forge_digests(file, "logits")


def _forge_digests(file: h5py.File, cut: str) -> None:
    inner = file["bank/cuts"][cut]
    rows = np.concatenate([inner["extra_features"][()], file["features"][cut][()]])
    digests = np.frombuffer(
        b"".join(hashlib.sha256(f"image {i}".encode()).digest() for i in range(len(rows))), np.uint8
    ).reshape(-1, 32)
    statuses = inner["slot_statuses"][()]
    step = json.loads(inner["cut_json"][()].tobytes())["shard_rows"]
    for number, start in enumerate(range(0, len(rows), step)):
        part = slice(start, start + step)
        data = rows[part].tobytes() + digests[part].tobytes() + statuses[part].tobytes()
        inner["shard_sha256"][number] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)


def _blob(file: h5py.File, name: str, data: bytes) -> None:
    del file[name]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    dataset = h5py.h5d.create(
        file.id, name.encode(), h5py.h5t.STD_U8LE, h5py.h5s.create_simple((len(data),)), plist
    )
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.frombuffer(data, np.uint8))


def _edit_json(file: h5py.File, name: str, **changes: Any) -> None:
    document = json.loads(file[name][()].tobytes())
    _blob(file, name, made_bank.resealed({**document, **changes}))


# bytes of the packed file ----------------------------------------------------------------------------


def as_bytes(says: str) -> Callable[[Callable[[bytes], bytes]], None]:
    def register(change: Callable[[bytes], bytes]) -> None:
        def make(place: Path, pack: Path, folder: Path) -> Path:
            (place / "bank.h5").write_bytes(change(pack.read_bytes()))
            return place / "bank.h5"

        CASES[change.__name__] = (make, says)

    return register


@as_bytes("does not start like")
def user_block(data: bytes) -> bytes:
    return b"#!/bin/sh\n".ljust(512, b"\0") + data


@as_bytes("it should have")
def something_behind_it(data: bytes) -> bytes:
    return data + b"PK\x03\x04"


@as_bytes("it should have")
def cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


@as_bytes("laid out as no file of featbank")
def extension_of_the_superblock(data: bytes) -> bytes:
    return data[:20] + bytes(8) + data[28:]


@as_bytes("is empty")
def empty(data: bytes) -> bytes:
    return b""


@as_bytes("does not start like")
def no_hdf5(data: bytes) -> bytes:
    return b"\x80\x04\x95" + data[3:]


@case("neither a file nor a folder")
def fifo_for_a_file(place: Path, pack: Path, folder: Path) -> Path:
    os.mkfifo(place / "bank.h5")
    return place / "bank.h5"
