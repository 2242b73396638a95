"""From a bank to a finished run: the sweep, its folder, its figures."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from featbank import plots
from featbank._cache import banks_folder
from featbank.backbones import get_spec
from featbank.banks import Bank, BankStore
from featbank.errors import FeatbankError, InvalidInputError, UnknownNameError
from featbank.runs import Claim, Run, create_run, find_unfinished, sweep_digest
from featbank.sampling import Size
from featbank.sweep import Fit, Sweep, SweepResult, SweepSpec, usual_sizes
from featbank.sweep.curves import IntervalKind

if TYPE_CHECKING:
    from featbank.backbones import Backbone

__all__ = ["FittedRun", "fit_heads"]

logger = logging.getLogger(__name__)


class FittedRun:
    """A finished run with what it found.

    Parameters
    ----------
    run : Run
        Its folder.
    result : SweepResult
        Every fit, and the kept heads.
    figures : mapping of str to pathlib.Path
        Kind of figure -> its PNG file.
    n_resumed : int, default=0
        How many of the fits an interrupted run had made before, and were not made again.
    """

    def __init__(
        self, run: Run, result: SweepResult, figures: Mapping[str, Path], n_resumed: int = 0
    ) -> None:
        self.run = run
        self.result = result
        self.figures = dict(figures)
        self.n_resumed = n_resumed

    def __repr__(self) -> str:
        return f"<FittedRun {self.run.name!r}, {len(self.result.fits)} fits>"


def fit_heads(
    bank: Bank | str | os.PathLike[str] | None = None,
    *,
    cuts: Sequence[str] | None = None,
    heads: Sequence[Any] = ("softmax",),
    samples_per_class: str | int | Sequence[Size] | None = None,
    repeats: int = 5,
    temperatures: Sequence[float] | None = None,
    random_state: int = 0,
    head_params: Mapping[str, Mapping[str, Any]] | None = None,
    save_heads: Literal["best", "all", "none"] = "best",
    name: str = "fit-head",
    command: Sequence[str] = (),
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    fresh: bool = False,
    n_jobs: int | None = None,
    check_leaks: bool | float = False,
    untrained_classes: Literal["drop", "keep"] = "drop",
    interval: IntervalKind = "t",
    announce: Callable[[str], None] | None = None,
    val: float | Literal["none"] | None = None,
    metrics: Sequence[str] = (),
    backbone: Backbone | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> FittedRun:
    """Fit heads on a bank for growing numbers of samples per class, into a run folder with its figures.

    A sweep that was interrupted goes on where it stopped: an unfinished run of the same name, with the same
    parameters, on the same bank with the same content, by the same versions, is continued, and no fit that
    stands in its ``results.csv`` is made again.

    Parameters
    ----------
    bank : Bank, path, str or None
        The bank, its folder, or a part of its name; the newest of the cache by default.
    cuts : sequence of str, optional
        Names or aliases of cuts; all complete ones by default.
    heads, repeats, temperatures, random_state, head_params, save_heads, val, metrics
        See `featbank.run_sweep`. Estimators of your own are fitted, scored and drawn like all others; they
        are not saved, so they cannot `predict` later.
    samples_per_class : str, int, or sequence of int or "all", optional
        See `featbank.run_sweep`; by default ``"4..32"``, or as far as the class with the fewest training
        images reaches.
    name : str, default="fit-head"
        Last part of the run folder's name.
    command : sequence of str, optional
        Kept in ``run.json`` for people.
    cache_dir : path, optional
        The cache.
    progress : callable, optional
        Called with (fits done, fits in all, what comes next).
    fresh : bool, default=False
        Start anew even if there is an unfinished run of this sweep.
    n_jobs, check_leaks, untrained_classes, backbone, weights
        See `featbank.run_sweep`.
    interval : {"t", "bootstrap"}, default="t"
        The band of the curve that is drawn; see `LearningCurve.points`.
    announce : callable, optional
        Called with one line for people when an interrupted run is continued.

    Returns
    -------
    FittedRun

    Raises
    ------
    BankNotFoundError
        If there is no such bank.
    UnknownNameError, InvalidInputError
        See `featbank.run_sweep`; nothing is written then.
    CacheWriteError
        If the run folder cannot be written.
    """
    if not isinstance(bank, Bank | str | os.PathLike | None):
        raise InvalidInputError(
            f"fit_heads writes a run of a bank on disk, got a {type(bank).__name__}; give a Bank, its path "
            "or name, or use featbank.run_sweep, which takes any source of features"
        )
    if not isinstance(bank, Bank):
        bank = Bank.open(BankStore(banks_folder(cache_dir)).resolve(bank))
    wanted = None if cuts is None else [_canonical(bank, cut) for cut in _listed(cuts)]
    if samples_per_class is None:
        samples_per_class = usual_sizes(bank.manifest)
    if interval not in ("t", "bootstrap"):
        raise InvalidInputError(f"interval={interval!r} is not one of 't', 'bootstrap'")
    spec = SweepSpec(
        cuts=wanted,
        heads=heads,
        samples_per_class=samples_per_class,
        repeats=repeats,
        temperatures=temperatures,
        random_state=random_state,
        head_params=head_params,
        save_heads=save_heads,
        untrained_classes=untrained_classes,
        val=val,
        metrics=metrics,
    )
    sweep, parameters = Sweep(bank, spec), spec.to_dict()
    digest = sweep_digest(bank, name, parameters)
    run, claim = None, None
    if not fresh and (found := find_unfinished(cache_dir, digest)) is not None:
        run, claim = found
    try:
        earlier = None if run is None else run.take_up()
        if run is not None and earlier is not None:
            text = f"continuing run {run.name}: {len(earlier.fits)} of {sweep.n_fits} fits were done"
            logger.info("%s", text)
            if announce is not None:
                announce(text)

        def add(fits: Sequence[Fit]) -> None:
            # a run is made with the first result, so that wrong input leaves none behind
            nonlocal run, claim
            if run is None:
                facts = {"digest": digest, "n_fits": sweep.n_fits}
                run = create_run(
                    cache_dir, name, bank=bank, command=command, parameters=parameters, sweep=facts
                )
                claim = Claim(run.path)
            run.add(fits)

        result = sweep.run(
            n_jobs=n_jobs,
            progress=progress,
            on_result=add,
            check_leaks=check_leaks,
            resume=earlier,
            backbone=backbone,
            weights=weights,
        )
        if run is None:
            raise RuntimeError("a sweep without a fit")
        run.finish(result)
        drawn = plots.draw_all(run, interval=interval) if result.points() else {}
    finally:
        if claim is not None:
            claim.let_go()
    return FittedRun(run, result, drawn, len(earlier.fits) if earlier else 0)


def _listed(cuts: str | Sequence[str]) -> Sequence[str]:
    return [cuts] if isinstance(cuts, str) else cuts


def _canonical(bank: Bank, cut: str) -> str:
    """Turn an alias into the cut's name; that the bank does not have it is for the sweep to say."""
    if cut in bank.cuts:
        return cut
    try:
        spec = get_spec(bank.key.backbone)
    except FeatbankError:  # a module of somebody's own, or a family that is not installed here
        return cut
    try:
        return spec.cut(cut).name
    except UnknownNameError:
        if cut.partition("@")[0] == cut:
            raise
        return cut
