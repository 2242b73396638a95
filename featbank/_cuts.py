"""What a cut is called, ``CUT[:POOLING][@VIEW]``, and what its poolings compute.

The network, which pools before features are stored, and banks, which pool what is stored when it is read, use
the same lines: `pool` takes torch's tensors and numpy's arrays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from featbank._registry import nearest
from featbank.errors import InvalidInputError, UnknownNameError

__all__ = [
    "LOGITS",
    "MAP",
    "SOFTMAX",
    "CutName",
    "Layout",
    "check_view",
    "last_blocks",
    "pool",
    "pooled_shape",
    "poolings",
    "with_views",
]

#: Read from the stored logits, at any temperature.
SOFTMAX, LOGITS = "softmax", "logits"
#: The pooler that a model has learned itself: a part of the network, so nothing that is stored gives it.
MAP = "map"
_OF_MAPS = ("gap", "gmp", "gem3", "grid2")
_OF_TOKENS = ("cls", "patch-mean", "cls+mean")
_POWER = re.compile(r"(gem|grid)([2-9])")
_LAST = re.compile(r"last([1-9]\d?)")
_GEM_LEAST = 1e-6
_VIEW = re.compile(r"hflip|vflip|rot-?\d{1,3}(\.\d+)?|zoom\d(\.\d+)?")


@dataclass(frozen=True)
class CutName:
    """The parts of ``CUT[:POOLING][@VIEW]``.

    Parameters
    ----------
    base : str
        A cut of a backbone, or ``lastN``, its last N blocks.
    pooling : str or None
    view : str or None

    Examples
    --------
    >>> CutName.parse("block4_pool:gap@hflip")
    CutName(base='block4_pool', pooling='gap', view='hflip')
    >>> str(CutName("blocks.11", "cls")), CutName.parse("last4:cls").n_last
    ('blocks.11:cls', 4)
    """

    base: str
    pooling: str | None = None
    view: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a name apart; `InvalidInputError` where a part of it is empty, or it is no text."""
        if not isinstance(text, str):
            raise InvalidInputError(f"cut={text!r} is no text; give a name, such as 'fc7' or 'layer4:gap'")
        rest, at, view = text.partition("@")
        base, colon, pooling = rest.partition(":")
        if not base or (at and not view) or (colon and not pooling):
            raise InvalidInputError(f"cut {text!r} is not CUT[:POOLING][@VIEW], such as 'layer4:gap@hflip'")
        return cls(base, pooling or None, view or None)

    def __str__(self) -> str:
        pooling = "" if self.pooling is None else f":{self.pooling}"
        return f"{self.base}{pooling}" + ("" if self.view is None else f"@{self.view}")

    @property
    def n_last(self) -> int | None:
        """How many blocks are joined; None for a cut that is one place."""
        found = _LAST.fullmatch(self.base) if self.pooling else None
        return None if found is None else int(found[1])

    @property
    def seen(self) -> str:
        """The name without its view."""
        return str(replace(self, view=None))


def check_view(view: str) -> str:
    """Return the name of a view if there is such a one.

    Raises
    ------
    UnknownNameError
        Otherwise.

    Examples
    --------
    >>> check_view("hflip+rot10")
    'hflip+rot10'
    """
    parts = view.split("+") if isinstance(view, str) else []
    wrong = [one for one in parts if not _VIEW.fullmatch(one)]
    if not parts or wrong or any(one.startswith("zoom") and not float(one[4:]) for one in parts):
        raise UnknownNameError(
            f"unknown view {view!r}; known: hflip, vflip, rotDEGREES (rot10, rot-10), zoomFACTOR (zoom1.1), "
            "and several in turn, such as hflip+rot10"
        )
    return view


