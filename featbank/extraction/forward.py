"""The forward pass: batches of 8-bit images in, one tensor per cut out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
from featbank.extraction.precision import (
    ERROR_LIMIT,
    PrecisionProof,
    arithmetic,
    native_precision,
    relative_error,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from featbank.backbones import Backbone, TruncatedNetwork

__all__ = ["Forward", "choose_device"]

logger = logging.getLogger(__name__)


def choose_device(device: str | None) -> torch.device:
    """Return the device asked for, or the best there is.

    Parameters
    ----------
    device : str or None
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None or ``"auto"`` takes CUDA where there is one, else
        the CPU.

    Raises
    ------
    InvalidInputError
        If the device is unknown or absent.
    """
    import torch

    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InvalidInputError(
            f"device={device!r} is not a device; use cpu, cuda, cuda:N, mps or auto"
        ) from error
    count = torch.cuda.device_count()
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= count):
        raise InvalidInputError(
            f"device={device!r} is not there: {count} CUDA devices are visible; use cpu or auto"
        )
    return chosen


class Forward:
    """A backbone on a device, truncated to whatever cuts a batch needs.

    Parameters
    ----------
    backbone : Backbone
        The network with its weights and preprocessing.
    device : torch.device
        Where to compute.
    precision : {"float32", "bfloat16", "float16"}
        Of the arithmetic.
    batch_size : int
        Every batch is padded to it: a row's features then do not depend on how many rows came along.

    Attributes
    ----------
    n_pushed : int
        Images (padding not counted) that went through the network so far.
    """

    def __init__(self, backbone: Backbone, *, device: torch.device, precision: str, batch_size: int) -> None:
        self.backbone = backbone
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.n_pushed = 0
        self._networks: dict[tuple[str, ...], TruncatedNetwork] = {}

    def _network(self, cuts: tuple[str, ...]) -> TruncatedNetwork:
        import torch

        from featbank.backbones import truncate

        if cuts not in self._networks:
            network = truncate(self.backbone, cuts)
            self._networks[cuts] = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._networks[cuts]

    def __call__(self, images: NDArray[np.uint8], cuts: Sequence[str], *, n_images: int) -> dict[str, Tensor]:
        """Push one batch.

        Parameters
        ----------
        images : ndarray of uint8, shape (n, size, size, 3), n <= batch_size
            RGB, as `Preprocessing.apply_geometry` leaves them.
        cuts : sequence of str
            What to read.
        n_images : int
            How many of the rows are images; the others are padding, and not counted as pushed.

        Returns
        -------
        dict of str to torch.Tensor
            Cut -> float tensor of shape (n, *shape) on the device, in the precision of the arithmetic.
        """
        features = self._run(images, tuple(cuts), self.precision)
        self.n_pushed += n_images
        return features

    def trial(self, images: NDArray[np.uint8], cuts: Sequence[str]) -> None:
        """Push one batch for its time alone; what comes out is thrown away and nothing counts as pushed."""
        features = self._run(images, tuple(cuts), self.precision)
        for tensor in features.values():
            tensor.cpu()  # waits for the device

    def _run(self, images: NDArray[np.uint8], cuts: tuple[str, ...], precision: str) -> dict[str, Tensor]:
        import torch

        network = self._network(cuts)
        n = len(images)
        if n < self.batch_size:
            padding = np.zeros((self.batch_size - n, *images.shape[1:]), dtype=np.uint8)
            images = np.concatenate([images, padding])
        # 8 bits travel to the device, the normalisation happens there; (b, h, w, c) is channels-last already
        batch = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)  # (batch, 3, h, w)
        with torch.inference_mode():
            batch = self.backbone.preprocessing.normalise(batch)
        with arithmetic(precision, self.device):
            features: dict[str, Tensor] = network(batch)
        return {cut: features[cut][:n] for cut in cuts}

    def prove(self, images: NDArray[np.uint8], cuts: Sequence[str]) -> PrecisionProof:
        """Compare this precision with float32 on one batch (which does not count as pushed)."""
        if self.precision == "float32":
            return PrecisionProof("float32", dict.fromkeys(cuts, 0.0))
        exact = self._run(images, tuple(cuts), "float32")
        fast = self._run(images, tuple(cuts), self.precision)
        return PrecisionProof(self.precision, {cut: relative_error(fast[cut], exact[cut]) for cut in cuts})


def prove_precision(
    backbone: Backbone,
    device: torch.device,
    precision: str,
    batch_size: int,
    cuts: Sequence[str],
    first_batch: Callable[[], NDArray[np.uint8]],
) -> tuple[Forward, PrecisionProof]:
    """Settle the precision: ``auto`` takes the fastest native one if a batch proves it close to float32.

    Parameters
    ----------
    backbone, device, batch_size
        As for `Forward`.
    precision : str
        ``"auto"`` or one precision, which is then kept whatever its error.
    cuts : sequence of str
        What is compared.
    first_batch : callable
        Gives the images to compare on; called only if there is something to compare.

    Returns
    -------
    tuple of Forward and PrecisionProof
    """
    wanted = native_precision(device) if precision == "auto" else precision
    forward = Forward(backbone, device=device, precision=wanted, batch_size=batch_size)
    if wanted == "float32":
        return forward, forward.prove(np.zeros((0, 1, 1, 3), dtype=np.uint8), cuts)
    proof = forward.prove(first_batch(), cuts)
    over = {cut: error for cut, error in proof.errors.items() if not error <= ERROR_LIMIT}
    if not over:
        return forward, proof
    worst = max(over, key=lambda cut: over[cut])
    said = f"{wanted} is {over[worst]:.1%} off float32 at {worst!r} (limit {ERROR_LIMIT:.0%})"
    if precision != "auto":
        logger.warning("%s; it was asked for, so it is used", said)
        return forward, proof
    logger.warning("%s; using float32", said)
    forward.precision = "float32"
    return forward, PrecisionProof("float32", dict.fromkeys(cuts, 0.0), rejected=wanted)
