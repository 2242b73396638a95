"""A sweep on its way: what is planned, what is done, and what there is to say about it."""

from __future__ import annotations

import logging
import math
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from featbank.banks import Bank
from featbank.errors import FitWarning
from featbank.manifest import Manifest, printable
from featbank.sweep._candidates import Candidate, Family
from featbank.sweep._cuts import FeatureSource
from featbank.sweep._fitting import Outcome, Task, fit_family
from featbank.sweep._keeping import Keeper
from featbank.sweep._material import Plan, SplitRows, StoredRows, reader
from featbank.sweep._products import ProductCache
from featbank.sweep.records import FitResult
from featbank.sweep.results import FitId, SweepGroup, SweepResult, fit_id

__all__ = ["Course"]

logger = logging.getLogger(__name__)


class Course:
    """One sweep on its way: what is planned, and what there is of it."""

    def __init__(
        self,
        bank: FeatureSource,
        families: Sequence[Family],
        plans: Sequence[Plan],
        chosen: Sequence[tuple[str, float | None]],
        split: Mapping[str, NDArray[np.int64]],
        manifest: Manifest,
        result: SweepResult,
        keeper: Keeper,
    ) -> None:
        self.bank = bank
        self.families = families
        self.plans = plans
        self.chosen = chosen
        self.split = split
        self.labels = {name: manifest.labels[at].astype(np.int64) for name, at in split.items()}
        self.result = result
        self.keeper = keeper
        self.manifest = manifest
        self.total = len(chosen) * sum(len(self._plans(member)) for one in families for member in one.members)
        self.done: dict[FitId, FitResult] = {}
        self.notes: list[str] = []

    def take_up(self, earlier: SweepResult) -> None:
        """Count what an earlier part of this sweep has done, and what it said."""
        asked = {
            fit_id(task.record): task.record
            for cut, temperature in self.chosen
            for family in self.families
            for task in self._tasks(family, cut, temperature, 0)
        }
        for fit in earlier.fits:
            same = asked.get(fit_id(fit))
            if same and (same.n_train, same.random_state) == (fit.n_train, fit.random_state):
                self.done[fit_id(fit)] = fit
        self.result.hits |= {at: hits for at, hits in earlier.hits.items() if at in self.done}
        self.notes += earlier.notes

    def _tasks(self, family: Family, cut: str, temperature: float | None, n_features: int) -> list[Task]:
        return [
            Task(
                member,
                plan,
                FitResult(
                    cut=cut,
                    head=member.name,
                    temperature=temperature,
                    n_per_class=plan.n_per_class,
                    repeat=plan.repeat,
                    n_train=len(plan.rows) + len(plan.held),
                    n_features=n_features,
                    random_state=plan.seed,
                    n_classes=len(plan.per_class),
                    fewest_per_class=int(plan.per_class.min()),
                    most_per_class=int(plan.per_class.max()),
                ),
            )
            for member in family.members
            for plan in self._plans(member)
        ]

    def _plans(self, member: Candidate) -> list[Plan]:
        """Return what a head is fitted to; all samples once, if another repeat could give nothing else."""
        return [one for one in self.plans if member.seeded or not one.whole or one.repeat == 0]

    def run(
        self,
        n_jobs: int | None,
        progress: Callable[[int, int, str], None] | None,
        on_result: Callable[[SweepGroup], None] | None,
    ) -> None:
        """Fit what is not done yet, one cut after the other."""
        order: list[FitId] = []
        for cut, temperature in self.chosen:
            read = reader(self.bank, cut, temperature)
            rows = SplitRows(
                read,
                self.labels,
                self.split,
                self._products(cut, temperature),
                n_features=self._width(cut, temperature),
                name_of=lambda row: printable(self.manifest.ids[row]),
            )
            for family in self.families:
                planned = self._tasks(family, cut, temperature, 0)
                order += [fit_id(task.record) for task in planned]
                if all(fit_id(task.record) in self.done for task in planned):
                    continue
                what = _where(cut, temperature, family)
                _tell(progress, len(self.done), self.total, what)
                to_do = [
                    task
                    for task in self._tasks(family, cut, temperature, rows.n_features)
                    if fit_id(task.record) not in self.done
                ]
                told: list[str] = []
                for outcomes in fit_family(
                    family, to_do, rows, stored=self._stored(cut, temperature), n_jobs=n_jobs
                ):
                    group = self._group(outcomes, what)
                    told += group.notes
                    if on_result is not None:
                        on_result(group)
                    if len(self.done) < self.total:
                        _tell(progress, len(self.done), self.total, what)
                for message in _merged(told, {what: len(planned)}):
                    warnings.warn(message, FitWarning, stacklevel=4)
        _tell(progress, self.total, self.total, "")
        self.result.fits = [self.done[one] for one in order]

    def _group(self, outcomes: Sequence[Outcome], what: str) -> SweepGroup:
        """Take in what was finished."""
        fits = [one.record for one in outcomes]
        hits = {fit_id(one.record): one.hits for one in outcomes if one.hits is not None}
        notes = [f"{what}: {_counted(message)}" for one in outcomes for message in one.told]
        kept, dropped = self.keeper.choose(outcomes)
        self.done |= {fit_id(one): one for one in fits}
        self.result.hits |= hits
        self.result.heads = [one for one in self.result.heads if one.name not in dropped] + kept
        self.notes += notes
        return SweepGroup(fits, kept, dropped, tuple(notes), hits, self.total)

    def told(self) -> list[str]:
        """Return what fits warned of, once per cut, head and cause."""
        counts = {
            _where(cut, temperature, family): sum(len(self._plans(member)) for member in family.members)
            for cut, temperature in self.chosen
            for family in self.families
        }
        return _merged(self.notes, counts)

    def _products(self, cut: str, temperature: float | None) -> ProductCache | None:
        if temperature is not None or not isinstance(self.bank, Bank):
            return None
        return ProductCache(self.bank, cut, {name: at for name, at in self.split.items() if len(at)})

    def _width(self, cut: str, temperature: float | None) -> int | None:
        """Return the length of a row, where the bank says it."""
        if not isinstance(self.bank, Bank):
            return None
        return math.prod(self.bank["logits" if temperature is not None else cut].shape[1:])

    def _stored(self, cut: str, temperature: float | None) -> Callable[[], StoredRows] | None:
        bank = self.bank
        if not isinstance(bank, Bank):
            return None
        return lambda: StoredRows(pickle.dumps(bank), cut, temperature, self.labels, self.split)


