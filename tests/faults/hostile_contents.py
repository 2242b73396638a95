"""Packed files made to do harm by what they say: values, documents, digests; each breaks one rule."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import headers
import made_bank
import numpy as np
from hostile_cases import in_pack

F = "features/block5_pool"


def _edit_json(data: bytes, name: str, **changes: Any) -> bytes:
    document = json.loads(headers.bytes_in(data, name))
    return headers.with_bytes(data, name, made_bank.resealed({**document, **changes}))


def _forged_manifest(data: bytes, name: str, row: int, value: int) -> bytes:
    manifest = headers.bytes_in(data, "bank/manifest")
    return headers.with_bytes(
        data, "bank/manifest", headers.with_array(manifest, name, lambda one: one.__setitem__(row, value))
    )


@in_pack("is not what was packed")
def other_features(data: bytes) -> bytes:
    return headers.with_array(data, F, lambda one: one.__setitem__(3, 1))


@in_pack("are not those of its manifest")
def other_labels_for_other_readers(data: bytes) -> bytes:
    return headers.with_array(data, "labels", lambda one: one.__setitem__(0, 1 - one[0]))


@in_pack("cannot be taken in")
def deeply_nested_json(data: bytes) -> bytes:
    return headers.with_bytes(data, "bank/bank_json", b"[" * 200_000 + b"]" * 200_000)


@in_pack("more than 1048576")
def endless_json(data: bytes) -> bytes:
    return headers.with_bytes(data, "bank/bank_json", b'{"a":"' + b"x" * 2_000_000 + b'"}')


@in_pack("numbers of its shards make no sense")
def a_billion_shards(data: bytes) -> bytes:
    return _edit_json(data, "bank/cuts/logits/cut_json", shards=[[0, 10**12]])


@in_pack("cannot name a folder")
def dataset_that_goes_up(data: bytes) -> bytes:
    changed = _edit_json(data, "bank/bank_json", dataset="../../../evil")
    return headers.forged(changed, lambda document: document["facts"].update(dataset="../../../evil"))


@in_pack("none of features")
def objects_for_features(data: bytes) -> bytes:
    return _edit_json(data, "bank/cuts/logits/cut_json", dtype="O")


@in_pack("a fact 'precision_error'")
def text_where_a_number_is_shown(data: bytes) -> bytes:
    return _edit_json(data, "bank/cuts/logits/cut_json", facts={"precision_error": "\x1b[31m"})


@in_pack("says of itself what is not so: max_abs")
def facts_that_lie(data: bytes) -> bytes:
    return _edit_json(data, "bank/cuts/logits/cut_json", facts={"max_abs": 1.0})


@in_pack("do not match its own sha256")
def manifest_damaged(data: bytes) -> bytes:
    return headers.with_array(data, "bank/manifest", lambda one: one.__setitem__(700, one[700] ^ 1))


@in_pack("row_slots do not hold together")
def row_that_points_outside(data: bytes) -> bytes:
    return _forged_manifest(data, "row_slots", 0, 10**9)


@in_pack("row_slots do not hold together")
def row_that_points_before(data: bytes) -> bytes:
    return _forged_manifest(data, "row_slots", 0, -3)


@in_pack("id_offsets do not hold together")
def ids_that_overlap(data: bytes) -> bytes:
    return _forged_manifest(data, "id_offsets", 2, -50)


@in_pack("labels do not hold together")
def label_without_a_class(data: bytes) -> bytes:
    return _forged_manifest(data, "labels", 0, 99)


@in_pack("statuses do not hold together")
def status_that_does_not_exist(data: bytes) -> bytes:
    return _forged_manifest(data, "slot_statuses", 0, 9)


@in_pack("is not what was packed")
def rows_of_other_images(data: bytes) -> bytes:
    return _forged_manifest(data, "slot_digests", 5, 7)


@in_pack("an id stands twice")
def an_id_twice(data: bytes) -> bytes:
    def change(ids: Any) -> None:
        ids[10 * 2 : 10 * 3] = ids[:10]

    manifest = headers.bytes_in(data, "bank/manifest")
    return headers.with_bytes(data, "bank/manifest", headers.with_array(manifest, "ids", change))


@in_pack("no finite numbers")
def features_that_are_no_numbers(data: bytes) -> bytes:
    data = headers.with_array(data, "features/logits", lambda one: one.__setitem__((0, 0), np.nan))
    return _with_true_digests(data, "logits")


def _with_true_digests(data: bytes, cut: str) -> bytes:
    """Put the digests of the shards right, as somebody who packs such features would."""
    arrays, inner = headers.header_of(data)["arrays"], f"bank/cuts/{cut}/"

    def array(name: str) -> Any:
        dtype, shape, offset = arrays[name]
        return np.frombuffer(data, dtype, int(np.prod(shape)), offset).reshape(shape)

    rows = np.concatenate([array(inner + "extra_features"), array(f"features/{cut}")])
    images = b"".join(hashlib.sha256(f"image {i}".encode()).digest() for i in range(len(rows)))
    digests = np.frombuffer(images, np.uint8).reshape(-1, 32)
    statuses = array(inner + "slot_statuses")
    step = json.loads(headers.bytes_in(data, inner + "cut_json"))["shard_rows"]
    parts = [slice(start, start + step) for start in range(0, len(rows), step)]
    true = [
        hashlib.sha256(rows[p].tobytes() + digests[p].tobytes() + statuses[p].tobytes()).digest()
        for p in parts
    ]
    return headers.with_array(
        data,
        inner + "shard_sha256",
        lambda one: np.frombuffer(b"".join(true), np.uint8).reshape(one.shape),
    )
