"""Finding the run somebody means."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path

from featbank._cache import oldest_first, runs_folder, user_path
from featbank._registry import nearest
from featbank.errors import InvalidInputError, RunError, RunNotFoundError
from featbank.manifest import printable
from featbank.runs.folder import RUN_FILE, Run

__all__ = ["find_run", "list_runs", "open_run", "runs_of_bank"]

logger = logging.getLogger(__name__)

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
