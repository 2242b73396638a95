"""Where a backbone's weights come from: an entry of torchvision's, a file, the package itself, or a seed."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import re
import socket
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featbank._cache import user_path
from featbank._lean_imports import import_torchvision
from featbank._registry import nearest
from featbank._stat_cache import DigestCache
from featbank.backbones import _state
from featbank.backbones._building import build_module, build_on_meta
from featbank.backbones._spec import BackboneSpec
from featbank.backbones.catalogue import get_spec, names
from featbank.backbones.minivgg import MINIVGG_CLASSES, MINIVGG_MEAN, MINIVGG_STD, MINIVGG_WEIGHTS
from featbank.backbones.preprocessing import Preprocessing
from featbank.errors import MissingWeightsError, UnknownNameError, WeightsError

__all__ = ["LoadedWeights", "WeightsSource", "find_source", "looks_like_file"]

logger = logging.getLogger(__name__)

#: The entry of minivgg's own weights, beside torchvision's names.
_MINIVGG_ENTRY = "CIFAR10"
_PLAIN_ENTRY = "IMAGENET1K_V1"
_RANDOM = "random"
#: How weights files are usually called; others are read too.
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".model")
#: Seconds without an answer after which a download is given up.
_TIMEOUT_S = 10.0
#: torchvision's file names end in the first digits of the file's SHA-256.
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """A module with its weights.

    Parameters
    ----------
    module : torch.nn.Module
        Eval mode, CPU, float32.
    sha256 : str
        Of the file's bytes; of the tensors where there is no file.
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
    preprocessing : Preprocessing
        What they were published with.
    path : pathlib.Path or None
        Their file; None for random weights.
    sha256 : str or None
        Digest of that file.
    class_names : tuple of str or None
        What 1000 (for minivgg: 10) logits stand for.
    trusted : bool
        Whether the digest is that of a published file.
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
    preprocessing: Preprocessing
    path: Path | None
    sha256: str | None
    class_names: tuple[str, ...] | None
    trusted: bool = False
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
        if self.path is None or self.sha256 is None:
            return self._random(image_size)
        path = self.path
        file = _state.read_state(
            path,
            self.spec,
            key=self.key,
            trusted=self.trusted,
            candidates=tuple(get_spec(one) for one in names()),
            image_size=image_size,
        )
        if _state.stamp_of(path) != self.stamp:
            raise WeightsError(f"weights file {str(path)!r} changed while it was being read; run again")
        tensors, choice = file.tensors, file.choice
        _tell(self.spec, path, choice)
        n_classes = choice.n_classes
        class_names = file.class_names if file.class_names is not None else self.class_names
        if choice.absent or (class_names is not None and len(class_names) != n_classes):
            class_names = None
        # Another network of the same file has other features, so it is not the file alone that says them.
        chosen = f"{self.sha256}#{choice.prefix}".encode()
        return LoadedWeights(
            _filled(self.spec, tensors, n_classes, image_size),
            self.sha256 if choice.is_default else hashlib.sha256(chosen).hexdigest(),
            class_names,
            frozenset(choice.absent),
        )

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
        An entry's name, a file, ``FILE#KEY`` for one of several networks in a file, ``"random"``, or None for
        the default.
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
        return WeightsSource(
            spec, _RANDOM, _plain_preprocessing(spec), None, None, None, random_state=random_state
        )
    if weights is not None and (not isinstance(weights, str) or looks_like_file(weights)):
        return _file_source(spec, os.fspath(weights), digests)
    if spec.name == "minivgg":
        return _shipped_source(spec, weights, digests)
    return _entry_source(spec, weights, digests)


def looks_like_file(weights: str) -> bool:
    """Return whether a text means a weights file and not the name of an entry."""
    path = user_path(weights)
    # "VGG16_Weights.IMAGENET1K_V1" has a dot, but is how torchvision writes an entry.
    has_suffix = path.suffix != "" and not path.stem.endswith("_Weights")
    return has_suffix or os.sep in weights or "#" in weights or path.is_file()


def _file_source(spec: BackboneSpec, asked: str, digests: DigestCache | None) -> WeightsSource:
    path, key = user_path(asked), None
    if "#" in asked and not path.exists():
        file, _, key = asked.rpartition("#")
        path = user_path(file)
    if path.is_dir():
        held = sorted(one.name for one in path.iterdir() if one.suffix in _SUFFIXES)
        which = f", such as {', '.join(map(repr, held[:3]))}" if held else ""
        raise WeightsError(f"weights {str(path)!r} is a folder; name the file in it{which}")
    if path.suffix == ".pt2":
        raise WeightsError(
            f"weights file {str(path)!r} is an exported program, not weights; save model.state_dict() instead"
        )
    if not path.is_file():
        raise MissingWeightsError(f"weights file {str(path)!r} does not exist; pass another --weights FILE")
    label = path.name if key is None else f"{path.name}#{key}"
    place = str(path.absolute()) if key is None else f"{path.absolute()}#{key}"
    stamp, digest = _state.digested(path, spec, digests)
    if spec.name == "minivgg":
        plain = _plain_preprocessing(spec)
        return WeightsSource(spec, label, plain, path, digest, None, stamp=stamp, key=key, place=place)
    entry, trusted = _published(spec, digest), True
    if entry is None:
        entry, trusted = _plain_entry(spec), False
        logger.info(
            "weights file %s is none that torchvision published; its images get the preprocessing of %s",
            path,
            entry,
        )
    return WeightsSource(
        spec,
        label,
        _preprocessing_of(entry),
        path,
        digest,
        tuple(entry.meta["categories"]),
        trusted=trusted,
        stamp=stamp,
        key=key,
        place=place,
    )


