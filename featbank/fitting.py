"""From a bank to a finished run: the sweep, its folder, its figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from featbank import figures
from featbank._cache import banks_folder
from featbank.backbones import get_spec
from featbank.banks import Bank, BankStore
from featbank.errors import UnknownNameError
from featbank.runs import Run, create_run
from featbank.sampling import Size
from featbank.sweep import SweepResult, run_sweep

__all__ = ["FittedRun", "fit_heads"]


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
    """

    def __init__(self, run: Run, result: SweepResult, figures: Mapping[str, Path]) -> None:
        self.run = run
        self.result = result
        self.figures = dict(figures)

    def __repr__(self) -> str:
        return f"<FittedRun {self.run.name!r}, {len(self.result.fits)} fits>"


def fit_heads(
    bank: Bank | str | os.PathLike[str] | None = None,
    *,
    cuts: Sequence[str] | None = None,
    heads: Sequence[str] = ("softmax",),
    samples_per_class: str | int | Sequence[Size] = "4..32",
    repeats: int = 5,
    temperatures: Sequence[float] | None = None,
    random_state: int = 0,
    head_params: Mapping[str, Mapping[str, Any]] | None = None,
    save_heads: Literal["best", "all", "none"] = "best",
    name: str = "fit-head",
    command: Sequence[str] = (),
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> FittedRun:
    """Fit heads on a bank for growing numbers of samples per class, into a run folder with its figures.

    Parameters
    ----------
    bank : Bank, path, str or None
        The bank, its folder, or a part of its name; the newest of the cache by default.
    cuts : sequence of str, optional
        Names or aliases of cuts; all complete ones by default.
    heads, samples_per_class, repeats, temperatures, random_state, head_params, save_heads
        See `featbank.run_sweep`.
    name : str, default="fit-head"
        Last part of the run folder's name.
    command : sequence of str, optional
        Kept in ``run.json`` for people.
    cache_dir : path, optional
        The cache.
    progress : callable, optional
        Called with (fits done, fits in all, what comes next).

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
    if not isinstance(bank, Bank):
        bank = Bank.open(BankStore(banks_folder(cache_dir)).resolve(bank))
    wanted = None if cuts is None else [_canonical(bank, cut) for cut in cuts]
    parameters = {
        "cuts": wanted,
        "heads": list(heads),
        "samples_per_class": samples_per_class
        if isinstance(samples_per_class, (str, int))
        else list(samples_per_class),
        "repeats": repeats,
        "temperatures": None if temperatures is None else list(temperatures),
        "random_state": random_state,
        "head_params": {head: dict(given) for head, given in (head_params or {}).items()},
        "save_heads": save_heads,
    }

    @cache
    def run() -> Run:
        # Made with the first result, so that wrong input leaves no empty run behind.
        return create_run(cache_dir, name, bank=bank, command=command, parameters=parameters)

    result = run_sweep(
        bank,
        cuts=wanted,
        heads=heads,
        samples_per_class=samples_per_class,
        repeats=repeats,
        temperatures=temperatures,
        random_state=random_state,
        head_params=head_params,
        save_heads=save_heads,
        progress=progress,
        on_result=lambda group: run().add(group),
    )
    run().finish(result)
    return FittedRun(run(), result, figures.draw_all(run()) if result.curve() else {})


def _canonical(bank: Bank, cut: str) -> str:
    """Turn an alias into the cut's name; that the bank does not have it is for the sweep to say."""
    if cut in bank.cuts:
        return cut
    try:
        return get_spec(bank.key.backbone).cut(cut).name
    except UnknownNameError:
        if cut.partition("@")[0] == cut:
            raise
        return cut