def with_views(cuts: Sequence[str], views: Sequence[str]) -> list[str]:
    """Return cuts, and beside each that names no view itself what it is called at each of the views."""
    found = list(cuts)
    for view in views:
        check_view(view)
        found += [f"{cut}@{view}" for cut in cuts if CutName.parse(cut).view is None]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Layout:
    """How the axes of one image's features are to be read.

    Parameters
    ----------
    axes : {"CHW", "HWC", "NC"}
        A map with the channels first or last; tokens.
    n_prefix : int, default=0
        Tokens that stand before those of the patches: class, distillation, registers.
    has_cls : bool, default=False
        Whether the first of them is a class token.
    from_end : int or None
        Of a block: 1 for the network's last one, 2 for that before it.

    Examples
    --------
    >>> Layout.of((512, 14, 14)).axes, Layout.of((7, 7, 768)).axes, Layout.of((1000,))
    ('CHW', 'HWC', None)
    >>> Layout.of((201, 384), 5, has_cls=True)
    Layout(axes='NC', n_prefix=5, has_cls=True, from_end=None)
    """

    axes: str
    n_prefix: int = 0
    has_cls: bool = False
    from_end: int | None = None

    @classmethod
    def of(cls, shape: Sequence[int], n_prefix: int = 0, *, has_cls: bool = False) -> Self | None:
        """Tell by the shape of square images' features; None for vectors, and where it cannot be told.

        Parameters
        ----------
        shape : sequence of int
        n_prefix : int
            Tokens before the patches, where there are any; a part may come before they do.
        has_cls : bool
        """
        if len(shape) == 3 and (shape[0] == shape[1]) != (shape[1] == shape[2]):
            return cls("HWC" if shape[0] == shape[1] else "CHW")
        if len(shape) == 2 and shape[0] > 1:
            with_prefix = shape[0] > n_prefix and _is_square(shape[0] - n_prefix)
            if with_prefix and (not n_prefix or not _is_square(shape[0])):
                return cls("NC", n_prefix, has_cls and n_prefix > 0)
            if not with_prefix and _is_square(shape[0]):
                return cls("NC")
        return None

    @classmethod
    def from_dict(cls, said: object) -> Self | None:
        """Read what `to_dict` wrote; None for anything else."""
        if not isinstance(said, Mapping) or said.get("axes") not in ("CHW", "HWC", "NC"):
            return None
        n_prefix, from_end = said.get("n_prefix", 0), said.get("from_end")
        if not isinstance(n_prefix, int) or n_prefix < 0 or not isinstance(from_end, int | None):
            return None
        return cls(str(said["axes"]), n_prefix, bool(said.get("has_cls")), from_end)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def _is_square(n: int) -> bool:
    return math.isqrt(n) ** 2 == n


def poolings(layout: Layout | None) -> tuple[str, ...]:
    """List the poolings of features of a layout; `gemP` and `gridN` also take other numbers from 2 to 9."""
    if layout is None:
        return ()
    if layout.axes == "NC":
        return _OF_TOKENS if layout.has_cls else ("patch-mean",)
    return _OF_MAPS


def pooled_shape(cut: str, shape: Sequence[int], layout: Layout | None, pooling: str) -> tuple[int, ...]:
    """Return the shape of one image's features behind a pooling.

    Parameters
    ----------
    cut : str
        Its name, for the message.
    shape : sequence of int
    layout : Layout or None
    pooling : str

    Raises
    ------
    InvalidInputError
        If the pooling is not for such features.
    UnknownNameError
        If there is none of this name.

    Examples
    --------
    >>> pooled_shape("block4_pool", (512, 14, 14), Layout("CHW"), "grid2")
    (512, 2, 2)
    """
    known, sized = poolings(layout), _POWER.fullmatch(pooling)
    if not sized and pooling not in (*_OF_MAPS, *_OF_TOKENS, MAP):
        listed = nearest(pooling, [*(known or (*_OF_MAPS, *_OF_TOKENS)), MAP])
        raise UnknownNameError(f"unknown pooling {pooling!r} of cut {cut!r}; known: {listed}")
    if layout is None:
        size = "x".join(map(str, shape))
        why = "which is one vector for each image" if len(shape) == 1 else "whose axes cannot be told"
        raise InvalidInputError(f"cut {cut!r} gives {size}, {why}: there is nothing to pool; leave it out")
    if pooling == MAP:
        raise InvalidInputError(
            f"cut {cut!r} is not what a learned attention pooler of its backbone reads; its poolings are "
            f"{', '.join(known)}"
        )
    if layout.axes == "NC":
        if pooling not in known:
            what = "tokens" if layout.has_cls else "tokens without a class token"
            raise InvalidInputError(
                f"cut {cut!r} gives {what}, which {pooling!r} does not take; its poolings are "
                f"{', '.join(known)}"
            )
        return (shape[1] * (2 if pooling == "cls+mean" else 1),)
    channels, side = (shape[2], shape[0]) if layout.axes == "HWC" else (shape[0], shape[1])
    if not sized and pooling not in known:
        raise InvalidInputError(
            f"cut {cut!r} gives a map, which {pooling!r} does not take; its poolings are {', '.join(known)}"
        )
    if sized is None or sized[1] == "gem":
        return (channels,)
    n = int(sized[2])
    if side < n:
        raise InvalidInputError(f"cut {cut!r} is {side}x{side}, too small for {pooling!r}; use {cut}:gap")
    return (channels, n, n)


