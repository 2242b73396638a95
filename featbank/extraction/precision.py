"""Which arithmetic the forward pass uses, and the proof that it does not change what comes out."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank.errors import InvalidInputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "ERROR_LIMIT",
    "PRECISIONS",
    "PrecisionProof",
    "arithmetic",
    "key_precision",
    "native_precisions",
    "relative_error",
    "split_precision",
    "tell_error",
]

logger = logging.getLogger(__name__)

#: What ``--precision`` may say.
PRECISIONS = ("auto", "float32", "bfloat16", "float16")

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


@dataclass(frozen=True)
class PrecisionProof:
    """What one batch said of a precision.

    Parameters
    ----------
    precision : str
        The precision that is used.
    errors : mapping of str to float
        Cut -> relative L2 error against float32 on one batch; 0 for float32 itself.
    rejected : str, optional
        The precision that was tried and given up, because a cut's error was over `ERROR_LIMIT`.
    """

    precision: str
    errors: Mapping[str, float]
    rejected: str | None = None


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


def check_precision(precision: str, device: torch.device) -> None:
    """Raise `InvalidInputError` for a precision that is unknown or that `device` cannot compute in."""
    if precision not in PRECISIONS:
        raise InvalidInputError(f"precision={precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision == "float16" and device.type != "cuda":
        raise InvalidInputError(
            f"precision='float16' needs a CUDA device, this is {device.type!r}; use bfloat16, float32 or auto"
        )


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
