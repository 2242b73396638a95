"""``study.json``: what a run folder knows of its study, and whether a sweep has to be run again."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from featbank import _atomic
from featbank._validation import check_values
from featbank.banks import Bank
from featbank.errors import RunError
from featbank.pipeline.study import Sweep
from featbank.runs import Run, list_runs, open_run
from featbank.runs.starting import versions
from featbank.sweep import SweepSettings
from featbank.sweep.spec import plug_ins

__all__ = ["STUDY_FILE", "find_finished", "fingerprint", "write_record"]

STUDY_FILE = "study.json"


def fingerprint(bank: Bank, sweep: Sweep) -> str:
    """Return what tells the numbers of a sweep from any other's: features, rows, parameters, versions.

    Unlike `featbank.runs.starting.sweep_digest` it does not ask which shards the bank has: experiments of a
    study may share a bank, and each adds shards with rows the others do not read. The bank's name is part of
    it: the rows of another bank may change, and the run would no longer know its images.
    """
    own = SweepSettings(**asdict(sweep)).to_dict().get("estimators")
    identity = {
        "bank": bank.name,
        "key": bank.key.digest(),
        "manifest": bank.manifest.digest(),
        "sweep": asdict(sweep),
        "plug_ins": plug_ins(sweep.heads, sweep.metrics),
        "versions": versions(),
        **({"estimators": own} if own else {}),
    }
    return _atomic.sha256(_atomic.canonical_json(identity))


def find_finished(wanted: str, cache_dir: str | os.PathLike[str] | None) -> Run | None:
    """Find the newest finished run of a study with a fingerprint."""
    for path in reversed(list_runs(cache_dir)):
        try:
            run = open_run(path, cache_dir=cache_dir)
            said = run.checked(STUDY_FILE, check_values)
            if run.finished and isinstance(said, dict) and said.get("fingerprint") == wanted:
                run.result()
                return run
        except RunError:  # damaged: run it again
            continue
    return None


def write_record(folder: Path, facts: dict[str, Any]) -> None:
    """Write ``study.json`` of a run or a training, whole or not at all; raises `CacheWriteError`."""
    _atomic.write_json(folder / STUDY_FILE, facts)
