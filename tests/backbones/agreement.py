"""Compare every cut and every pooling of a backbone with what the untouched model gives."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from featbank.backbones import Backbone, truncate
from featbank.errors import InvalidInputError

__all__ = ["LIMIT", "compare", "relative"]

LIMIT = 1e-5


def compare(
    backbone: Backbone, module: nn.Module, n_prefix: int | None = None
) -> tuple[dict[str, float], dict[str, Tensor], Tensor]:
    """Return how far off each cut and pooling is, what they are, and of which images.

    Parameters
    ----------
    backbone : Backbone
    module : torch.nn.Module
        Untouched, with the same weights.
    n_prefix : int, optional
        How many tokens stand before those of the patches, where the module says it.
    """
    spec = backbone.spec
    cuts = [cut.name for cut in spec.cuts if cut.derived_from is None]
    pooled = [f"{cut.name}:{one}" for cut in spec.cuts for one in spec.poolings(cut)]
    side = backbone.preprocessing.image_size
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    nodes = {cut: spec.cut(cut).node for cut in [*cuts, *(one for one in pooled if one.endswith(":map"))]}
    joined = []
    for one in ("last4:cls", "last4:patch-mean"):
        with contextlib.suppress(InvalidInputError):
            joined.append(spec.cut(one).name)
    with torch.inference_mode():
        whole = caught(module, nodes, images)
        # at a smaller size a map may be too small for the grid
        small = {cut for cut in cuts if min(whole[nodes[cut]].shape[1:]) < 2}
        pooled = [one for one in pooled if not (one.endswith(":grid2") and one[:-6] in small)]
        features = truncate(backbone, [*cuts, *pooled, *joined])(images)
    off = {cut: relative(features[cut], whole[spec.cut(cut).node]) for cut in cuts}
    for cut in pooled:
        base, _, pooling = cut.rpartition(":")
        if pooling == "map":
            off[cut] = relative(features[cut], whole[spec.cut(cut).node])
            continue
        layout = spec.cut(base).layout
        assert layout is not None
        made = whole[spec.cut(base).node]
        if layout.axes == "NC" and n_prefix is not None:
            assert layout.n_prefix in (0, n_prefix)
            assert layout.n_prefix == n_prefix or made.shape[1] ** 0.5 % 1 == 0  # before the others come
        off[cut] = relative(features[cut], reference(made, pooling, layout.axes, layout.n_prefix))
    for cut in joined:
        parts = [features[one.name] for one in spec.cut(cut).joined]
        off[cut] = relative(features[cut], torch.cat(parts, 1))
    return off, features, images


def caught(module: nn.Module, nodes: dict[str, str], images: Tensor) -> dict[str, Tensor]:
    """Return what a module gives at nodes: by hooks at its parts, and by a graph of its own elsewhere."""
    found: dict[str, Tensor] = {}
    parts = dict(module.named_modules())

    def catch(path: str, made: Any) -> None:
        if not isinstance(made, Tensor):
            made = made[0] if isinstance(made, tuple | list) else getattr(made, "last_hidden_state", None)
        found.setdefault(path, made.clone() if isinstance(made, Tensor) else torch.empty(0))

    wanted = set(nodes.values()) - {"<output>", ""}
    hooks = [
        parts[path].register_forward_hook(lambda _, given, out, path=path: catch(path, out))
        for path in wanted & set(parts)
    ]
    made = module(images)
    for one in hooks:
        one.remove()
    if hasattr(made, "keys"):
        made = made["logits"] if "logits" in made else made["last_hidden_state"]
    found["<output>"] = made[0] if isinstance(made, tuple | list) else made
    elsewhere = sorted(wanted - set(found))
    if elsewhere:
        from torchvision.models.feature_extraction import create_feature_extractor

        found |= create_feature_extractor(
            module, {one: one for one in elsewhere}, suppress_diff_warning=True
        ).eval()(images)
    return found


def reference(features: Tensor, pooling: str, axes: str, n_prefix: int) -> Tensor:
    if axes == "NC":
        mean = features[:, n_prefix:].mean(1)
        return {
            "cls": features[:, 0],
            "patch-mean": mean,
            "cls+mean": torch.cat([features[:, 0], mean], 1),
        }[pooling]
    maps = features.permute(0, 3, 1, 2) if axes == "HWC" else features
    if pooling == "gap":
        return functional.adaptive_avg_pool2d(maps, 1).flatten(1)
    if pooling == "gmp":
        return functional.adaptive_max_pool2d(maps, 1).flatten(1)
    if pooling == "grid2":
        return functional.adaptive_avg_pool2d(maps, 2)
    return functional.adaptive_avg_pool2d(maps.clamp(min=1e-6) ** 3, 1).flatten(1) ** (1 / 3)


def relative(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).norm() / other.norm().clamp_min(1e-12))
