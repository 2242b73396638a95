"""What a benchmark measured: one record per round, medians and spread, the ratios that follow."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from featbank.manifest import short_repr

__all__ = ["BenchmarkResult", "Round", "Spread", "floor_rate"]

S = TypeVar("S", "Spread", "Spread | None")


def floor_rate(decode_ips: float, forward_ips: float, write_ips: float, *, shared_cores: bool) -> float:
    """Return the rate an extraction cannot be expected to beat, from the rates of its stages alone.

    On a CPU decoding and the forward pass share the cores: alone, each has all of them, so together they
    cannot take less than the sum of both times, however they are interleaved. (If one of them left cores
    idle when alone, that would not hold; this is why the forward pass is measured in several configurations,
    and the fastest counts.) Writing mostly waits for the disk meanwhile; what it takes of the cores is left
    out, which makes the floor harder to reach, not easier. Where another device computes, the stages run
    beside each other, and the slowest decides.

    Parameters
    ----------
    decode_ips, forward_ips, write_ips : float
        Images per second of each stage, measured alone with all that the machine has.
    shared_cores : bool
        True on a CPU.

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

    Examples
    --------
    >>> rate = Spread(median=105.0, min=98.0, max=107.0)
    >>> f"{rate.median:.0f} images/s ({rate.min:.0f} to {rate.max:.0f})"
    '105 images/s (98 to 107)'
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
    forward_ips : mapping of str to float
        Configuration, such as ``"2 lanes x 1 thread"`` -> images per second through the network up to the
        deepest cut, decoded and in the memory of the device.
    write_ips : float
        Written as shards (hashed, fsynced, renamed), all cuts together, features in memory.
    read_ips : float
        Random rows read back through the bank's arrays, warm, all cuts together.
    memmap_ips : float
        The same rows in the same batches through ``numpy.memmap`` on the same files.
    end_to_end_ips : float
        Of a whole extraction into a new bank: decoding, forward, checks, writing, what became of each row.
        Preparation and compiling are left out, see `setup_s` and `BenchmarkResult.compile_s`.
    plain_ips : float or None
        Of the plain script; None when it was not asked for.
    setup_s : float
        Preparation of that extraction, in seconds: weights loaded, every image hashed, precision proved.
    wait_s : float
        What a user waits for the extraction, in seconds: preparation, compiling with nothing cached, and the
        pass.
    eager_wait_s : float or None
        What a user would have waited without compiling; measured with the plain script, if compiled.

    Examples
    --------
    >>> one = Round(
    ...     decode_ips=400, forward_ips={"1 lane x 2 threads": 90, "2 lanes x 1 thread": 100}, write_ips=5000,
    ...     read_ips=90_000, memmap_ips=95_000, end_to_end_ips=75, plain_ips=30, setup_s=1.5, wait_s=9.0,
    ... )
    >>> max(one.forward_ips, key=one.forward_ips.get), one.end_to_end_ips / one.plain_ips
    ('2 lanes x 1 thread', 2.5)
    """

    decode_ips: float
    forward_ips: Mapping[str, float]
    write_ips: float
    read_ips: float
    memmap_ips: float
    end_to_end_ips: float
    plain_ips: float | None
    setup_s: float
    wait_s: float
    eager_wait_s: float | None = None


def _spread(values: list[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


class _Measured(Generic[S]):
    """The rounds' field of this name as a `Spread`; None if a round lacks it."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, result: BenchmarkResult | None, owner: type | None = None) -> S:
        if result is None:
            return self  # type: ignore[return-value]  # what documentation is made from
        values = [getattr(one, self._name) for one in result.rounds]
        return None if None in values else _spread(values)  # type: ignore[return-value]


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
    compile_s : float or None
        Seconds spent compiling the network, with nothing cached, once; None when nothing was compiled.
    neighbours : int
        Busy loops that ran beside everything that was measured.
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

    Examples
    --------
    >>> rounds = [Round(400, {"2 lanes": 100}, 5000, 9e4, 9e4, ips, 30, 1.5, 9.0) for ips in (72, 76, 75)]
    >>> facts = dict.fromkeys(one.name for one in fields(BenchmarkResult))  # what run_benchmark fills in
    >>> result = BenchmarkResult(**facts | {"rounds": tuple(rounds), "device": "cpu"})
    >>> result.end_to_end_ips, round(result.floor_ips.median), round(result.ratio_to_floor.median, 2)
    (Spread(median=75, min=72, max=76), 80, 0.94)
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
    compile_s: float | None
    neighbours: int
    threads: int
    workers: int
    plain_workers: int | None
    plain_error: float | None
    versions: Mapping[str, str]

    __repr__ = short_repr

    decode_ips = _Measured["Spread"]("Decoding alone, images per second.")
    write_ips = _Measured["Spread"]("Writing alone, images per second.")
    read_ips = _Measured["Spread"]("Reading random rows back, images per second.")
    memmap_ips = _Measured["Spread"]("The same rows through ``numpy.memmap``, images per second.")
    end_to_end_ips = _Measured["Spread"]("A whole extraction, images per second.")
    plain_ips = _Measured["Spread | None"]("The plain script, images per second; None when it was not run.")
    setup_s = _Measured["Spread"]("Preparation of an extraction, in seconds.")
    wait_s = _Measured["Spread"]("What a user waits for an extraction of these images, in seconds.")
    eager_wait_s = _Measured["Spread | None"]("The same without compiling; None when it was not measured.")

    @property
    def forward_configurations_ips(self) -> dict[str, Spread]:
        """The forward pass alone in every configuration, images per second."""
        names = self.rounds[0].forward_ips
        return {name: _spread([one.forward_ips[name] for one in self.rounds]) for name in names}

    @property
    def forward_configuration(self) -> str:
        """The configuration of the forward pass with the largest median: what the floor is taken from."""
        return max(found := self.forward_configurations_ips, key=lambda name: found[name].median)

    @property
    def forward_ips(self) -> Spread:
        """The forward pass alone in its fastest configuration, images per second."""
        return self.forward_configurations_ips[self.forward_configuration]

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

    def _floor(self, one: Round) -> float:
        # of the configuration that is fastest over all rounds: each round's own best would be luck
        forward_ips = one.forward_ips[self.forward_configuration]
        return floor_rate(one.decode_ips, forward_ips, one.write_ips, shared_cores=self.shared_cores)

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
        configurations = {name: one.median for name, one in self.forward_configurations_ips.items()}
        plain = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "rounds"}
        plain |= {name: dict(value) for name, value in plain.items() if isinstance(value, Mapping)}
        return (
            found
            | plain
            | {
                "cuts": {cut: list(shape) for cut, shape in self.cuts.items()},
                "repeats": len(self.rounds),
                "forward_configuration": self.forward_configuration,
                "forward_configurations_ips": configurations,
            }
        )


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
    "eager_wait_s",
)
