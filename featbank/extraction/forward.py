"""The forward pass: 8-bit images in, batch by batch on lanes, one tensor per cut out."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featbank._cuts import CutName, check_view
from featbank._process import usable_cores, without_current_folder
from featbank.errors import InvalidInputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from featbank.backbones import Backbone, TruncatedNetwork

__all__ = [
    "ERROR_LIMIT",
    "CompileEstimate",
    "Forward",
    "apply_view",
    "arithmetic",
    "cannot_compile",
    "check_arithmetic",
    "choose_device",
    "choose_devices",
    "compile_network",
    "estimate_compile",
    "key_precision",
    "native_precisions",
    "relative_error",
    "run_size",
    "split_precision",
    "tell_error",
]

logger = logging.getLogger(__name__)

# Arithmetic: precision, whether the network is compiled, and the proof of both ----------------------
#
# Which one is used is chosen in `featbank.extraction.choosing`.

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


# Views: what is done to images, always in the same way, before they go through the network ----------


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


R = TypeVar("R")
Features = dict[str, "Tensor"]
Compute = Callable[["Tensor"], Features]

#: What part of the memory the lanes may take, and how many tensors of the largest one's size each has alive.
_MEMORY_PART, _ALIVE = 0.5, 4
#: Batches that may be on their way to a card at once.
_ON_THE_WAY = 2
#: Numbers one tensor may have on a card: kernels count them in 32 bits.
MOST_NUMBERS = 2**31 - 1
#: Images decoded, and features checked and stored, at once: fewer at a time cost more than they give.
_RUN = 32
_entering = threading.Lock()


def run_size(batch_size: int) -> int:
    """Return how many slots are handed from stage to stage at once: whole batches, 32 images or more.

    Examples
    --------
    >>> run_size(4), run_size(5), run_size(64)
    (32, 35, 64)
    """
    return -(-_RUN // batch_size) * batch_size


def steps(n: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """Yield where each batch of a run of `n` begins and ends; one empty batch for nothing.

    Examples
    --------
    >>> list(steps(10, 4)), list(steps(0, 4))
    ([(0, 4), (4, 8), (8, 10)], [(0, 0)])
    """
    for start in range(0, max(n, 1), batch_size):
        yield start, min(start + batch_size, n)


def by_view(cuts: Sequence[str]) -> dict[str | None, dict[str, str]]:
    """Return the passes that cuts take: view -> name of each cut -> its name without the view.

    Examples
    --------
    >>> by_view(["fc7", "fc7@hflip", "logits"])
    {None: {'fc7': 'fc7', 'logits': 'logits'}, 'hflip': {'fc7@hflip': 'fc7'}}
    """
    passes: dict[str | None, dict[str, str]] = {}
    for cut in cuts:
        name = CutName.parse(cut)
        passes.setdefault(name.view, {})[cut] = name.seen
    return passes


def without_views(cuts: Sequence[str]) -> tuple[str, ...]:
    """Return what a network is asked for to give cuts: each once, without its view."""
    return tuple(dict.fromkeys(CutName.parse(cut).seen for cut in cuts))


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


def choose_lanes(lane_bytes: int) -> int:
    """Return how many lanes a CPU gets: one per usable core, if memory holds what each works in.

    More lanes of one thread each were never slower here, quiet or beside other programs, and how many threads
    share a network decides its last bits: so there is nothing to be measured.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(usable_cores(), int(_MEMORY_PART * memory / max(1, lane_bytes))))


def check_numbers(batch_size: int, activation: int) -> None:
    """Raise `InvalidInputError` if a batch makes an output whose numbers a card's kernels cannot count.

    Parameters
    ----------
    batch_size : int
    activation : int
        Numbers in the largest output of a layer, for one image.
    """
    if batch_size * activation > MOST_NUMBERS:
        raise InvalidInputError(
            f"batch_size={batch_size} makes {batch_size * activation} numbers in one layer, a card's kernels "
            f"count to {MOST_NUMBERS}; use batch_size <= {MOST_NUMBERS // activation}"
        )


