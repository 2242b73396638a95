"""Packed files made to do harm: each breaks one rule of what is let in."""

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
from hostile_cases import CASES, case, in_pack, replace

F = "features/block5_pool"


@in_pack("keeps its values in another file")
def external_storage(file: h5py.File, place: Path) -> None:
    replace(file, F, external=[(str(place / "secret.bin"), 0, 10**4)])


@in_pack("keeps its values in another file")
def external_storage_of_a_blob(file: h5py.File, place: Path) -> None:
    replace(file, "bank/quarantine", shape=(280,), external=[(str(place / "secret.bin"), 0, 280)])


@in_pack("is a link to somewhere else")
def external_link(file: h5py.File, place: Path) -> None:
    del file[F]
    file[F] = h5py.ExternalLink(str(place / "secret.h5"), "/x")


@in_pack("is a link to somewhere else")
def external_link_as_a_group(file: h5py.File, place: Path) -> None:
    del file["features"]
    file["features"] = h5py.ExternalLink(str(place / "secret.h5"), "/")


@in_pack("is a link to somewhere else")
def soft_link(file: h5py.File, place: Path) -> None:
    del file["labels"]
    file["labels"] = h5py.SoftLink("/bank/manifest")


@in_pack("is a link to somewhere else")
def soft_link_through_an_external_one(file: h5py.File, place: Path) -> None:
    del file["features"]
    file["features"] = h5py.ExternalLink(str(place / "secret.h5"), "/")
    del file["labels"]
    file["labels"] = h5py.SoftLink("/features/x")


@in_pack("is a link to somewhere else")
def dangling_soft_link(file: h5py.File, place: Path) -> None:
    del file["split"]
    file["split"] = h5py.SoftLink("/nowhere")


def _virtual(file: h5py.File, source: Any) -> None:
    shape, dtype = file[F].shape, file[F].dtype
    del file[F]
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource(source, "x", shape)
    file.create_virtual_dataset(F, layout)


@in_pack("is not stored in one piece")
def virtual_dataset_outside(file: h5py.File, place: Path) -> None:
    _virtual(file, str(place / "secret.h5"))


@in_pack("is not stored in one piece")
def virtual_dataset_of_itself(file: h5py.File, place: Path) -> None:
    _virtual(file, ".")


@in_pack("stands in more than one place")
def hard_link_cycle(file: h5py.File, place: Path) -> None:
    file["features/again"] = file["features"]


@in_pack("stands in more than one place")
def one_dataset_twice(file: h5py.File, place: Path) -> None:
    del file["features/logits"]
    file["features/logits"] = file[F]


@in_pack("stands in more than one place")
def root_inside_itself(file: h5py.File, place: Path) -> None:
    file["bank/cuts/root"] = file["/"]


@in_pack("is not stored in one piece")
def compressed(file: h5py.File, place: Path) -> None:
    values = file[F][()]
    replace(file, F, compression="gzip")[...] = values


@in_pack("is not stored in one piece")
def filter_from_a_plugin(file: h5py.File, place: Path) -> None:
    shape = file[F].shape
    del file[F]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(shape)
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file["features"].id, b"block5_pool", h5py.h5t.IEEE_F16LE, space, plist)


@in_pack("is no text of fixed length")
def texts_of_any_length(file: h5py.File, place: Path) -> None:
    del file["classes"]
    file.create_dataset("classes", data=["c0", "c1"], dtype=h5py.string_dtype())


@in_pack("is no text of fixed length")
def attribute_of_any_length(file: h5py.File, place: Path) -> None:
    file.attrs["backbone"] = "x" * 1000


@in_pack("has another type")
def references(file: h5py.File, place: Path) -> None:
    replace(file, "labels", dtype=h5py.ref_dtype)


@in_pack("it has an attribute")
def region_reference_in_an_attribute(file: h5py.File, place: Path) -> None:
    del file.attrs["provenance"]
    file.attrs["where"] = file[F].regionref[:2]


@in_pack("has another type")
def compound_type(file: h5py.File, place: Path) -> None:
    replace(file, "labels", dtype=[("a", "i4"), ("b", "f8")])


@in_pack("has another type")
def opaque_type(file: h5py.File, place: Path) -> None:
    replace(file, "labels", dtype="V8")


