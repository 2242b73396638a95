"""Calls that fail with an errno, one after the other, and a file system of 4 MB that runs full."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from kills import measure
from mounts import mount_small
from processes import Board, Failure, extraction, fork, tell
from syscalls import FailAt, every
from world import World, difference, tree

_ERRNOS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


def failing_calls(world: World, share: float) -> dict[str, Any]:
    """Let each call of an extraction fail in turn (the given share of them), once and from then on."""
    calls_made, _ = measure(world)
    n_calls = len(calls_made)
    found: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    bad: list[str] = []
    cases = list(itertools.product(range(n_calls), _ERRNOS, (False, True)))
    for index in every(len(cases), max(12, round(len(cases) * share))):
        number, code, lasting = cases[index]
        cache = world.fresh()
        said = world.root / "said"
        hook = FailAt(number, code, lasting)
        child = fork(extraction(world, cache, hook=hook, command=True), stderr=said)
        status = child.wait()
        calls[child.board.failed()] += 1
        text = said.read_text(errors="replace")
        case = f"call {number} ({child.board.failed()}) {errno.errorcode[code]} lasting={lasting}"
        last = text.strip().splitlines()[-1] if text.strip() else ""
        clear = "Traceback" not in text and "cannot write" in last and last.startswith("featbank: ")
        if status == 0:
            found["went on"] += 1  # it concerned what can be done without
        elif status == 2 and clear:
            found["clear errors"] += 1
        else:
            found["crashes"] += 1
            bad.append(f"{case}: {status} {text[-600:]}")
        state = world.faults(cache, child.board.acknowledged)
        found["bad shards"] += len(state["silent"]) + len(state["named"]) + len(state["unopened"])
        found["rows lost"] += state["rows_lost"]
        again = fork(extraction(world, cache)).result()
        other = difference(tree(cache), world.whole)
        found["identical"] += not other
        found["runs"] += 1
        if other or state["rows_lost"] or isinstance(again, Failure):
            bad.append(f"{case}: {other[:3]} {again} {state}")
        shutil.rmtree(cache)
    names = ("runs", "crashes", "bad shards", "rows lost", "clear errors", "went on", "identical")
    return {
        "figures": {"calls of one extraction": n_calls, **{name: found[name] for name in names}},
        "failed_calls": dict(calls.most_common()),
        "bad": bad[:3],
        "ok": not bad and found["identical"] == found["runs"],
    }


def small_disk(world: World, n_runs: int) -> dict[str, Any]:
    """Extract onto 4 MB that others have filled but for a few kilobytes; then make room and go on."""
    size = sum(map(len, world.whole.values()))
    mounted = fork(lambda board: mount_small(world.fresh(), 4 << 20)).result()
    if isinstance(mounted, Failure):
        # no mounts for this user: a limit on the size of each file stands in for the disk
        runs = [_limited(world, (index + 1) * (80 << 10) // n_runs) for index in range(n_runs)]
        kind = "files limited by RLIMIT_FSIZE (no mounts here)"
    else:
        child = fork(lambda board: _on_small_disk(world, board, n_runs, size))
        runs = child.result()
        kind = "4 MB tmpfs"
        if not isinstance(runs, list):
            crashed = {"crash": f"ended with {child.wait()}: {runs}", "clear": False, "lost": 0, "bad": 0}
            runs = [{**crashed, "identical": False}]
    bad = [one for one in runs if not (one["clear"] and one["identical"]) or one["lost"] or one["bad"]]
    return {
        "figures": {
            "runs": len(runs),
            "disk": kind,
            "crashes": sum(not one["clear"] for one in runs),
            "bad shards": sum(one["bad"] for one in runs),
            "rows lost": sum(one["lost"] for one in runs),
            "identical": sum(one["identical"] for one in runs),
        },
        "bad": bad[:3],
        "ok": not bad,
    }


def _on_small_disk(world: World, board: Board, n_runs: int, size: int) -> list[dict[str, Any]]:
    disk = world.fresh()
    mount_small(disk, 4 << 20)
    filler = disk / "filler"

    def fill(room: int) -> None:
        free = os.statvfs(disk)
        filler.write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - room)))

    runs = []
    for index in range(n_runs):
        room, cache = size * 2 * index // n_runs, disk / "cache"
        acknowledged: set[str] = set()
        with tell(board, cache, acknowledged.add):
            # every third time before the plan is made, which then refuses; else by somebody else, afterwards
            early = index % 3 == 2
            if early:
                fill(room // 4)
            outcome = _attempt(world, cache, None if early else lambda plan, room=room: fill(room))
        state = world.faults(cache, acknowledged) if cache.exists() else None
        filler.unlink(missing_ok=True)
        said = difference(tree(cache), world.whole) if not _attempt(world, cache) else ["it did not resume"]
        runs.append(_judged(outcome, state, said))
        shutil.rmtree(cache)
    return runs


def _attempt(world: World, cache: Path, on_plan: Any = None) -> str:
    """Extract; "" if it went well, else what was said."""
    from featbank.errors import CacheWriteError

    try:
        world.extract(cache, on_plan=on_plan)
    except CacheWriteError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - counted as a crash
        return f"crash: {error!r}"
    return ""


def _judged(outcome: str, state: dict[str, Any] | None, said: list[str]) -> dict[str, Any]:
    state = state or {"rows_lost": 0, "silent": [], "named": [], "unopened": []}
    return {
        "said": outcome,
        "clear": "\n" not in outcome and not outcome.startswith("crash"),
        "lost": state["rows_lost"],
        "bad": len(state["silent"]) + len(state["named"]) + len(state["unopened"]),
        "identical": not said,
        "difference": said[:2],
    }


def _limited(world: World, limit: int) -> dict[str, Any]:
    cache = world.fresh()

    def work(board: Board) -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with tell(board, cache, None):
            return _attempt(world, cache)

    child = fork(work)
    outcome = child.result()
    state = world.faults(cache, child.board.acknowledged)
    again = fork(extraction(world, cache)).result()
    said = difference(tree(cache), world.whole) if isinstance(again, tuple) else [str(again)]
    shutil.rmtree(cache)
    return _judged(outcome if isinstance(outcome, str) else f"crash: {outcome}", state, said)
