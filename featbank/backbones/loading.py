"""Load a backbone: the module, its weights and where they came from, its preprocessing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from featbank._stat_cache import DigestCache
from featbank.backbones import weights as _weights
from featbank.backbones._building import build_module
from featbank.backbones._module import as_preprocessing, frozen_copy, module_digest, module_spec
from featbank.backbones.catalogue import check_image_size
from featbank.backbones.families import get_spec
from featbank.backbones.preprocessing import Preprocessing
from featbank.backbones.spec import OF_A_MODULE, BackboneSpec
from featbank.errors import InvalidInputError, MissingWeightsError, WeightsError
from featbank.manifest import short_repr

__all__ = ["Backbone", "build_untrained", "load_backbone", "load_recorded"]


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
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 5))
        >>> backbone = Backbone.from_module(net, name="mine", preprocessing={"image_size": 32})
        >>> backbone.spec.cut_names, backbone.spec.cut("1").shape
        (('0', '1', '2', 'logits', 'softmax'), (4, 30, 30))
        """
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
    source = _weights.find_source(spec, weights, random_state, digests)
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