_COUNTED = re.compile(r"(\d+) of (\d+) heads: (.*)", re.DOTALL)


def _counted(message: str) -> str:
    return message if _COUNTED.match(message) else f"1 of 1 heads: {message}"


def _merged(notes: Sequence[str], counts: Mapping[str, int]) -> list[str]:
    """Add up notes that say the same of different sizes; `counts`: fits in all of each cut and head."""
    sums: dict[tuple[str, str], int] = {}
    others = []
    for note in notes:
        where = next((one for one in counts if note.startswith(f"{one}: ")), None)
        match = _COUNTED.match(note[len(where) + 2 :]) if where is not None else None
        if where is None or match is None:
            others.append(note)
            continue
        sums[where, match[3]] = sums.get((where, match[3]), 0) + int(match[1])
    told = [f"{where}: {n} of {counts[where]} heads: {rest}" for (where, rest), n in sums.items()]
    return [*dict.fromkeys(others), *told]


def _where(cut: str, temperature: float | None, family: Family) -> str:
    return f"{cut}{'' if temperature is None else f' at T={temperature:g}'}, {family.name}"


def _tell(progress: Callable[[int, int, str], None] | None, done: int, total: int, what: str) -> None:
    logger.debug("fitting %s (%d of %d fits done)", what, done, total)
    if progress is not None:
        progress(done, total, what)
