"""Compiling the network: what it would save, what it would cost, and the compiled network itself."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from featbank.errors import InvalidInputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from featbank.backbones import TruncatedNetwork

__all__ = [
    "COMPILE_MODES",
    "CompileEstimate",
    "cannot_compile",
    "check_compile",
    "compile_network",
    "estimate_compile",
]

#: What ``--compile`` may say.
COMPILE_MODES = ("auto", "on", "off")

#: What part of the time outside convolutions and linear layers is counted as saved: those go through the
#: same kernels as in eager mode, the rest is fused. Measured on two AVX-512 cores: 0.5 to 0.9 for ResNet-18,
#: VGG16 and MobileNetV2.
_SAVED = 0.5
#: Seconds to compile: so many, and so many per layer of the network. Measured on two cores, nothing cached:
#: 0.6 s for VGG16, 1.7 for ResNet-18, 3.7 to 4.6 for MobileNetV2 with its 213 layers.
_COMPILE_S, _COMPILE_S_PER_LAYER = 1.0, 0.025
#: Seconds of `_yardstick` where these were measured, nothing else running.
_YARDSTICK_S = 0.007
#: Work of fewer seconds than this is not compiled.
_LEAST_S = 10.0


@dataclass(frozen=True)
class CompileEstimate:
    """What compiling would do, from one profiled batch.

    Parameters
    ----------
    eager_s, compiled_s : float
        Seconds per batch; the second is an estimate, rather too long than too short.
    compile_s : float
        Estimated seconds until the first compiled batch.
    """

    eager_s: float
    compiled_s: float
    compile_s: float

    def repays(self, n_batches: int) -> bool:
        """Return whether so many batches are done sooner if the network is compiled first.

        Never for what is done in seconds anyhow: there the estimate would be the mood of the machine.
        """
        saved_s = n_batches * (self.eager_s - self.compiled_s)
        return n_batches * self.eager_s > _LEAST_S and saved_s > self.compile_s

    def times(self, n: float) -> CompileEstimate:
        """Return the same for batches that take `n` times as long."""
        return replace(self, eager_s=n * self.eager_s, compiled_s=n * self.compiled_s)


def check_compile(mode: str, device: torch.device) -> None:
    """Raise `InvalidInputError` for a mode that is unknown, or ``"on"`` where nothing can be compiled."""
    if mode not in COMPILE_MODES:
        raise InvalidInputError(f"compile={mode!r} is not one of {', '.join(COMPILE_MODES)}")
    missing = cannot_compile(device) if mode == "on" else None
    if missing is not None:
        raise InvalidInputError(f"compile='on' cannot be had here: {missing}; use auto or off")


def cannot_compile(device: torch.device) -> str | None:
    """Return why networks cannot be compiled for `device` here, or None."""
    if device.type == "cuda":
        return None if find_spec("triton") else "Triton is not installed"
    if device.type != "cpu":
        return f"there is no compiler for {device.type!r}"
    compiler = os.environ.get("CXX", "g++")  # what torch's own search ends with
    return None if shutil.which(compiler) else f"there is no C++ compiler {compiler!r}"


def compile_network(network: TruncatedNetwork) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return the network compiled, its weights frozen into it; the work is done on the first call.

    The number of threads of the caller is baked into it. CUDA graphs stay off: their trees belong to the
    thread that made them, and they write over features that still wait for the copy back.
    """
    import torch

    # on a machine with CUDA's tools and no card it says so in the middle of a command for the CPU
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # the traced graph is code of its own for every network: the module's forward is shared by all, and the
    # compiler gives up on code it has compiled eight times. Options only: torch refuses a mode beside them.
    options: dict[str, Any] = {"freezing": True, "triton.cudagraphs": False}
    compiled: Any = torch.compile(network.graph, fullgraph=True, dynamic=False, options=options)
    return compiled  # type: ignore[no-any-return]


def estimate_compile(
    run: Callable[[], Any], network: TruncatedNetwork, device: torch.device
) -> CompileEstimate:
    """Time one batch in eager mode, the better of two, and in it the convolutions and linear layers.

    Parameters
    ----------
    run : callable
        Pushes one batch, and waits for it; it should have been called before. Nothing else may run meanwhile.
    network : TruncatedNetwork
        What it is pushed through.
    device : torch.device
        Where; a card is waited for before and behind each of those layers.
    """
    import torch
    from torch import nn

    kernels_s = begun = 0.0

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def before(*given: Any) -> None:
        nonlocal begun
        begun = now()

    def after(*given: Any) -> None:
        nonlocal kernels_s
        kernels_s += now() - begun

    layers = [one for one in network.graph.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    hooks = [
        hook
        for one in layers
        for hook in (one.register_forward_pre_hook(before), one.register_forward_hook(after))
    ]
    times = []
    try:
        for _ in range(2):  # one alone may have been held up by another program
            kernels_s, started = 0.0, now()
            run()
            times.append((now() - started, kernels_s))
    finally:
        for hook in hooks:
            hook.remove()
    eager_s, kernels_s = min(times)
    saved_s = _SAVED * max(0.0, eager_s - kernels_s)
    n_layers = sum(1 for _ in network.graph.modules())
    # a slow or busy machine compiles as slowly as it computes
    slowness = max(1.0, sorted(_yardstick() for _ in range(3))[1] / _YARDSTICK_S)
    compile_s = slowness * (_COMPILE_S + _COMPILE_S_PER_LAYER * n_layers)
    return CompileEstimate(eager_s, eager_s - saved_s, compile_s)


def _yardstick() -> float:
    """Return the seconds some plain Python takes, which is most of what compiling is."""
    started = time.perf_counter()
    sum(one * one for one in range(200_000))
    return time.perf_counter() - started
