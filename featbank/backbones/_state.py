"""Read a weights file nobody vouches for, and find a backbone's tensors in it before building one."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import pickle
import re
import struct
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from featbank.backbones.families import BackboneSpec, build_on_meta
from featbank.errors import WeightsError, one_line

__all__ = [
    "MAX_TENSORS",
    "Choice",
    "HeaderError",
    "StateFile",
    "choose",
    "describe_archive",
    "describe_safetensors",
    "read_state",
    "tell_choice",
]

logger = logging.getLogger(__name__)

# What a safetensors file says it holds, checked against its size before one tensor is read ----------

#: Thousands of times what torchvision's largest network has, and still parsed at once.
_MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 20_000
_MAX_DIMS = 8
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_METADATA = "__metadata__"


class HeaderError(ValueError):
    """The file contradicts itself, or claims more than is allowed; the text says how."""


def describe_safetensors(file: BinaryIO, size_bytes: int) -> dict[str, Tensor]:
    """Read the header of a safetensors file.

    Parameters
    ----------
    file : binary file
        At its beginning.
    size_bytes : int
        Of the whole file.

    Returns
    -------
    dict of str to Tensor
        Shapes and dtypes, on the meta device.

    Raises
    ------
    HeaderError
        If the header is no such header, or its tensors do not cover the rest of the file exactly: without
        holes, overlaps, or bytes that belong to nobody.
    """
    head = file.read(8)
    n_header = int.from_bytes(head, "little")
    if len(head) < 8 or n_header > size_bytes - 8:
        raise HeaderError(f"its header would have {n_header} bytes, the file has {size_bytes}")
    if n_header > _MAX_HEADER_BYTES:
        raise HeaderError(f"its header has {n_header} bytes, {_MAX_HEADER_BYTES} are the most")
    try:
        header = json.loads(file.read(n_header), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, HeaderError) else HeaderError("its header is not JSON") from error
    if not isinstance(header, dict):
        raise HeaderError("its header is no JSON object")
    header.pop(_METADATA, None)
    if len(header) > MAX_TENSORS:
        raise HeaderError(f"it lists {len(header)} tensors, {MAX_TENSORS} are the most")
    parts = {name: _part(name, entry) for name, entry in header.items()}
    _check_cover(parts, size_bytes - 8 - n_header)
    return {
        name: torch.empty(shape, dtype=dtype, device="meta") for name, (_, _, shape, dtype) in parts.items()
    }


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise HeaderError(f"its header has {twice[:100]!r} twice")
    return found


def _part(name: str, entry: Any) -> tuple[int, int, tuple[int, ...], torch.dtype]:
    """Return begin, end, shape and dtype of one tensor."""
    shown = repr(name[:100])
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(f"its header does not describe tensor {shown}")
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise HeaderError(f"tensor {shown} is of type {entry['dtype']!r:.40}; {', '.join(_DTYPES)} are read")
    if not _is_sizes(entry["shape"]) or len(entry["shape"]) > _MAX_DIMS:
        raise HeaderError(f"tensor {shown} has the shape {entry['shape']!r:.80}")
    if not _is_sizes(entry["data_offsets"]) or len(entry["data_offsets"]) != 2:
        raise HeaderError(f"tensor {shown} has the offsets {entry['data_offsets']!r:.80}")
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    wanted = math.prod(shape) * dtype.itemsize
    if end - begin != wanted:
        raise HeaderError(f"tensor {shown} of shape {shape} needs {wanted} bytes and has {end - begin}")
    return begin, end, shape, dtype


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 62 for one in value)


def _check_cover(parts: dict[str, tuple[int, int, tuple[int, ...], torch.dtype]], n_bytes: int) -> None:
    at = 0
    for name, (begin, end, _, _) in sorted(parts.items(), key=lambda item: item[1][:2]):
        if begin != at:
            fault = "overlaps the one before it" if begin < at else "leaves a hole before it"
            raise HeaderError(f"tensor {name[:100]!r} {fault} (bytes {begin} to {end}, {at} expected)")
        at = end
    if at != n_bytes:
        raise HeaderError(f"its tensors end at byte {at}, its data at {n_bytes}")


# What a ``.pth`` archive says it holds, found out without running or reading what is in it ------------
#
# torch.load(weights_only=True) refuses code, but calls a good many constructors with whatever arguments a
# file gives, and has been broken before (CVE-2025-32434, CVE-2026-24747). So the pickle is first walked here
# with stand-ins: the few names that a plain state dict needs build descriptions, every other name ends it.

_MAX_PICKLE_BYTES = 16 << 20
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


#: How deep wrappers are looked into.
_DEEPEST = 6
#: Layers that wrap others without doing anything, at any depth of a name: DataParallel, torch.compile, ...
_TRANSPARENT = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
#: What methods with two encoders call the one that follows the other, and that they do not evaluate.
_FOLLOWERS = frozenset(
    {
        "encoder_k",
        "key_encoder",
        "momentum_encoder",
        "momentum_backbone",
        "backbone_momentum",
        "target_encoder",
        "target_network",
        "target_net",
        "target_backbone",
    }
)
#: How many prefixes are looked at closely.
_MOST_PREFIXES = 16
_DENSENET_OLD = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$"
)
_ADVICE = "save it again with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"


# A backbone's tensors among those of a file ----------------------------------------------------------


@dataclass(frozen=True)
class StateFile:
    """A backbone's tensors from a weights file, float32 where they were any kind of float.

    Parameters
    ----------
    tensors : dict of str to Tensor
        By the backbone's names; on the CPU, finite, memory of their own.
    choice : Choice
        Where in the file they were.
    class_names : tuple of str or None
        From the ``classes`` entry (a JSON list) of a safetensors file's metadata.
    """

    tensors: OrderedDict[str, Tensor]
    choice: Choice
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Choice:
    """The tensors of a file that are a backbone's.

    Parameters
    ----------
    prefix : str
        What stands before the backbone's names, wrappers of the file among it, such as
        ``"state_dict.encoder_q."``.
    names : mapping of str to str
        The backbone's name of each tensor -> the file's.
    absent : tuple of str
        Tensors of the classifier that the file has not got, or of another size.
    left_out : tuple of str
        Names of the file, under the same prefix, that the backbone has no use for.
    passed_over : tuple of str
        Prefixes of other networks in the file that fit too.
    n_classes : int
        Number of logits the tensors were made for; the backbone's own where they do not say.
    is_default : bool
        Whether the file is read like this when nobody chooses.
    """

    prefix: str
    names: Mapping[str, str]
    absent: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    n_classes: int = 0
    is_default: bool = True


def read_state(
    path: Path,
    spec: BackboneSpec,
    *,
    index: Mapping[str, str] = MappingProxyType({}),
    key: str | None = None,
    trusted: bool = False,
    candidates: Iterable[BackboneSpec] = (),
    image_size: int | None = None,
) -> StateFile:
    """Read the tensors of a backbone from a weights file.

    What the file lists is checked, names, shapes and kinds, before anything else of it is read.

    Parameters
    ----------
    path : pathlib.Path
        A safetensors file or the index of several, by its suffix; any other is read as torch's own format.
    spec : BackboneSpec
        Whose tensors.
    index : mapping of str to str
        Tensor -> file beside `path`, where that is the index of several.
    key : str, optional
        Which of several networks in the file, see `choose`.
    trusted : bool, default=False
        True where the file's digest is that of a file torchvision published; those may use the pickle
        format torch wrote before 2020.
    candidates : iterable of BackboneSpec
        Backbones to try when they do not fit, for a hint.
    image_size : int, optional
        Side of the square input in pixels; decides the position table of a vision transformer.

    Returns
    -------
    StateFile

    Raises
    ------
    WeightsError
        If the file is of another kind, damaged, not safe to read, another architecture's, or holds NaN or
        infinity in what is taken.
    """
    class_names = None
    described: dict[str, Tensor] | None = None
    versions: dict[str, Any] = {}
    chosen = partial(choose, spec, path=path, key=key, candidates=candidates, image_size=image_size)
    if index or path.name.endswith(".safetensors"):
        parts = [path.with_name(name) for name in sorted(set(index.values()))] or [path]
        described = _described_safetensors(path, parts, index)
        choice = chosen(described)
        raw, class_names = _read_safetensors(parts)
    else:
        with path.open("rb") as file:
            if not trusted:
                described = _flat(_described_archive(path, file, os.fstat(file.fileno()).st_size), path)[0]
                choice = chosen(described)
            raw, versions = _flat(_read_pickle(path, file), path)
    if described is None:
        choice = chosen(raw)
    elif _facts(described) != _facts(raw):
        raise WeightsError(
            f"weights file {str(path)!r} holds other tensors than it lists; get the file again"
        )
    tensors = OrderedDict((name, _plain(name, raw[at], path)) for name, at in choice.names.items())
    # Some of torchvision's networks read the version of their layout from here.
    tensors._metadata = {  # type: ignore[attr-defined]
        inside.removeprefix(choice.prefix).rstrip("."): version
        for at, version in versions.items()
        if (inside := f"{_short(at)}.".lstrip(".")).startswith(choice.prefix)
    }
    return StateFile(tensors, choice, class_names)


def _facts(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _described_safetensors(path: Path, parts: Sequence[Path], index: Mapping[str, str]) -> dict[str, Tensor]:
    described: dict[str, Tensor] = {}
    for part in parts:
        with part.open("rb") as file:
            try:
                found = describe_safetensors(file, os.fstat(file.fileno()).st_size)
            except HeaderError as error:
                raise WeightsError(
                    f"weights file {str(part)!r} is no whole safetensors file: {error}"
                ) from error
        wrong = [name for name in found if index and index.get(name) != part.name]
        if wrong:
            raise WeightsError(
                f"weights file {str(part)!r} holds {_some(wrong)}, which "
                f"{path.name!r} does not say; get both again"
            )
        described |= found
    lost = sorted(set(index) - set(described))
    if lost:
        raise WeightsError(
            f"weights file {str(path)!r} lists {_some(lost)}, which its files do not hold; get them again"
        )
    return described


def _described_archive(path: Path, file: BinaryIO, size_bytes: int) -> Any:
    try:
        return describe_archive(file, size_bytes)
    except HeaderError as error:
        raise WeightsError(f"weights file {str(path)!r} {error}; {_ADVICE}") from error


def _read_safetensors(parts: Sequence[Path]) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    facts: dict[str, str] = {}
    for part in parts:
        try:
            tensors |= load_file(part)
            with safe_open(part, framework="pt") as file:
                facts |= file.metadata() or {}
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"weights file {str(part)!r} is no whole safetensors file: {one_line(error, first=True)}"
            ) from error
    try:
        names = json.loads(facts.get("classes", "null"))
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        names = None
    return tensors, None if names is None else tuple(names)


def _read_pickle(path: Path, file: BinaryIO) -> Any:
    try:
        file.seek(0)
        with torch.serialization.safe_globals([Namespace]):  # a bag of settings; nothing happens in making it
            return torch.load(file, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        OSError,
    ) as error:
        raise WeightsError(
            f"weights file {str(path)!r} cannot be read safely as tensors ({one_line(error, first=True)}); "
            f"{_ADVICE}"
        ) from error


def _flat(raw: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return all tensors of nested mappings by their dotted names, and the versions of their layouts."""
    tensors: dict[str, Tensor] = {}
    versions: dict[str, Any] = {}
    seen: set[int] = set()  # a pickle can hang a mapping into itself
    todo: list[tuple[tuple[str, ...], Any]] = [((), raw)]
    while todo:
        names, value = todo.pop()
        if isinstance(value, Tensor):
            tensors.setdefault(".".join(names), value)
        elif isinstance(value, Mapping) and len(names) < _DEEPEST and id(value) not in seen:
            seen.add(id(value))
            todo += [
                ((*names, key), one) for key, one in reversed(list(value.items())) if isinstance(key, str)
            ]
            said = getattr(value, "_metadata", None)
            if isinstance(said, Mapping):
                versions |= {".".join(filter(None, (*names, str(key)))): one for key, one in said.items()}
    if not tensors:
        found = "nothing" if isinstance(raw, Mapping) and not raw else f"a {type(raw).__name__}"
        if isinstance(raw, Mapping) and raw:
            found = f"no tensor ({_some(list(raw))})"
        raise WeightsError(f"weights file {str(path)!r} holds {found} instead of a state dict; {_ADVICE}")
    return tensors, versions


