"""Runs the rounds of a benchmark: every stage once, then every stage again."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import make_folder
from featbank._cache import user_path
from featbank._process import usable_cores
from featbank._registry import Progress
from featbank.backbones import truncate
from featbank.banks import Bank
from featbank.benchmark import _stages as stages
from featbank.benchmark._neighbours import neighbours as busy_loops
from featbank.benchmark.results import BenchmarkResult, Round
from featbank.datasets import Dataset, open_dataset
from featbank.datasets.building import row_indices
from featbank.errors import InvalidInputError
from featbank.extraction import ExtractionPlan, ExtractionSettings, plan, push
from featbank.extraction.forward import choose_devices, run_size
from featbank.manifest import RowStatus

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from featbank.benchmark._plain import PlainScript

__all__ = ["LIMIT", "run_benchmark"]

#: Images of a benchmark when nobody says otherwise: minutes on a laptop; a card does so many in a second.
LIMIT = {"cpu": 512, "cuda": 8_192}

#: Decoded images held in memory for the forward pass alone; more of them are pushed in turns.
_HELD_BYTES = 256 * 1024 * 1024

#: Everything to train: a benchmark asks nothing of the splits, and a small limit must not warn about them.
_SPLIT = "1.0,0.0,0.0"


def run_benchmark(
    data: str | os.PathLike[str] | Dataset = "digits",
    *,
    backbone: str,
    cuts: Sequence[str],
    weights: str | os.PathLike[str] | None = None,
    precision: str = "auto",
    compile: str = "auto",
    limit: int | None = None,
    repeats: int = 3,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    decode: str = "cpu",
    baseline: bool = False,
    plain_workers: int = 1,
    neighbours: int = 0,
    random_state: int = 0,
    data_root: str | os.PathLike[str] | None = None,
    layout: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> BenchmarkResult:
    """Measure each stage of an extraction alone, the whole of it, and what the stages allow.

    Each round measures everything once: a whole extraction into a new bank, decoding alone, the forward pass
    alone (the very network of that extraction), writing alone, reading back, and the plain script. The rounds
    follow each other, so that a neighbour who comes or goes falls on all of them; only ratios within one
    benchmark mean anything. One batch goes through everything before the clock starts. A network is compiled
    with nothing cached once, before the rounds.

    The forward pass is measured in several configurations: one network on all threads, and several lanes of
    fewer threads each; a compiled one also as it was before. The fastest of them is the one `floor_rate` is
    given.

    Parameters
    ----------
    data : str, path or Dataset, default="digits"
        As in `featbank.extract`.
    backbone : str
        Name of the backbone.
    cuts : sequence of str
        Where to read.
    weights : str or path, optional
        As in `featbank.extract`.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Of the forward pass; ``auto`` is settled once, for all rounds.
    compile : {"auto", "on", "off"}, default="auto"
        Whether the network is compiled; ``auto`` is settled once, by the number of these images.
    limit : int, optional
        Rows to take, the classes in turn; 0 takes all. By default 512, and 8,192 on a card.
    repeats : int, default=3
        Rounds, at least 1.
    batch_size : int, optional
        As in `featbank.extract`; what memory decides is settled once, for all rounds.
    workers : int, optional
        Decoding processes; one per core by default.
    device : str, optional
        As in `featbank.extract`.
    decode : {"cpu", "cuda"}, default="cpu"
        As in `featbank.extract`; the plain script decodes by Pillow either way.
    baseline : bool, default=False
        Also run the plain script on the same images: Pillow, the weights' own transform, a torch
        ``DataLoader``, the whole network in eager float32 with its channels first, a forward hook at each
        cut, results in a list. Nothing is written. Its batches are of 32 images whatever `batch_size` is.
    plain_workers : int, default=1
        Loading processes of the plain script; 0 decodes in between two forward passes.
    neighbours : int, default=0
        Busy loops that run beside everything that is measured, the plain script too. They end with the
        benchmark, also where that is killed.
    random_state : int, default=0
        Seed of ``weights="random"`` and of the order in which rows are read back.
    data_root : path, optional
        Where torchvision datasets lie.
    layout : str, optional
        As in `featbank.extract`.
    cache_dir : path, optional
        A folder on the disk to measure; a temporary folder is made in it and removed again. The system's
        temporary folder by default.
    progress : callable, optional
        Called with (measurements done, measurements in all).

    Returns
    -------
    BenchmarkResult

    Raises
    ------
    InvalidInputError
        If an argument makes no sense, or no image can be read; and whatever `featbank.extract` raises.
    CacheWriteError
        If `cache_dir` cannot be written.

    Examples
    --------
    >>> result = run_benchmark(backbone="minivgg", cuts=["block5_pool"], limit=20, repeats=1)
    >>> result.n_images, result.row_bytes, result.plain_ips
    (20, 256, None)
    >>> result.ratio_to_floor.median == result.end_to_end_ips.median / result.floor_ips.median
    True
    """
    for name, value, least in (
        ("repeats", repeats, 1),
        ("plain_workers", plain_workers, 0),
        ("neighbours", neighbours, 0),
        ("limit", limit or 0, 0),
    ):
        if value < least:
            raise InvalidInputError(f"{name}={value!r} must be {'at least 1' if least else '0 or more'}")
    # What an image is called does not make it slower.
    dataset = open_dataset(data, data_root=data_root, layout=layout, skip_empty_classes=True)
    workers = usable_cores() if workers is None else workers
    if limit is None:
        limit = LIMIT["cuda" if choose_devices(device)[0].type == "cuda" else "cpu"]
    parent = None if cache_dir is None else make_folder(user_path(cache_dir))
    done, total = itertools.count(1), 1 + repeats * (5 + baseline)

    def step() -> None:
        if progress is not None:
            progress(next(done), total)

    with (
        tempfile.TemporaryDirectory(prefix="featbank-bench-", dir=parent) as folder,
        contextlib.ExitStack() as stack,
    ):
        settings = ExtractionSettings(
            backbone=backbone,
            cuts=cuts,
            weights=weights,
            split=_SPLIT,
            override_split=True,
            precision=precision,
            compile=compile,
            batch_size=batch_size,
            limit=limit or None,
            device=device,
            workers=workers,
            random_state=random_state,
            cache_dir=Path(folder) / "first",
            decode=decode,
            skip_empty_classes=True,
        )
        stack.enter_context(_empty_compiler_cache(Path(folder) / "compiler"))
        stack.enter_context(busy_loops(neighbours))
        bench = _Bench(dataset, settings, Path(folder), stack)
        plain = bench.plain_script(plain_workers) if baseline else None
        step()
        rounds = [bench.round(number, plain, step) for number in range(repeats)]
        return bench.result(tuple(rounds), plain_workers if baseline else None, neighbours)


class _Bench:
    """The images, what was settled once for all rounds, and how one round is measured."""

    def __init__(
        self, dataset: Dataset, settings: ExtractionSettings, folder: Path, stack: contextlib.ExitStack
    ) -> None:
        self._dataset, self._folder = dataset, folder
        with _quiet("featbank.extraction.forward"):  # the result says how far off it is
            self._plan = stack.enter_context(plan(dataset, settings))
        work = self._plan.need_work()
        self._bank, self._computing = work.missing.bank, work.need_computing()
        self._forward = forward = self._computing.forward
        # what was chosen is chosen for all rounds
        self._settings = replace(
            settings,
            precision=forward.precision,
            compile="on" if forward.compiled else "off",
            batch_size=forward.batch_size,
        )
        # counted now: the plain script hangs its hooks into this module
        self._macs = truncate(self._computing.backbone, self._computing.cuts).macs
        self._row_bytes = self._plan.size_bytes // len(self._bank.slot_table)
        self._plain_errors: list[float] = []
        first_rows = self._bank.slot_first_rows()
        size = run_size(forward.batch_size)
        self._loader = self._computing.loader
        self._batches = [
            (start, first_rows[start : start + size].tolist()) for start in range(0, len(first_rows), size)
        ]
        self._n_slots = len(first_rows)
        self._held, ok = self._decoded()
        self._push = stages.bare_forward(forward, self._computing.cuts, compiled=forward.compiled)
        self._eager = (
            stages.bare_forward(forward, self._computing.cuts, compiled=False) if forward.compiled else None
        )
        self._rows: NDArray[np.int64] = first_rows[ok]
        if not len(self._rows):
            raise InvalidInputError(
                f"none of the {len(first_rows)} images of {dataset.name!r} could be read; "
                "nothing was measured"
            )
        with _quiet():
            push(self._planned("warm", compile="off", limit=min(size, self._n_slots)))
        shutil.rmtree(folder / "warm")

    def _planned(self, cache: str, **changes: Any) -> ExtractionPlan:
        """Plan the extraction once more, into a cache of its own."""
        return plan(self._dataset, replace(self._settings, cache_dir=self._folder / cache, **changes))

    def _decoded(self) -> tuple[list[Tensor], NDArray[np.bool_]]:
        """Decode everything once; keep as many whole batches as memory may hold; say what is an image."""
        import torch

        held: list[Tensor] = []
        size = self._forward.batch_size
        ok, held_bytes = [], 0
        for run in self._loader.batches(self._batches):
            ok.append(run.statuses == RowStatus.OK)
            if held_bytes < _HELD_BYTES:
                # on a card the forward pass alone is without the way there
                images = torch.as_tensor(run.images).to(self._forward.device)  # (n, h, w, 3)
                images = torch.cat([images, images.new_zeros((-len(images) % size, *images.shape[1:]))])
                held += [images[start : start + size] for start in range(0, len(images), size)]
                held_bytes += images.nbytes
        return held, np.concatenate(ok)

    def plain_script(self, workers: int) -> PlainScript:
        """Prepare the plain script and push one batch through it."""
        from featbank.benchmark._plain import PlainScript

        plain = PlainScript(
            self._computing.backbone,
            self._computing.cuts,
            self._dataset,
            row_indices(self._dataset, self._bank.manifest)[self._rows].tolist(),
            device=self._forward.device,
            workers=workers,
        )
        plain.warm_up()
        return plain

    def round(self, number: int, plain: PlainScript | None, step: Callable[[], None]) -> Round:
        """Measure everything once."""
        device = self._forward.device
        with _quiet():
            started = time.perf_counter()
            planned = self._planned(f"{number}")
            ready = time.perf_counter()
            result = push(planned)
            done = time.perf_counter()
        compile_s = planned.need_work().need_computing().forward.compile_s
        setup_s = ready - started - (compile_s or 0.0)
        step()
        compared = plain is not None and self._forward.compiled
        eager_wait_s = self._wait_without_compiling() if compared else None
        n = len(self._rows)
        decode_s = stages.time_decode(self._loader, self._batches)
        step()
        n_batches = -(-self._n_slots // self._forward.batch_size)
        configurations = _configurations(device)
        ways = {name: (self._push, *cores) for name, cores in configurations.items()}
        if self._eager is not None:  # a compiler may make a network slower
            last = [*configurations][-1]
            ways[f"{last}, not compiled"] = (self._eager, *configurations[last])
        forward_ips = {
            name: self._n_slots
            / stages.time_forward(one, self._held, n_batches, device, lanes=lanes, threads=threads)
            for name, (one, lanes, threads) in ways.items()
        }
        step()
        bank = Bank.open(result.bank, check="size")
        write_s = stages.time_write(bank, self._folder / "written")
        shutil.rmtree(self._folder / "written")
        step()
        read_s, memmap_s = stages.time_read(bank, self._rows, self._settings.random_state + number)
        step()
        plain_s = None
        if plain is not None:
            plain_s = plain.run()
            self._plain_errors.append(_distance(plain, bank, self._rows))
            plain.clear()
            step()
        shutil.rmtree(self._folder / f"{number}")
        return Round(
            decode_ips=n / decode_s,
            forward_ips=forward_ips,
            write_ips=self._n_slots / write_s,
            read_ips=n / read_s,
            memmap_ips=n / memmap_s,
            end_to_end_ips=result.pushed / (done - ready),
            plain_ips=None if plain_s is None else n / plain_s,
            setup_s=setup_s,
            wait_s=setup_s + (self._forward.compile_s or 0.0) + done - ready,
            eager_wait_s=eager_wait_s,
        )

    def _wait_without_compiling(self) -> float:
        """Return how long the same extraction takes from the command on, nothing compiled."""
        with _quiet():
            started = time.perf_counter()
            push(self._planned("eager", compile="off"))
            wait_s = time.perf_counter() - started
        shutil.rmtree(self._folder / "eager")
        return wait_s

    def result(
        self, rounds: tuple[Round, ...], plain_workers: int | None, neighbours: int
    ) -> BenchmarkResult:
        """Put together what the rounds measured, and on what."""
        import torch

        computing, forward = self._computing, self._forward
        return BenchmarkResult(
            rounds=rounds,
            data=self._dataset.location,
            backbone=computing.backbone.name,
            weights=computing.backbone.weights,
            cuts=computing.shapes,
            row_bytes=self._row_bytes,
            macs=self._macs,
            n_images=len(self._rows),
            n_unreadable=self._n_slots - len(self._rows),
            image_size=computing.backbone.preprocessing.image_size,
            batch_size=forward.batch_size,
            precision=forward.arithmetic_name,
            precision_errors=dict(self._plan.need_work().errors),
            device=str(forward.device),
            device_name=_device_name(forward.device),
            compile_s=forward.compile_s,
            neighbours=neighbours,
            threads=torch.get_num_threads(),
            workers=self._settings.workers or 1,
            plain_workers=plain_workers,
            plain_error=max(self._plain_errors) if self._plain_errors else None,
            versions=_versions(self._bank),
        )


@contextlib.contextmanager
def _quiet(name: str = "featbank") -> Iterator[None]:
    """Hold back warnings: the first extraction has said them, and there are many on the same images."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _empty_compiler_cache(folder: Path) -> Iterator[None]:
    """Compile as on the first day: what earlier runs left behind would make it look cheap."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _configurations(device: torch.device) -> dict[str, tuple[int, int]]:
    """Name every way to use the cores that is measured: (lanes, threads of each), a power of two of lanes."""
    import torch

    if device.type != "cpu":
        return {str(device): (1, torch.get_num_threads())}
    found, threads = {}, torch.get_num_threads()
    for lanes in (2**power for power in range(threads.bit_length())):
        each = threads // lanes
        found[f"{lanes} lane{'s' * (lanes > 1)} x {each} thread{'s' * (each > 1)}"] = (lanes, each)
    return found


def _distance(plain: PlainScript, bank: Bank, rows: NDArray[np.int64]) -> float:
    """Relative L2 distance of the bank's features to the plain script's, of the cut where it is largest."""
    squares: dict[str, list[float]] = {}
    for cut, start, wanted in plain.features():
        stored = bank.features(cut, rows[start : start + len(wanted)]).astype(np.float64)
        exact = wanted.reshape(len(wanted), -1).astype(np.float64)
        difference, norm = squares.setdefault(cut, [0.0, 0.0])
        squares[cut] = [difference + float(((stored - exact) ** 2).sum()), norm + float((exact**2).sum())]
    return max(
        float(np.sqrt(difference / norm)) if norm else difference for difference, norm in squares.values()
    )


def _versions(bank: Bank) -> dict[str, str]:
    versions: Mapping[str, Any] = bank.provenance["versions"]
    return {**{name: str(version) for name, version in versions.items()}, "decoder": bank.key.decoder}


def _device_name(device: torch.device) -> str:
    """Return what a card or a processor calls itself."""
    if device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
