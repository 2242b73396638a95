"""``featbank backbones`` and ``featbank cuts``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from featbank.cli._terminal import Json, human_bytes, human_count, known_backbones, print_json, print_table

__all__ = ["backbones", "cuts"]


def backbones(
    pattern: Annotated[str, typer.Argument(help="Names to list, such as 'resnet*'.")] = "*",
    family: Annotated[str | None, typer.Option(help="List this family: torchvision, featbank, ...")] = None,
    as_json: Json = False,
) -> None:
    """List the backbones whose cuts have names; any other torchvision classifier works by node name.

    Example: featbank backbones 'resnet*'

    Example: featbank backbones --family timm 'vit_*dinov3*'
    """
    from featbank.backbones import get_spec, names
    from featbank.backbones.families import OWN_FAMILIES
    from featbank.errors import UnknownNameError

    found = names(family, pattern)
    if not found:
        whose = "" if family is None else f" of family {family!r}"
        raise UnknownNameError(
            f"no backbone{whose} matches {pattern!r}; give another pattern, such as 'resnet*'"
        )
    if family is not None and family not in OWN_FAMILIES:  # a table of each would be made first
        if as_json:
            print_json({"backbones": [{"backbone": name} for name in found]})
        else:
            print_table(("backbone",), [(name,) for name in found])
        return
    specs = [get_spec(name) for name in found]
    if as_json:
        rows = [
            {
                "backbone": spec.name,
                "image_size": spec.default_image_size,
                "n_parameters": spec.n_parameters,
                "macs": max((cut.macs or 0 for cut in spec.cuts), default=0),
                "cuts": [cut.name for cut in spec.cuts],
            }
            for spec in specs
        ]
        print_json({"backbones": rows})
        return
    print_table(
        ("backbone", "pixels", "weights", "multiply-adds", "cuts"),
        [
            (
                spec.name,
                str(spec.default_image_size),
                human_count(spec.n_parameters or 0),
                human_count(max((cut.macs or 0 for cut in spec.cuts), default=0)),
                " ".join(cut.name for cut in spec.cuts),
            )
            for spec in specs
        ],
        numeric=("pixels", "weights", "multiply-adds"),
    )


def cuts(
    backbone: Annotated[
        str, typer.Argument(help="See 'featbank backbones'.", autocompletion=known_backbones)
    ],
    image_size: Annotated[int | None, typer.Option(help="Side of the input in pixels.")] = None,
    as_json: Json = False,
) -> None:
    """Print the cuts of a backbone: shape, multiply-adds up to the cut, bytes per image in a bank.

    What a cut is pooled by, as in --cut block4_pool:gap, stands last, with the bytes that are left then.

    Example: featbank cuts vgg16
    """
    from featbank.backbones import cut_table

    rows = cut_table(backbone, image_size)
    if as_json:
        print_json({"backbone": backbone, "cuts": [asdict(row) for row in rows]})
        return
    print_table(
        ("cut", "aliases", "node", "shape", "features", "multiply-adds", "bytes/image", "poolings"),
        [
            (
                row.name,
                ", ".join(row.aliases),
                row.node,
                "x".join(map(str, row.shape)),
                str(math.prod(row.shape)),
                human_count(row.macs),
                human_bytes(row.row_bytes) if row.row_bytes else "from logits",
                _said_of_poolings(row.poolings),
            )
            for row in rows
        ],
        numeric=("features", "multiply-adds", "bytes/image"),
        dispensable=("node", "features", "poolings", "aliases"),
    )


def _said_of_poolings(poolings: Mapping[str, int]) -> str:
    sizes = dict.fromkeys(poolings.values())
    return ", ".join(
        f"{' '.join(name for name, n in poolings.items() if n == size)} {human_bytes(size)}" for size in sizes
    )
