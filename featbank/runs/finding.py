"""Finding the run somebody means."""

from __future__ import annotations

import os
import re
from pathlib import Path

from featbank._cache import oldest_first, runs_folder
from featbank._registry import nearest
from featbank.errors import RunError, RunNotFoundError
from featbank.manifest import printable
from featbank.runs.folder import RUN_FILE, Run

__all__ = ["find_run", "latest_run", "list_runs", "open_run", "resolve_run", "runs_of_bank"]


def list_runs(cache_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """List the run folders of a cache, oldest first; raises `PermissionError` if nobody may look.

    The newest is the one that was made, or taken up again, last in this cache. Those that were copied in come
    before all of these, in the order of their names.
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


def latest_run(cache_dir: str | os.PathLike[str] | None = None) -> Run:
    """Open the newest run of a cache; raises `RunNotFoundError` if there is none."""
    return resolve_run(None, cache_dir)


def resolve_run(run: str | os.PathLike[str] | None, cache_dir: str | os.PathLike[str] | None = None) -> Run:
    """Open the run somebody means.

    Parameters
    ----------
    run : path-like or None
        Path of a run folder, its name, a part of the name that only one run has, or None or ``"last"`` for
        the newest.
    cache_dir : path-like or None
        The cache; None for the default one.

    Returns
    -------
    Run

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    RunError
        If several runs have that part in their names, or the run is damaged.
    """
    return Run.open(find_run(run, cache_dir))


def find_run(run: str | os.PathLike[str] | None, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the run somebody means, which may be damaged; see `resolve_run`.

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    RunError
        If several runs have that part in their names.
    """
    found = list_runs(cache_dir)
    if run is None or run == "last":
        if not found:
            folder = printable(str(runs_folder(cache_dir)))
            raise RunNotFoundError(f"no run in {folder!r}; make one with featbank fit-head")
        return found[-1]
    text = os.fspath(run)
    if (Path(text) / RUN_FILE).exists():
        return Path(text)
    exact = [path for path in found if path.name == text]
    part = exact or [path for path in found if text and text in path.name]
    if len(part) == 1:
        return part[0]
    names = [path.name for path in reversed(part or found)]  # newest first
    if part:
        raise RunError(f"run={text!r} is part of {len(part)} names: {nearest(text, names)}; give more of one")
    there = f"there are {nearest(text, names)}" if names else "there is none; featbank fit-head makes one"
    raise RunNotFoundError(f"no run {text!r}; {there}")


def open_run(
    run: str | os.PathLike[str] | None = None, *, cache_dir: str | os.PathLike[str] | None = None
) -> Run:
    """Open a run by path, name, a part of its name, or the newest; see `resolve_run`."""
    return resolve_run(run, cache_dir)


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
    """
    wanted = Path(bank).resolve()
    found: dict[str, Run] = {}
    for path in list_runs(cache_dir):
        try:
            run = Run.open(path)
        except RunError:
            continue
        if Path(run.source["bank"]).resolve() == wanted:
            same = run.facts.get("sweep", {}).get("digest", run.name)
            found.pop(same, None)
            found[same] = run
    return list(found.values())
