"""timm's models: cut at their stages and blocks, with the preprocessing of their own data configuration."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank._process import import_torchvision
from featbank.backbones._hub import hub_file
from featbank.backbones.families import BackboneSpec, Cut, Family, Published, unknown_weights
from featbank.backbones.preprocessing import Preprocessing
from featbank.errors import InvalidInputError, MissingPackageError, MissingWeightsError

if TYPE_CHECKING:
    from torch import nn

    from featbank.backbones.catalogue import NodeSpec
    from featbank.backbones.network import Seen

__all__ = ["FAMILY", "TimmFamily"]

#: Parts that are cuts of the table: children of the network, and the numbered ones of those. Three names are
#: kept for what they mean elsewhere.
_PLACES = re.compile(r"(?!(pre_logits|logits|output)$)([^.]+(\.\d+)?|features\.[^.]+)")
_FILES = ("model.safetensors", "pytorch_model.bin")


class TimmFamily(Family):
    """``timm:NAME[.TAG]``; weights come from the cache of the Hugging Face hub, or are downloaded."""

    packages = ("timm",)

    def names(self) -> list[str]:
        timm = _timm()
        return sorted({*timm.list_models(), *timm.list_pretrained()})

    def spec(self, name: str) -> BackboneSpec | None:
        return _spec(name)

    def build(self, name: str, *, n_classes: int, image_size: int, initialise: bool) -> nn.Module:
        del initialise
        config = _config(name)
        options: dict[str, Any] = {}
        if config.get("fixed_input_size") and image_size != config["input_size"][1]:
            options["img_size"] = image_size
        module: nn.Module = _timm().create_model(name, pretrained=False, num_classes=n_classes, **options)
        return module

    def preprocessing(self, name: str) -> Preprocessing:
        return as_preprocessing(name, _config(name))

    def published(self, name: str, entry: str | None) -> Published:
        config = _config(name)
        tag = config.get("tag")
        if entry not in (None, "DEFAULT", tag):
            raise unknown_weights(f"timm:{name}", str(entry), [tag] if tag else [])
        return Published(as_preprocessing(name, config), tag or "DEFAULT", _file(name, config))


FAMILY = TimmFamily()


def _timm() -> Any:
    import_torchvision()
    try:
        import timm
    except ImportError as error:
        raise MissingPackageError(
            "backbones of timm need timm, which is not installed: pip install 'featbank[timm]'"
        ) from error
    return timm


def _config(name: str) -> dict[str, Any]:
    """Return what timm says of a model's weights: size, mean, classes, where the file is."""
    _timm()
    from timm.models import get_pretrained_cfg

    found = get_pretrained_cfg(name)
    return {} if found is None else dict(found.to_dict())


def as_preprocessing(name: str, config: Mapping[str, Any]) -> Preprocessing:
    """Turn timm's data configuration into plain numbers; what they cannot say is refused.

    Parameters
    ----------
    name : str
        The model, for messages.
    config : mapping
        Fields of timm's ``PretrainedCfg``.

    Raises
    ------
    InvalidInputError
        If the images are not square and RGB, or resized in a way that `Preprocessing` does not know.
    """
    _timm()
    from timm.data import resolve_data_config

    data = resolve_data_config(pretrained_cfg=dict(config))
    channels, height, width = data["input_size"]
    resize_size = math.floor(height / data["crop_pct"])
    mode, interpolation = data["crop_mode"], data["interpolation"]
    if (channels, height) != (3, width):
        fault = f"takes {channels} x {height} x {width} numbers, not a square RGB image"
    elif mode not in ("center", "squash"):
        fault = f"has crop mode {mode!r}"
    elif mode == "squash" and resize_size != height:
        fault = f"squashes images to {resize_size} pixels and crops {height} of them"
    elif interpolation not in ("bilinear", "bicubic"):
        fault = f"resizes with {interpolation!r}"
    else:
        return Preprocessing(
            image_size=height,
            resize_size=resize_size,
            interpolation=interpolation,
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            mode="crop" if mode == "center" else mode,
        )
    raise InvalidInputError(f"timm:{name} {fault}, which featbank does not do; choose another backbone")


