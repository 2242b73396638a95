"""Augmentation of a batch on the device that trains, each image by numbers of its own.

All random numbers of an epoch are drawn at once, by numpy, so that they are the same on every device and
nothing waits for the host in between. Turns, shifts and zooms are torchvision's `affine` in arithmetic; what
comes in from outside repeats the border.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featbank.training.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Augmentation"]


@dataclass(frozen=True, eq=False)
class Augmentation:
    """What is done to each image of one epoch; rows are places in the epoch's order.

    Parameters
    ----------
    corners : Tensor of int64, shape (n_samples, 2), or None
        Top left corner of each crop in the padded image.
    mirrored : Tensor of bool, shape (n_samples,), or None
    affine : Tensor of float32, shape (n_samples, 2, 3), or None
        From places in the new image to places in the old one, both from -1 to 1.
    brightness : Tensor of float32, shape (n_samples,), or None
        What is added to all pixels, in 0..255.
    holes : Tensor of int64, shape (n_samples, 2), or None
        Centres of what is painted over.
    padding, hole : int
        Pixels of reflection around the image; side of what is painted over if odd, else it is one less.
    """

    corners: Tensor | None
    mirrored: Tensor | None
    affine: Tensor | None
    brightness: Tensor | None
    holes: Tensor | None
    padding: int
    hole: int

    @classmethod
    def draw(
        cls,
        recipe: Recipe,
        random: np.random.Generator,
        n_samples: int,
        size: int,
        device: torch.device,
    ) -> Augmentation:
        """Draw all numbers of one epoch.

        Parameters
        ----------
        recipe : Recipe
            Its augmentation.
        random : numpy.random.Generator
        n_samples : int
            Images of the epoch.
        size : int
            Their side, in pixels.
        device : torch.device
            Where they are needed.
        """
        import torch

        def there(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        pad = recipe.crop_padding
        corners = there(random.integers(0, 2 * pad + 1, size=(n_samples, 2))) if pad else None
        mirrored = there(random.random(n_samples) < 0.5) if recipe.flip else None
        holes = there(random.integers(0, size, size=(n_samples, 2))) if recipe.cutout else None
        affine = None
        if recipe.rotation or recipe.shift or recipe.zoom_out or recipe.zoom_in:
            angles = random.uniform(-recipe.rotation, recipe.rotation, n_samples)
            shifts = random.uniform(-recipe.shift, recipe.shift, (n_samples, 2)) * size
            scales = random.uniform(1 - recipe.zoom_out, 1 + recipe.zoom_in, n_samples)
            affine = there(inverse_affine(angles, shifts, scales, size).astype(np.float32))
        brightness = None
        if recipe.channel_shift:
            most = 255 * recipe.channel_shift
            brightness = there(random.uniform(-most, most, n_samples).astype(np.float32))
        return cls(corners, mirrored, affine, brightness, holes, pad, recipe.cutout)

    def apply(self, images: Tensor, rows: Tensor, at: slice, mean: Tensor) -> Tensor:
        """Take images and change them.

        Parameters
        ----------
        images : Tensor of uint8, shape (n_images, size, size, 3)
            All there are.
        rows : Tensor of int64, shape (batch,)
            Which of them.
        at : slice
            Their places in the epoch's order.
        mean : Tensor of float32, shape (1, 3, 1, 1)
            What is painted over gets, in 0..255.

        Returns
        -------
        Tensor of float32, shape (batch, 3, size, size)
            In 0..255.
        """
        import torch
        from torch.nn import functional

        size = images.shape[1]
        if self.corners is None and self.mirrored is None:
            picked = images[rows]
        else:
            across = torch.arange(size, device=images.device)
            ys = xs = across[None, :]  # (1, size)
            if self.mirrored is not None:
                xs = torch.where(self.mirrored[at, None], size - 1 - xs, xs)
            if self.corners is not None:
                corners = self.corners[at] - self.padding  # (batch, 2)
                ys = _reflected(ys + corners[:, :1], size)
                xs = _reflected(xs + corners[:, 1:], size)
            picked = images[rows[:, None, None], ys[:, :, None], xs[:, None, :]]
        # permute of a (b, h, w, c) array is channels-last already; .float() keeps the layout
        batch = picked.permute(0, 3, 1, 2).float()  # (batch, 3, size, size)
        if self.affine is not None:
            grid = functional.affine_grid(self.affine[at], list(batch.shape), align_corners=False)
            batch = functional.grid_sample(batch, grid, padding_mode="border", align_corners=False)
        if self.brightness is not None:
            batch = (batch + self.brightness[at, None, None, None]).clamp_(0, 255)
        if self.holes is not None:
            centres = self.holes[at]
            across = torch.arange(size, device=images.device)[None, :]
            rows_near = (across - centres[:, :1]).abs() * 2 < self.hole  # (batch, size)
            columns_near = (across - centres[:, 1:]).abs() * 2 < self.hole
            batch = torch.where((rows_near[:, :, None] & columns_near[:, None, :])[:, None], mean, batch)
        return batch.contiguous(memory_format=torch.channels_last)


def _reflected(places: Tensor, size: int) -> Tensor:
    """Fold places outside of 0..size-1 back, as numpy's ``pad(mode="reflect")`` does."""
    return (size - 1) - ((size - 1) - places.abs()).abs()


def inverse_affine(angles: np.ndarray, shifts: np.ndarray, scales: np.ndarray, size: int) -> np.ndarray:
    """Return the matrices that take places in a turned, scaled and shifted image back to the image.

    Parameters
    ----------
    angles : ndarray of float, shape (n_samples,)
        Degrees, clockwise.
    shifts : ndarray of float, shape (n_samples, 2)
        Pixels to the right and down.
    scales : ndarray of float, shape (n_samples,)
    size : int
        Side of the images, in pixels.

    Returns
    -------
    ndarray of float64, shape (n_samples, 2, 3)
        For places from -1 to 1, as torch's ``affine_grid`` wants them.
    """
    cos, sin = np.cos(np.radians(angles)) / scales, np.sin(np.radians(angles)) / scales
    right, down = (shifts / (size / 2)).T
    rows = [[cos, sin, -cos * right - sin * down], [-sin, cos, sin * right - cos * down]]
    return np.moveaxis(np.array(rows), -1, 0)
