"""Weights files made to do harm, and what must be said of each."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

State = dict[str, Tensor]
Maker = Callable[[State, Path], bytes]


def header(entries: Any, data: bytes = b"", n_header: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if n_header is None else n_header) + text + data


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def edited(state: State, edit: Callable[[dict[str, Any]], None]) -> bytes:
    """A whole safetensors file whose header was changed."""
    data = save(state)
    size = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8 : 8 + size])
    edit(entries)
    return header(entries, data[8 + size :])


def dtype_lie(entries: dict[str, Any]) -> None:
    entries["features.0.weight"]["dtype"] = "F64"


SAFETENSORS: dict[str, tuple[Maker, str]] = {
    "nothing": (lambda s, p: b"", "its header would have 0 bytes, the file has 0"),
    "length-2-to-63": (
        lambda s, p: header({}, n_header=1 << 63),
        "its header would have 9223372036854775808 bytes, the file has 10",
    ),
    "length-past-the-end": (
        lambda s, p: header({}, n_header=3),
        "its header would have 3 bytes, the file has 10",
    ),
    "header-too-large": (
        lambda s, p: header(b" " * (17 << 20)),
        "its header has 17825792 bytes, 16777216 are",
    ),
    "no-json": (lambda s, p: header(b"\xff{]"), "its header is not JSON"),
    "deep-json": (lambda s, p: header(b"[" * 200_000), "its header is not JSON"),
    "a-list": (lambda s, p: header([1]), "its header is no JSON object"),
    "a-name-twice": (
        lambda s, p: header(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            bytes(8),
        ),
        "its header has 'a' twice",
    ),
    "overlap": (
        lambda s, p: header({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
        "tensor 'b' overlaps the one before it (bytes 4 to 12, 8 expected)",
    ),
    "the-same-bytes-often": (
        lambda s, p: header({str(n): entry() for n in range(1000)}, bytes(8)),
        "overlaps the one before it",
    ),
    "hole": (
        lambda s, p: header({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
        "tensor 'b' leaves a hole before it (bytes 12 to 20, 8 expected)",
    ),
    "tail": (lambda s, p: save(s) + b"#!/bin/sh\n", "its tensors end at byte"),
    "truncated": (lambda s, p: save(s)[:-7], "its tensors end at byte"),
    "dtype-lie": (
        lambda s, p: edited(s, dtype_lie),
        "tensor 'features.0.weight' of shape (32, 3, 3, 3) needs 6912 bytes and has 3456",
    ),
    "unknown-dtype": (
        lambda s, p: header({"a": entry("F8_E4M3")}, bytes(8)),
        "tensor 'a' is of type 'F8_E4M3'; F64,",
    ),
    "shape-below-0": (
        lambda s, p: header({"a": entry(shape=(-1, -2))}, bytes(8)),
        "tensor 'a' has the shape [-1, -2]",
    ),
    "shape-of-booleans": (
        lambda s, p: header({"a": entry(shape=(True,))}, bytes(8)),
        "tensor 'a' has the shape [True]",
    ),
    "shape-too-large": (
        lambda s, p: header({"a": entry(shape=(1 << 40, 1 << 40))}, bytes(8)),
        "needs 4835703278458516698824704 bytes and has 8",
    ),
    "sixty-dimensions": (
        lambda s, p: header({"a": entry(shape=[1] * 60)}, bytes(8)),
        "tensor 'a' has the shape [1, 1",
    ),
    "offsets-backwards": (
        lambda s, p: header({"a": entry(offsets=(8, 0))}, bytes(8)),
        "tensor 'a' of shape (2,) needs 8 bytes and has -8",
    ),
    "not-described": (lambda s, p: header({"a": 3}), "its header does not describe tensor 'a'"),
    "too-many-tensors": (
        lambda s, p: header({str(n): entry(shape=(0,), offsets=(0, 0)) for n in range(20_001)}),
        "it lists 20001 tensors, 20000 are the most",
    ),
    "an-archive": (lambda s, p: torched(s), "its header would have"),
    "wrong-shape": (
        lambda s, p: save({**s, "classifier.0.bias": torch.zeros(3, 3)}),
        "do not fit 'minivgg': 1 of another shape",
    ),
    "another-name": (
        lambda s, p: save({**s, "features.99.bias": torch.zeros(3)}),
        "do not fit 'minivgg': 1 unexpected",
    ),
}


def torched(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


class Call:
    """Pickles as a call of whatever it is given."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def runs(state: State, folder: Path) -> Call:
    return Call(os.mkdir, str(folder / "canary"))