@in_pack("has another type")
def lists_of_any_length(file: h5py.File, place: Path) -> None:
    replace(file, "labels", dtype=h5py.vlen_dtype(np.int32))


@in_pack("has another type")
def enumeration(file: h5py.File, place: Path) -> None:
    replace(file, "labels", dtype=h5py.enum_dtype({"a": 0, "b": 1}, "i4"))


@in_pack("has another type")
def array_type(file: h5py.File, place: Path) -> None:
    replace(file, "labels", dtype="(4000,)i4")


@in_pack("has another type")
def big_endian(file: h5py.File, place: Path) -> None:
    replace(file, "labels", dtype=">i4")


@in_pack("has another type")
def other_size(file: h5py.File, place: Path) -> None:
    replace(file, "labels", dtype="i8")


@in_pack("has a type that stands elsewhere")
def named_type(file: h5py.File, place: Path) -> None:
    file["bank/cuts/kind"] = np.dtype("i4")
    replace(file, "labels", dtype=file["bank/cuts/kind"])
    del file["bank/cuts/kind"]


@in_pack("is no group")
def named_type_in_a_groups_place(file: h5py.File, place: Path) -> None:
    file["bank/cuts/kind"] = np.dtype("i4")


@in_pack("is no dataset")
def group_in_a_datasets_place(file: h5py.File, place: Path) -> None:
    del file["labels"]
    file.create_group("labels")


@in_pack("which are not in the file")
def terabytes_in_a_kilobyte(file: h5py.File, place: Path) -> None:
    replace(file, F, shape=(10**10, 3, 2, 2))


@in_pack("which are not in the file")
def more_bytes_than_a_number_holds(file: h5py.File, place: Path) -> None:
    replace(file, F, shape=(2**31, 2**29, 1, 1))


@in_pack("is not stored in one piece")
def chunk_bomb(file: h5py.File, place: Path) -> None:
    replace(file, F, shape=(2**26, 3, 2, 2), chunks=(2**22, 3, 2, 2), compression="gzip")
    file[F][: 2**20] = 0


@in_pack("more than 1000 entries")
def many_small_datasets(file: h5py.File, place: Path) -> None:
    for number in range(1500):
        file.create_dataset(f"features/c{number}", (2, 2), "f2")


@in_pack("it has 5")
def many_attributes(file: h5py.File, place: Path) -> None:
    for number in range(500):
        file.attrs[f"a{number}"] = np.zeros(1000)


@in_pack("has attributes")
def attributes_of_a_dataset(file: h5py.File, place: Path) -> None:
    file["labels"].attrs["x"] = np.zeros(7000)


@in_pack("has attributes")
def attributes_of_a_group(file: h5py.File, place: Path) -> None:
    file["bank"].attrs["x"] = 1


@in_pack("is no single value")
def attribute_that_is_an_array(file: h5py.File, place: Path) -> None:
    file.attrs["pack_version"] = np.ones(100, np.int64)


@in_pack("is nothing featbank writes")
def deep_groups(file: h5py.File, place: Path) -> None:
    group = file["bank/cuts"].create_group("a")
    for _ in range(2000):
        group = group.create_group("a")


@in_pack("is nothing featbank writes")
def one_dataset_too_many(file: h5py.File, place: Path) -> None:
    file["notes"] = np.zeros(3)


@in_pack("has an entry named")
def name_that_goes_up(file: h5py.File, place: Path) -> None:
    h5py.h5g.create(file["features"].id, b"..\\..\\evil")


@in_pack("lacks")
def no_manifest(file: h5py.File, place: Path) -> None:
    del file["bank/manifest"]


@in_pack("lacks")
def one_cut_half(file: h5py.File, place: Path) -> None:
    del file["bank/cuts/logits/shards"]


@in_pack("has shape")
def other_dimensions(file: h5py.File, place: Path) -> None:
    replace(file, "labels", shape=(3, 3))


@in_pack("is no array")
def no_space(file: h5py.File, place: Path) -> None:
    del file["labels"]
    h5py.h5d.create(file.id, b"labels", h5py.h5t.STD_I32LE, h5py.h5s.create(h5py.h5s.NULL))


@in_pack("is not stored in one piece")
def inside_its_header(file: h5py.File, place: Path) -> None:
    del file["labels"]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(file.id, b"labels", h5py.h5t.STD_I32LE, h5py.h5s.create_simple((11,)), plist)


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
