"""The runs of a cache: begun by one process each, found by what somebody means, described, removed."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank import _atomic
from featbank._cache import make_newest, oldest_first, runs_folder, user_path
from featbank._cuts import with_views
from featbank._process import package_versions
from featbank._registry import nearest
from featbank.banks.documents import folder_bytes
from featbank.errors import InvalidInputError, RunError, RunNotFoundError
from featbank.manifest import printable, short_repr
from featbank.runs.answer import ranked
from featbank.runs.folder import FORMAT, RUN_FILE, Run
from featbank.sampling import Size, size_order
from featbank.sweep import SweepResult

if TYPE_CHECKING:
    from featbank.banks import Bank

__all__ = [
    "BestCurve",
    "Claim",
    "RunInfo",
    "create_run",
    "describe_run",
    "find_run",
    "find_unfinished",
    "is_claimed",
    "list_runs",
    "open_run",
    "remove_run",
    "runs_of_bank",
    "runs_of_sweep",
    "sweep_digest",
    "versions",
]

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_VERSIONS = ("featbank", "torch", "torchvision", "numpy", "scikit-learn")


def create_run(
    cache_dir: str | os.PathLike[str] | None,
    name: str,
    *,
    bank: Bank,
    command: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    sweep: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> Run:
    """Make a run folder and write its first ``run.json``.

    Parameters
    ----------
    cache_dir : path-like or None
        The cache; None for the default one.
    name : str
        What the run is called, e.g. ``"fit-head"``; other characters than letters, digits and ``._+-``
        become ``_``.
    bank : featbank.banks.Bank
        Where the features come from; all that a prediction needs to know of it is copied.
    command : sequence of str, optional
        The command line, for people.
    parameters : mapping of str to JSON values, optional
        What the command was given.
    sweep : mapping, optional
        ``digest`` and ``n_fits`` of the sweep, by which an interrupted run is found again.
    now : datetime.datetime, optional
        Time of the run; now by default.

    Returns
    -------
    Run

    Raises
    ------
    CacheWriteError
        If the folder cannot be written.
    """
    moment = now or datetime.now()
    safe = re.sub(r"[^A-Za-z0-9._+-]", "_", name)[:100].strip(".") or "run"
    folder = _atomic.make_folder(runs_folder(cache_dir))
    stem = f"{moment:%Y%m%d-%H%M%S}-{safe}"
    path, number = folder / stem, 1
    while True:
        try:
            path.mkdir()  # a folder that is there belongs to a run of the same second
            break
        except FileExistsError:
            number += 1
            path = folder / f"{stem}-{number}"
        except OSError:
            _atomic.make_folder(path / "heads")  # fails the same way, with the advice that belongs to it
            break
    _atomic.make_folder(path / "heads")
    facts: dict[str, Any] = {
        "format": FORMAT,
        "name": safe,
        "created": moment.astimezone().isoformat(timespec="seconds"),
        "status": "running",
        "command": shlex.join(command),
        "parameters": dict(parameters or {}),
        "sweep": dict(sweep or {}),
        "source": {
            "bank": str(bank.path.absolute()),
            "key_digest": bank.key.digest(),
            "dataset": bank.dataset,
            **bank.key.to_dict(),
            "weights": bank.provenance.get("weights"),
            "weights_path": bank.provenance.get("weights_path"),
            "random_state": bank.provenance.get("random_state"),
            # an overflow may have made a cut float32 in a bank of float16
            "cut_dtypes": {cut: bank[cut].dtype.name for cut in bank.cuts},
            "provenance": dict(bank.provenance),
        },
        "classes": list(bank.classes),
        "cuts": [],
        "notes": [],
        "heads": [],
        "versions": versions(),
    }
    bank.copy_manifest(path)  # the bank's rows may change, those the heads were fitted and scored on do not
    run = Run(path, facts, cache_dir)
    run.write()
    make_newest(folder, path)
    return run


def versions() -> dict[str, str]:
    """Return the versions of Python, featbank and what it computes with."""
    known = {name: found or "unknown" for name, found in package_versions(_VERSIONS).items()}
    return {"python": platform.python_version(), **known}


def sweep_digest(bank: Bank, name: str, parameters: Mapping[str, Any]) -> str:
    """Return what tells a sweep from every other: 64 hexadecimal digits.

    It covers the parameters, the name of the run, the key of the bank, its manifest, the names of the shards
    (which carry the SHA-256 of their bytes) of the cuts asked for, and the versions of what computes.

    Parameters
    ----------
    bank : featbank.banks.Bank
        Where the features come from.
    name : str
        What the run is called.
    parameters : mapping of str to JSON values
        All that decides the results; ``cuts`` may be None for all cuts of the bank.

    Returns
    -------
    str
    """
    cuts = parameters.get("cuts") or bank.cuts
    cuts = with_views(cuts, parameters.get("views", ()))
    stored = sorted({one for cut in cuts for one in bank.sources(cut)})
    identity = {
        "name": name,
        "parameters": dict(parameters),
        "key": bank.key.digest(),
        "manifest": bank.manifest.digest(),
        "shards": {cut: bank.shard_names(cut) for cut in stored},
        "versions": versions(),
    }
    return _atomic.sha256(_atomic.canonical_json(identity))


class Claim:
    """The right to write a run folder, held until it is let go or the process dies.

    Parameters
    ----------
    folder : pathlib.Path
        The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None
        try:
            descriptor = os.open(
                folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
            )
        except OSError:  # a folder that cannot be written fails with the first result, which says why
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return
        self._descriptor = descriptor

    @property
    def held(self) -> bool:
        """Whether nobody else writes the run."""
        return self._descriptor is not None

    def let_go(self) -> None:
        """Give the right back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.let_go()


def is_claimed(folder: Path) -> bool:
    """Say whether a process is writing a run folder just now; leaves nothing behind."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # nobody has ever claimed it, or it cannot be read: then nobody of ours writes it
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def find_unfinished(cache_dir: str | os.PathLike[str] | None, digest: str) -> tuple[Run, Claim] | None:
    """Find the newest unfinished run of a sweep that no other process is writing, and claim it.

    Parameters
    ----------
    cache_dir : path-like or None
        The cache; None for the default one.
    digest : str
        As `sweep_digest` gives it.

    Returns
    -------
    (Run, Claim) or None
    """
    for run in runs_of_sweep(cache_dir, digest):
        if run.finished:
            continue
        claim = Claim(run.path)
        if not claim.held:
            continue
        with contextlib.suppress(RunError):
            run.result()
            make_newest(run.path.parent, run.path)
            # opened again: it may have been finished before it was claimed
            return Run.open(run.path, cache_dir), claim
        claim.let_go()
    return None