def _short(name: str) -> str:
    """Return a name without the layers that only wrap others."""
    return ".".join(part for part in name.split(".") if part not in _TRANSPARENT)


def _plain(name: str, tensor: Tensor, path: Path) -> Tensor:
    odd = tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex()
    if odd or type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.device.type != "cpu":
        raise WeightsError(f"weights file {str(path)!r}: tensor {name!r} is no plain dense tensor; {_ADVICE}")
    if not tensor.is_floating_point():
        return tensor.detach().clone()
    # A copy in any case: the file may be mapped, and may change under us.
    plain = tensor.detach().to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    if not bool(torch.isfinite(plain).all()):
        raise WeightsError(
            f"weights file {str(path)!r}: tensor {name!r} holds NaN or infinity; get the file again"
        )
    return plain


def tell_choice(spec: BackboneSpec, path: Path, choice: Choice) -> None:
    """Say what of a file was taken, and what was not."""
    if choice.prefix:
        logger.info("weights file %s: taking what is in %r", path, choice.prefix.rstrip("."))
    if choice.passed_over and choice.is_default:
        also = [one.rstrip(".") for one in choice.passed_over]
        logger.warning(
            "weights file %s holds %d networks that fit; taken is %r, not %s (FILE#%s takes that)",
            path,
            len(also) + 1,
            choice.prefix.rstrip("."),
            ", ".join(map(repr, also)),
            also[0],
        )
    others = choice.left_out
    if choice.absent:
        logger.warning(
            "weights file %s has no classifier of %s (%s%s): cuts that need it cannot be extracted",
            path,
            spec.name,
            _some(choice.absent),
            f"; {_some(others)} left out" if others else "",
        )
    elif others:
        logger.info("weights file %s: %d tensors left out (%s)", path, len(others), _some(others))


