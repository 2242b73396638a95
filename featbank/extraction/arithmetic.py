"""The arithmetic of the forward pass: its precision, whether the network is compiled, and the proof of both.

Which one is used is chosen in `featbank.extraction.choosing`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank.errors import InvalidInputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from featbank.backbones import TruncatedNetwork

__all__ = [
    "ERROR_LIMIT",
    "CompileEstimate",
    "arithmetic",
    "cannot_compile",
    "check_arithmetic",
    "compile_network",
    "estimate_compile",
    "key_precision",
    "native_precisions",
    "relative_error",
    "split_precision",
    "tell_error",
]

logger = logging.getLogger(__name__)

#: Largest relative L2 error of any cut against float32 at which ``auto`` keeps a fast precision.
ERROR_LIMIT = 0.02

#: Largest relative L2 error at which a compiled network in float32 counts as float32.
COMPILED_LIMIT = 1e-5

#: A compiled network rounds otherwise in the last bit, so its banks have a name of their own.
_COMPILED = "+compiled"

#: How many blocks compute in exact float32 now, and what the switches of TF32 were before the first of them.
_n_exact = 0
_tf32_before: list[str] = []
_tf32_lock = threading.Lock()

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


def key_precision(precision: str, compiled: bool) -> str:
    """Return how a key names the arithmetic: ``"bfloat16"``, or ``"bfloat16+compiled"``."""
    return precision + _COMPILED if compiled else precision


def split_precision(name: str) -> tuple[str, bool]:
    """Return the precision, and whether the network was compiled, from how a key names them.

    Examples
    --------
    >>> split_precision("bfloat16+compiled"), split_precision("float32")
    (('bfloat16', True), ('float32', False))
    """
    return name.removesuffix(_COMPILED), name.endswith(_COMPILED)


def native_precisions(device: torch.device) -> tuple[str, ...]:
    """List the precisions that are fast on the device, the one to try first at the front, float32 at the end.

    On a card float16 is as fast as bfloat16 and has three bits more, but a narrow range: what the first
    batches leave room for, a later one may overflow. So bfloat16 comes first.

    Parameters
    ----------
    device : torch.device
        Where the forward pass runs. On a CPU bfloat16 counts as native with AVX512-BF16 or AMX only:
        elsewhere it is emulated and slower than float32.
    """
    import torch

    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        if major >= 8:
            return ("bfloat16", "float16", "float32")
        return ("float16", "float32") if major >= 7 else ("float32",)
    if device.type == "cpu" and {"avx512_bf16", "amx_bf16"} & _cpu_flags():
        return ("bfloat16", "float32")
    return ("float32",)


def _cpu_flags() -> set[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                return set(line.split(":", 1)[1].split())
    return set()


def check_arithmetic(precision: str, compile: str, device: torch.device) -> None:
    """Raise `InvalidInputError` for a precision that `device` cannot compute in, or a compiler it has not."""
    if precision == "float16" and device.type != "cuda":
        raise InvalidInputError(
            f"precision='float16' needs a CUDA device, this is {device.type!r}; use bfloat16, float32 or auto"
        )
    missing = cannot_compile(device) if compile == "on" else None
    if missing is not None:
        raise InvalidInputError(f"compile='on' cannot be had here: {missing}; use auto or off")


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in `precision` inside the block, without gradients; float32 means float32, never TF32."""
    import torch

    with contextlib.ExitStack() as stack:
        # not inference_mode: the compiler fails on tensors made in it
        stack.enter_context(torch.no_grad())
        if precision == "float32":
            if device.type == "cuda":
                stack.enter_context(_no_tf32())
        else:
            stack.enter_context(torch.autocast(device.type, getattr(torch, precision)))
        yield


@contextlib.contextmanager
def _no_tf32() -> Iterator[None]:
    """Switch TF32 off for all that has a switch, and put the caller's settings back.

    The switches are the process's, not the thread's: of several cards that compute at once the first to come
    sets them, and the last to leave puts them back.
    """
    global _n_exact, _tf32_before
    import torch

    # never through allow_tf32: it cannot be read where the caller set fp32_precision, and with
    # torch.backends.fp32_precision = "tf32" convolutions stay in TF32 although it is False
    cudnn: Any = torch.backends.cudnn  # sets `conv` and `rnn` on itself when it is imported
    switches = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    with _tf32_lock:
        if not _n_exact:
            _tf32_before = [one.fp32_precision for one in switches]
            for one in switches:
                one.fp32_precision = "ieee"
        _n_exact += 1
    try:
        yield
    finally:
        with _tf32_lock:
            _n_exact -= 1
            if not _n_exact:
                for one, before in zip(switches, _tf32_before, strict=True):
                    one.fp32_precision = before


def relative_error(fast: Tensor, exact: Tensor) -> float:
    """Return ``||fast - exact|| / ||exact||`` in float64 over all values; inf if `fast` is not finite."""
    import torch

    exact64, fast64 = exact.double(), fast.double()
    if not bool(torch.isfinite(fast64).all()):
        return float("inf")
    norm = float(exact64.norm())
    difference = float((fast64 - exact64).norm())
    return difference / norm if norm else float(difference > 0)


def tell_error(precision: str, cut: str, error: float, limit: float, consequence: str) -> None:
    """Say how far a precision takes the features of a cut off float32, and what is done about it."""
    logger.warning(
        "%s changes the features of %r by %.1f %% (%.2g %% are allowed); %s",
        precision,
        cut,
        100 * error,
        100 * limit,
        consequence,
    )


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
    # poolings read cuts' names, and are too small to gain from it
    return lambda batch: network.tapped(compiled(batch))


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
