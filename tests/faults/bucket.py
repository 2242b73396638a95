"""Extractions into a bucket: two at once, one of them killed and started again, while requests fail."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from processes import Board, Failure, fork
from s3_server import KINDS, S3Server
from world import World, difference

#: One request in twenty fails.
SHARE = 0.05


def into(world: World, server: S3Server, address: str, **options: Any) -> Callable[[Board], Any]:
    """Return work for `fork`: one extraction into a bucket.

    This process never opens it: obstore's threads would be gone in the children.
    """

    def work(board: Board) -> Any:
        os.environ.update(server.environment)
        result = world.extract(address, on_plan=lambda plan: board.phase("push"), **options)  # type: ignore[arg-type]
        return (result.rows, result.pushed, result.skipped, result.quarantined)

    return work


def bucket(world: World, n_rounds: int, seed: int = 6) -> dict[str, Any]:
    """Push one bank by two processes into a server that fails, kill one at a random time, and start it again.

    Every file must be, byte for byte, what one machine leaves in a folder.
    """
    rng = random.Random(seed)
    found, failed, bad = Counter[str](), Counter[str](), list[str]()
    prefix = str(world.bank_path)
    want = {name[len(prefix) + 1 :]: data for name, data in world.whole.items() if name.startswith(prefix)}
    with S3Server() as server:
        server.make_bucket("features")
        started = time.monotonic()
        alone = fork(into(world, server, "s3://features/alone")).result()
        duration_s = time.monotonic() - started
        said = difference(server.tree("features", f"alone/{prefix}"), want)
        if said or not isinstance(alone, tuple):
            bad.append(f"alone: {said[:3]} {alone}")
        for index in range(n_rounds):
            server.fail(SHARE, seed=rng.randrange(1 << 30))
            address = f"s3://features/{index}"
            first, other = (fork(into(world, server, address)) for _ in range(2))
            time.sleep(rng.random() * 2 * duration_s)
            first.kill()
            found["kills"] += first.wait() == -signal.SIGKILL
            again = fork(into(world, server, address))
            results = [other.result(), again.result()]
            counts = server.fail(0.0)
            found["requests"] += counts.pop("requests", 0)
            failed.update(counts)
            said = difference(server.tree("features", f"{index}/{prefix}"), want)
            ended = [one for one in results if not isinstance(one, tuple)]
            found["rounds"] += 1
            found["identical"] += not said
            found["ended in an error"] += len(ended)
            if said or ended:
                trace = ended[0].trace if ended and isinstance(ended[0], Failure) else ended
                bad.append(f"round {index}: {said[:3]} {trace}")
    return {
        "figures": {
            "rounds": found["rounds"],
            "kills": found["kills"],
            "requests": found["requests"],
            "requests that failed": sum(failed.values()),
            **{f"of them: {kind}": failed[kind] for kind in KINDS},
            "extractions that ended in an error": found["ended in an error"],
            "banks identical to that of one machine": found["identical"],
        },
        "bad": bad[:3],
        "ok": not bad,
    }
