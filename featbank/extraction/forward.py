"""The forward pass: 8-bit images in, batch by batch, one tensor per cut out."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featbank._child_process import without_current_folder
from featbank.errors import InvalidInputError
from featbank.extraction.compiling import compile_network
from featbank.extraction.precision import PrecisionProof, arithmetic, key_precision, relative_error
from featbank.extraction.work import steps

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from featbank.backbones import Backbone, TruncatedNetwork

__all__ = ["Forward", "choose_device", "choose_devices"]


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
    if chosen.type not in ("cpu", "cuda", "mps"):  # such as meta, where nothing is computed
        raise InvalidInputError(f"device={device!r} is not supported; use cpu, cuda, cuda:N, mps or auto")
    count = torch.cuda.device_count()
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= count):
        raise InvalidInputError(
            f"device={device!r} is not there: {count} CUDA devices are visible; use cpu or auto"
        )
    return chosen


def choose_devices(device: str | None) -> list[torch.device]:
    """Return the devices asked for: one, as `choose_device` does, or several CUDA devices.

    Parameters
    ----------
    device : str or None
        As for `choose_device`; or ``"cuda:0,cuda:1"``, or ``"all"`` for every CUDA device.

    Raises
    ------
    InvalidInputError
        If a device is unknown, absent or named twice, or several are not all CUDA devices.
    """
    import torch

    if device == "all":
        count = torch.cuda.device_count()
        if not count:
            raise InvalidInputError("device='all' asks for all CUDA devices, none is visible; use auto")
        return [torch.device("cuda", number) for number in range(count)]
    chosen = [choose_device(one.strip()) for one in device.split(",")] if device else [choose_device(None)]
    if len(chosen) > 1 and (len(set(chosen)) < len(chosen) or {one.type for one in chosen} != {"cuda"}):
        raise InvalidInputError(
            f"device={device!r}: several devices must be different CUDA devices, e.g. 'cuda:0,cuda:1'"
        )
    return chosen


def made_by(devices: Iterable[torch.device]) -> dict[str, str]:
    """Return what decides the last bits of features and is in no key: torch's version, kinds of devices."""
    import torch

    kinds = {torch.cuda.get_device_name(one) if one.type == "cuda" else one.type for one in devices}
    return {"torch": torch.__version__, "device": ", ".join(sorted(kinds))}


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
        Images that go through the network together. Every batch is padded to it: a row's features then do
        not depend on how many rows came along.
    compiled : bool, default=False
        Compile the network on the first batch.
    network : TruncatedNetwork, optional
        The backbone cut at what most batches need, where there is one already; it is moved to the device.
    share : bool, default=True
        Move the backbone's own weights to the device; False copies them, for a second device.

    Attributes
    ----------
    n_pushed : int
        Images (padding not counted) that went through the network so far.
    compile_s : float or None
        Seconds of the first batches of compiled networks, less what a batch takes; None without compiling.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        device: torch.device,
        precision: str,
        batch_size: int,
        compiled: bool = False,
        network: TruncatedNetwork | None = None,
        share: bool = True,
    ) -> None:
        self.backbone = backbone
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.compiled = compiled
        self.n_pushed = 0
        self.compile_s: float | None = None
        self._share = share
        self._networks: dict[tuple[str, ...], TruncatedNetwork] = {}
        self._lowered: dict[tuple[tuple[str, ...], str], TruncatedNetwork] = {}
        self._compiled: dict[tuple[tuple[str, ...], str], Callable[[Tensor], dict[str, Tensor]]] = {}
        if network is not None:
            self._place(network.cuts, network)

    def copy_on(self, device: torch.device) -> Forward:
        """Return the same with its own weights on another device."""
        return Forward(
            self.backbone,
            device=device,
            precision=self.precision,
            batch_size=self.batch_size,
            compiled=self.compiled,
            share=False,
        )

    @property
    def arithmetic_name(self) -> str:
        """How the key of a bank names precision and compiling."""
        return key_precision(self.precision, self.compiled)

    def _place(self, cuts: tuple[str, ...], network: TruncatedNetwork) -> TruncatedNetwork:
        import torch

        if not self._share:
            network = copy.deepcopy(network)
        self._networks[cuts] = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._networks[cuts]

    def network(self, cuts: tuple[str, ...]) -> TruncatedNetwork:
        """Return the backbone cut open at `cuts`, on the device; kept for the next batch."""
        from featbank.backbones import truncate

        known = self._networks.get(cuts)
        return self._place(cuts, truncate(self.backbone, cuts)) if known is None else known

    def ready(self, cuts: tuple[str, ...]) -> None:
        """Trace the network for `cuts` now, and compile it: both catch, or forbid, calls in other threads."""
        self.network(cuts)
        if self.compiled and (cuts, self.precision) not in self._compiled:
            side = self.backbone.preprocessing.image_size
            self.trial(np.zeros((self.batch_size, side, side, 3), dtype=np.uint8), cuts)

    def __call__(
        self, images: NDArray[np.uint8] | Tensor, cuts: Sequence[str], *, n_images: int
    ) -> dict[str, Tensor]:
        """Push images, a batch at a time.

        Parameters
        ----------
        images : ndarray or Tensor of uint8, shape (n, size, size, 3)
            RGB, as `Preprocessing.apply_geometry` leaves them; the last batch may be short. A
            tensor may be on any device.
        cuts : sequence of str
            What to read.
        n_images : int
            How many of the rows are images; the others are padding, and not counted as pushed.

        Returns
        -------
        dict of str to torch.Tensor
            Cut -> float tensor of shape (n, *shape) on the device, in the precision of the arithmetic.
        """
        features = self._run(images, tuple(cuts), self.precision, self.compiled)
        self.n_pushed += n_images
        return features

    def trial(self, images: NDArray[np.uint8] | Tensor, cuts: Sequence[str]) -> None:
        """Push images for the time it takes alone; what comes out is thrown away, uncounted."""
        features = self._run(images, tuple(cuts), self.precision, self.compiled)
        for tensor in features.values():
            tensor.cpu()  # waits for the device

    def _run(
        self, images: NDArray[np.uint8] | Tensor, cuts: tuple[str, ...], precision: str, compiled: bool
    ) -> dict[str, Tensor]:
        import torch

        try:
            batches = [
                self._run_batch(images[start:stop], cuts, precision, compiled)
                for start, stop in steps(len(images), self.batch_size)
            ]
        except torch.OutOfMemoryError as error:
            raise InvalidInputError(
                f"batch_size={self.batch_size} is more than the memory of {self.device} holds; give a "
                "smaller one, or free the device of other work"
            ) from error
        if len(batches) == 1:
            return batches[0]
        with torch.inference_mode():
            return {cut: torch.cat([one[cut] for one in batches]) for cut in cuts}

    def _run_batch(
        self, images: NDArray[np.uint8] | Tensor, cuts: tuple[str, ...], precision: str, compiled: bool
    ) -> dict[str, Tensor]:
        import torch

        n = len(images)
        # 8 bits travel to the device, the normalisation happens there; (b, h, w, c) is channels-last already
        bytes_ = images if isinstance(images, torch.Tensor) else torch.from_numpy(images)  # (n, h, w, 3)
        if n < self.batch_size:
            padding = bytes_.new_zeros((self.batch_size - n, *bytes_.shape[1:]))
            bytes_ = torch.cat([bytes_, padding])  # (batch, h, w, 3)
        if self.device.type == "cuda" and bytes_.device.type == "cpu":
            bytes_ = bytes_.pin_memory()  # the copy does not wait for the kernels before it
        batch = bytes_.to(self.device, non_blocking=True).permute(0, 3, 1, 2)  # (batch, 3, h, w)
        with torch.inference_mode():
            batch = self.backbone.preprocessing.normalise(batch)
        with arithmetic(precision, self.device):
            if compiled:
                features = self._run_compiled(cuts, precision, batch)
            else:
                features = self._eager(cuts, precision)(batch)
        return {cut: features[cut][:n] for cut in cuts}

    def _eager(self, cuts: tuple[str, ...], precision: str) -> TruncatedNetwork:
        """Return the network as it is pushed through when it is not compiled."""
        import torch

        network = self.network(cuts)
        if precision == "float32":
            return network
        if (cuts, precision) not in self._lowered:
            self._lowered[cuts, precision] = network.lowered(getattr(torch, precision))
        return self._lowered[cuts, precision]

    def _run_compiled(self, cuts: tuple[str, ...], precision: str, batch: Tensor) -> dict[str, Tensor]:
        """Push a batch through the compiled network; the first one compiles it, for batches like this one."""
        known = self._compiled.get((cuts, precision))
        if known is not None:
            return known(batch)
        network = compile_network(self.network(cuts))
        started = time.perf_counter()
        with without_current_folder():  # the compiler starts processes of its own
            network(batch)
        between = time.perf_counter()
        features = network(batch)
        for tensor in features.values():
            tensor.cpu()  # waits for the device
        each_s = time.perf_counter() - between
        self.compile_s = (self.compile_s or 0.0) + max(0.0, between - started - each_s)
        self._compiled[cuts, precision] = network
        return features

    def prove(
        self,
        images: NDArray[np.uint8] | Tensor,
        cuts: Sequence[str],
        exact: Mapping[str, Tensor] | None = None,
    ) -> PrecisionProof:
        """Compare this arithmetic with eager float32 on some images (which do not count as pushed).

        `exact` are the features in eager float32, where they are known.
        """
        if self.precision == "float32" and not self.compiled:
            return PrecisionProof("float32", dict.fromkeys(cuts, 0.0))
        if exact is None:
            exact = self.exact(images, cuts)
        fast = self._run(images, tuple(cuts), self.precision, self.compiled)
        errors = {cut: relative_error(fast[cut], exact[cut]) for cut in cuts}
        return PrecisionProof(self.precision, errors)

    def exact(self, images: NDArray[np.uint8] | Tensor, cuts: Sequence[str]) -> dict[str, Tensor]:
        """Push images in eager float32; they do not count as pushed."""
        return self._run(images, tuple(cuts), "float32", False)
