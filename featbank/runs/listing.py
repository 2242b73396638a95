"""What runs there are, as plain values for lists and tables; and removing one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from featbank import _atomic
from featbank._cache import user_path
from featbank.banks.documents import folder_bytes
from featbank.errors import InvalidInputError, RunError
from featbank.manifest import printable, short_repr
from featbank.runs.finding import find_run
from featbank.runs.folder import Run
from featbank.runs.starting import Claim, is_claimed
from featbank.sampling import Size, size_order
from featbank.sweep import Fit
from featbank.sweep.records import Key

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
    n_per_class : int or "all"
        At how many training samples per class.
    metric : {"top1", "val_top1"}
        What `mean` is of: the test rows, or the validation rows where there are no test rows.
    mean : float
        Mean over the repeats, in 0..1.
    chosen_by : {"val_top1", "top1"}
        What it is the best by: the validation rows, because the best by the test rows flatters itself; the
        test rows where nothing was validated.
    n_repeats : int
        How many there are.

    Examples
    --------
    >>> import featbank
    >>> best = describe_run(featbank.open_run().path).best
    >>> best.n_per_class, best.metric, best.chosen_by
    (16, 'top1', 'val_top1')
    """

    cut: str
    head: str
    temperature: float | None
    n_per_class: Size
    metric: str
    mean: float
    chosen_by: str
    n_repeats: int
    fewest_per_class: int | None = None
    most_per_class: int | None = None


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
    sizes : tuple of int or "all"
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

    Examples
    --------
    >>> import featbank
    >>> info = describe_run(featbank.open_run().path)
    >>> f"{info.dataset} through {info.backbone}: {info.n_fits} fits, {info.status}"
    'digits through minivgg: 24 fits, finished'
    """

    path: Path
    created: str = ""
    status: str = "damaged"
    dataset: str = ""
    backbone: str = ""
    bank: Path | None = None
    cuts: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    sizes: tuple[Size, ...] = ()
    n_fits: int = 0
    n_failed: int = 0
    n_planned: int | None = None
    kept: tuple[str, ...] = ()
    best: BestCurve | None = None
    size_bytes: int = 0
    error: str | None = None

    __repr__ = short_repr

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

    Examples
    --------
    >>> import featbank
    >>> info = describe_run(featbank.open_run().path)
    >>> info.cuts, info.sizes, info.error
    (('block3_pool', 'fc7'), (4, 16), None)
    """
    folder = user_path(path)
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
            bank=user_path(source["bank"]),
            cuts=tuple(dict.fromkeys([*facts["cuts"], *(fit.cut for fit in fits)])),
            heads=tuple(dict.fromkeys(fit.head for fit in fits)),
            sizes=tuple(sorted({fit.n_per_class for fit in fits}, key=size_order)),
            n_fits=len(fits),
            n_failed=sum(fit.status != "ok" for fit in fits),
            n_planned=facts.get("sweep", {}).get("n_fits"),
            kept=tuple(one["name"] for one in facts["heads"]),
            best=_best(fits),
            size_bytes=folder_bytes(folder),
        )
    except (RunError, InvalidInputError, OSError) as error:
        said = str(error)
    return RunInfo(path=folder, size_bytes=folder_bytes(folder), error=said)


def _best(fits: Sequence[Fit]) -> BestCurve | None:
    for chosen_by in ("val_top1", "top1"):
        points: dict[tuple[Key, Size], list[Fit]] = {}
        for fit in fits:
            if fit.status == "ok" and getattr(fit, chosen_by) is not None:
                points.setdefault((fit.key, fit.n_per_class), []).append(fit)
        if not points:
            continue
        # a few validation images make many equal: of these the one that has seen most samples
        (cut, head, temperature), size = max(
            points, key=lambda at: (fmean(getattr(one, chosen_by) for one in points[at]), size_order(at[1]))
        )
        chosen = points[(cut, head, temperature), size]
        metric = "val_top1" if any(one.top1 is None for one in chosen) else "top1"
        return BestCurve(
            cut,
            head,
            temperature,
            size,
            metric,
            fmean(getattr(one, metric) for one in chosen),
            chosen_by,
            len(chosen),
            chosen[0].fewest_per_class,
            chosen[0].most_per_class,
        )
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

    Examples
    --------
    >>> import featbank
    >>> run = featbank.open_run()
    >>> remove_run(run.path) > 0, run.path.exists()
    (True, False)
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
