"""The table of backbones: names, cut tables, input sizes; torch is loaded for what the table does not say."""

from __future__ import annotations

from dataclasses import dataclass

from featbank._registry import Registry, nearest
from featbank.backbones import _inception, _mobilenet, _resnet, _squeezenet, _vgg
from featbank.backbones._spec import BackboneSpec, Cut
from featbank.backbones.minivgg import MINIVGG_CLASSES, MINIVGG_CUTS
from featbank.errors import InvalidInputError, UnknownNameError

__all__ = ["CutRow", "cut_table", "get_spec", "names"]

_MINIVGG_MACS = (
    10_321_920,
    24_477_696,
    48_070_656,
    55_148_544,
    56_918_016,
    56_950_784,
    57_016_320,
    57_018_880,
)


def _minivgg() -> BackboneSpec:
    # The same aliases as VGG16, so that a command written for one runs on the other.
    aliases = {cut.name: cut.aliases for cut in _vgg.SPECS[0].cuts}
    cuts = tuple(
        Cut(name, node, shape, aliases[name], macs)
        for (name, (node, shape)), macs in zip(MINIVGG_CUTS.items(), _MINIVGG_MACS, strict=True)
    )
    return BackboneSpec(
        "minivgg",
        "vgg",
        cuts,
        default_image_size=32,
        min_image_size=32,
        n_classes=len(MINIVGG_CLASSES),
        n_parameters=1_422_826,
        head_key="classifier.6.weight",
    )


_REGISTRY = Registry[BackboneSpec]("backbone")
for _one in (
    *_vgg.SPECS,
    *_resnet.SPECS,
    *_inception.SPECS,
    *_mobilenet.SPECS,
    *_squeezenet.SPECS,
    _minivgg(),
):
    _REGISTRY.register(_one.name, _one)


def names() -> list[str]:
    """List the backbones that have a cut table.

    Returns
    -------
    list of str
        Names `get_spec` knows without torch. It also takes the name of any other torchvision classifier.

    Examples
    --------
    >>> names()[:3], "minivgg" in names()
    (['vgg11', 'vgg13', 'vgg16'], True)
    """
    return _REGISTRY.names()


def get_spec(name: str) -> BackboneSpec:
    """Look a backbone up.

    Parameters
    ----------
    name : str
        One of `names`, or the name of another torchvision classifier (``densenet121``, ``vit_b_16``, ...),
        whose table is then made from its graph: its cuts are graph nodes, and making it loads torch.

    Returns
    -------
    BackboneSpec
        Its cuts and other facts.

    Raises
    ------
    UnknownNameError
        If neither this table nor torchvision knows the name; the message lists the nearest names.

    Examples
    --------
    >>> get_spec("vgg16").cut("block4_pool")
    Cut(name='block4_pool', node='features.23', shape=(512, 14, 14), aliases=('pool4', 'conv-4'), ...)
    >>> get_spec("vgg16_bn").cut("pool4").node
    'features.33'
    """
    if name in _REGISTRY:
        return _REGISTRY.get(name)
    from featbank.backbones._nodes import node_spec, other_names

    others = other_names(_REGISTRY.names())
    if name in others:
        return node_spec(name)
    raise UnknownNameError(
        f"unknown backbone {name!r}; known: {nearest(name, [*_REGISTRY.names(), *others])}"
    )


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
    """

    name: str
    node: str
    shape: tuple[int, ...]
    aliases: tuple[str, ...]
    macs: int
    row_bytes: int


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
        sized = Cut(cut.name, cut.node, shape, derived_from=cut.derived_from)
        rows.append(CutRow(cut.name, node, shape, cut.aliases, macs, sized.row_bytes))
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
