"""Load a backbone: the module, its weights and where they came from, its preprocessing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank._atomic import file_digest
from featbank._cache import DigestCache, user_path
from featbank.backbones.families import (
    OF_A_MODULE,
    BackboneSpec,
    Published,
    build_module,
    build_on_meta,
    check_image_size,
    family_of,
    get_spec,
    names,
)
from featbank.backbones.preprocessing import Preprocessing
from featbank.errors import InvalidInputError, MissingWeightsError, WeightsError
from featbank.manifest import short_repr

if TYPE_CHECKING:
    from torch import Tensor, nn


__all__ = [
    "INDEX",
    "Backbone",
    "LoadedWeights",
    "WeightsSource",
    "absolute_weights",
    "build_untrained",
    "file_and_key",
    "find_source",
    "index_of",
    "load_backbone",
    "load_recorded",
    "looks_like_file",
    "only_file",
    "parts_of",
]

logger = logging.getLogger(__name__)

# Which files a user's weights are in, named by a file, a folder or an index; without torch ----------

#: How a file ends that says in which of several safetensors files, beside it, each tensor is.
INDEX = ".safetensors.index.json"
_MAX_INDEX_BYTES = 16 << 20
#: How weights files are usually called; others are read too.
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".model")
#: How Hugging Face calls the weights in a folder, the first that is there counts.
_USUAL = ("model.safetensors", f"model{INDEX}", "pytorch_model.bin")


def looks_like_file(weights: str) -> bool:
    """Return whether a text means a weights file and not the name of an entry."""
    path = user_path(weights)
    # "VGG16_Weights.IMAGENET1K_V1" has a dot, but is how torchvision writes an entry.
    has_suffix = path.suffix != "" and not path.stem.endswith("_Weights")
    return has_suffix or os.sep in weights or "#" in weights or path.exists()


def file_and_key(weights: str) -> tuple[Path, str | None]:
    """Return the file, or folder, of ``FILE`` or ``FILE#KEY``, and the key; names of files may have a #."""
    path = user_path(weights)
    if "#" not in weights or path.exists():
        return path, None
    file, _, key = weights.rpartition("#")
    return user_path(file), key


def absolute_weights(weights: str | os.PathLike[str] | None) -> str | None:
    """Return weights as a process in another folder finds them: files from the root, names as they are."""
    if weights is None or (
        isinstance(weights, str) and (weights == "random" or not looks_like_file(weights))
    ):
        return weights
    path, key = file_and_key(os.fspath(weights))
    if not path.exists():
        return os.fspath(weights)
    return str(path.absolute()) if key is None else f"{path.absolute()}#{key}"


def only_file(folder: Path) -> Path:
    """Return the weights file of a folder: the one that Hugging Face calls so, else the only one."""
    held = sorted(one.name for one in folder.iterdir() if one.name.endswith((*_SUFFIXES, INDEX)))
    usual = [name for name in _USUAL if name in held]
    if usual or len(held) == 1:
        return folder / (usual or held)[0]
    which = f": {', '.join(map(repr, held[:3]))}{', ...' if len(held) > 3 else ''}" if held else ""
    raise (WeightsError if held else MissingWeightsError)(
        f"weights {str(folder)!r} is a folder with {len(held) or 'no'} weights files; name the file{which}"
    )


def parts_of(path: Path) -> tuple[Path, ...]:
    """Return the files that hold the tensors of a weights file: those that an index names, else itself.

    Raises
    ------
    WeightsError
        If an index is none, or names files that are not beside it.
    """
    return tuple(path.with_name(name) for name in sorted(set(index_of(path).values()))) or (path,)