def _n_classes(spec: BackboneSpec, tensors: Mapping[str, Tensor]) -> int:
    """Return how many logits the tensors were made for; the backbone's own number where they do not say."""
    head = tensors.get(spec.head_key)
    return (
        int(head.shape[0]) if head is not None and head.ndim >= 1 and head.shape[0] >= 1 else spec.n_classes
    )


def choose(
    spec: BackboneSpec,
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    key: str | None = None,
    candidates: Iterable[BackboneSpec] = (),
    image_size: int | None = None,
) -> Choice:
    """Find a backbone's tensors among those of a file: by names that end alike, and shapes that are the same.

    Whatever stands before the names (wrappers, prefixes of trainers and of methods) is found, not looked up.
    The classifier may be absent or of another size: what needs it is refused when it is cut. Of two encoders
    one of which follows the other the one that leads is taken; other ties are for the user to break.

    Parameters
    ----------
    spec : BackboneSpec
        What the weights are meant for; only its shapes are built.
    tensors : mapping of str to Tensor
        Of the file, by their dotted names.
    path : pathlib.Path
        The file, for messages.
    key : str, optional
        A part of the prefix to take, such as ``"teacher"``; ``""`` for no prefix at all.
    candidates : iterable of BackboneSpec
        Backbones to try when they do not fit, for a hint.
    image_size : int, optional
        Side of the square input in pixels.

    Returns
    -------
    Choice

    Raises
    ------
    WeightsError
        If nothing fits, or several networks do.
    """
    fits, faults = _fits(spec, tensors, image_size)
    if not fits:
        hint = ""
        for other in candidates:
            if other.name != spec.name and _fits(other, tensors, None)[0]:
                hint = f"; they fit {other.name!r}: use --backbone {other.name}"
                break
        raise WeightsError(f"weights {str(path)!r} do not fit {spec.name!r}: {faults}{hint}")
    usual = _leading(fits, tensors)
    if key is None:
        asked = usual
    else:
        asked = _leading([one for one in fits if _has_part(one.prefix, _short(key))], tensors)
    if len(asked) != 1:
        ways = ", ".join(f"{path.name}#{one.prefix.rstrip('.')}" for one in asked or fits)
        many = f"{len(asked or fits)} networks that fit {spec.name!r}"
        which = "" if key is None else f", and {'more than one' if asked else 'none'} at {key!r}"
        raise WeightsError(f"weights file {str(path)!r} holds {many}{which}: choose with --weights {ways}")
    (found,) = asked
    others = tuple(one.prefix for one in fits if one.prefix != found.prefix)
    return replace(found, passed_over=others, is_default=[found] == usual)


