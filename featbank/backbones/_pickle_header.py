"""What a ``.pth`` archive says it holds, found out without running or reading what is in it.

torch.load(weights_only=True) refuses code, but calls a good many constructors with whatever arguments a file
gives, and has been broken before (CVE-2025-32434, CVE-2026-24747). So the pickle is first walked here with
stand-ins: the few names that a plain state dict needs build descriptions, every other name ends it.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from featbank.backbones._safetensors_header import MAX_TENSORS, HeaderError

__all__ = ["describe_archive"]

_MAX_PICKLE_BYTES = 16 << 20
_MAX_DIMS = 8
_ENTRY = re.compile(
    r"[^/]+/(data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id|data/\d+)"
)
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    n_items: int


def describe_archive(file: BinaryIO, size_bytes: int) -> Any:
    """Walk a ``.pth`` file.

    Parameters
    ----------
    file : binary file
        Open for reading, anywhere.
    size_bytes : int
        Of the whole file.

    Returns
    -------
    object
        What `torch.load` would give, with tensors on the meta device in the place of tensors.

    Raises
    ------
    HeaderError
        If the file is no archive of plain tensors, or claims what cannot be.
    """
    file.seek(0)
    # torch goes by the first bytes, zipfile by the last: only where both see an archive is it one.
    if file.read(4) != b"PK\x03\x04" or not zipfile.is_zipfile(file):
        raise HeaderError(
            "is not a zip archive, so it is damaged or a pickle in the format before torch 1.6, "
            "which can run code"
        )
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            _check_entries(archive, entries, size_bytes)
            (name,) = (name for name in entries if name.endswith("/data.pkl"))
            content = archive.read(name)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise HeaderError(f"is a damaged zip archive ({error})") from error
    folder = name.removesuffix("data.pkl")
    sizes = {one.removeprefix(folder): entry.file_size for one, entry in entries.items()}
    return _described(content, sizes)


def _check_entries(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], size_bytes: int) -> None:
    names = list(entries)
    if len(archive.infolist()) != len(names):
        raise HeaderError("is a zip archive with two entries of one name")
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        raise HeaderError("is a TorchScript program, not weights")
    if any(name.endswith(("/archive_format", "/models/model.json")) for name in names):
        raise HeaderError("is an exported program (.pt2), not weights")
    if sum(name.endswith("/data.pkl") for name in names) != 1:
        raise HeaderError("is a zip archive without weights in it")
    strange = [name for name in names if not _ENTRY.fullmatch(name)]
    if strange or len({name.partition("/")[0] for name in names}) != 1:
        raise HeaderError(f"is a zip archive with more than weights in it ({(strange or names)[0][:100]!r})")
    if len(names) > MAX_TENSORS + 10:
        raise HeaderError(f"is a zip archive of {len(names)} entries, {MAX_TENSORS + 10} are the most")
    for name, entry in entries.items():
        # torch stores; a compressed entry may unfold to any size.
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise HeaderError("is a compressed archive, which torch never writes")
        if entry.flag_bits & 0x1:
            raise HeaderError(f"is an encrypted archive, at {name!r}")
        if name.endswith("/data.pkl") and entry.file_size > _MAX_PICKLE_BYTES:
            raise HeaderError(f"has a list of {entry.file_size} bytes, {_MAX_PICKLE_BYTES} are the most")
    _check_places(archive, entries, size_bytes)


def _check_places(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], size_bytes: int) -> None:
    """Entries that share bytes would add up to more than the file, which is how a zip bomb is stored."""
    file, at = archive.fp, 0
    if min(entry.header_offset for entry in entries.values()) != 0:
        raise HeaderError("is a zip archive with something before it")
    for name, entry in sorted(entries.items(), key=lambda item: item[1].header_offset):
        if file is None or entry.header_offset < at:
            raise HeaderError(f"is a zip archive whose entries overlap, at {name!r}")
        file.seek(entry.header_offset)
        head = file.read(_LOCAL_HEADER.size)
        if len(head) < _LOCAL_HEADER.size:
            raise HeaderError(f"is a damaged zip archive, at {name!r}")
        magic, n_name, n_extra = _LOCAL_HEADER.unpack(head)
        if magic != b"PK\x03\x04" or file.read(n_name) != name.encode():
            raise HeaderError(f"is a zip archive whose two lists of entries differ, at {name!r}")
        at = entry.header_offset + _LOCAL_HEADER.size + n_name + n_extra + entry.file_size
    if at > size_bytes:
        raise HeaderError("is a zip archive that claims more bytes than it has")


def _described(content: bytes, sizes: dict[str, int]) -> Any:
    walker = _Walker(content, sizes)
    try:
        return walker.load()
    except HeaderError:
        raise
    except Exception as error:  # a pickle may go wrong in any way
        raise HeaderError(f"cannot be read safely as tensors ({type(error).__name__}: {error})") from error


# The walker in Python, not the faster one in C: that one reserves memory for any memo number a file names.
class _Walker(pickle._Unpickler):
    """Builds descriptions; knows no other names than those of `_known`."""

    def __init__(self, content: bytes, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self._sizes = sizes
        self._n_tensors = 0
        # One tensor under two names is one here too.
        self._made: dict[tuple[Any, ...], Tensor] = {}
        # Anew for each file: a pickle can hang attributes on whatever it is given.
        self._known: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            # what training loops keep beside the weights; it is walked over
            "collections.Counter": self._callable(Counter),
            "builtins.set": self._callable(set),
            "__builtin__.set": self._callable(set),
            "argparse.Namespace": type("_Settings", (), {"__setstate__": lambda self, state: None}),
            "torch._utils._rebuild_tensor_v2": self._callable(self._tensor),
            "torch._utils._rebuild_parameter": self._callable(self._parameter),
            "torch.Size": self._callable(self._shape),
            **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
        }

    @staticmethod
    def _callable(method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: method(*arguments)

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        if name not in self._known:
            raise HeaderError(
                f"cannot be read safely as tensors (it asks for {name[:100]!r}, "
                "which no plain state dict needs)"
            )
        return self._known[name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, n_items = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(n_items) is not int:
            raise HeaderError(f"names a storage that is none ({pid!r:.100})")
        held = self._sizes.get(f"data/{key}")
        wanted = n_items * dtype.itemsize
        if held != wanted:
            raise HeaderError(f"has a storage {key!r:.40} of {held} bytes that should have {wanted}")
        return _Storage(str(key), dtype, n_items)

    def _tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Tensor:
        del rest  # whether a gradient is wanted, hooks
        self._n_tensors += 1
        if self._n_tensors > MAX_TENSORS:
            raise HeaderError(f"has more than {MAX_TENSORS} tensors")
        numbers = (offset, *self._shape(shape), *self._shape(stride))
        if not isinstance(storage, _Storage) or any(type(one) is not int or one < 0 for one in numbers):
            raise HeaderError("has a tensor that is none")
        n_items = math.prod(shape)
        last = (
            offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
            if n_items
            else 0
        )
        # A view may repeat a few bytes as often as it likes; a plain tensor does not.
        if n_items > storage.n_items or last >= max(storage.n_items, 1):
            raise HeaderError(
                f"has a tensor of shape {tuple(shape)} in a storage of {storage.n_items} numbers"
            )
        same = (storage.key, offset, tuple(shape), tuple(stride))
        if same not in self._made:
            self._made[same] = torch.empty(tuple(shape), dtype=storage.dtype, device="meta")
        return self._made[same]

    def _parameter(self, tensor: Any, *rest: Any) -> Tensor:
        del rest
        if not isinstance(tensor, Tensor):
            raise HeaderError("has a parameter that is none")
        return tensor

    def _shape(self, sizes: Any) -> tuple[int, ...]:
        if not isinstance(sizes, (tuple, list)) or len(sizes) > _MAX_DIMS:
            raise HeaderError(f"has a tensor of the shape {sizes!r:.80}")
        return tuple(sizes)
