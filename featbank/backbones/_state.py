"""Read a state dict from a file nobody vouches for, and check it against a backbone before building one."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from featbank._atomic import file_digest
from featbank.backbones._building import build_on_meta
from featbank.backbones._pickle_header import describe_archive
from featbank.backbones._safetensors_header import HeaderError, describe_safetensors
from featbank.backbones._spec import BackboneSpec
from featbank.errors import WeightsError

__all__ = [
    "SUFFIXES",
    "StateFile",
    "check_fit",
    "digested",
    "most_bytes",
    "n_classes_of",
    "read_state",
    "stamp_of",
]

logger = logging.getLogger(__name__)

#: File names read here.
SUFFIXES = (".safetensors", ".pth", ".pt")
_NESTED = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_ADVICE = "save it again with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"


@dataclass(frozen=True)
class StateFile:
    """The tensors of a weights file, float32 where they were any kind of float.

    Parameters
    ----------
    tensors : dict of str to Tensor
        On the CPU, finite, memory of their own.
    class_names : tuple of str or None
        From the ``classes`` entry (a JSON list) of a safetensors file's metadata.
    """

    tensors: OrderedDict[str, Tensor]
    class_names: tuple[str, ...] | None = None


def read_state(
    path: Path, *, trusted: bool = False, check: Callable[[Mapping[str, Tensor]], None] | None = None
) -> StateFile:
    """Read the tensors of a weights file.

    Parameters
    ----------
    path : pathlib.Path
        A ``.safetensors``, ``.pth`` or ``.pt`` file.
    trusted : bool, default=False
        True where the file's digest is that of a file torchvision published; those may use the pickle
        format torch wrote before 2020.
    check : callable, optional
        Called with names, shapes and dtypes (tensors on the meta device) before anything else of the file is
        read; for a trusted file, with its tensors. Raises if they do not fit.

    Returns
    -------
    StateFile
        Unwrapped from ``state_dict`` or ``model`` entries and ``module.`` prefixes.

    Raises
    ------
    WeightsError
        If the file is of another kind, damaged, not safe to read, or holds NaN or infinity.
    """
    class_names = None
    described: Mapping[str, Any] | None = None
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if path.suffix == ".safetensors":
            described = _described_safetensors(path, file, size_bytes)
            _check_described(described, path, check)
            raw, class_names = _read_safetensors(path)
        elif path.suffix in SUFFIXES:
            if not trusted:
                described = _unwrapped(_described_archive(path, file, size_bytes), path)
                _check_described(described, path, check)
            raw = _unwrapped(_read_pickle(path, file), path)
        else:
            raise WeightsError(f"weights file {str(path)!r}: reads {', '.join(SUFFIXES)} files; {_ADVICE}")
    if described is not None and _facts(described) != _facts(raw):
        raise WeightsError(
            f"weights file {str(path)!r} holds other tensors than it lists; get the file again"
        )
    tensors = OrderedDict(
        (name, _plain(name, tensor, path)) for name, tensor in _unprefixed(raw, path).items()
    )
    # Some of torchvision's networks read the version of their layout from here.
    metadata = getattr(raw, "_metadata", None)
    if metadata is not None:
        tensors._metadata = metadata  # type: ignore[attr-defined]
    if check is not None and described is None:
        check(tensors)
    return StateFile(tensors, class_names)


def _check_described(
    described: Mapping[str, Tensor], path: Path, check: Callable[[Mapping[str, Tensor]], None] | None
) -> None:
    if check is not None:
        check(_unprefixed(described, path))


def _facts(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _described_safetensors(path: Path, file: BinaryIO, size_bytes: int) -> dict[str, Tensor]:
    try:
        return describe_safetensors(file, size_bytes)
    except HeaderError as error:
        raise WeightsError(f"weights file {str(path)!r} is no whole safetensors file: {error}") from error


def _described_archive(path: Path, file: BinaryIO, size_bytes: int) -> Any:
    try:
        return describe_archive(file, size_bytes)
    except HeaderError as error:
        raise WeightsError(f"weights file {str(path)!r} {error}; {_ADVICE}") from error


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], tuple[str, ...] | None]:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"weights file {str(path)!r} is no whole safetensors file: {_one_line(error)}"
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
            f"weights file {str(path)!r} cannot be read safely as tensors ({_one_line(error)}); {_ADVICE}"
        ) from error


def _unwrapped(raw: Any, path: Path) -> Mapping[str, Any]:
    for key in _NESTED:
        if isinstance(raw, Mapping) and isinstance(raw.get(key), Mapping):
            logger.info("weights file %s: taking its entry %r", path, key)
            raw = raw[key]
    if not isinstance(raw, Mapping) or not raw:
        found = "nothing" if isinstance(raw, Mapping) else f"a {type(raw).__name__}"
        raise WeightsError(f"weights file {str(path)!r} holds {found} instead of a state dict; {_ADVICE}")
    strange = [key for key, value in raw.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if strange:
        raise WeightsError(
            f"weights file {str(path)!r} holds more than tensors ({_some(strange)}); "
            "pass the state dict alone, or under the key 'state_dict'"
        )
    return raw


def _unprefixed(raw: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    for prefix in _PREFIXES:
        if raw and all(name.startswith(prefix) for name in raw):
            logger.info("weights file %s: taking the prefix %r off its names", path, prefix)
            raw = {name.removeprefix(prefix): tensor for name, tensor in raw.items()}
    return raw


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


def most_bytes(spec: BackboneSpec) -> int:
    """Return how large a weights file may be: there is room for an optimiser's state in double precision."""
    state = build_on_meta(spec).state_dict()
    n_bytes: int = sum(int(tensor.numel()) * tensor.itemsize for tensor in state.values())
    return 16 * n_bytes + (64 << 20)


