"""One stage alone: each function runs it once over all images and returns the seconds it took."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featbank.banks import Bank, BankStore
from featbank.banks.shards import SHARD_BYTES
from featbank.extraction.forward import arithmetic, compile_network
from featbank.manifest import RowStatus

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from featbank.extraction.forward import Forward
    from featbank.extraction.images import BatchLoader

#: Images of one decoding request.
_IMAGES_AT_ONCE = 32

#: Rows read at once, unless they are so large that this would be more than a shard.
_ROWS_AT_ONCE = 256

#: Reading is so fast that a small bank is read over and over for so many seconds.
_READING_S = 0.2


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told to."""
    if device.type != "cpu":
        import torch

        torch.accelerator.synchronize(device)


def decode_rate(data: str | os.PathLike[str], *, backbone: str, workers: int) -> float:
    """Return images per second read, checked and decoded as `backbone` wants them, nothing else running.

    Parameters
    ----------
    data : str or path
        As in `featbank.extract`.
    backbone : str
        Its name; the weights do not matter.
    workers : int
        Decoding processes; they are there when the clock starts.
    """
    from featbank.backbones import load_backbone
    from featbank.datasets import build_manifest, open_dataset
    from featbank.extraction.choosing import open_loader

    dataset = open_dataset(data)
    manifest = build_manifest(dataset)
    preprocessing = load_backbone(backbone, weights="random").preprocessing
    rows = manifest.rows()
    size = _IMAGES_AT_ONCE
    batches = [(start, rows[start : start + size].tolist()) for start in range(0, len(rows), size)]
    with contextlib.closing(open_loader(dataset, manifest, preprocessing, workers, size)) as loader:
        time_decode(loader, batches[: 2 * workers])
        return len(rows) / time_decode(loader, batches)


def write_rate(bank: str | os.PathLike[str], folder: Path, *, threads: int) -> tuple[float, int]:
    """Return images per second written as shards by so many threads, and the bytes of one image.

    Parameters
    ----------
    bank : str or path
        A bank, whose features are written again.
    folder : pathlib.Path
        Where; what is written is left there.
    threads : int
        Shards written at once.
    """
    opened = Bank.open(bank, check="size")
    row_bytes = sum(opened[cut].n_features * opened[cut].dtype.itemsize for cut in opened.cuts)
    return len(opened.slot_first_rows()) / time_write(opened, folder, threads=threads), row_bytes


def time_decode(loader: BatchLoader, batches: Sequence[tuple[int, Sequence[int]]]) -> float:
    """Read, check and decode every image, all workers, nothing else running."""
    started = time.perf_counter()
    with contextlib.closing(loader.batches(batches)) as decoded:
        for _ in decoded:
            pass
    return time.perf_counter() - started


def bare_forward(forward: Forward, cuts: Sequence[str], *, compiled: bool) -> Callable[[Tensor], None]:
    """Return what pushes one batch (uint8, on the device) through the network, and does nothing else."""
    import torch

    network: Callable[[Tensor], Any] = forward.network(tuple(cuts))
    if compiled:
        network = compile_network(forward.network(tuple(cuts)))
    elif forward.precision != "float32":
        network = forward.network(tuple(cuts)).lowered(getattr(torch, forward.precision))

    def push(images: Tensor) -> None:
        with arithmetic(forward.precision, forward.device):
            network(forward.backbone.preprocessing.normalise(images.permute(0, 3, 1, 2)))

    return push


def time_forward(
    push: Callable[[Tensor], None],
    batches: Sequence[Tensor],
    n_batches: int,
    device: torch.device,
    *,
    lanes: int,
    threads: int,
) -> float:
    """Push `n_batches` batches that are in memory, beginning again with the first when they run out.

    `lanes` threads push them in turns through the one network, each computing with `threads` threads.
    """
    import torch

    before = torch.get_num_threads()
    all_there = threading.Barrier(lanes)

    def warm_up(_: int) -> None:
        torch.set_num_threads(threads)  # this thread's
        all_there.wait()  # else one lane could do it for two
        for _ in range(2):
            push(batches[0])

    try:
        with ThreadPoolExecutor(lanes, "featbank-lane") as pool:
            list(pool.map(warm_up, range(lanes)))
            synchronize(device)
            started = time.perf_counter()
            list(pool.map(push, (batches[number % len(batches)] for number in range(n_batches))))
            synchronize(device)
            return time.perf_counter() - started
    finally:
        torch.set_num_threads(before)  # new threads begin with what was set last


