"""From a bank to a finished run: the sweep, its folder, its figures."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank._cache import banks_folder
from featbank._registry import Progress, takes_settings, with_options
from featbank.banks import Bank, BankStore
from featbank.errors import InvalidInputError
from featbank.plots import display
from featbank.runs import Run
from featbank.runs.store import Claim, create_run, find_unfinished, runs_of_sweep, sweep_digest
from featbank.sweep import Fit, SweepResult, SweepSettings
from featbank.sweep.curves import IntervalKind
from featbank.sweep.fitting import Sweep

if TYPE_CHECKING:
    from featbank.backbones import Backbone
    from featbank.engines import RayEngine

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

    Examples
    --------
    >>> import featbank
    >>> run = featbank.open_run()
    >>> fitted = FittedRun(run, run.result(), figures={})  # as fit_heads returns it
    >>> fitted.run.name.endswith("-digits"), len(fitted.result.fits)
    (True, 24)
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


@takes_settings(SweepSettings)
def fit_heads(
    bank: Bank | str | os.PathLike[str] | None = None,
    settings: SweepSettings | None = None,
    *,
    name: str = "fit-head",
    command: Sequence[str] = (),
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    fresh: bool = False,
    n_jobs: int | None = None,
    engine: RayEngine | None = None,
    check_leaks: bool | float = False,
    interval: IntervalKind = "t",
    announce: Callable[[str], None] | None = None,
    backbone: Backbone | None = None,
    weights: str | os.PathLike[str] | None = None,
    **options: Any,
) -> FittedRun:
    """Fit heads on a bank for growing numbers of samples per class, into a run folder with its figures.

    A sweep that was interrupted goes on where it stopped: an unfinished run of the same name, with the same
    parameters, on the same bank with the same content, by the same versions, is continued, and no fit that
    stands in its ``results.csv`` is made again.

    Parameters
    ----------
    bank : Bank, path, str or None
        The bank, its folder, or a part of its name; the newest of the cache by default.
    settings : SweepSettings, optional
        What is fitted.
    name : str, default="fit-head"
        Last part of the run folder's name.
    command : sequence of str, optional
        Kept in ``run.json`` for people.
    cache_dir : path, optional
        The cache.
    progress : callable, optional
        Called with (fits done, fits in all).
    fresh : bool, default=False
        Start anew even if there is an unfinished run of this sweep.
    n_jobs, engine, check_leaks, backbone, weights
        See `featbank.run_sweep`.
    interval : {"t", "bootstrap"}, default="t"
        The band of the curve that is drawn; see `LearningCurve.points`.
    announce : callable, optional
        Called with one line for people when an interrupted run is continued, or the same was fitted before.
    **options
        Fields of `SweepSettings`, such as ``cuts=["fc7"], heads=["softmax", "mlp"]``; with `settings` they
        replace those of its fields.

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
    TypeError
        If an option is no field of `SweepSettings`.

    Examples
    --------
    >>> import featbank
    >>> from sklearn.naive_bayes import GaussianNB
    >>> fitted = fit_heads(
    ...     featbank.open_bank("digits"), cuts=["fc7"], heads=["ncm", ("bayes", GaussianNB())],
    ...     samples_per_class="4,8", repeats=2,
    ... )
    >>> [(one.head, one.n_per_class) for one in fitted.result.points()]
    [('ncm', 4), ('ncm', 8), ('bayes', 4), ('bayes', 8)]
    """
    if not isinstance(bank, Bank | str | os.PathLike | None):
        raise InvalidInputError(
            f"fit_heads writes a run of a bank on disk, got a {type(bank).__name__}; give a Bank, its path "
            "or name, or use featbank.run_sweep, which takes any source of features"
        )
    if not isinstance(bank, Bank):
        bank = Bank.open(BankStore(banks_folder(cache_dir)).resolve(bank))
    if interval not in ("t", "bootstrap"):
        raise InvalidInputError(f"interval={interval!r} is not one of 't', 'bootstrap'")
    sweep = Sweep(bank, with_options(SweepSettings, settings, options, "fit_heads"))
    parameters = sweep.settings.to_dict()
    digest = sweep_digest(bank, name, parameters)
    run, claim = None, None
    if not fresh and (found := find_unfinished(cache_dir, digest)) is not None:
        run, claim = found
    if run is None and announce is not None:
        before = next((one.name for one in runs_of_sweep(cache_dir, digest) if one.finished), None)
        if before is not None:
            announce(f"the same was fitted before, in run {before}; this makes another run of it")
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
            engine=engine,
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
        drawn = display.draw_all(run, interval=interval) if result.points() else {}
    finally:
        if claim is not None:
            claim.let_go()
    return FittedRun(run, result, drawn, len(earlier.fits) if earlier else 0)
