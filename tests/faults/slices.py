"""One bank pushed by slices of a plan, in any order: two are killed and run again, one runs twice at once."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kills import aimed_kill
from processes import Board, Failure, fork, tell
from syscalls import Call, Hook, counted, watch
from world import BATCH_SIZE, CUTS, World, difference, make_images, tree

N_SLICES, N_IMAGES = 4, 80


def slices(world: World, n_rounds: int, seed: int = 16) -> dict[str, Any]:
    """Push a bank by four slices, two of them killed, one run twice at once; compare every byte.

    The plan, which is beside the bank, is left out, and of ``cut.json`` the time, which no slice knows.
    """
    rng = random.Random(seed)
    data = world.root / "sliced" / "images"
    make_images(data, N_IMAGES)
    cache = world.fresh()
    world.extract(cache, data=data)
    whole = said_of(cache)
    shutil.rmtree(cache)
    calls, duration_s = _measure(world, data)
    found: Counter[str] = Counter()
    bad: list[str] = []
    for _ in range(n_rounds):
        cache = world.fresh(on_disk=True)
        plan = fork(_planned(world, data, cache)).result()
        order = rng.sample(range(1, N_SLICES + 1), N_SLICES)
        victims, twice = order[:2], order[2]
        runs = [*order, twice]
        rng.shuffle(runs)
        children = []
        for number in runs:
            aimed = number in victims and rng.random() < 0.5
            hook = aimed_kill(calls, rng) if aimed else None
            child = fork(_slice(plan, number, hook))
            children.append(child)
            if number in victims and not aimed:
                time.sleep(rng.random() * duration_s)
                child.kill()
            elif rng.random() < 0.3:  # one after the other, some of them
                child.wait()
        killed = 0
        for number, child in zip(runs, children, strict=True):
            code = child.wait()
            killed += code == -signal.SIGKILL
            result = child.result()
            if code != -signal.SIGKILL and not isinstance(result, tuple):
                bad.append(f"slice {number}: {result} {result.trace if isinstance(result, Failure) else ''}")
        found["kills"] += killed
        left = fork(_left(plan)).result()
        found["submitted again"] += len(left)
        if not set(left) <= set(victims):
            bad.append(f"slices {left} are left, {victims} were killed")
        again = [fork(_slice(plan, number)) for number in left]
        if any(not isinstance(child.result(), tuple) for child in again):
            bad.append(f"again: {[child.result() for child in again]}")
        if rng.random() < 0.5 or not left:  # also where the last was killed between its shards and the facts
            found["finished by hand"] += isinstance(fork(_finish(plan)).result(), tuple)
        found["rounds"] += 1
        said = difference(said_of(cache), whole)
        found["identical"] += not said
        bad += [f"{victims} {twice} {runs} {left}: {said[:3]}"] if said else []
        shutil.rmtree(cache)
    return {
        "figures": {
            "rounds of four slices": found["rounds"],
            "kills": found["kills"],
            "slices submitted again": found["submitted again"],
            "finished by --finish": found["finished by hand"],
            "banks identical": found["identical"],
        },
        "bad": bad[:3],
        "ok": not bad and found["identical"] == found["rounds"],
    }


def said_of(cache: Path) -> dict[str, bytes]:
    """Return what a cache holds but for plans, and for what of a cut depends on who pushed it."""
    found = {}
    for name, content in tree(cache).items():
        if Path(name).name.startswith("plan-"):
            continue
        if name.endswith("cut.json"):
            document = json.loads(content)
            document.pop("sha256")
            for fact in ("duration_s", "passes"):
                document["facts"].pop(fact, None)
            content = json.dumps(document).encode()
        found[name] = content
    return found


def _planned(world: World, data: Path, cache: Path) -> Callable[[Board], Any]:
    def work(board: Board) -> Path:
        from featbank.extraction import ExtractionSettings, plan, save_plan

        settings = ExtractionSettings(
            backbone="minivgg",
            cuts=CUTS,
            precision="float32",
            compile="off",
            batch_size=BATCH_SIZE,
            name=data.name,
            cache_dir=cache,
            workers=1,
        )
        with plan(data, settings) as todo:
            return save_plan(todo, n_slices=N_SLICES)

    return work


def _slice(plan: Path, number: int, hook: Hook | None = None) -> Callable[[Board], Any]:
    def work(board: Board) -> Any:
        from featbank.extraction import open_plan, push

        def told(call: Call) -> Any:
            board.call(f"{call.name} {call.kind}")
            return hook(call) if hook is not None else call.perform()

        cache = plan.parents[3]
        with tell(board, cache, None):
            watch(cache, told)
            result = push(open_plan(plan, workers=1).slice(number, N_SLICES))
        return (result.pushed, result.left)

    return work


def _left(plan: Path) -> Callable[[Board], Any]:
    def work(board: Board) -> list[int]:
        from featbank.extraction import slices_of, tasks_left

        return [int(one.partition("/")[0]) for one in slices_of(tasks_left(plan), N_SLICES)]

    return work


def _finish(plan: Path) -> Callable[[Board], Any]:
    def work(board: Board) -> Any:
        from featbank.extraction import finish_plan

        result = finish_plan(plan)
        return (result.pushed, result.left)

    return work


def _measure(world: World, data: Path) -> tuple[list[str], float]:
    """Return the calls that one slice makes, and how long it takes in seconds."""
    calls: list[str] = []
    cache = world.fresh(on_disk=True)
    plan = fork(_planned(world, data, cache)).result()

    def work(board: Board) -> list[str]:
        _slice(plan, 1, counted(calls))(board)
        return calls

    started = time.monotonic()
    made = fork(work).result()
    duration_s = time.monotonic() - started
    shutil.rmtree(cache)
    return list(made), duration_s
