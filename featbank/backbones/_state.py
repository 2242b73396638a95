"""Read a weights file nobody vouches for, and find a backbone's tensors in it before building one."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from featbank._atomic import file_digest
from featbank._stat_cache import DigestCache
from featbank.backbones._building import build_on_meta
from featbank.backbones._pickle_header import describe_archive
from featbank.backbones._safetensors_header import HeaderError, describe_safetensors
from featbank.backbones.spec import BackboneSpec
from featbank.backbones.weights_files import INDEX, index_of, parts_of
from featbank.errors import WeightsError, one_line

__all__ = [
    "Choice",
    "StateFile",
    "choose",
    "digested",
    "most_bytes",
    "read_state",
    "stamp_of",
]

logger = logging.getLogger(__name__)

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
    key: str | None = None,
    trusted: bool = False,
    candidates: tuple[BackboneSpec, ...] = (),
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
    key : str, optional
        Which of several networks in the file, see `choose`.
    trusted : bool, default=False
        True where the file's digest is that of a file torchvision published; those may use the pickle
        format torch wrote before 2020.
    candidates : tuple of BackboneSpec
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
    if path.name.endswith((".safetensors", INDEX)):
        described = _described_safetensors(path)
        choice = chosen(described)
        raw, class_names = _read_safetensors(path)
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


def _described_safetensors(path: Path) -> dict[str, Tensor]:
    described: dict[str, Tensor] = {}
    index = index_of(path)
    for part in parts_of(path):
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


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    facts: dict[str, str] = {}
    for part in parts_of(path):
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


def most_bytes(spec: BackboneSpec) -> int:
    """Return how large a weights file may be: there is room for an optimiser's state in double precision."""
    state = build_on_meta(spec).state_dict()
    n_bytes: int = sum(int(tensor.numel()) * tensor.itemsize for tensor in state.values())
    return 16 * n_bytes + (64 << 20)


def digested(
    path: Path, spec: BackboneSpec, digests: DigestCache | None = None
) -> tuple[tuple[int, ...], dict[str, str]]:
    """Return a file's stamp, and the SHA-256 of each file that holds its tensors, by the path from the root.

    Files too large for the backbone are not read at all, nor are those whose digest is among `digests`.

    Raises
    ------
    WeightsError
        If they are larger than `most_bytes`.
    """
    parts = parts_of(path)
    stamp, limit = stamp_of(path), most_bytes(spec)
    size = sum(part.stat().st_size for part in parts)
    if size > limit:
        raise WeightsError(
            f"weights file {str(path)!r} has {size} bytes; {spec.name!r} and an optimiser's state take fewer "
            f"than {limit}: pass the state dict alone"
        )
    digest = file_digest if digests is None else digests.file_digest
    return stamp, {str(part.absolute()): digest(part) for part in parts}


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return what changes when a weights file is written to: identity, size and times, of all its parts."""
    found = [one.stat() for one in dict.fromkeys((path, *parts_of(path)))]
    return tuple(
        number
        for one in found
        for number in (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns)
    )


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
    candidates: tuple[BackboneSpec, ...] = (),
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
    candidates : tuple of BackboneSpec
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


def _some(names: list[Any]) -> str:
    shown = ", ".join(repr(one) for one in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
