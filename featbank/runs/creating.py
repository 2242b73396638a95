"""Making a run folder, with everything a prediction will need to know."""

from __future__ import annotations

import os
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

from featbank import _atomic
from featbank._cache import make_newest, runs_folder
from featbank.runs.folder import FORMAT, Run

if TYPE_CHECKING:
    from featbank.banks import Bank

__all__ = ["create_run", "versions"]

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
    run = Run(path, facts)
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
