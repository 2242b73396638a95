"""Views: what is done to images, always in the same way, before they go through the network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from featbank._cuts import check_view

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["apply_view"]


def apply_view(images: Tensor, view: str | None) -> Tensor:
    """Return what a view makes of images.

    Parameters
    ----------
    images : Tensor of uint8, shape (n, 3, size, size)
        As they would go into the network.
    view : str or None
        ``"hflip"``, ``"vflip"``; ``"rot10"`` turns by 10 degrees counter-clockwise, ``"zoom1.1"`` makes what
        is in the middle 1.1 times as large, both bilinearly, and what comes in from outside is mirrored;
        several in turn as ``"hflip+rot10"``. None changes nothing.

    Returns
    -------
    Tensor of uint8, shape (n, 3, size, size)

    Raises
    ------
    UnknownNameError
        If there is no such view.

    Examples
    --------
    >>> import torch
    >>> images = torch.arange(27, dtype=torch.uint8).reshape(1, 3, 3, 3)
    >>> apply_view(images, "hflip")[0, 0, 0].tolist(), apply_view(images, "rot90")[0, 0, 0].tolist()
    ([2, 1, 0], [2, 5, 8])
    """
    for one in [] if view is None else check_view(view).split("+"):
        if one in ("hflip", "vflip"):
            images = images.flip(-1 if one == "hflip" else -2)
        else:
            images = _moved(images, one)
    return images


def _moved(images: Tensor, view: str) -> Tensor:
    import torch
    from torch.nn import functional

    angle, scale = (0.0, 1 / float(view[4:])) if view.startswith("zoom") else (float(view[3:]), 1.0)
    cos, sin = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    theta = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], device=images.device)
    # of one image for all: the places do not depend on how many come along
    grid = functional.affine_grid(theta[None], [1, *images.shape[1:]], align_corners=False)
    moved = functional.grid_sample(
        images.float(),
        grid.expand(len(images), -1, -1, -1),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
    return moved.round().clamp(0, 255).to(torch.uint8)
