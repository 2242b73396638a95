"""Workers, arrival of images, resume points and shard lengths: the bytes must not know of them."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from processes import fork
from syscalls import every
from world import World, difference, few_rows, tree

_WORKERS = (None, 1, 2, 3)
_ARRIVALS = ("prompt", "late")
_STOPS = (0, 1, 4, 8, 12, 16)


class _StopError(Exception):
    """Ends an extraction in its middle."""


def combinations(world: World, share: float, seed: int = 7) -> dict[str, Any]:
    """Extract with the given share of all combinations; compare each with the whole tree of its shards."""
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    bad: list[str] = []
    whole = {False: world.whole, True: _whole_with_one_batch(world)}
    cases = list(itertools.product(_WORKERS, _WORKERS, _ARRIVALS, _STOPS, (False, True)))
    for index in every(len(cases), max(8, round(len(cases) * share))):
        first, second, arrival, stop, one_batch = cases[index]
        cache = world.fresh()
        child = fork(_case(world, cache, first, second, arrival == "late", stop, one_batch, rng.random()))
        result = child.result()
        said = difference(tree(cache), whole[one_batch])
        found["combinations"] += 1
        found["identical"] += not said
        if said or result is not True:
            bad.append(f"{cases[index]}: {said[:2]} {result}")
        shutil.rmtree(cache)
    return {
        "figures": {"combinations": found["combinations"], "identical": found["identical"]},
        "bad": bad[:3],
        "ok": not bad,
    }


def _one_batch(row_bytes: int, batch_size: int, shard_bytes: int) -> int:
    return batch_size


def _whole_with_one_batch(world: World) -> dict[str, bytes]:
    import featbank.banks.bank

    cache = world.fresh()
    featbank.banks.bank.shard_rows_for = _one_batch
    try:
        world.extract(cache)
    finally:
        featbank.banks.bank.shard_rows_for = few_rows
    return tree(cache)


def _case(
    world: World,
    cache: Path,
    first: int | None,
    second: int | None,
    late: bool,
    stop: int,
    one_batch: bool,
    seed: float,
) -> Any:
    def work(board: Any) -> bool:
        import featbank.banks.bank
        from featbank.datasets import _folder

        world.decode_elsewhere()

        if one_batch:
            featbank.banks.bank.shard_rows_for = _one_batch
        if late:
            rng, path_of = random.Random(seed), _folder.FolderDataset.path_of

            def late_path(self: Any, index: int) -> bytes:
                time.sleep(rng.random() * 0.01)
                return path_of(self, index)

            _folder.FolderDataset.path_of = late_path  # type: ignore[method-assign]

        def progress(done: int, total: int) -> None:
            if done >= stop:
                raise _StopError

        if stop:
            with contextlib.suppress(_StopError):
                world.extract(cache, workers=first, progress=progress)
        world.extract(cache, workers=second)
        return True

    return work
