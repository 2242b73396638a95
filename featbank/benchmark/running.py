"""Runs the rounds of a benchmark: every stage once, then every stage again."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank._atomic import make_folder
from featbank._cache import user_path
from featbank.backbones import truncate
from featbank.banks import Bank
from featbank.benchmark._conditions import empty_compiler_cache, quiet
from featbank.benchmark.results import BenchmarkResult, Round
from featbank.datasets import Dataset, open_dataset, row_indices
from featbank.errors import InvalidInputError
from featbank.extraction import ExtractionPlan, ExtractionSettings, plan, push
from featbank.extraction.work import run_size
from featbank.manifest import RowStatus

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from featbank.benchmark._plain import PlainScript

__all__ = ["LIMIT", "run_benchmark"]

#: Images of a benchmark when nobody says otherwise: minutes on a laptop, too few for a fast card.
LIMIT = 512

#: Decoded images held in memory for the forward pass alone; more of them are pushed in turns.
_HELD_BYTES = 256 * 1024 * 1024

#: Everything to train: a benchmark asks nothing of the splits, and a small limit must not warn about them.
_SPLIT = "1.0,0.0,0.0"

#: Called with (measurements done, measurements in all).
Progress = Callable[[int, int], None]


def run_benchmark(
    data: str | os.PathLike[str] | Dataset = "digits",
    *,
    backbone: str,
    cuts: Sequence[str],
    weights: str | os.PathLike[str] | None = None,
    precision: str = "auto",
    compile: str = "auto",
    limit: int | None = LIMIT,
    repeats: int = 3,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    decode: str = "cpu",
    baseline: bool = False,
    plain_workers: int = 1,
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
    benchmark mean anything. One batch goes through everything before the clock starts.

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
    limit : int or None, default=512
        Rows to take, the classes in turn; None takes all. A fast device needs thousands.
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
    if repeats < 1:
        raise InvalidInputError(f"repeats={repeats!r} must be at least 1")
    if plain_workers < 0:
        raise InvalidInputError(f"plain_workers={plain_workers!r} must be 0 or more")
    # What an image is called does not make it slower.
    dataset = open_dataset(data, data_root=data_root, layout=layout, skip_empty_classes=True)
    workers = (os.cpu_count() or 1) if workers is None else workers
    parent = None if cache_dir is None else make_folder(user_path(cache_dir))
    report = _Counter(progress, 1 + repeats * (5 + baseline))
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
            limit=limit,
            device=device,
            workers=workers,
            random_state=random_state,
            cache_dir=Path(folder) / "first",
            decode=decode,
            skip_empty_classes=True,
        )
        bench = _Bench(dataset, settings, Path(folder), stack)
        plain = bench.plain_script(plain_workers) if baseline else None
        report.step()
        rounds = [bench.round(number, plain, report.step) for number in range(repeats)]
        return bench.result(tuple(rounds), plain_workers if baseline else None)


class _Counter:
    """Counts measurements for the progress bar."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def step(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


