"""Gradient ascent on the input, many channels at once; imported only where torch is wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featbank.backbones import Backbone, Preprocessing, truncate
from featbank.errors import InvalidInputError
from featbank.extraction.forward import choose_device

__all__ = ["Ascent", "Settings"]

#: The candidates' ascent is this much shorter than the final one.
_SHORT = 8
#: A blur comes every so many steps.
_BLUR_EVERY = 4
#: Images that are pushed together, at most, and so many pixels of them.
_BATCH = 64
_BATCH_PIXELS = 16 * 224 * 224


@dataclass(frozen=True)
class Settings:
    """How the ascent goes; see `DreamDisplay.from_backbone`."""

    steps: int
    lr: float
    jitter: int | None
    blur: float
    decay: float
    image_size: int | None
    random_state: int
    device: str | None

    def __post_init__(self) -> None:
        faults = []
        if self.steps < 1:
            faults.append(f"steps={self.steps!r} must be at least 1")
        if not 0 < self.lr < math.inf:
            faults.append(f"lr={self.lr!r} must be a finite number over 0")
        if self.jitter is not None and self.jitter < 0:
            faults.append(f"jitter={self.jitter!r} must be at least 0")
        if not 0 <= self.blur < math.inf:
            faults.append(f"blur={self.blur!r} must be a finite number of at least 0")
        if not 0 <= self.decay < 1:
            faults.append(f"decay={self.decay!r} must be in [0, 1)")
        if self.image_size is not None and self.image_size < 8:
            faults.append(f"image_size={self.image_size!r} must be at least 8")
        if faults:
            raise InvalidInputError("; ".join(faults))


class Ascent:
    """Gradient ascent for the channels of one cut.

    Parameters
    ----------
    backbone : Backbone
        The network.
    cut : str
        Its cut.
    settings : Settings
        How.
    """

    def __init__(self, backbone: Backbone, cut: str, settings: Settings) -> None:
        self._settings = settings
        self._preprocessing: Preprocessing = backbone.preprocessing
        self._cut = cut
        self._size = settings.image_size or backbone.preprocessing.image_size
        self._device = choose_device(settings.device)
        network = truncate(backbone, [cut], image_size=self._size)
        self._network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.n_channels = network.cut_shapes[cut][0]
        names = backbone.class_names or ()
        self.names = names if cut == "logits" and len(names) == self.n_channels else ()

    def dream(
        self, channels: Sequence[int] | None, *, n: int, candidates: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.float64], int]:
        """Choose the channels and synthesise their inputs.

        Parameters
        ----------
        channels : sequence of int, optional
            These, in this order.
        n : int
            How many are shown.
        candidates : int
            How many are tried.

        Returns
        -------
        channels, images, gains, n_tried
            As of `Dream`.

        Raises
        ------
        InvalidInputError
            If the cut has no such channel.
        """
        settings = self._settings
        if channels is not None:
            wrong = [one for one in channels if not 0 <= one < self.n_channels]
            if wrong:
                raise InvalidInputError(
                    f"cut {self._cut!r} has no channel {wrong[0]!r}; it has 0 to {self.n_channels - 1}"
                )
            chosen = np.array(channels, dtype=np.int64)
            images, gains = self._climb(chosen, settings.steps)
            return chosen, images, gains, len(chosen)
        tried = np.unique(
            np.linspace(0, self.n_channels - 1, min(candidates, self.n_channels)).astype(np.int64)
        )
        chosen = tried
        if len(tried) > n:
            _, gains = self._climb(tried, max(1, settings.steps // _SHORT))
            chosen = tried[np.argsort(-gains, kind="stable")[:n]]
        images, gains = self._climb(chosen, settings.steps)
        order = np.argsort(-gains, kind="stable")
        return chosen[order], images[order], gains[order], len(tried)

    def _climb(self, channels: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Return images (n, size, size, 3) uint8 and gains (n,), in the order of `channels`."""
        most = max(1, min(_BATCH, _BATCH_PIXELS // self._size**2))
        found = [self._climb_batch(channels[at : at + most], steps) for at in range(0, len(channels), most)]
        return np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])

    def _climb_batch(self, channels: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        settings, size = self._settings, self._size
        # Each ascent begins with the same seed: what a channel gives must not depend on its neighbours.
        random = np.random.default_rng(settings.random_state)
        mean = torch.tensor(self._preprocessing.mean, device=self._device).view(1, 3, 1, 1)
        noise = torch.from_numpy(random.normal(0.0, 0.05, (1, 3, size, size))).to(self._device, torch.float32)
        start = (mean + noise).clamp(0, 1)  # (1, 3, h, w), in the range of pixels
        x = start.repeat(len(channels), 1, 1, 1).contiguous(memory_format=torch.channels_last)
        which = torch.from_numpy(channels).to(self._device)
        before = self._activation(x, which).detach()
        reach = settings.jitter if settings.jitter is not None else max(1, size // 16)
        for step in range(steps):
            down, right = (int(one) for one in random.integers(-reach, reach + 1, size=2))
            shifted = torch.roll(x, (down, right), dims=(2, 3)).requires_grad_(True)
            (gradient,) = torch.autograd.grad(self._activation(shifted, which).sum(), shifted)
            with torch.no_grad():
                gradient = torch.roll(gradient, (-down, -right), dims=(2, 3))
                left = 1.0 - step / steps
                x = x + settings.lr * (0.25 + 0.75 * left) * _direction(gradient)
                x = mean + (1.0 - settings.decay) * (x - mean)
                if settings.blur and step % _BLUR_EVERY == _BLUR_EVERY - 1 and step < steps - 1:
                    x = _blurred(x, settings.blur * left)
                x = x.clamp(0, 1)
        gains = (self._activation(x, which).detach() - before).double().cpu().numpy()
        images = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return np.ascontiguousarray(images), gains

    def _activation(self, pixels: Tensor, channels: Tensor) -> Tensor:
        """Return the mean activation of one channel for each image, shape (n,)."""
        features = self._network(_normalised(self._preprocessing, pixels))[self._cut]
        own = features[torch.arange(len(channels), device=features.device), channels]  # (n, ...)
        means: Tensor = own.flatten(1).mean(dim=1) if own.ndim > 1 else own
        return means


def _normalised(preprocessing: Preprocessing, pixels: Tensor) -> Tensor:
    """Do as `Preprocessing.normalise`, but on pixels in 0..1 that want a gradient."""
    if preprocessing.contrast:
        centred = pixels - pixels.mean(dim=(1, 2, 3), keepdim=True)
        return centred / centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    mean = torch.tensor(preprocessing.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels - mean) / std


def _direction(gradient: Tensor) -> Tensor:
    """Scale a gradient to a root mean square of about 1; in large images, of coarse and fine parts alike.

    A gradient is mostly fine grain. In an image of many pixels that drowns every larger shape, so that
    blurred copies of the gradient, each with the same length, have their say too.
    """
    parts = [gradient]
    sigma = 1.0
    while sigma <= gradient.shape[-1] / 64:
        parts.append(_blurred(gradient, sigma))
        sigma *= 2
    total = torch.zeros_like(gradient)
    for part in parts:
        length = part.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()  # (n, 1, 1, 1)
        total += part / length.clamp_min(1e-12)
    scaled: Tensor = total / math.sqrt(len(parts))
    return scaled


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian of `sigma` pixels, edges mirrored."""
    reach = max(1, math.ceil(2.5 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (at / max(sigma, 1e-3)) ** 2)
    kernel = (kernel / kernel.sum()).repeat(3, 1)  # (3, k)
    padded = torch.nn.functional.pad(images, (reach,) * 4, mode="reflect")
    rows = torch.nn.functional.conv2d(padded, kernel[:, None, :, None], groups=3)
    return torch.nn.functional.conv2d(rows, kernel[:, None, None, :], groups=3)