def _shipped_source(spec: BackboneSpec, weights: str | None, digests: DigestCache | None) -> WeightsSource:
    if weights not in (None, "DEFAULT", _MINIVGG_ENTRY):
        raise _unknown_entry(spec, str(weights), [_MINIVGG_ENTRY])
    path = Path(__file__).parent / "pretrained" / MINIVGG_WEIGHTS
    if not path.is_file():
        raise MissingWeightsError(
            f"the weights of 'minivgg' are missing from this installation ({str(path)!r}); "
            "install featbank again, or use --weights FILE.safetensors|.pth or --weights random"
        )
    stamp, digest = _state.digested(path, spec, digests)
    return WeightsSource(
        spec, _MINIVGG_ENTRY, _plain_preprocessing(spec), path, digest, MINIVGG_CLASSES, stamp=stamp
    )


def _entry_source(spec: BackboneSpec, weights: str | None, digests: DigestCache | None) -> WeightsSource:
    entries = _entries(spec)
    name = "DEFAULT" if weights is None else weights.removeprefix(f"{entries.__name__}.")
    if name not in entries.__members__:
        raise _unknown_entry(spec, str(weights), [one.name for one in entries])
    entry = entries[name]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / str(entry.url).rsplit("/", 1)[1]
    stated = _DIGEST_IN_NAME.search(path.name)
    prefix = stated.group(1) if stated else None
    if not path.is_file():
        _download(spec, str(entry.url), path, prefix)
    stamp, digest = _state.digested(path, spec, digests)
    if prefix is not None and not digest.startswith(prefix):
        raise WeightsError(
            f"weights file {str(path)!r} is damaged: its name says its SHA-256 starts with {prefix}, "
            f"it starts with {digest[: len(prefix)]}; delete it and run again"
        )
    categories = entry.meta["categories"]
    return WeightsSource(
        spec,
        entry.name,
        _preprocessing_of(entry),
        path,
        digest,
        None if categories is None else tuple(categories),
        trusted=prefix is not None,
        stamp=stamp,
    )


def _download(spec: BackboneSpec, url: str, path: Path, prefix: str | None) -> None:
    logger.info("downloading %s to %s", url, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _short_timeout():
            torch.hub.download_url_to_file(url, str(path), prefix, progress=sys.stderr.isatty())
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MissingWeightsError(
            f"no weights for {spec.name!r}: {path.name!r} is not in {str(path.parent)!r} and could not be "
            f"downloaded ({reason}). Three ways out: (1) run once with network, or put {path.name!r} into "
            "that folder; (2) --weights FILE.safetensors|.pth; (3) --weights random. For a quick try: "
            "--backbone minivgg, whose weights are built in"
        ) from error
    except RuntimeError as error:  # torch.hub's way to say that the digest is wrong
        raise WeightsError(f"the download of {url!r} arrived damaged ({error}); run again") from error


@contextlib.contextmanager
def _short_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _entries(spec: BackboneSpec) -> Any:
    import_torchvision()
    from torchvision import models

    return models.get_model_weights(spec.name)


def _plain_entry(spec: BackboneSpec) -> Any:
    entries = _entries(spec)
    return entries.__members__.get(_PLAIN_ENTRY, entries.DEFAULT)


def _published(spec: BackboneSpec, digest: str) -> Any:
    for entry in _entries(spec):
        stated = _DIGEST_IN_NAME.search(str(entry.url))
        if stated and digest.startswith(stated.group(1)):
            return entry
    return None


def _preprocessing_of(entry: Any) -> Preprocessing:
    preset = entry.transforms()
    return Preprocessing(
        image_size=int(preset.crop_size[0]),
        resize_size=int(preset.resize_size[0]),
        interpolation=str(preset.interpolation.value),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _plain_preprocessing(spec: BackboneSpec) -> Preprocessing:
    """Preprocessing of weights nobody published any for: torchvision's first preset, or minivgg's own."""
    if spec.name == "minivgg":
        size = spec.default_image_size
        return Preprocessing(size, size, mean=MINIVGG_MEAN, std=MINIVGG_STD)
    return _preprocessing_of(_plain_entry(spec))


def _unknown_entry(spec: BackboneSpec, weights: str, known: list[str]) -> UnknownNameError:
    return UnknownNameError(
        f"unknown weights {weights!r} of backbone {spec.name!r}; known: "
        f"{nearest(weights, [*known, _RANDOM])}, or a file (.safetensors, .pth, .ckpt, ...)"
    )


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
