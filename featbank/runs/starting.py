"""Beginning to write a run: a new folder, or an unfinished one of the same sweep, by one process only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank import _atomic
from featbank._cache import make_newest, runs_folder
from featbank._cuts import with_views
from featbank.errors import RunError
from featbank.runs.finding import list_runs
from featbank.runs.folder import FORMAT, Run

if TYPE_CHECKING:
    from featbank.banks import Bank

__all__ = [
    "Claim",
    "create_run",
    "find_unfinished",
    "is_claimed",
    "runs_of_sweep",
    "sweep_digest",
    "versions",
]

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
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a checkout that is not installed
            found[name] = "unknown"
    return found


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