def archive_of(
    data: bytes, change: Callable[[zipfile.ZipFile], None] = lambda archive: None, **replaced: bytes
) -> bytes:
    """Write an archive again, with some entries replaced, and its list of entries changed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for one in old.infolist():
            short = one.filename.partition("/")[2]
            new.writestr(one.filename, replaced.pop(short.replace("/", "_").replace(".", "_"), old.read(one)))
        for name, content in replaced.items():
            new.writestr(f"archive/{name}", content)
        change(new)
    return file.getvalue()


def shared_bytes(archive: zipfile.ZipFile) -> None:
    """List one entry under many names, as zip bombs do."""
    one = archive.getinfo("archive/data/0")
    for number in range(900, 1000):
        twin = copy.copy(one)
        twin.filename = f"archive/data/{number}"
        archive.filelist.append(twin)


def other_names(archive: zipfile.ZipFile) -> None:
    archive.getinfo("archive/data/0").filename = "archive/data/7777"


def twice(archive: zipfile.ZipFile) -> None:
    archive.filelist.append(copy.copy(archive.filelist[0]))


def script(state: State, folder: Path) -> bytes:
    names = ["a/data.pkl", "a/constants.pkl", "a/code/__torch__.py", "a/version"]
    return plain_zip(*names)


def plain_zip(*names: str, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name in names:
            archive.writestr(name, b"0" * 100)
    return file.getvalue()


def memo_bomb(state: State, folder: Path) -> bytes:
    """The unpickler in C would reserve a table of four thousand million places for this memo number."""
    return archive_of(torched(state), data_pkl=b"\x80\x02}r\xff\xff\xff\x7f.")


ASKS = "cannot be read safely as tensors (it asks for {!r}, which no plain state dict needs)"
MKDIR = ASKS.format(f"{os.mkdir.__module__}.mkdir")
LEGACY = (
    "is not a zip archive, so it is damaged or a pickle in the format before torch 1.6, which can run code"
)
ARCHIVES: dict[str, tuple[Maker, str]] = {
    "runs-code": (lambda s, p: torched({"state_dict": s, "more": runs(s, p)}), MKDIR),
    "is-code": (lambda s, p: torched(runs(s, p)), MKDIR),
    "reads-a-file": (
        lambda s, p: torched({**s, "a": Call(open, str(p / "secret"))}),
        ASKS.format(f"{open.__module__}.open"),
    ),
    "code-as-a-key": (lambda s, p: torched({runs(s, p): s}), MKDIR),
    "legacy": (lambda s, p: torched(s, _use_new_zipfile_serialization=False), LEGACY),
    "legacy-code": (lambda s, p: torched(runs(s, p), _use_new_zipfile_serialization=False), LEGACY),
    "plain-pickle": (lambda s, p: pickle.dumps(runs(s, p)), LEGACY),
    "pickle-before-archive": (lambda s, p: pickle.dumps(runs(s, p)) + torched(s), LEGACY),
    "nothing": (lambda s, p: b"", LEGACY),
    "safetensors": (lambda s, p: save(s), LEGACY),
    "archive-before-archive": (
        lambda s, p: plain_zip("a/x") + torched(s),
        "is a zip archive with something before it",
    ),
    "torchscript": (script, "is a TorchScript program, not weights"),
    "exported": (
        lambda s, p: plain_zip("e/data/weights/weight_0", "e/models/model.json", "e/archive_format"),
        "is an exported program (.pt2), not weights",
    ),
    "no-weights": (lambda s, p: plain_zip("a/readme.txt"), "is a zip archive without weights in it"),
    "more-than-weights": (
        lambda s, p: archive_of(torched(s), **{"run.sh": b"x"}),
        "is a zip archive with more than weights in it ('archive/run.sh')",
    ),
    "outside-its-folder": (
        lambda s, p: plain_zip("a/data.pkl", "a/../../data/1"),
        "is a zip archive with more than weights in it ('a/../../data/1')",
    ),
    "compressed": (
        lambda s, p: plain_zip("a/data.pkl", compression=zipfile.ZIP_DEFLATED),
        "is a compressed archive, which torch never writes",
    ),
    "entries-that-overlap": (
        lambda s, p: archive_of(torched(s), shared_bytes),
        "is a zip archive whose entries overlap, at 'archive/data/",
    ),
    "two-lists-that-differ": (
        lambda s, p: archive_of(torched(s), other_names),
        "is a zip archive whose two lists of entries differ, at 'archive/data/7777'",
    ),
    "one-name-twice": (
        lambda s, p: archive_of(torched(s), twice),
        "is a zip archive with two entries of one name",
    ),
    "cut-off": (lambda s, p: torched(s)[:-1000], LEGACY),
    "storage-too-small": (
        lambda s, p: archive_of(torched(s), data_0=b"12"),
        "has a storage '0' of 2 bytes that should have 3456",
    ),
    "repeated-view": (
        lambda s, p: torched({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}),
        "has a tensor of shape (1048576, 1048576) in a storage of 1 numbers",
    ),
    "no-storage": (
        lambda s, p: torched({"a": torch.empty(1 << 50, device="meta")}),
        ASKS.format("torch._utils._rebuild_meta_tensor_no_storage"),
    ),
    "terabyte-of-bytes": (
        lambda s, p: torched({**s, "a": Call(bytearray, 1 << 40)}),
        ASKS.format("__builtin__.bytearray"),
    ),
    "terabyte-of-floats": (
        lambda s, p: torched({**s, "a": Call(torch.FloatTensor, 1 << 40)}),
        ASKS.format("torch.FloatTensor"),
    ),
    "complex": (
        lambda s, p: torched({**s, "a": torch.zeros(2, dtype=torch.complex64)}),
        ASKS.format("torch.ComplexFloatStorage"),
    ),
    "memo-bomb": (memo_bomb, "holds nothing instead of a state dict"),
    "no-pickle": (
        lambda s, p: archive_of(torched(s), data_pkl=b"garbage"),
        "cannot be read safely as tensors (",
    ),
    "wrong-shape": (
        lambda s, p: torched({**s, "classifier.0.bias": torch.zeros(3, 3)}),
        "do not fit 'minivgg': 1 of another shape",
    ),
}