def results(futures: Sequence[Future[R]]) -> list[R]:
    """Return what came of all; if one failed, nothing of the others is running any more when this raises."""
    try:
        return [one.result() for one in futures]
    finally:
        for one in futures:
            one.cancel()
        wait(futures)


class Forward:
    """A backbone on a device, truncated to whatever cuts a batch needs.

    What computes is a lane: a thread of its own. A card has one, which traces, compiles and runs everything
    on it. A CPU has several, each of which pushes a batch with one core: they share the weights and wait for
    nobody (one network on all cores waits, in every layer, for the core that another program has), and what
    comes out does not depend on how many there are.

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
    lanes : int, optional
        Lanes of a CPU; by default one per usable core, fewer where memory is short.

    Attributes
    ----------
    compile_s : float or None
        Seconds of the first batches of compiled networks, less what a batch takes; None without compiling.

    Raises
    ------
    InvalidInputError
        If `lanes` is below 1. From every method: if the memory does not hold a batch.
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
        lanes: int | None = None,
    ) -> None:
        if lanes is not None and lanes < 1:
            raise InvalidInputError(f"lanes={lanes!r} must be at least 1, or None for one per core")
        self.backbone = backbone
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.compiled = compiled
        self.compile_s: float | None = None
        self._asked_lanes, self._share = lanes, share
        self._threads: ThreadPoolExecutor | None = None
        self._networks: dict[tuple[str, ...], TruncatedNetwork] = {}
        #: What a batch on the device is pushed through: by cuts, precision, compiled or not.
        self._ready: dict[tuple[tuple[str, ...], str, bool], Compute] = {}
        self._inbox: list[tuple[Tensor, Any]] = []
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
            lanes=self._asked_lanes,
        )

    @property
    def arithmetic_name(self) -> str:
        """How the key of a bank names precision and compiling."""
        return key_precision(self.precision, self.compiled)

    @property
    def lanes(self) -> int:
        """Batches that are computed at once."""
        if self.device.type != "cpu":
            return 1
        if self._asked_lanes is None:
            from featbank.backbones.network import largest_activation

            activation_bytes = 4 * self.batch_size * largest_activation(self.backbone)
            self._asked_lanes = choose_lanes(_ALIVE * activation_bytes)
        return self._asked_lanes

    def _place(self, cuts: tuple[str, ...], network: TruncatedNetwork) -> TruncatedNetwork:
        import torch

        if not self._share:
            network = copy.deepcopy(network)
        self._networks[cuts] = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._networks[cuts]

    def network(self, cuts: tuple[str, ...]) -> TruncatedNetwork:
        """Return the backbone cut open at `cuts`, on the device; kept for the next batch."""
        from featbank.backbones.network import truncate

        cuts = without_views(cuts)
        known = self._networks.get(cuts)
        return self._place(cuts, truncate(self.backbone, cuts)) if known is None else known

    def ready(self, cuts: tuple[str, ...]) -> Compute:
        """Trace the network for `cuts` now, and compile it: both catch, or forbid, calls in other threads.

        It is done in a lane, while no other computes; returns what a batch is pushed through.
        """
        wanted = cuts, self.precision, self.compiled
        if wanted not in self._ready:
            self._ready[wanted] = self._in_lane(partial(self._made_ready, *wanted))
        return self._ready[wanted]

    def submit(
        self, images: NDArray[np.uint8] | Tensor, cuts: Sequence[str], then: Callable[[int, Features], R]
    ) -> list[Future[R]]:
        """Have images pushed, a batch at a time, on whichever lane is free.

        Parameters
        ----------
        images : ndarray or Tensor of uint8, shape (n, size, size, 3)
            RGB, as `Preprocessing.apply_geometry` leaves them; the last batch may be short. A
            tensor may be on any device. Not to be changed before the futures are done.
        cuts : sequence of str
            What to read; of each view among them the images are pushed once.
        then : callable
            Called in the lane, with the number of a batch's first image, and cut -> float tensor of shape
            (n, *shape) on the device, in the precision of the arithmetic.

        Returns
        -------
        list of Future
            What `then` returned, of each batch, in order.
        """
        compute = self.ready(tuple(cuts))

        def push(start: int, stop: int) -> R:
            return then(start, self._push_batch(compute, images[start:stop]))

        return [
            self._executor.submit(self._guarded, partial(push, start, stop))
            for start, stop in steps(len(images), self.batch_size)
        ]

    def __call__(self, images: NDArray[np.uint8] | Tensor, cuts: Sequence[str]) -> Features:
        """Push images as `submit` does, and return the features of all: (n, *shape) at each cut."""
        import torch

        batches = results(self.submit(images, cuts, lambda _, features: features))
        if len(batches) == 1:
            return batches[0]
        return self._in_lane(lambda: {cut: torch.cat([one[cut] for one in batches]) for cut in cuts})

    def trial(self, images: NDArray[np.uint8] | Tensor, cuts: Sequence[str]) -> None:
        """Push images for the time it takes alone; what comes out is thrown away."""
        results(self.submit(images, cuts, lambda _, features: _finish(features)))

    def estimate_compile(self, images: NDArray[np.uint8] | Tensor, cuts: Sequence[str]) -> CompileEstimate:
        """Say what compiling would do to pushing these images, from one profiled batch in eager mode."""
        cuts, n = tuple(cuts), min(len(images), self.batch_size)
        compute = self.ready(cuts)

        def run() -> None:
            _finish(self._push_batch(compute, images[:n]))

        def profiled() -> CompileEstimate:
            run()
            return estimate_compile(run, self.network(cuts), self.device)

        at_once = min(self.lanes, -(-len(images) // n))
        return self._in_lane(profiled).times(-(-len(images) // n) / at_once)

    def errors(
        self, images: NDArray[np.uint8] | Tensor, cuts: Sequence[str], exact: Mapping[str, Tensor]
    ) -> dict[str, float]:
        """Return how far off what `exact` gave of some images this arithmetic is, at each cut."""
        fast = self(images, cuts)
        return self._in_lane(lambda: {cut: relative_error(fast[cut], exact[cut]) for cut in cuts})

    def exact(self, images: NDArray[np.uint8] | Tensor, cuts: Sequence[str]) -> Features:
        """Push images in eager float32, whatever else is set."""
        before = self.precision, self.compiled
        self.precision, self.compiled = "float32", False
        try:
            return self(images, cuts)
        finally:
            self.precision, self.compiled = before

    @property
    def _executor(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.lanes, "featbank-lane", partial(_enter, self.device))
        return self._threads

    def _in_lane(self, function: Callable[[], R]) -> R:
        """Do something where the batches are pushed, and wait for it."""
        return results([self._executor.submit(self._guarded, function)])[0]

    def _guarded(self, function: Callable[[], R]) -> R:
        try:
            return function()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            raise InvalidInputError(
                f"batch_size={self.batch_size} is more than the memory of {self.device} holds; give a "
                "smaller one, or free the device of other work"
            ) from error

    def _made_ready(self, cuts: tuple[str, ...], precision: str, compiled: bool) -> Compute:
        passes = by_view(cuts)
        if [*passes] != [None]:
            return self._made_for_views(passes, precision, compiled)
        import torch

        from featbank.backbones.network import largest_activation

        if self.device.type != "cpu":
            check_numbers(self.batch_size, largest_activation(self.backbone))
        network = self.network(cuts)
        made: Compute = network
        if compiled:
            made = compile_network(network)
        elif precision != "float32":
            made = network.lowered(getattr(torch, precision))

        def compute(batch: Tensor) -> Features:
            with arithmetic(precision, self.device):
                return made(self.backbone.preprocessing.normalise(batch))

        if compiled:
            side = self.backbone.preprocessing.image_size
            batch = self._on_device(np.zeros((self.batch_size, side, side, 3), dtype=np.uint8))
            times = [time.perf_counter()]
            for _ in range(2):
                with without_current_folder():  # the compiler starts processes of its own
                    _finish(compute(batch))
                times.append(time.perf_counter())
            self.compile_s = (self.compile_s or 0.0) + max(0.0, times[1] - times[0] - (times[2] - times[1]))
        return compute

    def _made_for_views(
        self, passes: Mapping[str | None, Mapping[str, str]], precision: str, compiled: bool
    ) -> Compute:
        """Return what pushes a batch once for each view, by a network that views of equal cuts share."""
        ready: list[tuple[str | None, Mapping[str, str], Compute]] = []
        for view, names in passes.items():
            wanted = tuple(names.values()), precision, compiled
            if wanted not in self._ready:
                self._ready[wanted] = self._made_ready(*wanted)
            ready.append((view, names, self._ready[wanted]))

        def compute(batch: Tensor) -> Features:
            found: Features = {}
            for view, names, push in ready:
                features = push(apply_view(batch, view))
                found |= {name: features[seen] for name, seen in names.items()}
            return found

        return compute

    def _push_batch(self, compute: Compute, images: NDArray[np.uint8] | Tensor) -> Features:
        found = compute(self._on_device(images))
        return {cut: tensor[: len(images)] for cut, tensor in found.items()}

    def _on_device(self, images: NDArray[np.uint8] | Tensor) -> Tensor:
        """Return a whole batch: (batch, 3, h, w) uint8, the rows behind `images` 0.

        8 bits travel to the device, the normalisation happens there; (b, h, w, c) is channels-last already.
        """
        import torch

        n = len(images)
        bytes_ = images if isinstance(images, torch.Tensor) else torch.from_numpy(images)  # (n, h, w, 3)
        if self.device.type == "cuda" and bytes_.device.type == "cpu":
            bytes_ = self._sent(bytes_)
        elif n < self.batch_size:
            padding = bytes_.new_zeros((self.batch_size - n, *bytes_.shape[1:]))
            bytes_ = torch.cat([bytes_, padding])  # (batch, h, w, 3)
        return bytes_.to(self.device).permute(0, 3, 1, 2)

    def _sent(self, images: Tensor) -> Tensor:
        """Copy images to a card by way of page-locked memory that is used again; waits for no kernel."""
        import torch

        if len(self._inbox) < _ON_THE_WAY:
            locked = torch.empty((self.batch_size, *images.shape[1:]), dtype=torch.uint8, pin_memory=True)
            sent = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch's
        else:
            locked, sent = self._inbox.pop(0)
            sent.synchronize()
        if len(locked) != self.batch_size:  # it was changed since
            return self._sent(images)
        locked[: len(images)].copy_(images)
        locked[len(images) :].zero_()
        batch = locked.to(self.device, non_blocking=True)
        sent.record()
        self._inbox.append((locked, sent))
        return batch


def _finish(features: Features) -> None:
    """Wait for the device."""
    for tensor in features.values():
        tensor.cpu()


def _enter(device: torch.device) -> None:
    """Make this thread a lane: it, and no other, computes with one core, or on one card."""
    import torch

    if device.type != "cpu":
        if device.index is not None:  # events and streams are the current card's
            torch.cuda.set_device(device)
        return
    with _entering:
        everyone = torch.get_num_threads()  # only now will torch not set this thread's number itself later
        torch.set_num_threads(1)
        # threads that are new begin with the number that any thread set last
        restore = threading.Thread(target=torch.set_num_threads, args=(everyone,))
        restore.start()
        restore.join()


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory was short, also where a compiler has wrapped the error; a CPU's has no class."""
    import torch

    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
