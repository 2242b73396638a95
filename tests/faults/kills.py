"""SIGKILL at any moment, one extraction or three at once; then resume, and compare every byte."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import time
from collections import Counter
from typing import Any

from processes import Child, extraction, fork
from syscalls import KillAt, counted, every
from world import World, difference, tree

#: At most this many kills in a row before an extraction may come to its end.
_IN_A_ROW = 3


def measure(world: World) -> tuple[list[str], float]:
    """Return the calls one extraction makes, and how long it takes in seconds."""
    calls: list[str] = []

    def work(board: Any) -> list[str]:
        extraction(world, cache, hook=counted(calls), elsewhere=True)(board)
        return calls

    times = []
    for _ in range(3):
        cache = world.fresh(on_disk=True)
        started = time.monotonic()
        child = fork(work)
        made = child.result()
        times.append(time.monotonic() - started)
        shutil.rmtree(cache)
    return list(made), sorted(times)[1]


def aimed_kill(calls: list[str], rng: random.Random) -> KillAt:
    """Choose a call, each sort of call as often as the others, and a moment of it."""
    sort = rng.choice(sorted({one.split()[0] for one in calls}))
    number = rng.choice([number for number, one in enumerate(calls) if one.split()[0] == sort])
    return KillAt(number, rng.choice(["before", "inside", "inside", "after"]))


def kills(world: World, n_kills: int, processes: int, seed: int = 1) -> dict[str, Any]:
    """Kill extractions until `n_kills` have hit, and count what was lost.

    Half of the kills come at a random time, half at a random call: before it, in the middle of it, or right
    after it. With several processes, a random part of them is killed and the others go on.
    """
    rng = random.Random(seed)
    calls, duration_s = measure(world)
    found: Counter[str] = Counter()
    where: Counter[str] = Counter()
    differing: list[str] = []
    while found["kills"] < n_kills:
        cache = world.fresh(on_disk=True)
        acknowledged: set[str] = set()
        for _ in range(rng.randint(1, _IN_A_ROW)):
            killed = _one_round(world, cache, rng, processes, calls, duration_s, where, acknowledged, found)
            found["kills"] += killed
            state = world.faults(cache, acknowledged)
            found["rows_lost"] += state["rows_lost"]
            found["rows_duplicated"] += state["rows_duplicated"]
            found["damaged"] += len(state["silent"]) + len(state["named"]) + len(state["unopened"])
            if found["kills"] >= n_kills:
                break
        finished = fork(extraction(world, cache)).result()
        found["trees"] += 1
        said = difference(tree(cache), world.whole)
        if said or not isinstance(finished, tuple):
            differing.append(f"{said} {finished}")
        else:
            found["identical"] += 1
        shutil.rmtree(cache)
    return {
        "figures": {
            "kills": found["kills"],
            "processes": processes,
            "rows lost": found["rows_lost"],
            "rows duplicated": found["rows_duplicated"],
            "damaged or unreadable": found["damaged"],
            "processes that failed beside a killed one": found["failed"],
            "trees resumed": found["trees"],
            "trees identical": found["identical"],
        },
        "where": dict(where.most_common()),
        "bad": differing[:3],
        "ok": not (
            found["rows_lost"] or found["rows_duplicated"] or found["damaged"] or found["failed"] or differing
        ),
    }


def every_call(world: World, share: float) -> dict[str, Any]:
    """Kill one extraction at each of its calls in turn (the given share), before, inside and after it."""
    calls, _ = measure(world)
    cases = list(itertools.product(range(len(calls)), ("before", "inside", "after")))
    # half a write is what hurts most: these come first, so that a small share has some of them
    cases.sort(key=lambda case: not (calls[case[0]].startswith("write") and case[1] == "inside"))
    n_halves = sum(one.startswith("write") for one in calls)
    n_cases = max(16, round(len(cases) * share))
    chosen = [*every(n_halves, n_cases // 2)]
    chosen += [n_halves + one for one in every(len(cases) - n_halves, n_cases - len(chosen))]
    found: Counter[str] = Counter()
    bad: list[str] = []
    for index in chosen:
        cache = world.fresh()
        child = fork(extraction(world, cache, hook=KillAt(*cases[index])))
        found["kills"] += child.wait() == -signal.SIGKILL
        state = world.faults(cache, child.board.acknowledged)
        fork(extraction(world, cache)).wait()
        said = difference(tree(cache), world.whole)
        found["identical"] += not said
        if said or any(state.values()):
            bad.append(f"{cases[index]} {child.board.call()}: {said[:3]} {state}")
        shutil.rmtree(cache)
    return {
        "figures": {
            "calls of one extraction": len(calls),
            "kills": found["kills"],
            "wrong states": len(bad),
            "trees identical": found["identical"],
        },
        "bad": bad[:3],
        "ok": not bad and found["identical"] >= found["kills"] > 0,
    }


def _one_round(
    world: World,
    cache: Any,
    rng: random.Random,
    processes: int,
    calls: list[str],
    duration_s: float,
    where: Counter[str],
    acknowledged: set[str],
    found: Counter[str],
) -> int:
    aimed = rng.random() < 0.5
    victims = rng.sample(range(processes), rng.randint(1, processes))
    children: list[Child] = []
    for number in range(processes):
        hook = None
        if aimed and number in victims:
            hook = aimed_kill(calls, rng)
        children.append(fork(extraction(world, cache, hook=hook, elsewhere=True)))
    if not aimed:
        for number in victims:
            time.sleep(rng.random() * duration_s * processes / len(victims))
            children[number].kill()
    killed = 0
    for child in children:
        code = child.wait()
        acknowledged |= child.board.acknowledged
        if code == -signal.SIGKILL:
            killed += 1
            where[child.board.call() or f"between calls: {child.board.phase()}"] += 1
        elif code != 0 or not isinstance(child.result(), tuple):
            found["failed"] += 1
    return killed