def runs_of_sweep(cache_dir: str | os.PathLike[str] | None, digest: str) -> Iterator[Run]:
    """Yield the runs of a sweep, newest first; those that are damaged or of another version are left out."""
    for path in reversed(list_runs(cache_dir)):
        with contextlib.suppress(RunError):
            run = Run.open(path, cache_dir)
            if run.facts.get("sweep", {}).get("digest") == digest:
                yield run


#: How `create_run` begins the name of a folder.
_NAME = re.compile(r"[0-9]{8}-[0-9]{6}-")


def list_runs(cache_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """List the run folders of a cache, oldest first; raises `PermissionError` if nobody may look.

    The newest is the one that was made, or taken up again, last in this cache. Those that were copied in come
    before all of these, in the order of their names.

    Examples
    --------
    >>> list_runs() == [open_run().path]
    True
    >>> list_runs("another-cache")
    []
    """
    root = runs_folder(cache_dir)
    try:
        folders = list(root.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return oldest_first(root, (one for one in folders if not one.name.startswith(".") and _is_run(one)), _age)


def _is_run(folder: Path) -> bool:
    try:
        return (folder / RUN_FILE).exists()
    except PermissionError:  # whoever opens it is told
        return True


def _age(path: Path) -> tuple[str, int, str]:
    # The name begins with the time; runs of the same second are numbered, and 10 comes after 9.
    number = re.search(r"-(\d+)$", path.name)
    return path.name[:15], int(number[1]) if number else 1, path.name


def open_run(
    run: str | os.PathLike[str] | None = None, *, cache_dir: str | os.PathLike[str] | None = None
) -> Run:
    """Open a run by its path, its name, or a part of its name; or the newest.

    Parameters
    ----------
    run : path-like, optional
        Path of a run folder, its name, a part of the name that only one run has, or None or ``"last"`` for
        the newest that is not damaged.
    cache_dir : path-like, optional
        The cache; else ``$FEATBANK_CACHE``, else ``./cache``.

    Returns
    -------
    Run

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    RunError
        If several runs have that part in their names, or the run is damaged.

    Examples
    --------
    >>> run = open_run()
    >>> points = run.result().curve("fc7", "logreg").points()
    >>> [one.n_per_class for one in points]
    [4, 16]
    """
    if run is not None and run != "last":
        return Run.open(find_run(run, cache_dir), cache_dir)
    found = list_runs(cache_dir)
    for path in reversed(found):
        try:
            newest = Run.open(path, cache_dir)
            newest.fits()
        except RunError as error:  # one that is damaged must not hide the others
            logger.warning("run %s is passed over: %s", printable(path.name), error)
            damaged = error
            continue
        return newest
    if found:
        raise damaged
    return Run.open(find_run(None, cache_dir), cache_dir)


def find_run(
    run: str | os.PathLike[str] | None,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    inside: bool = False,
) -> Path:
    """Return the folder of the run somebody means, which may be damaged; see `open_run`.

    Parameters
    ----------
    run, cache_dir
        As for `open_run`.
    inside : bool, default=False
        Only a run that stands in the cache itself, not behind a link: what may be removed.

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    RunError
        If several runs have that part in their names, or it is no run of the cache where it must be `inside`.

    Examples
    --------
    >>> find_run("digits") == open_run().path
    True
    >>> find_run("pets")
    Traceback (most recent call last):
        ...
    featbank.errors.RunNotFoundError: no run 'pets'; there are '...-digits'
    """
    found = _meant(run, cache_dir)
    if not inside:
        return found
    runs = runs_folder(cache_dir)
    own = found.parent.resolve() == runs.resolve() and runs / found.name in runs.iterdir()
    if not own or found.is_symlink() or not _is_ours(found):
        raise RunError(
            f"{printable(str(found))!r} is no run of {printable(str(runs))!r}, and nothing else is removed: "
            "'featbank runs ls' names the runs there are; remove other folders and links by hand"
        )
    return runs / found.name


def _is_ours(folder: Path) -> bool:
    """Say whether a folder with a ``run.json`` is a run of featbank, and not somebody else's of that name."""
    if _NAME.match(folder.name):  # it may be damaged
        return True
    with contextlib.suppress(RunError):
        Run.open(folder)
        return True
    return False


def _meant(run: str | os.PathLike[str] | None, cache_dir: str | os.PathLike[str] | None) -> Path:
    found = list_runs(cache_dir)
    if run is None or run == "last":
        if not found:
            folder = printable(str(runs_folder(cache_dir)))
            raise RunNotFoundError(f"no run in {folder!r}; make one with featbank fit-head")
        return found[-1]
    text = os.fspath(run)
    if (user_path(text) / RUN_FILE).exists():
        return user_path(text)
    exact = [path for path in found if path.name == text]
    part = exact or [path for path in found if text and text in path.name]
    if len(part) == 1:
        return part[0]
    names = [path.name for path in reversed(part or found)]  # newest first
    if part:
        raise RunError(f"run={text!r} is part of {len(part)} names: {nearest(text, names)}; give more of one")
    there = f"there are {nearest(text, names)}" if names else "there is none; featbank fit-head makes one"
    raise RunNotFoundError(f"no run {text!r}; {there}")


def runs_of_bank(bank: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None) -> list[Run]:
    """Return the runs whose features come from a bank, oldest first; of equal sweeps the last one only.

    Parameters
    ----------
    bank : path-like
        Folder of the bank.
    cache_dir : path-like or None
        The cache; None for the default one.

    Returns
    -------
    list of Run
        Runs that cannot be opened are left out.

    Examples
    --------
    >>> import featbank
    >>> run = featbank.open_run()
    >>> [one.name for one in runs_of_bank(run.source["bank"])] == [run.name]
    True
    """
    wanted = user_path(bank).resolve()
    found: dict[str, Run] = {}
    for path in list_runs(cache_dir):
        try:
            run = Run.open(path, cache_dir)
            its = user_path(run.source["bank"]).resolve()
        except (RunError, InvalidInputError):
            continue
        if its == wanted:
            same = run.facts.get("sweep", {}).get("digest", run.name)
            found.pop(same, None)
            found[same] = run
    return list(found.values())


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