def time_write(bank: Bank, banks: Path, *, threads: int = 1) -> float:
    """Write the features of `bank` once more as shards of the same size, into a new bank under `banks`.

    Several are written at once by so many threads. Reading them, a few at a time, is not counted.
    """
    copy = BankStore(banks).create_or_open(bank.dataset, bank.key, {})
    copy.set_manifest(bank.manifest)
    first_rows = bank.slot_first_rows()
    duration_s = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for cut in bank.cuts:
            array, usable = bank[cut], bank.rows_ok(cut)
            facts = bank.facts(cut)
            made_by = {name: facts[name] for name in ("torch", "device")}
            writer = copy.cut_writer(cut, array.shape[1:], array.dtype, made_by=made_by)
            plans = writer.missing()
            for at in range(0, len(plans), threads):
                some = plans[at : at + threads]
                filled = []
                for plan in some:
                    rows = first_rows[plan.start : plan.stop]
                    ok = usable[rows]
                    features = np.zeros((plan.n_rows, *array.shape[1:]), array.dtype)
                    features[ok] = array.read(rows[ok])
                    filled.append(
                        (features, np.where(ok, RowStatus.OK, RowStatus.QUARANTINED).astype(np.uint8))
                    )
                started = time.perf_counter()
                list(pool.map(writer.write, some, *zip(*filled, strict=True)))
                duration_s += time.perf_counter() - started
    return duration_s


def time_read(bank: Bank, rows: NDArray[np.int64], seed: int) -> tuple[float, float]:
    """Read `rows` in random order at every cut: through the bank, and through ``numpy.memmap``.

    Returns
    -------
    tuple of float
        Seconds for all rows once, through the bank and through memory maps; both warm, turn by turn.
    """
    order = np.random.default_rng(seed).permutation(rows)
    slots = bank.row_slots
    pairs: list[tuple[Callable[[], None], Callable[[], None]]] = []
    for cut in bank.cuts:
        array = bank[cut]
        row_bytes = array.n_features * array.dtype.itemsize
        step = max(1, min(_ROWS_AT_ONCE, SHARD_BYTES // row_bytes))
        parts = [order[start : start + step] for start in range(0, len(order), step)]
        maps = _MappedShards(bank.path / cut)
        placed = [maps.locate(slots[part]) for part in parts]
        pairs.append((_each(array.read, parts), _each(maps.read, placed)))
    passes, through_bank, through_maps = 0, 0.0, 0.0
    for by_bank, by_maps in pairs:  # warm: the pages are in memory, the files are open
        by_bank()
        by_maps()
    while not passes or through_bank + through_maps < _READING_S:
        for by_bank, by_maps in pairs:
            started = time.perf_counter()
            by_bank()
            between = time.perf_counter()
            by_maps()
            through_maps += time.perf_counter() - between
            through_bank += between - started
        passes += 1
    return through_bank / passes, through_maps / passes


def _each(read: Callable[[Any], Any], parts: Sequence[Any]) -> Callable[[], None]:
    def read_all() -> None:
        for part in parts:
            read(part)

    return read_all


class _MappedShards:
    """What one would write by hand over the files of a cut: ``numpy.memmap`` at the dataset's offset."""

    def __init__(self, folder: Path) -> None:
        found = []
        for path in folder.glob("*.h5"):
            with h5py.File(path, "r") as file:
                features = file["features"]
                start = int(file.attrs["start"])
                offset, shape, dtype = features.id.get_offset(), features.shape, features.dtype
            found.append((start, np.memmap(path, dtype, mode="r", offset=offset, shape=shape)))
        found.sort(key=lambda one: one[0])
        self._starts = np.array([start for start, _ in found])
        self._maps = [mapped for _, mapped in found]

    def locate(self, slots: NDArray[np.int64]) -> tuple[list[int], NDArray[np.int64]]:
        """Return the file of each slot and its row in that file."""
        numbers = np.searchsorted(self._starts, slots, side="right") - 1
        return numbers.tolist(), slots - self._starts[numbers]

    def read(self, placed: tuple[list[int], NDArray[np.int64]]) -> NDArray[Any]:
        numbers, local = placed
        first = self._maps[0]
        if len(self._maps) == 1:
            return first[local]
        # numpy indexes one file at a time
        out = np.empty((len(local), *first.shape[1:]), first.dtype)
        for place, (number, row) in enumerate(zip(numbers, local.tolist(), strict=True)):
            out[place] = self._maps[number][row]
        return out