def pool(features: Any, layout: Layout, pooling: str, xp: Any) -> Any:
    """Pool the features of several images.

    Parameters
    ----------
    features : Tensor or ndarray of float32, shape (n_samples, *shape)
    layout : Layout
        Of `shape`.
    pooling : str
        One that `pooled_shape` allows: ``gap`` and ``gmp`` are mean and maximum over the places of a map,
        ``gem3`` the third root of the mean third power of what is positive, ``grid2`` the means of its four
        quarters; ``cls`` is the class token, ``patch-mean`` the mean of the patches' tokens.
    xp : module
        torch or numpy.

    Returns
    -------
    Tensor or ndarray, shape (n_samples, *pooled)

    References
    ----------
    Radenovic, Tolias, Chum: Fine-tuning CNN Image Retrieval with No Human Annotation, 2018, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> maps = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    >>> pool(maps, Layout("CHW"), "gap", np).tolist(), pool(maps, Layout("CHW"), "grid2", np)[0, 0].tolist()
    ([[7.5]], [[2.5, 4.5], [10.5, 12.5]])
    """
    if layout.axes == "NC":
        if pooling == "cls":
            return features[:, 0]
        mean = features[:, layout.n_prefix :].mean(1)
        return mean if pooling == "patch-mean" else xp.concatenate([features[:, 0], mean], 1)
    places = (1, 2) if layout.axes == "HWC" else (2, 3)
    if pooling == "gap":
        return features.mean(places)
    if pooling == "gmp":
        return xp.amax(features, places)
    n = int(pooling[-1])
    if pooling.startswith("gem"):
        positive = xp.clip(features, _GEM_LEAST, None)
        most = xp.amax(positive, places)  # (n_samples, channels); powers of parts of it do not overflow
        parts = positive / (most[:, None, None, :] if layout.axes == "HWC" else most[:, :, None, None])
        return (parts**n).mean(places) ** (1 / n) * most
    side = features.shape[places[0]]
    bounds = [slice(at * side // n, -(-(at + 1) * side // n)) for at in range(n)]  # as adaptive pooling does
    parts = [
        (features[:, y, x] if layout.axes == "HWC" else features[:, :, y, x]).mean(places)
        for y in bounds
        for x in bounds
    ]
    return xp.stack(parts, -1).reshape(len(features), -1, n, n)


def last_blocks(layouts: Mapping[str, Layout | None], n: int) -> list[str] | None:
    """Return the cuts that are a network's last `n` blocks, the last one last; None where they are not there.

    Parameters
    ----------
    layouts : mapping of str to Layout or None
        Of each cut.
    n : int
    """
    ends = {layout.from_end: cut for cut, layout in layouts.items() if layout and layout.from_end}
    wanted = range(n, 0, -1)
    return [ends[at] for at in wanted] if ends.keys() >= set(wanted) else None
