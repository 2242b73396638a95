"""The table of backbones: names, cut tables, input sizes; torch is loaded for what the table does not say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from featbank._cuts import MAP, pooled_shape
from featbank.backbones.families import FAMILIES, OWN_FAMILIES, get_spec
from featbank.backbones.spec import BackboneSpec
from featbank.errors import InvalidInputError

__all__ = ["CutRow", "check_image_size", "cut_table", "names"]


def names(family: str | None = None, pattern: str = "*") -> list[str]:
    """List the backbones that have a cut table.

    Parameters
    ----------
    family : str, optional
        List those of a family (``"torchvision"``, ``"featbank"``, that of a plug-in), named ``FAMILY:NAME``
        where that is how they are asked for.
    pattern : str, default="*"
        As for file names: ``"vit_*"``; it is for the name without the family.

    Returns
    -------
    list of str
        By default torchvision's and featbank's own, which `get_spec` knows without torch. It also takes the
        name of any other torchvision classifier.

    Raises
    ------
    UnknownNameError
        If there is no such family.

    Examples
    --------
    >>> names()[:3], names("featbank")
    (['vgg11', 'vgg13', 'vgg16'], ['minivgg'])
    """
    if family is None:
        return [name for one in OWN_FAMILIES for name in names(one, pattern)]
    found = [name for name in FAMILIES.get(family).names() if fnmatchcase(name, pattern)]
    return found if family in OWN_FAMILIES else [f"{family}:{name}" for name in found]


@dataclass(frozen=True)
class CutRow:
    """One line of `cut_table`.

    Parameters
    ----------
    name, node : str
        The cut and its graph node; for a derived cut, how it is derived.
    shape : tuple of int
        Shape of one image's features at the image size asked for.
    aliases : tuple of str
        Other names.
    macs : int
        Multiply-adds of one image up to the cut.
    row_bytes : int
        Bytes of one image in a bank: float16, ``logits`` float32, 0 for what is not stored.
    poolings : mapping of str to int
        What its features can be pooled by, ``NAME:POOLING``, and the bytes of one image then.

    Examples
    --------
    >>> row = cut_table("minivgg")[3]
    >>> row.name, row.shape, row.macs, row.row_bytes, dict(row.poolings)
    ('block4_pool', (128, 2, 2), 55148544, 1024, {'gap': 256, 'gmp': 256, 'gem3': 256, 'grid2': 1024})
    """

    name: str
    node: str
    shape: tuple[int, ...]
    aliases: tuple[str, ...]
    macs: int
    row_bytes: int
    poolings: Mapping[str, int]


def cut_table(name: str, image_size: int | None = None) -> list[CutRow]:
    """Tabulate the cuts of a backbone: node, shape, multiply-adds, bytes per image.

    Parameters
    ----------
    name : str
        A backbone.
    image_size : int, optional
        Side of the square input, in pixels; the backbone's own by default, for which nothing is computed.

    Returns
    -------
    list of CutRow
        From shallow to deep.

    Raises
    ------
    UnknownNameError
        If there is no such backbone.
    InvalidInputError
        If `image_size` is too small for the backbone.

    Examples
    --------
    >>> row = cut_table("vgg16")[2]
    >>> row.name, row.shape, round(row.macs / 1e9, 3), row.row_bytes
    ('block3_pool', (256, 28, 28), 9.335, 401408)
    """
    spec = get_spec(name)
    size = check_image_size(spec, image_size)
    measured: dict[str, tuple[tuple[int, ...], int]] = {}
    if size != spec.default_image_size or any(cut.macs is None for cut in spec.cuts):
        from featbank.backbones._nodes import measure

        measured = measure(spec, size)
    rows = []
    for cut in spec.cuts:
        source = cut.derived_from or cut.name
        shape, macs = measured.get(source, (cut.shape, cut.macs or 0))
        node = f"softmax({source} / T)" if cut.derived_from else cut.node
        sized = replace(cut, shape=shape)
        pooled = {
            one: 2 * math.prod(pooled_shape(cut.name, shape, cut.layout, one))
            for one in spec.poolings(sized)
            if one != MAP
        }
        if MAP in spec.poolings(sized):
            pooled[MAP] = spec.cut(f"{cut.name}:{MAP}").row_bytes
        rows.append(CutRow(cut.name, node, shape, cut.aliases, macs, sized.row_bytes, pooled))
    return rows


def check_image_size(spec: BackboneSpec, image_size: int | None) -> int:
    """Return `image_size`, or the backbone's own for None; raises `InvalidInputError` if it is too small."""
    if image_size is None:
        return spec.default_image_size
    if isinstance(image_size, bool) or not isinstance(image_size, int):
        raise InvalidInputError(f"image_size={image_size!r} is not a number of pixels; pass an int, e.g. 224")
    if image_size < spec.min_image_size:
        raise InvalidInputError(
            f"image_size={image_size} is too small for {spec.name!r}: its pools leave nothing of less than "
            f"{spec.min_image_size} pixels; use image_size >= {spec.min_image_size}"
        )
    return image_size