def _leading(fits: list[Choice], tensors: Mapping[str, Tensor]) -> list[Choice]:
    """Leave out networks that follow another, and the same one under another name."""
    leaders = [one for one in fits if not _FOLLOWERS & set(one.prefix.split("."))] or fits
    different: dict[tuple[int, ...], Choice] = {}
    for one in leaders:
        different.setdefault(tuple(id(tensors[at]) for _, at in sorted(one.names.items())), one)
    return list(different.values())


def _has_part(prefix: str, key: str) -> bool:
    return f".{key}." in f".{prefix}" if key else not prefix


def _fits(
    spec: BackboneSpec, tensors: Mapping[str, Tensor], image_size: int | None
) -> tuple[list[Choice], str]:
    """Return the networks of a file that fit, and what is wrong with the one that comes nearest."""
    module = build_on_meta(spec, image_size=image_size)
    children = [name for name, child in module.named_children() if child.state_dict()]
    wanted: Mapping[str, Tensor] = module.state_dict()
    short: dict[str, str] = {}
    for name in tensors:
        as_today = _as_today(spec, _short(name))
        short[name if as_today in short else as_today] = name
    faults = ""
    # nn.Sequential(*network.children()) calls the children by their places.
    places = {str(place): name for place, (name, _) in enumerate(module.named_children())}
    for renamed in ({}, places):
        names = {_renamed(name, {new: old for old, new in renamed.items()}): name for name in wanted}
        fits = []
        for prefix in _prefixes(short, tensors, {name: wanted[one] for name, one in names.items()}):
            inside = {
                _renamed(name.removeprefix(prefix), renamed): at
                for name, at in short.items()
                if name.startswith(prefix)
            }
            found = _fit(spec, prefix, inside, tensors, wanted, children, image_size)
            if isinstance(found, Choice):
                fits.append(found)
            else:
                faults = faults or found
        if fits:
            return fits, ""
    return [], faults


