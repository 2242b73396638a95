"""Load a backbone: the module, its weights and where they came from, its preprocessing."""

from __future__ import annotations

import os
from dataclasses import dataclass

from torch import nn

from featbank._stat_cache import DigestCache
from featbank.backbones import weights as _weights
from featbank.backbones._family import get_spec
from featbank.backbones._spec import BackboneSpec
from featbank.backbones.catalogue import check_image_size
from featbank.backbones.preprocessing import Preprocessing
from featbank.manifest import short_repr

__all__ = ["Backbone", "load_backbone"]


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
        Where the weights came from: a torchvision weights name, a file's name, or ``"random"``.
    weights_sha256 : str
        SHA-256 of the weights file's bytes, 64 hexadecimal digits; for random weights, of the tensors.
    preprocessing : Preprocessing
        What images go through first.
    class_names : tuple of str or None
        What the logits stand for, in order; None when nobody knows (random weights, other classes).
    weights_path : str or None
        What finds a file of the user's again; None for other weights.
    absent : frozenset of str
        Tensors of the classifier that the file had not, NaN in the module; `truncate` refuses cuts behind.
    weights_file, weights_file_sha256 : str or None
        The file the weights were read from, whoever's it is, and its digest; None for random weights.
    """

    spec: BackboneSpec
    module: nn.Module
    weights: str
    weights_sha256: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    weights_path: str | None = None
    absent: frozenset[str] = frozenset()
    weights_file: str | None = None
    weights_file_sha256: str | None = None

    __repr__ = short_repr

    @property
    def name(self) -> str:
        """The backbone's name."""
        return self.spec.name


def load_backbone(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    transform: str | None = None,
    random_state: int = 0,
    digests: DigestCache | None = None,
) -> Backbone:
    """Build a backbone and load its weights.

    Parameters
    ----------
    name : str
        One of `names`, or the name of another torchvision classifier.
    weights : str or path, optional
        The name of a torchvision weights entry (``"IMAGENET1K_V1"``), a file with a state dict or a
        checkpoint of a trainer or a self-supervised method (``.safetensors``, or torch's own format under
        any suffix), or ``"random"``. The network is found in a file whatever stands before its names;
        ``FILE#KEY`` takes one of several (``"dino.pth#teacher"``). By default torchvision's ``DEFAULT``
        entry, taken from torch.hub's checkpoint folder or downloaded into it; for minivgg the file that ships
        with featbank.
    image_size : int, optional
        Side of the square input, in pixels, instead of the one the weights were published with; the resize
        before the crop keeps its proportion to it.
    transform : {"weights", "squash", "contrast"}, optional
        Another preprocessing than the weights' own, see `Preprocessing.with_transform`.
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
        If `image_size` is too small.

    Examples
    --------
    >>> backbone = load_backbone("minivgg", weights="random", random_state=1)
    >>> backbone.weights, backbone.preprocessing.image_size, backbone.module.training
    ('random', 32, False)
    """
    spec = get_spec(name)
    check_image_size(spec, image_size)
    source = _weights.find_source(spec, weights, random_state, digests)
    preprocessing = source.published.preprocessing.with_transform(transform)
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
        weights_file=None if source.path is None else str(source.path.absolute()),
        weights_file_sha256=source.sha256,
    )
