"""Finding an unfinished run of the same sweep, and making sure that only one process writes it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank import _atomic
from featbank._cache import make_newest
from featbank.errors import RunError
from featbank.runs.creating import versions
from featbank.runs.finding import list_runs
from featbank.runs.folder import Run

if TYPE_CHECKING:
    from featbank.banks import Bank

__all__ = ["Claim", "find_unfinished", "is_claimed", "sweep_digest"]

LOCK_FILE = ".lock"


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
    stored = sorted({"logits" if cut == "softmax" else str(cut) for cut in cuts})
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
    for path in reversed(list_runs(cache_dir)):
        try:
            run = Run.open(path, cache_dir)
        except RunError:  # one that is damaged or of another version is nothing to go on with
            continue
        if run.facts["status"] == "finished" or run.facts.get("sweep", {}).get("digest") != digest:
            continue
        claim = Claim(path)
        if not claim.held:
            continue
        with contextlib.suppress(RunError):
            run.result()
            make_newest(path.parent, path)
            # opened again: it may have been finished before it was claimed
            return Run.open(path, cache_dir), claim
        claim.let_go()
    return None
