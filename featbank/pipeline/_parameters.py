"""Values of a study's file that would fail at the fit, after minutes of extraction: found when it is read."""

from __future__ import annotations

from typing import Any

from featbank.datasets import parse_split
from featbank.errors import FeatbankError
from featbank.heads import catalogue
from featbank.pipeline._table import Faults, Table
from featbank.pipeline.study import Data, Experiment, Figure, Sweep
from featbank.sampling import parse_sizes

__all__ = ["figure_faults", "read_parameter", "sweep_faults"]


def read_parameter(table: Table, head: str, key: str) -> Any:
    """Take one parameter of a head; None where it is not given, or not allowed."""
    if key not in table:
        return table.take(key)[0]
    value, where = table.take(key)
    allowed = catalogue.allowed(head, key)
    if allowed.holds(value):
        return value
    table.faults.add(f"{where} = {value!r} is not allowed; allowed: {allowed}")
    return None


def sweep_faults(data: Data, sweep: Sweep, where: str, faults: Faults) -> None:
    """Note what an experiment asks of its images that its split does not give."""
    parts = _parts(data)
    if parts is None:
        return
    counted, (train, _, _) = parts
    asked = f"{where} data split = {data.split!r}"
    if not train:
        faults.add(f"{asked} gives no image to training")
    elif counted:
        most = int(train)
        sizes = [size for size in _sizes(sweep) if size > most]
        if sizes:
            faults.add(
                f"{where} sweep samples_per_class = {sweep.samples_per_class!r} asks for {max(sizes)} "
                f"training images of each class, and the split {data.split!r} gives {most}"
            )
    if counted and data.images_per_class is not None and sum(parts[1]) > data.images_per_class:
        faults.add(
            f"{asked} takes {int(sum(parts[1]))} images of each class, and images_per_class = "
            f"{data.images_per_class} leaves fewer"
        )


def figure_faults(figure: Figure, experiment: Experiment, where: str, faults: Faults) -> None:
    """Note what makes a published figure one that nothing measured can stand beside."""
    sweep, what = experiment.sweep, figure.what
    if what == "accuracy" and not 0 <= figure.value <= 1:
        faults.add(f"{where} value = {figure.value!r} must be within 0 and 1: 65 % is 0.65")
    if what == "temperature" and not figure.value > 0:
        faults.add(f"{where} value = {figure.value!r} must be over 0")
    sizes = _sizes(sweep)
    if figure.n_per_class is not None and figure.n_per_class not in sizes and not _takes_all(sweep):
        shown = ", ".join(map(str, sizes))
        faults.add(
            f"{where} n_per_class = {figure.n_per_class:g} is not fitted; samples_per_class gives {shown}"
        )
    if figure.temperature is not None and figure.temperature not in (sweep.temperatures or ()):
        shown = ", ".join(f"{one:g}" for one in sweep.temperatures or ()) or "none"
        faults.add(f"{where} temperature = {figure.temperature:g} is not fitted; temperatures has {shown}")


def _parts(data: Data) -> tuple[bool, tuple[float, float, float]] | None:
    """Return whether the split counts images of each class, and its parts; None where the source splits."""
    if data.split is None:
        return None
    try:
        rule = parse_split(data.split)
    except FeatbankError:  # a fault of its own, noted where the split is read
        return None
    return rule.kind == "counts", rule.parts


def _sizes(sweep: Sweep) -> list[int]:
    return [size for size in parse_sizes(sweep.samples_per_class) if size != "all"]


def _takes_all(sweep: Sweep) -> bool:
    return "all" in parse_sizes(sweep.samples_per_class)
