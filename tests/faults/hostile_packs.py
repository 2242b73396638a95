"""Packed files made to do harm by how they are built: links, types, storage; each breaks one rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hostile_cases import in_pack, replace

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


@in_pack("is compressed as no file of featbank is")
def compressed(file: h5py.File, place: Path) -> None:
    values = file[F][()]
    replace(file, F, compression="gzip")[...] = values


@in_pack("is compressed as no file of featbank is")
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


@in_pack("is compressed as no file of featbank is")
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