def _file(name: str, config: Mapping[str, Any]) -> Path:
    """Find the weights in the cache of the hub, or download them."""
    repository = config.get("hf_hub_id")
    if not repository:
        raise MissingWeightsError(
            f"no weights for 'timm:{name}': timm publishes none on the hub; use --weights FILE or "
            "--weights random"
        )
    given = config.get("hf_hub_filename")
    ways = ["--weights FILE.safetensors|.pth", "--weights random"]
    return hub_file(repository, [given] if given else _FILES, owner=f"timm:{name}", ways=ways)


@functools.cache
def _spec(name: str) -> BackboneSpec | None:
    timm = _timm()
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture) or (name != architecture and name not in timm.list_pretrained()):
        return None
    from featbank.backbones.catalogue import NodeSpec, prefix_tokens
    from featbank.backbones.families import build_on_meta

    config = _config(name)
    n_classes = config.get("num_classes", 1000)
    classifier = config.get("classifier")
    bare = NodeSpec(
        f"timm+{name}",
        "timm",
        (),
        as_preprocessing(name, config).image_size,
        n_classes=n_classes,
        head_key=f"{classifier}.weight" if n_classes and isinstance(classifier, str) else "",
        hooked=True,
    )
    module = build_on_meta(bare)
    n_prefix, has_cls = prefix_tokens(module)
    cuts = _cuts(bare, module, classifier)
    return replace(
        bare,
        cuts=cuts,
        n_prefix=n_prefix,
        has_cls=has_cls,
        attention_pools=_attention_pools(bare, module, cuts),
        n_parameters=sum(one.numel() for one in module.parameters()),
    )


def _cuts(spec: NodeSpec, module: nn.Module, classifier: Any) -> tuple[Cut, ...]:
    """Choose stages and blocks in depth order, the vector before the classifier, and the logits."""
    from featbank.backbones.network import OUTPUT, survey

    seen = survey(module, spec.default_image_size, spec.name)
    good = {path: one for path, one in seen.items() if one.fault is None}
    whole = good.pop(OUTPUT, None)
    # What goes into the classifier is the vector that most people mean by a model's features.
    vector = seen[classifier].given if spec.n_classes and classifier in seen else None
    own = _own_vector(module, spec.default_image_size)
    kept: dict[int, Cut] = {}
    for path, one in good.items():
        before = kept.get(id(one.features))
        if one.features is vector and vector is not None and vector.ndim == 2:
            kept[id(vector)] = _cut("pre_logits" if own in (None, one.shape) else path, path, one)
        elif whole is not None and one.features is whole.features:
            continue
        elif _PLACES.fullmatch(path) and before is None:
            kept[id(one.features)] = _cut(path, path, one)
        elif _PLACES.fullmatch(path) and before is not None and before.name != path:
            # A part that does nothing, or one that ends with the part before: layer1 ends with layer1.1.
            kept[id(one.features)] = replace(before, aliases=(*before.aliases, path))
    cuts = list(kept.values())
    if whole is not None:
        name = "output"
        if len(whole.shape) == 1:
            is_vector = not spec.n_classes and all(one.name != "pre_logits" for one in cuts)
            name = "logits" if spec.n_classes else "pre_logits" if is_vector else name
        cuts.append(_cut(name, OUTPUT, whole))
    return tuple(cuts)


def _attention_pools(spec: NodeSpec, module: nn.Module, cuts: tuple[Cut, ...]) -> tuple[tuple[str, Cut], ...]:
    """Find the cut that a learned attention pooler reads, as SigLIP has one, and what that gives."""
    from featbank.backbones.network import survey

    if not any(path == "attn_pool" for path, _ in module.named_modules()):
        return ()
    pooler = survey(module, spec.default_image_size, spec.name).get("attn_pool")
    norm = next((cut for cut in cuts if cut.name == "norm"), None)
    if pooler is None or pooler.fault is not None or norm is None:
        return ()
    return ((norm.name, _cut("attn_pool", "attn_pool", pooler)),)


def _own_vector(module: Any, image_size: int) -> tuple[int, ...] | None:
    """Return the shape of what timm itself calls pre_logits; a classifier of two layers has another input."""
    import torch

    try:
        with torch.no_grad():
            features = module.forward_features(torch.zeros(1, 3, image_size, image_size, device="meta"))
            return tuple(module.forward_head(features, pre_logits=True).shape[1:])
    except (AttributeError, TypeError, RuntimeError):  # some models have no such way
        return None


def _cut(name: str, path: str, seen: Seen) -> Cut:
    return Cut(name, path, seen.shape, macs=seen.macs)
