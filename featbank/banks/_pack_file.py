"""The packed file, written from a bank; this module is also the child process for that."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featbank._atomic import canonical_json, json_bytes
from featbank.banks import _bank_files as files
from featbank.banks._codecs import LARGEST_ROW_BYTES, Codec, chunk_rows, codec_named, encoder, library
from featbank.banks._cut_reader import CutReader, shard_files
from featbank.banks._hdf5 import LIBVER, allocate_chunks, allocate_contiguous, image_name
from featbank.banks._shard_file import CutLayout
from featbank.banks.bank import Bank
from featbank.banks.slots import ShardPlan
from featbank.manifest import SPLITS

PACK_VERSION = 1

FORMAT = "featbank pack"
_BLOCK_BYTES = 16 * 1024 * 1024
_LONGEST_ATTRIBUTE = 60_000  # HDF5 refuses attributes of 64 kB


def pack_bytes(bank: Bank) -> int:
    """Return about how large the packed file will be."""
    rows = max(len(bank), len(bank.slot_table))
    return sum(rows * bank[cut].nbytes // max(1, len(bank)) for cut in bank.cuts) + 1000 * rows


def pack_image(bank: Bank) -> bytes:
    """Return the packed file as bytes, built in memory."""
    with h5py.File(image_name(), "w", driver="core", backing_store=False, libver=LIBVER) as file:
        _fill(file, bank)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def write_pack(bank: Bank, path: Path, codec: Codec | None = None) -> None:
    """Write the packed file with libhdf5 itself; only for a process that may crash."""
    with h5py.File(path, "x", libver=LIBVER) as file:
        _fill(file, bank, codec)


def _fill(file: Any, bank: Bank, codec: Codec | None = None) -> None:
    manifest, stored = bank.manifest, bank._stored
    _put(file, "ids", np.array(manifest.ids or [b""], np.bytes_)[: len(manifest)])
    _put(file, "labels", manifest.labels)
    _put(file, "split", np.array(SPLITS, np.bytes_)[manifest.splits])
    classes = [name.encode("utf-8", "surrogateescape") for name in manifest.classes]
    _put(file, "classes", np.array(classes or [b""], np.bytes_)[: len(classes)])
    inner = file.create_group("bank")
    _put(inner, "bank_json", _blob(json_bytes(bank._document.sealed())))
    _put(inner, "manifest", _blob(stored.encode()))
    quarantine = bank.path / files.QUARANTINE_FILE
    _put(inner, "quarantine", _blob(quarantine.read_bytes() if quarantine.exists() else b""))
    features, statuses, cuts = (
        file.create_group("features"),
        file.create_group("statuses"),
        inner.create_group("cuts"),
    )
    for cut in bank.cuts:
        _fill_cut(bank, cut, features, statuses, cuts.create_group(cut), codec)
    attributes = {
        "format": FORMAT.encode(),
        "dataset": bank.dataset.encode(),
        "backbone": bank.key.backbone.encode(),
        "key_digest": bank.key.digest().encode(),
        "key": canonical_json(bank.key.to_dict()),
        "provenance": canonical_json(bank.provenance),
    }
    if codec is not None:
        attributes |= {"compression": codec.name.encode(), "compression_library": library(codec).encode()}
    for name, text in attributes.items():
        if len(text) <= _LONGEST_ATTRIBUTE:
            file.attrs.create(name, np.bytes_(text))
    file.attrs.create("pack_version", np.int64(PACK_VERSION))


def _fill_cut(bank: Bank, cut: str, features: Any, statuses: Any, inner: Any, codec: Codec | None) -> None:
    folder, layout = bank._layout(cut)
    reader, row_slots = bank._reader_of(layout), bank.row_slots
    _put_features(features, cut, reader, row_slots, codec)
    _put(statuses, cut, reader.statuses(row_slots))
    numbers = sorted(number for number in shard_files(folder) if number < len(reader.plans))
    plans = [reader.plans[number] for number in numbers]
    slots = _slots_of(plans)
    extra = np.setdiff1d(slots, row_slots)  # images that left the dataset
    _put(inner, "cut_json", _blob((folder / files.CUT_FILE).read_bytes()))
    _put(inner, "shards", np.array(numbers, np.int64))
    _put(inner, "slot_statuses", reader.statuses(slots))
    made_by = [reader.facts(number).made_by for number in numbers]
    if any(made_by):
        _put(inner, "made_by", _blob(canonical_json(made_by)))
    _put(inner, "extra_slots", extra)
    _put_features(inner, "extra_features", reader, extra, codec)
    digests = [
        content_digest(
            reader.facts(plan.number).features(),
            bank.slot_table.digests,
            plan,
            reader.statuses(_slots_of([plan])),
        )
        for plan in plans
    ]
    _put(inner, "shard_sha256", np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32))


def _slots_of(plans: list[ShardPlan]) -> NDArray[np.int64]:
    return np.concatenate([np.arange(plan.start, plan.stop) for plan in plans] or [np.zeros(0, np.int64)])


def content_digest(
    features: NDArray[Any], table: NDArray[np.uint8], plan: ShardPlan, statuses: NDArray[np.uint8]
) -> bytes:
    """Return the SHA-256 of a shard's content (another HDF5 release may lay it out otherwise in its file)."""
    digest = hashlib.sha256()
    for part in (features, table[plan.start : plan.stop], statuses):
        digest.update(np.ascontiguousarray(part).data)
    return digest.digest()


def _blob(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def _put(group: Any, name: str, array: NDArray[Any]) -> None:
    allocate_contiguous(group.id, name, array.shape, array.dtype)
    if array.size:
        group[name][...] = array


def _put_features(
    group: Any, name: str, reader: CutReader, slots: NDArray[np.int64], codec: Codec | None
) -> None:
    layout: CutLayout = reader.layout
    if codec is not None and len(slots) and layout.row_bytes <= LARGEST_ROW_BYTES:
        _put_compressed(group, name, reader, slots, codec)
        return
    allocate_contiguous(group.id, name, (len(slots), *layout.shape), layout.dtype)
    step = max(1, _BLOCK_BYTES // layout.row_bytes)
    for start in range(0, len(slots), step):
        part = slots[start : start + step]
        block = np.empty((len(part), *layout.shape), layout.dtype)
        reader.gather(part, block)
        group[name][start : start + len(part)] = block


def _put_compressed(group: Any, name: str, reader: CutReader, slots: NDArray[np.int64], codec: Codec) -> None:
    layout, encode = reader.layout, encoder(codec)
    step = chunk_rows(layout.row_bytes, len(slots))
    dataset = allocate_chunks(group.id, name, (len(slots), *layout.shape), layout.dtype, step, codec)
    for start in range(0, len(slots), step):
        part = slots[start : start + step]
        block = np.zeros((step, *layout.shape), layout.dtype)  # the last chunk is as long as the others
        reader.gather(part, block[: len(part)])
        dataset.write_direct_chunk((start, *[0] * len(layout.shape)), encode(block))


if __name__ == "__main__":
    write_pack(
        Bank.open(sys.argv[1], check="size"),
        Path(sys.argv[2]),
        codec_named(sys.argv[3]) if sys.argv[3:] else None,
    )