def digested(path: Path, spec: BackboneSpec) -> tuple[tuple[int, ...], str]:
    """Return a file's stamp and its SHA-256; a file too large for the backbone is not read at all.

    Raises
    ------
    WeightsError
        If it is larger than `most_bytes`.
    """
    stamp, limit = stamp_of(path), most_bytes(spec)
    size = path.stat().st_size
    if size > limit:
        raise WeightsError(
            f"weights file {str(path)!r} has {size} bytes; {spec.name!r} and an optimiser's state take fewer "
            f"than {limit}: pass the state dict alone"
        )
    return stamp, file_digest(path)


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is written to: identity, size and times."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def n_classes_of(spec: BackboneSpec, tensors: Mapping[str, Tensor]) -> int:
    """Return the number of logits the tensors were made for; the backbone's own where they do not say."""
    head = tensors.get(spec.head_key)
    return (
        int(head.shape[0]) if head is not None and head.ndim >= 1 and head.shape[0] >= 1 else spec.n_classes
    )


def check_fit(
    spec: BackboneSpec,
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    candidates: tuple[BackboneSpec, ...],
    image_size: int,
) -> None:
    """Compare names, shapes and kinds with the backbone's, of which only the shapes are built.

    Parameters
    ----------
    spec : BackboneSpec
        What the weights are meant for.
    tensors : mapping of str to Tensor
        Without auxiliary heads.
    path : pathlib.Path
        Their file, for the message.
    candidates : tuple of BackboneSpec
        Backbones to try when they do not fit, for a hint.
    image_size : int
        Side of the square input in pixels; decides the position table of a vision transformer.

    Raises
    ------
    WeightsError
        If anything is missing, unexpected or of another shape.
    """
    faults = _faults(spec, tensors, image_size)
    if not faults:
        return
    hint = ""
    for other in candidates:
        kept = {name: one for name, one in tensors.items() if not name.startswith(other.auxiliary)}
        if other.name != spec.name and not _faults(other, kept, other.default_image_size):
            hint = f"; they fit {other.name!r}: use --backbone {other.name}"
            break
    raise WeightsError(f"weights {str(path)!r} do not fit {spec.name!r}: {', '.join(faults)}{hint}")


def _faults(spec: BackboneSpec, tensors: Mapping[str, Tensor], image_size: int) -> list[str]:
    wanted = build_on_meta(spec, n_classes=n_classes_of(spec, tensors), image_size=image_size).state_dict()
    missing = [name for name in wanted if name not in tensors and not _is_counter(name)]
    unexpected = sorted(name for name in tensors if name not in wanted)
    both = [name for name in wanted if name in tensors]
    misshapen = [name for name in both if tensors[name].shape != wanted[name].shape]
    unfloat = [
        name for name in both if wanted[name].is_floating_point() and not tensors[name].is_floating_point()
    ]
    faults = []
    if missing:
        faults.append(f"{len(missing)} tensors missing ({_some(missing)})")
    if unexpected:
        faults.append(f"{len(unexpected)} unexpected ({_some(unexpected)})")
    if misshapen:
        name = misshapen[0]
        first = f"{name!r} is {tuple(tensors[name].shape)}, not {tuple(wanted[name].shape)}"
        faults.append(f"{len(misshapen)} of another shape ({first})")
    if unfloat:
        faults.append(f"{len(unfloat)} of whole numbers ({_some(unfloat)})")
    return faults


def _is_counter(name: str) -> bool:
    # Batches seen in training; absent from files older than torch 0.4.1, and of no use to us.
    return name.endswith(".num_batches_tracked")


def _some(names: list[Any]) -> str:
    shown = ", ".join(repr(one) for one in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
