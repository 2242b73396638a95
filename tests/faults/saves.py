"""Heads and runs whose saving is killed: the old one is there, or the new one, never half of one."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from processes import Board, fork
from syscalls import KillAt, counted, watch
from world import CUTS, World

_MOMENTS = ("before", "inside", "after")


def saves(world: World, n_kills: int, seed: int = 6) -> dict[str, Any]:
    """Kill the saving of a head over another, and of a whole run, at random calls."""
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    bad: list[str] = []
    _kill_heads(world, n_kills // 2, rng, found, bad)
    _kill_runs(world, n_kills - n_kills // 2, rng, found, bad)
    figures = ("heads killed", "old head", "new head", "runs killed", "heads of runs loaded", "broken")
    return {
        "figures": {name: found[name] for name in figures},
        "bad": bad[:3],
        "ok": not bad and not found["broken"],
    }


def _kill_heads(world: World, n_kills: int, rng: random.Random, found: Counter[str], bad: list[str]) -> None:
    from featbank.heads import load_head, make, save_head

    X = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    old, new = (make("ncm").fit(X + shift, np.arange(12) % 3) for shift in (0, 1))
    calls: list[str] = []

    def counting(board: Board) -> int:
        folder = world.fresh()
        watch(folder, counted(calls))
        save_head(folder / "head", new)
        return len(calls)

    n_calls = fork(counting).result()
    for index in range(n_kills):
        folder = world.fresh(on_disk=True)
        before = index % 4 != 0  # else there was none
        if before:
            save_head(folder / "head", old, facts={"which": "old"})

        hook = KillAt(index % n_calls, rng.choice(_MOMENTS))

        def saving(board: Board, folder: Path = folder, hook: KillAt = hook) -> None:
            watch(folder, hook)
            save_head(folder / "head", new, facts={"which": "new"})

        found["heads killed"] += fork(saving).wait() == -9
        try:
            head, facts = load_head(folder / "head")
            which = facts["which"]
            same = {"old": old, "new": new}[which].decision_function(X)
            if not np.allclose(head.decision_function(X), same, atol=1e-5):
                raise ValueError(f"the {which} head answers otherwise")
            found[f"{which} head"] += 1
        except FileNotFoundError:
            found["old head"] += 1  # there was none, and is none
            if before:
                found["broken"] += 1
                bad.append("the head that was there is gone")
        except Exception as error:  # noqa: BLE001 - counted
            found["broken"] += 1
            bad.append(repr(error))
        shutil.rmtree(folder)


def _kill_runs(world: World, n_kills: int, rng: random.Random, found: Counter[str], bad: list[str]) -> None:
    from featbank.banks import Bank

    bank = Bank.open(_labelled_bank(world))
    calls: list[str] = []

    def counting(board: Board) -> int:
        cache = world.fresh()
        watch(cache, counted(calls))
        _fit(bank, cache)
        return len(calls)

    n_calls = fork(counting).result()
    whole = _fit(bank, world.fresh()).result().fits
    for _ in range(n_kills):
        cache = world.fresh(on_disk=True)

        hook = KillAt(rng.randrange(n_calls), rng.choice(_MOMENTS))

        def fitting(board: Board, cache: Path = cache, hook: KillAt = hook) -> None:
            watch(cache, hook)
            _fit(bank, cache)

        found["runs killed"] += fork(fitting).wait() == -9
        try:
            found["heads of runs loaded"] += _load_run(cache, whole)
        except Exception as error:  # noqa: BLE001 - counted
            found["broken"] += 1
            bad.append(repr(error))
        shutil.rmtree(cache)


def _labelled_bank(world: World) -> Path:
    cache = world.fresh()
    path: Path = world.extract(cache, split="3,2,2").bank
    return path


def _fit(bank: Any, cache: Path) -> Any:
    from featbank.runs.store import create_run
    from featbank.sweep import run_sweep

    run = create_run(cache, "faults", bank=bank, now=datetime(2026, 3, 4, 12, 0, 5))
    settings = {"heads": ["ncm", "ridge"], "samples_per_class": "1,2", "repeats": 2}
    run.finish(run_sweep(bank, on_result=run.add, cuts=list(CUTS), **settings))
    return run


def _load_run(cache: Path, whole: list[Any]) -> int:
    """Read everything a killed run says it has; return how many heads that was."""
    from featbank.errors import RunNotFoundError
    from featbank.runs import Run

    folder = cache / "runs" / "20260304-120005-faults"
    try:
        run = Run.open(folder)
    except RunNotFoundError:
        return 0
    known = [_without_time(one) for one in whole]
    for fit in run.result().fits:
        if _without_time(fit) not in known:
            raise ValueError(f"{fit} is no fit of the sweep")
    for entry in run.heads():
        run.load_head(entry["name"])
        run.predictions(entry["name"])
    run.histories()
    return len(run.heads())


def _without_time(fit: Any) -> Any:
    return replace(fit, duration_s=0.0)
