"""Where a backbone's weights come from: what its family published, a file, or a seed."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from featbank._stat_cache import DigestCache
from featbank.backbones import _state
from featbank.backbones._building import build_module, build_on_meta
from featbank.backbones.catalogue import names
from featbank.backbones.families import Published, family_of, get_spec
from featbank.backbones.spec import BackboneSpec
from featbank.backbones.weights_files import file_and_key, looks_like_file, only_file
from featbank.errors import MissingWeightsError, WeightsError

__all__ = ["LoadedWeights", "WeightsSource", "find_source", "looks_like_file"]

logger = logging.getLogger(__name__)

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
        family, name = family_of(self.spec.name)
        own = family.read(name, path) if self.key is None else None
        if own is not None:
            self._check_stamp(path)
            return LoadedWeights(own.eval(), sha256, self.published.class_names)
        file = _state.read_state(
            path,
            self.spec,
            key=self.key,
            trusted=self.published.trusted,
            candidates=tuple(get_spec(one) for one in names()),
            image_size=image_size,
        )
        self._check_stamp(path)
        tensors, choice = file.tensors, file.choice
        _tell(self.spec, path, choice)
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
        if _state.stamp_of(path) != self.stamp:
            raise WeightsError(f"weights file {str(path)!r} changed while it was being read; run again")

    def _random(self, image_size: int) -> LoadedWeights:
        logger.warning(
            "%s gets RANDOM weights (seed %d): its features are those of an untrained network",
            self.spec.name,
            self.random_state,
        )
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
    stamp, files = _state.digested(path, spec, digests)
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
    stamp, files = _state.digested(path, spec, digests)
    digest = _joined(files)
    if prefix is not None and not digest.startswith(prefix):
        raise WeightsError(
            f"weights file {str(path)!r} is damaged: its name says its SHA-256 starts with {prefix}, "
            f"it starts with {digest[: len(prefix)]}; delete it and run again"
        )
    return WeightsSource(spec, found.label, found, path, files, stamp=stamp)


def _tell(spec: BackboneSpec, path: Path, choice: _state.Choice) -> None:
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


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + rest


def _filled(
    spec: BackboneSpec, tensors: OrderedDict[str, Tensor], n_classes: int, image_size: int
) -> nn.Module:
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
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
