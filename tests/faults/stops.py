"""Ctrl-C and SIGTERM at any moment of ``featbank extract``: exit code, one line, nothing lost or left."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kills import measure
from processes import Board, extraction, fork, moment
from syscalls import Call
from world import World, difference, tree

_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@dataclass
class _SignalAt:
    number: int
    signal: int
    board: Board

    def __call__(self, call: Call) -> Any:
        if call.number == self.number:
            self.board.failed(f"{call.name} {call.kind}")
            os.kill(os.getpid(), self.signal)
        return call.perform()


def stops(world: World, n_stops: int, seed: int = 3) -> dict[str, Any]:
    """Stop extractions politely, half at a random time and half at a random call, and go on with each."""
    rng = random.Random(seed)
    calls, duration_s = measure(world)
    found: Counter[str] = Counter()
    where: Counter[str] = Counter()
    bad: list[str] = []
    said = world.root / "said"
    while found["stops"] < n_stops:
        number = rng.choice(list(_CODES))
        aimed = rng.random() < 0.5
        cache = world.fresh(on_disk=True)
        at = rng.randrange(len(calls)) if aimed else -1

        def work(board: Board, at: int = at, number: int = number, cache: Path = cache) -> Any:
            return extraction(world, cache, hook=_SignalAt(at, number, board), command=True, elsewhere=True)(
                board
            )

        child = fork(work, stderr=said)
        if not aimed:
            while child.board.phase() == "start":  # before that it is not featbank that is stopped
                moment(rng, 0.001)
            moment(rng, duration_s)
            child.kill(number)
        place = child.board.call()
        status = child.wait()
        place = child.board.failed() or place or "between calls"
        text = said.read_text(errors="replace")
        state = world.faults(cache, child.board.acknowledged)
        left = [str(path) for path in cache.rglob(".tmp-*")]
        if status != 0:
            found["stops"] += 1
            where[place] += 1
            found[f"exit code {status}"] += 1
            if status != _CODES[number] or "Traceback" in text or "interrupted" not in text:
                bad.append(f"{signal.Signals(number).name}: exit code {status}, said {text[-1500:]!r}")
                found["unclear ends"] += 1
            found["left over"] += len(left)
        found["rows_lost"] += state["rows_lost"]
        found["damaged"] += len(state["silent"]) + len(state["named"]) + len(state["unopened"])
        fork(extraction(world, cache)).wait()
        other = difference(tree(cache), world.whole)
        found["trees"] += 1
        found["identical"] += not other
        if other or left:
            bad.append(f"{other[:3]} {left}")
        shutil.rmtree(cache)
    return {
        "figures": {
            "stops": found["stops"],
            "with exit code 130": found["exit code 130"],
            "with exit code 143": found["exit code 143"],
            "unclear ends": found["unclear ends"],
            "temporary files left": found["left over"],
            "rows lost": found["rows_lost"],
            "damaged": found["damaged"],
            "trees resumed": found["trees"],
            "trees identical": found["identical"],
        },
        "where": dict(where.most_common()),
        "bad": bad[:3],
        "ok": not bad and not found["rows_lost"] and not found["damaged"],
    }
