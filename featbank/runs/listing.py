"""What runs there are, as plain values for lists and tables; and removing one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from featbank import _atomic
from featbank._cache import user_path
from featbank.banks.documents import folder_bytes
from featbank.errors import InvalidInputError, RunError
from featbank.manifest import printable, short_repr
from featbank.runs.answer import ranked
from featbank.runs.finding import find_run
from featbank.runs.folder import Run
from featbank.runs.starting import Claim, is_claimed
from featbank.sampling import Size, size_order
from featbank.sweep import SweepResult

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
        At how many training samples per class: the largest that all curves have.
    metric : str
        What `mean` is of: the first other metric that was asked for, else ``"top1"`` of the test rows, or
        ``"val_top1"`` where there are no test rows.
    mean : float
        Mean over the repeats.
    chosen_by : str
        What it is the best by: the same of the validation rows, because the best by the test rows flatters
        itself; `metric` itself where nothing was validated.
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
        result = run.result()
        fits = result.fits
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
            best=_best(result),
            size_bytes=folder_bytes(folder),
        )
    except (RunError, InvalidInputError, OSError) as error:
        said = str(error)
    return RunInfo(path=folder, size_bytes=folder_bytes(folder), error=said)


def _best(result: SweepResult) -> BestCurve | None:
    compared = ranked(result)
    if compared is None:
        return None
    best = compared.curves[0]
    return BestCurve(
        best.cut,
        best.head,
        best.temperature,
        compared.n_per_class,
        compared.metric,
        best.mean,
        compared.ranked_by,
        best.n_repeats,
        best.fewest_per_class,
        best.most_per_class,
    )


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
