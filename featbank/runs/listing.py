"""What runs there are, as plain values for lists and tables; and removing one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from featbank import _atomic
from featbank.banks.listing import folder_bytes
from featbank.errors import RunError
from featbank.manifest import printable
from featbank.runs.continuing import Claim, is_claimed
from featbank.runs.finding import find_run
from featbank.runs.folder import Run
from featbank.sweep import FitResult

__all__ = ["BestCurve", "RunInfo", "describe_run", "remove_run"]


@dataclass(frozen=True)
class BestCurve:
    """The line and the size at which a run was most accurate.

    Parameters
    ----------
    cut, head : str
        Of what.
    temperature : float or None
        For the cut ``"softmax"``.
    n_per_class : float
        At how many training samples per class.
    metric : {"top1", "val_top1"}
        Of the test rows, or of the validation rows where there are no test rows.
    mean : float
        Mean over the repeats, in 0..1.
    n_repeats : int
        How many there are.
    """

    cut: str
    head: str
    temperature: float | None
    n_per_class: float
    metric: str
    mean: float
    n_repeats: int


@dataclass(frozen=True)
class RunInfo:
    """One run.

    Parameters
    ----------
    path : pathlib.Path
        Its folder.
    created : str
        When it was begun, ISO 8601 with the time zone; "" if nobody knows.
    status : {"finished", "running", "interrupted", "damaged"}
        ``"running"``: a process of this machine is writing it.
    dataset, backbone : str
        What its features are of.
    bank : pathlib.Path or None
        The bank it was fitted on, which may be gone.
    cuts, heads : tuple of str
        What was fitted, in the order of the fits.
    sizes : tuple of float
        Samples per class, ascending.
    n_fits, n_failed : int
        Lines of ``results.csv``, and those among them that came to nothing.
    n_planned : int or None
        Fits of the whole sweep; None for a run of a version that did not say.
    kept : tuple of str
        Names of the heads that were kept, for `featbank predict`.
    best : BestCurve or None
        None where no fit has an accuracy.
    size_bytes : int
        Bytes of all its files.
    error : str or None
        Why the run cannot be read; the fields that would need it are empty then.
    """

    path: Path
    created: str = ""
    status: str = "damaged"
    dataset: str = ""
    backbone: str = ""
    bank: Path | None = None
    cuts: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    sizes: tuple[float, ...] = ()
    n_fits: int = 0
    n_failed: int = 0
    n_planned: int | None = None
    kept: tuple[str, ...] = ()
    best: BestCurve | None = None
    size_bytes: int = 0
    error: str | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.path.name


def describe_run(path: str | os.PathLike[str]) -> RunInfo:
    """Describe the run in a folder; one that cannot be read is described by its error.

    Parameters
    ----------
    path : path-like
        As `featbank.runs.list_runs` gives it.

    Returns
    -------
    RunInfo
    """
    folder = Path(path)
    try:
        run = Run.open(folder)
        fits = run.fits()
        source, facts = run.source, run.facts
        return RunInfo(
            path=folder,
            created=str(facts["created"]),
            status="finished" if run.finished else "running" if is_claimed(folder) else "interrupted",
            dataset=str(source["dataset"]),
            backbone=str(source["backbone"]),
            bank=Path(source["bank"]),
            cuts=tuple(dict.fromkeys([*facts["cuts"], *(fit.cut for fit in fits)])),
            heads=tuple(dict.fromkeys(fit.head for fit in fits)),
            sizes=tuple(sorted({fit.n_per_class for fit in fits})),
            n_fits=len(fits),
            n_failed=sum(fit.status != "ok" for fit in fits),
            n_planned=facts.get("sweep", {}).get("n_fits"),
            kept=tuple(one["name"] for one in facts["heads"]),
            best=_best(fits),
            size_bytes=folder_bytes(folder),
        )
    except (RunError, OSError) as error:
        said = str(error)
    return RunInfo(path=folder, size_bytes=folder_bytes(folder), error=said)


def _best(fits: Sequence[FitResult]) -> BestCurve | None:
    for metric in ("top1", "val_top1"):
        points: dict[tuple[Any, ...], list[float]] = {}
        for fit in fits:
            value = getattr(fit, metric)
            if fit.status == "ok" and value is not None:
                points.setdefault((fit.cut, fit.head, fit.temperature, fit.n_per_class), []).append(value)
        if points:
            # of equal accuracies the one that needed fewer samples
            best = max(points, key=lambda point: (fmean(points[point]), -point[3]))
            cut, head, temperature, size = best
            values = points[best]
            return BestCurve(cut, head, temperature, size, metric, fmean(values), len(values))
    return None


def remove_run(run: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None) -> int:
    """Remove a run with its heads, figures and report; it vanishes in one step, then its bytes are freed.

    Parameters
    ----------
    run : path-like
        Name of a run of the cache, a part that only one run has, or its folder; it may be damaged. A link,
        and a folder anywhere else, is refused.
    cache_dir : path-like or None
        The cache; None for the default one.

    Returns
    -------
    int
        Bytes freed.

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    RunError
        If it is no run of the cache, or another process is writing it.
    CacheWriteError
        If it cannot be removed.
    """
    folder = find_run(run, cache_dir, inside=True)
    claim = Claim(folder)  # nobody takes it up meanwhile
    try:
        if not claim.held and is_claimed(folder):
            raise RunError(
                f"run {printable(folder.name)!r} is being written by another process; "
                "stop that first, or wait"
            )
        freed = folder_bytes(folder)
        _atomic.remove_folder(folder.parent, folder.name)
    finally:
        claim.let_go()
    return freed