def index_of(path: Path) -> dict[str, str]:
    """Return tensor -> file of an index of several safetensors files; {} for a file that is none."""
    if not path.name.endswith(INDEX):
        return {}
    with path.open("rb") as file:
        text = file.read(_MAX_INDEX_BYTES + 1)
    try:
        if len(text) > _MAX_INDEX_BYTES:
            raise ValueError
        said = json.loads(text)["weight_map"]
        found = {str(tensor): Path(file) for tensor, file in said.items()}
        whole = bool(found) and all(
            one.name == str(one) and one.suffix == ".safetensors" for one in found.values()
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise WeightsError(
            f"weights file {str(path)!r} is no index of safetensors files, a JSON object whose 'weight_map' "
            f"names for each tensor the file beside it; get it again, or name a .safetensors file"
        )
    gone = sorted({one.name for one in found.values() if not path.with_name(one.name).is_file()})
    if gone:
        more = f" and {len(gone) - 1} more" if gone[1:] else ""
        raise MissingWeightsError(
            f"weights file {str(path)!r} names {gone[0]!r}{more}, which is not beside it; get that file too"
        )
    return {tensor: file.name for tensor, file in found.items()}


# Where weights come from: what the family published, a file, or a seed ------------------------------

_RANDOM = "random"


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """A module with its weights.

    Parameters
    ----------
    module : torch.nn.Module
        Eval mode, CPU, float32.
    sha256 : str
        Of the file's bytes, or of the tensors where there is no file, and of the family's settings.
    class_names : tuple of str or None
        What the logits stand for.
    absent : frozenset of str
        Tensors of the classifier that the file has not got; NaN in the module.
    """

    module: nn.Module
    sha256: str
    class_names: tuple[str, ...] | None
    absent: frozenset[str] = frozenset()


@dataclass(frozen=True)
class WeightsSource:
    """Weights that were asked for, before anything is read.

    Parameters
    ----------
    spec : BackboneSpec
        Whose weights.
    label : str
        How runs and banks call them.
    published : Published
        What their family says of them: preprocessing, class names, whether the file is trusted.
    path : pathlib.Path or None
        Their file, or the index of several; None for random weights.
    files : dict of str to str
        What holds the tensors: path from the root -> SHA-256; empty for random weights.
    random_state : int
        Seed of random weights.
    stamp : tuple of int
        Identity, size and time of the file when its digest was taken.
    key : str or None
        Which of the networks in the file: what stands after ``#`` in ``FILE#KEY``.
    place : str or None
        What finds a file of the user's again, ``FILE`` or ``FILE#KEY`` from the root.
    """

    spec: BackboneSpec
    label: str
    published: Published
    path: Path | None
    files: Mapping[str, str]
    random_state: int = 0
    stamp: tuple[int, ...] = ()
    key: str | None = None
    place: str | None = None

    def load(self, image_size: int) -> LoadedWeights:
        """Build the module and fill it.

        Parameters
        ----------
        image_size : int
            Side of the square input, in pixels; matters to vision transformers alone.

        Returns
        -------
        LoadedWeights
            Ready for use.

        Raises
        ------
        WeightsError
            If the file is not safe, damaged, or another architecture's.
        """
        if self.path is None:
            loaded = self._random(image_size)
        else:
            loaded = self._of_file(self.path, _joined(self.files), image_size)
        family, name = family_of(self.spec.name)
        settings = family.settings(name)
        if not settings:
            return loaded
        return replace(loaded, sha256=hashlib.sha256(f"{loaded.sha256} {settings}".encode()).hexdigest())

    def _of_file(self, path: Path, sha256: str, image_size: int) -> LoadedWeights:
        from featbank.backbones._state import read_state, tell_choice  # torch

        family, name = family_of(self.spec.name)
        own = family.read(name, path) if self.key is None else None
        if own is not None:
            self._check_stamp(path)
            return LoadedWeights(own.eval(), sha256, self.published.class_names)
        file = read_state(
            path,
            self.spec,
            index=index_of(path),
            key=self.key,
            trusted=self.published.trusted,
            candidates=_all_specs(),
            image_size=image_size,
        )
        self._check_stamp(path)
        tensors, choice = file.tensors, file.choice
        tell_choice(self.spec, path, choice)
        n_classes = choice.n_classes
        class_names = file.class_names if file.class_names is not None else self.published.class_names
        if choice.absent or (class_names is not None and len(class_names) != n_classes):
            class_names = None
        # Another network of the same file has other features, so it is not the file alone that says them.
        chosen = f"{sha256}#{choice.prefix}".encode()
        return LoadedWeights(
            _filled(self.spec, tensors, n_classes, image_size),
            sha256 if choice.is_default else hashlib.sha256(chosen).hexdigest(),
            class_names,
            frozenset(choice.absent),
        )

    def _check_stamp(self, path: Path) -> None:
        if stamp_of(path) != self.stamp:
            raise WeightsError(f"weights file {str(path)!r} changed while it was being read; run again")

    def _random(self, image_size: int) -> LoadedWeights:
        logger.warning(
            "%s gets RANDOM weights (seed %d): its features are those of an untrained network",
            self.spec.name,
            self.random_state,
        )
        import torch

        # The generator of the CPU alone, so that a process that uses a GPU keeps its random numbers too.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.random_state)
            module = build_module(
                self.spec, n_classes=self.spec.n_classes, image_size=image_size, initialise=True
            )
        return LoadedWeights(module, _digest(module), None)


def find_source(
    spec: BackboneSpec,
    weights: str | os.PathLike[str] | None,
    random_state: int = 0,
    digests: DigestCache | None = None,
) -> WeightsSource:
    """Find out what `weights` asks for, and get the file if it can be had.

    Parameters
    ----------
    spec : BackboneSpec
        Whose weights.
    weights : str, path or None
        An entry's name, a file, a folder with one, the index of several (``.safetensors.index.json``),
        ``FILE#KEY`` for one of several networks in a file, ``"random"``, or None for the default.
    random_state : int, default=0
        Seed of random weights.
    digests : DigestCache, optional
        Digests known from before: a file that has not changed since is not hashed again.

    Returns
    -------
    WeightsSource
        With a file that exists, unless the weights are random.

    Raises
    ------
    UnknownNameError
        If there is no entry of that name.
    MissingWeightsError
        If the file is not there and cannot be downloaded.
    WeightsError
        If the file in torch.hub's folder is damaged, or the file is of a kind that is not read.
    """
    if weights == _RANDOM:
        family, name = family_of(spec.name)
        plain = Published(family.preprocessing(name))
        return WeightsSource(spec, _RANDOM, plain, None, {}, random_state=random_state)
    if weights is not None and (not isinstance(weights, str) or looks_like_file(weights)):
        return _file_source(spec, os.fspath(weights), digests)
    return _published_source(spec, weights, digests)


def _file_source(spec: BackboneSpec, asked: str, digests: DigestCache | None) -> WeightsSource:
    path, key = file_and_key(asked)
    if path.is_dir():
        path = only_file(path)
    if path.suffix == ".pt2":
        raise WeightsError(
            f"weights file {str(path)!r} is an exported program, not weights; save model.state_dict() instead"
        )
    if not path.is_file():
        raise MissingWeightsError(f"weights file {str(path)!r} does not exist; pass another --weights FILE")
    label = path.name if key is None else f"{path.name}#{key}"
    place = str(path.absolute()) if key is None else f"{path.absolute()}#{key}"
    stamp, files = digested(path, spec, digests)
    family, name = family_of(spec.name)
    published = family.recognise(name, path, _joined(files))
    return WeightsSource(spec, label, published, path, files, stamp=stamp, key=key, place=place)


def _joined(files: Mapping[str, str]) -> str:
    """Return one digest for all files: that of the file where it is one."""
    digests = list(files.values())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _published_source(spec: BackboneSpec, weights: str | None, digests: DigestCache | None) -> WeightsSource:
    family, name = family_of(spec.name)
    found = family.published(name, weights)
    if found.path is None:
        raise MissingWeightsError(
            f"weights {found.label!r} of {spec.name!r} name no file; pass --weights FILE"
        )
    path, prefix = found.path, found.sha256_prefix
    stamp, files = digested(path, spec, digests)
    digest = _joined(files)
    if prefix is not None and not digest.startswith(prefix):
        raise WeightsError(
            f"weights file {str(path)!r} is damaged: its name says its SHA-256 starts with {prefix}, "
            f"it starts with {digest[: len(prefix)]}; delete it and run again"
        )
    return WeightsSource(spec, found.label, found, path, files, stamp=stamp)


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


def _all_specs() -> Iterator[BackboneSpec]:
    yield from map(get_spec, names())


def _filled(
    spec: BackboneSpec, tensors: OrderedDict[str, Tensor], n_classes: int, image_size: int
) -> nn.Module:
    import torch

    module = build_on_meta(spec, n_classes=n_classes, image_size=image_size)
    wanted = module.state_dict()
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name, shape in wanted.items():
        found = tensors.get(name)
        # A classifier that is not there: no cut is read behind it, and if one were, it would show.
        gone = float("nan") if shape.is_floating_point() else 0
        state[name] = (
            torch.full(shape.shape, gone, dtype=shape.dtype) if found is None else found.to(shape.dtype)
        )
    # The version of the layout is the file's if it says one; MNASNet changes itself by it.
    state._metadata = getattr(tensors, "_metadata", None) or wanted._metadata  # type: ignore[attr-defined]
    module.load_state_dict(state, assign=True)
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        # Buffers that no state dict holds are computed when a module is built in earnest.
        module = build_module(spec, n_classes=n_classes, image_size=image_size, initialise=False)
        module.load_state_dict(state)
    return module.eval()


def _digest(module: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of a state dict."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Backbone:
    """A pretrained network with everything that decides its numbers.

    Parameters
    ----------
    spec : BackboneSpec
        Its cut table.
    module : torch.nn.Module
        The whole network: eval mode, CPU, float32, no parameter wants a gradient.
    weights : str
        Where the weights came from: a torchvision weights name, a file's name, ``"random"``, or
        ``"module:CLASS"`` for `from_module`.
    weights_sha256 : str
        SHA-256 of the weights file's bytes, 64 hexadecimal digits; for random weights, of the tensors; with
        what Hugging Face's ``config.json`` says; for a module, of its tensors and its architecture.
    preprocessing : Preprocessing
        What images go through first.
    class_names : tuple of str or None
        What the logits stand for, in order; None when nobody knows (random weights, other classes).
    weights_path : str or None
        What finds a file of the user's again; None for other weights.
    absent : frozenset of str
        Tensors of the classifier that the file had not, NaN in the module; `truncate` refuses cuts behind.
    weights_files : dict of str to str
        The files the weights were read from, whoever's they are: path from the root -> SHA-256; empty for
        random weights and modules.

    Examples
    --------
    >>> backbone = load_backbone("minivgg")
    >>> backbone.name, backbone.preprocessing.image_size, backbone.class_names[:3]
    ('minivgg', 32, ('airplane', 'automobile', 'bird'))
    >>> backbone.weights, backbone.spec.cut_names[-3:]
    ('CIFAR10', ('fc7', 'logits', 'softmax'))
    """

    spec: BackboneSpec
    module: nn.Module
    weights: str
    weights_sha256: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    weights_path: str | None = None
    absent: frozenset[str] = frozenset()
    weights_files: Mapping[str, str] = field(default_factory=dict)

    __repr__ = short_repr

    @property
    def name(self) -> str:
        """The backbone's name."""
        return self.spec.name

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        *,
        name: str,
        preprocessing: Preprocessing | Mapping[str, Any],
        class_names: Sequence[str] | None = None,
    ) -> Backbone:
        """Make a backbone of any module that takes normalised images.

        Parameters
        ----------
        module : torch.nn.Module
            Takes float32 images of shape (batch, 3, side, side). It is copied and stays as it is: its mode,
            its hooks, its gradients; training it on does not change the backbone.
        name : str
            What its banks are called; none of torchvision's names. Other numbers or another architecture
            under the same name make another bank.
        preprocessing : Preprocessing or mapping
            What images go through first; a mapping of its fields, ``image_size`` at least.
        class_names : sequence of str, optional
            What its logits stand for.

        Returns
        -------
        Backbone
            For ``extract(backbone=...)``. Where torch.fx traces the module its cuts are nodes of the graph,
            else paths of its parts, see ``backbone.spec.cut_names``.

        Raises
        ------
        InvalidInputError
            If the name is taken or cannot name a bank, the preprocessing is none, or images of its size do
            not pass through the module.

        Examples
        --------
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 5))
        >>> backbone = Backbone.from_module(net, name="mine", preprocessing={"image_size": 32})
        >>> backbone.spec.cut_names, backbone.spec.cut("1").shape
        (('0', '1', '2', 'logits', 'softmax'), (4, 30, 30))
        """
        from torch import nn

        from featbank.backbones._module import as_preprocessing, frozen_copy, module_digest, module_spec

        numbers = as_preprocessing(preprocessing)
        kind = type(module)
        if isinstance(module, nn.Module):
            module = frozen_copy(module)
        spec = module_spec(module, name, numbers.image_size)
        if class_names is not None and spec.cut_names[-1:] != ("softmax",):
            raise InvalidInputError(f"class_names are for logits, and {name!r} does not give any")
        if class_names is not None and len(class_names) != spec.n_classes:
            raise InvalidInputError(f"{len(class_names)} class_names for {spec.n_classes} logits of {name!r}")
        return cls(
            spec,
            module,
            f"{OF_A_MODULE}{kind.__module__}.{kind.__qualname__}",
            module_digest(module),
            numbers,
            None if class_names is None else tuple(class_names),
        )

    def with_options(
        self,
        image_size: int | None,
        transform: str | None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        interpolation: str | None = None,
    ) -> Backbone:
        """Return the same with another preprocessing, by options as `load_backbone` takes them."""
        check_image_size(self.spec, image_size)
        preprocessing = self.preprocessing.with_transform(transform).with_numbers(mean, std, interpolation)
        if image_size is not None:
            preprocessing = preprocessing.with_image_size(image_size)
        return self if preprocessing == self.preprocessing else replace(self, preprocessing=preprocessing)


def load_backbone(
    name: str | Backbone,
    *,
    weights: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    transform: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    random_state: int = 0,
    digests: DigestCache | None = None,
) -> Backbone:
    """Build a backbone and load its weights.

    Parameters
    ----------
    name : str or Backbone
        One of `names`, the name of another torchvision classifier, ``FAMILY:NAME``; or a backbone that is
        loaded already, which gets `image_size` and `transform`.
    weights : str or path, optional
        The name of a torchvision weights entry (``"IMAGENET1K_V1"``), a file with a state dict or a
        checkpoint of a trainer or a self-supervised method (``.safetensors``, or torch's own format under
        any suffix), the index of several (``.safetensors.index.json``), a folder that holds one of these, or
        ``"random"``. The network is found in a file whatever stands before its names; ``FILE#KEY`` takes one
        of several (``"dino.pth#teacher"``). By default torchvision's ``DEFAULT`` entry, taken from
        torch.hub's checkpoint folder or downloaded into it; for minivgg the file that ships with featbank.
    image_size : int, optional
        Side of the square input, in pixels, instead of the one the weights were published with; the resize
        before the crop keeps its proportion to it.
    transform : {"weights", "squash", "contrast"}, optional
        Another preprocessing than the weights' own, see `Preprocessing.with_transform`.
    mean, std : sequence of 3 floats, optional
        What weights of one's own were trained with, per channel, for pixels in 0..1.
    interpolation : {"bilinear", "bicubic"}, optional
        Likewise.
    random_state : int, default=0
        Seed of ``weights="random"``; nothing else is drawn.
    digests : DigestCache, optional
        Digests known from before: a weights file that has not changed since is not hashed again. Its `save`
        keeps what is new.

    Returns
    -------
    Backbone
        Ready to be truncated. A weights file that torchvision did not publish gets the preprocessing of the
        entry ``IMAGENET1K_V1`` (resize 256, crop 224 for most), not that of ``DEFAULT``, whose tighter resize
        belongs to one training recipe; the log says so. A file with 1000 outputs is taken to have ImageNet's
        order of classes, unless it is a safetensors file whose metadata has ``classes``, a JSON list.

    Raises
    ------
    UnknownNameError
        If the backbone, the weights entry or the transform does not exist.
    MissingWeightsError
        If the weights are neither on this machine nor reachable, or the file does not exist.
    WeightsError
        If the file is not safe to read, is damaged, belongs to another architecture, or holds several
        networks that fit.
    InvalidInputError
        If `image_size` is too small, or numbers of the preprocessing are none.

    Examples
    --------
    >>> backbone = load_backbone("minivgg", weights="random", random_state=1)
    >>> backbone.weights, backbone.preprocessing.image_size, backbone.module.training
    ('random', 32, False)
    """
    if isinstance(name, Backbone):
        if weights is not None:
            raise InvalidInputError(f"weights={weights!r}: backbone {name.name!r} has its weights already")
        return name.with_options(image_size, transform, mean, std, interpolation)
    if isinstance(weights, str) and weights.startswith(OF_A_MODULE):
        raise MissingWeightsError(
            f"backbone {name!r} was made of a module, {weights.removeprefix(OF_A_MODULE)!r}, which only its "
            f"owner can build: pass backbone=Backbone.from_module(module, name={name!r}, preprocessing=...)"
        )
    spec = get_spec(name)
    check_image_size(spec, image_size)
    source = find_source(spec, weights, random_state, digests)
    preprocessing = source.published.preprocessing.with_transform(transform)
    preprocessing = preprocessing.with_numbers(mean, std, interpolation)
    if image_size is not None:
        preprocessing = preprocessing.with_image_size(image_size)
    loaded = source.load(preprocessing.image_size)
    loaded.module.requires_grad_(False)
    return Backbone(
        spec,
        loaded.module,
        source.label,
        loaded.sha256,
        preprocessing,
        loaded.class_names,
        weights_path=source.place,
        absent=loaded.absent,
        weights_files=source.files,
    )


def load_recorded(
    record: Mapping[str, Any],
    of: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    backbone: Backbone | None = None,
    digests: DigestCache | None = None,
) -> Backbone:
    """Load the backbone that a bank or a run says its features are of, and no other.

    Parameters
    ----------
    record : mapping
        ``backbone``, ``image_size``, ``weights``, ``weights_path``, ``weights_sha256`` and ``random_state``,
        as they were recorded. A path in it is opened: whoever calls has seen that it may be.
    of : str
        Whose record it is, for messages.
    weights : str or path, optional
        Where the weights are now, if they have moved.
    backbone : Backbone, optional
        The backbone itself, where it was made by `Backbone.from_module`.
    digests : DigestCache, optional
        As for `load_backbone`.

    Raises
    ------
    MissingWeightsError
        If the weights are not there any more.
    WeightsError
        If they are others, or `backbone` is another.
    """
    said = weights
    if said is None and backbone is None:
        said = record["weights_path"] or record["weights"]
    loaded = load_backbone(
        backbone or record["backbone"],
        weights=said,
        image_size=record["image_size"],
        random_state=record["random_state"] or 0,
        digests=digests,
    )
    if (loaded.name, loaded.weights_sha256) != (record["backbone"], record["weights_sha256"]):
        mend = (
            "the right file with --weights" if backbone is None else "the same backbone with the same weights"
        )
        raise WeightsError(
            f"{of} was made with {record['backbone']!r}, weights {record['weights']!r} of SHA-256 "
            f"{record['weights_sha256'][:16]}..., and {str(said or loaded.weights)!r} of {loaded.name!r} has "
            f"{loaded.weights_sha256[:16]}...; give {mend}"
        )
    return loaded


def build_untrained(backbone: Backbone, n_classes: int) -> nn.Module:
    """Build the network of a backbone anew, with other classes and the initial weights of torch's generator.

    Parameters
    ----------
    backbone : Backbone
        One that has a name to build it by.
    n_classes : int
        Number of logits.

    Returns
    -------
    torch.nn.Module
        In eval mode; every parameter wants a gradient.
    """
    size = backbone.preprocessing.image_size
    return build_module(backbone.spec, n_classes=n_classes, image_size=size, initialise=True)