def _renamed(name: str, children: Mapping[str, str]) -> str:
    first, dot, rest = name.partition(".")
    return f"{children.get(first, first)}{dot}{rest}"


def _as_today(spec: BackboneSpec, name: str) -> str:
    # Files published before torch 0.4 have dots in names that today's DenseNet writes without.
    old = _DENSENET_OLD.match(name) if spec.family == "densenet" else None
    return name if old is None else old.group(1) + old.group(2)


def _prefixes(
    short: Mapping[str, str], tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> Iterator[str]:
    """Yield what stands before the backbone's names in a file, the most frequent first."""
    votes: Counter[str] = Counter()
    for name, at in short.items():
        start = 0
        while start < len(name):
            known = wanted.get(name[start:])
            if known is not None and known.shape == tensors[at].shape:
                votes[name[:start]] += 1
            start = name.find(".", start) + 1 or len(name)
    ranked = [prefix for prefix, _ in votes.most_common(_MOST_PREFIXES)]
    # Equal ones in the order of the file, and the file as it stands where nothing of it is known.
    yield from ranked or [""]


def _fit(
    spec: BackboneSpec,
    prefix: str,
    inside: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    children: list[str],
    image_size: int | None,
) -> Choice | str:
    """Compare what is under one prefix with the backbone; returns its faults if it does not fit."""
    found = {name: tensors[at] for name, at in inside.items() if not name.startswith(spec.auxiliary)}
    n_classes = _n_classes(spec, found)
    if n_classes != spec.n_classes:
        wanted = build_on_meta(spec, n_classes=n_classes, image_size=image_size).state_dict()
    missing = [name for name in wanted if name not in found and not _is_counter(name)]
    unexpected = sorted(name for name in found if name not in wanted)
    both = [name for name in wanted if name in found]
    misshapen = [name for name in both if found[name].shape != wanted[name].shape]
    unfloat = [
        name for name in both if wanted[name].is_floating_point() and not found[name].is_floating_point()
    ]
    # The last child is the classifier. It may be gone, or of other sizes; beside the children is what the
    # method that trained them needed: projectors, queues, predictors.
    tail = f"{children[-1]}."
    resized = [name for name in misshapen if found[name].ndim == wanted[name].ndim]
    absent = [name for name in (*missing, *resized) if name.startswith(tail)]
    inner = [name for name in unexpected if name.partition(".")[0] in children[:-1]]
    if not {*missing, *misshapen} - set(absent) and not inner and not unfloat:
        kept = {name: inside[name] for name in both if name not in absent}
        return Choice(prefix, kept, tuple(absent), tuple(unexpected), n_classes=n_classes)
    faults = []
    if missing:
        faults.append(f"{len(missing)} tensors missing ({_some(missing)})")
    if unexpected:
        faults.append(f"{len(unexpected)} unexpected ({_some(unexpected)})")
    if misshapen:
        name = misshapen[0]
        first = f"{name!r} is {tuple(found[name].shape)}, not {tuple(wanted[name].shape)}"
        faults.append(f"{len(misshapen)} of another shape ({first})")
    if unfloat:
        faults.append(f"{len(unfloat)} of whole numbers ({_some(unfloat)})")
    where = f"under {prefix.rstrip('.')!r} " if prefix else ""
    return where + ", ".join(faults)


def _is_counter(name: str) -> bool:
    # Batches seen in training; absent from files older than torch 0.4.1, and of no use to us.
    return name.endswith(".num_batches_tracked")


def _some(names: Sequence[Any]) -> str:
    shown = ", ".join(repr(one) for one in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
