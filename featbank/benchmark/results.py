"""What a benchmark measured: one record per round, medians and spread, the ratios that follow."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from featbank.manifest import short_repr

__all__ = ["BenchmarkResult", "Round", "Spread", "floor_rate"]


def floor_rate(decode_ips: float, forward_ips: float, write_ips: float, *, shared_cores: bool) -> float:
    """Return the rate an extraction cannot be expected to beat, from the rates of its stages alone.

    Parameters
    ----------
    decode_ips, forward_ips, write_ips : float
        Images per second of each stage, measured alone with all that the machine has.
    shared_cores : bool
        True on a CPU, where decoding and the forward pass compete for the cores: their times add up (writing
        waits for the disk meanwhile, and is left out). False where another device computes: the slowest
        stage decides.

    Returns
    -------
    float
        Images per second.

    Examples
    --------
    >>> floor_rate(400, 100, 50, shared_cores=True), floor_rate(400, 100, 50, shared_cores=False)
    (80.0, 50)
    """
    if shared_cores:
        return 1 / (1 / forward_ips + 1 / decode_ips)
    return min(decode_ips, forward_ips, write_ips)


@dataclass(frozen=True)
class Spread:
    """A number that was measured several times.

    Parameters
    ----------
    median, min, max : float
        Over the rounds. For a ratio `median` is the quotient of the two medians, so that it can be recomputed
        from the table; `min` and `max` are those of the quotients of each round.
    """

    median: float
    min: float
    max: float


@dataclass(frozen=True)
class Round:
    """What one round measured; all stages are measured once before any is measured again.

    Parameters
    ----------
    decode_ips : float
        Images per second read, checked and decoded by all workers, nothing else running.
    forward_ips : float
        Through the network up to the deepest cut, decoded batches in memory.
    write_ips : float
        Written as shards (hashed, fsynced, renamed), all cuts together, features in memory.
    read_ips : float
        Random rows read back through the bank's arrays, warm, all cuts together.
    memmap_ips : float
        The same rows in the same batches through ``numpy.memmap`` on the same files.
    end_to_end_ips : float
        Of a whole extraction into a new bank: decoding, forward, checks, writing, what became of each row.
        Preparation and compiling are left out, see `setup_s` and `compile_s`.
    plain_ips : float or None
        Of the plain script; None when it was not asked for.
    setup_s : float
        Preparation of that extraction, in seconds: weights loaded, every image hashed, precision proved.
    wait_s : float
        What a user waits for the extraction, in seconds: preparation, compiling and the pass.
    compile_s : float or None
        Seconds spent compiling the network, with nothing cached; None when nothing was compiled.
    eager_wait_s : float or None
        What a user would have waited without compiling; measured with the plain script, if compiled.
    """

    decode_ips: float
    forward_ips: float
    write_ips: float
    read_ips: float
    memmap_ips: float
    end_to_end_ips: float
    plain_ips: float | None
    setup_s: float
    wait_s: float
    compile_s: float | None
    eager_wait_s: float | None = None


@dataclass(frozen=True)
class BenchmarkResult:
    """Rates of the stages of an extraction, and what was measured on.

    Parameters
    ----------
    rounds : tuple of Round
        The measurements, in the order they were made.
    data : str
        Where the images came from.
    backbone, weights : str
        The network and its weights.
    cuts : mapping of str to tuple of int
        Shape of one row at each cut.
    row_bytes : int
        Bytes written per image, all cuts together.
    macs : int
        Multiply-adds per image up to the deepest cut.
    n_images : int
        Distinct images that could be read; each round pushes them all once.
    n_unreadable : int
        Distinct images that could not; they are left out of every rate.
    image_size : int
        Side of the input in pixels.
    batch_size : int
        Images per forward pass.
    precision : str
        Arithmetic of the forward pass.
    precision_errors : mapping of str to float
        Cut -> relative L2 error against float32 on one batch.
    device : str
        ``"cpu"``, ``"cuda:0"``.
    device_name : str
        What the processor or the card calls itself.
    threads : int
        Threads of one operation of torch on the CPU.
    workers : int
        Decoding processes.
    plain_workers : int or None
        Loading processes of the plain script (0: it decodes between two forward passes); None without it.
    plain_error : float or None
        Relative L2 distance between the plain script's features and the bank's, the worst cut: that both did
        the same work. None without the plain script.
    versions : mapping of str to str
        Of featbank, python, torch, torchvision, numpy, and the decoder.
    """

    rounds: tuple[Round, ...]
    data: str
    backbone: str
    weights: str
    cuts: Mapping[str, tuple[int, ...]]
    row_bytes: int
    macs: int
    n_images: int
    n_unreadable: int
    image_size: int
    batch_size: int
    precision: str
    precision_errors: Mapping[str, float]
    device: str
    device_name: str
    threads: int
    workers: int
    plain_workers: int | None
    plain_error: float | None
    versions: Mapping[str, str]

    __repr__ = short_repr

    @property
    def decode_ips(self) -> Spread:
        """Decoding alone, images per second."""
        return self._measured(lambda one: one.decode_ips)

    @property
    def forward_ips(self) -> Spread:
        """The forward pass alone, images per second."""
        return self._measured(lambda one: one.forward_ips)

    @property
    def write_ips(self) -> Spread:
        """Writing alone, images per second."""
        return self._measured(lambda one: one.write_ips)

    @property
    def read_ips(self) -> Spread:
        """Reading random rows back, images per second."""
        return self._measured(lambda one: one.read_ips)

    @property
    def memmap_ips(self) -> Spread:
        """The same rows through ``numpy.memmap``, images per second."""
        return self._measured(lambda one: one.memmap_ips)

    @property
    def end_to_end_ips(self) -> Spread:
        """A whole extraction, images per second."""
        return self._measured(lambda one: one.end_to_end_ips)

    @property
    def plain_ips(self) -> Spread | None:
        """The plain script, images per second; None when it was not run."""
        if self.plain_workers is None:
            return None
        return self._measured(lambda one: one.plain_ips or 0.0)

    @property
    def setup_s(self) -> Spread:
        """Preparation of an extraction, in seconds."""
        return self._measured(lambda one: one.setup_s)

    @property
    def wait_s(self) -> Spread:
        """What a user waits for an extraction of these images, in seconds, everything included."""
        return self._measured(lambda one: one.wait_s)

    @property
    def compile_s(self) -> Spread | None:
        """Compiling, in seconds; None when nothing was compiled."""
        if all(one.compile_s is None for one in self.rounds):
            return None
        return self._measured(lambda one: one.compile_s or 0.0)

    @property
    def eager_wait_s(self) -> Spread | None:
        """What a user would have waited without compiling, in seconds; None when it was not measured."""
        if any(one.eager_wait_s is None for one in self.rounds):
            return None
        return self._measured(lambda one: one.eager_wait_s or 0.0)

    @property
    def shared_cores(self) -> bool:
        """Whether decoding and the forward pass compete for the same cores."""
        return self.device == "cpu"

    @property
    def floor_ips(self) -> Spread:
        """What the stages alone allow end to end, images per second, see `floor_rate`."""
        medians = (self.decode_ips.median, self.forward_ips.median, self.write_ips.median)
        each = [self._floor(one) for one in self.rounds]
        return Spread(floor_rate(*medians, shared_cores=self.shared_cores), min(each), max(each))

    @property
    def ratio_to_floor(self) -> Spread:
        """End to end over the floor; 1 means that everything that can overlap does."""
        each = [one.end_to_end_ips / self._floor(one) for one in self.rounds]
        return Spread(self.end_to_end_ips.median / self.floor_ips.median, min(each), max(each))

    @property
    def ratio_to_plain(self) -> Spread | None:
        """End to end over the plain script; None when it was not run."""
        plain = self.plain_ips
        if plain is None:
            return None
        each = [one.end_to_end_ips / one.plain_ips for one in self.rounds if one.plain_ips]
        return Spread(self.end_to_end_ips.median / plain.median, min(each), max(each))

    @property
    def read_ratio_to_memmap(self) -> Spread:
        """Reading through the bank over reading through ``numpy.memmap``."""
        each = [one.read_ips / one.memmap_ips for one in self.rounds]
        return Spread(self.read_ips.median / self.memmap_ips.median, min(each), max(each))

    def _measured(self, measure: Callable[[Round], float]) -> Spread:
        values = [measure(one) for one in self.rounds]
        return Spread(statistics.median(values), min(values), max(values))

    def _floor(self, one: Round) -> float:
        return floor_rate(one.decode_ips, one.forward_ips, one.write_ips, shared_cores=self.shared_cores)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values, flat: ``decode_ips``, ``decode_ips_min``, ``decode_ips_max``, ...

        Returns
        -------
        dict
            What was not measured (the plain script, compiling) is None.
        """
        found: dict[str, Any] = {}
        for name in SPREADS:
            spread: Spread | None = getattr(self, name)
            found[name] = None if spread is None else spread.median
            found[f"{name}_min"] = None if spread is None else spread.min
            found[f"{name}_max"] = None if spread is None else spread.max
        return found | {
            "data": self.data,
            "backbone": self.backbone,
            "weights": self.weights,
            "cuts": {cut: list(shape) for cut, shape in self.cuts.items()},
            "row_bytes": self.row_bytes,
            "macs": self.macs,
            "n_images": self.n_images,
            "n_unreadable": self.n_unreadable,
            "repeats": len(self.rounds),
            "image_size": self.image_size,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "precision_errors": dict(self.precision_errors),
            "device": self.device,
            "device_name": self.device_name,
            "threads": self.threads,
            "workers": self.workers,
            "plain_workers": self.plain_workers,
            "plain_error": self.plain_error,
            "versions": dict(self.versions),
        }


#: Names of `BenchmarkResult` that are a `Spread`, in the order of the table.
SPREADS = (
    "decode_ips",
    "forward_ips",
    "write_ips",
    "read_ips",
    "memmap_ips",
    "end_to_end_ips",
    "floor_ips",
    "plain_ips",
    "ratio_to_floor",
    "ratio_to_plain",
    "read_ratio_to_memmap",
    "setup_s",
    "wait_s",
    "compile_s",
    "eager_wait_s",
)