class _Bench:
    """The images, the settled precision, and how one round is measured."""

    def __init__(
        self, dataset: Dataset, settings: ExtractionSettings, folder: Path, stack: contextlib.ExitStack
    ) -> None:
        self._dataset, self._folder = dataset, folder
        with quiet("featbank.extraction.precision"):  # the result says how far off it is
            self._plan = stack.enter_context(plan(dataset, settings))
        work = self._plan.need_work()
        self._bank, self._computing = work.missing.bank, work.need_computing()
        forward = self._computing.forward
        # what was chosen is chosen for all rounds
        self._settings = settings = replace(
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
        self._rows: NDArray[np.int64] = first_rows[ok]
        if not len(self._rows):
            raise InvalidInputError(
                f"none of the {len(first_rows)} images of {dataset.name!r} could be read; "
                "nothing was measured"
            )
        with quiet():
            push(self._planned("warm", compile="off", limit=min(size, self._n_slots)))
        shutil.rmtree(folder / "warm")

    def _planned(self, cache: str, **changes: Any) -> ExtractionPlan:
        """Plan the extraction once more, into a cache of its own."""
        settings = replace(self._settings, cache_dir=self._folder / cache, **changes)
        return plan(self._dataset, settings)

    def _decoded(self) -> tuple[list[NDArray[np.uint8] | Tensor], NDArray[np.bool_]]:
        """Decode everything once; keep as much as memory may hold, and say which slots have an image."""
        held: list[NDArray[np.uint8] | Tensor] = []
        ok, held_bytes = [], 0
        for batch in self._loader.batches(self._batches):
            ok.append(batch.statuses == RowStatus.OK)
            if held_bytes < _HELD_BYTES:
                held.append(batch.images)
                held_bytes += batch.images.nbytes
        return held, np.concatenate(ok)

    def plain_script(self, workers: int) -> PlainScript:
        """Prepare the plain script and push one batch through it."""
        from featbank.benchmark._plain import PlainScript

        plain = PlainScript(
            self._computing.backbone,
            self._computing.cuts,
            self._dataset,
            row_indices(self._dataset, self._bank.manifest)[self._rows].tolist(),
            device=self._computing.device,
            workers=workers,
        )
        plain.warm_up()
        return plain

    def round(self, number: int, plain: PlainScript | None, step: Callable[[], None]) -> Round:
        """Measure everything once."""
        from featbank.benchmark import _stages as stages

        folder = self._folder
        with quiet(), empty_compiler_cache(folder / "compiler"):
            started = time.perf_counter()
            planned = self._planned(f"{number}")
            ready = time.perf_counter()
            result = push(planned)
            done = time.perf_counter()
        step()
        forward = planned.need_work().need_computing().forward
        eager_wait_s = self._wait_without_compiling() if plain is not None and forward.compiled else None
        n = len(self._rows)
        decode_s = stages.time_decode(self._loader, self._batches)
        step()
        forward_s = stages.time_forward(forward, self._held, self._computing.cuts, len(self._batches))
        step()
        bank = Bank.open(result.bank, check="size")
        write_s = stages.time_write(bank, folder / "written")
        shutil.rmtree(folder / "written")
        step()
        read_s, memmap_s = stages.time_read(bank, self._rows, self._settings.random_state + number)
        step()
        plain_s = None
        if plain is not None:
            plain_s = plain.run()
            self._plain_errors.append(_distance(plain, bank, self._rows))
            plain.clear()
            step()
        shutil.rmtree(folder / f"{number}")
        return Round(
            decode_ips=n / decode_s,
            forward_ips=self._pushed() / forward_s,
            write_ips=self._n_slots / write_s,
            read_ips=n / read_s,
            memmap_ips=n / memmap_s,
            end_to_end_ips=result.pushed / (done - ready),
            plain_ips=None if plain_s is None else n / plain_s,
            setup_s=ready - started - (forward.compile_s or 0.0),
            wait_s=done - started,
            compile_s=forward.compile_s,
            eager_wait_s=eager_wait_s,
        )

    def _wait_without_compiling(self) -> float:
        """Return how long the same extraction takes from the command on, nothing compiled."""
        with quiet():
            started = time.perf_counter()
            push(self._planned("eager", compile="off"))
            wait_s = time.perf_counter() - started
        shutil.rmtree(self._folder / "eager")
        return wait_s

    def _pushed(self) -> int:
        """Rows that `time_forward` pushes, padding of the last batch not counted."""
        return sum(len(self._held[number % len(self._held)]) for number in range(len(self._batches)))

    def result(self, rounds: tuple[Round, ...], plain_workers: int | None) -> BenchmarkResult:
        """Put together what the rounds measured, and on what."""
        import torch

        computing = self._computing
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
            batch_size=computing.forward.batch_size,
            precision=computing.forward.arithmetic_name,
            precision_errors=dict(self._plan.need_work().errors),
            device=str(computing.device),
            device_name=_device_name(computing.device),
            threads=torch.get_num_threads(),
            workers=self._settings.workers or 1,
            plain_workers=plain_workers,
            plain_error=max(self._plain_errors) if self._plain_errors else None,
            versions=_versions(self._bank),
        )


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
