"""Several extractions of one bank at once, and banks that are moved, copied, linked, read-only, elsewhere."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kills import measure
from mounts import mount_read_only
from processes import Board, Failure, extraction, fork
from syscalls import Call
from world import CUTS, World, difference, tree


def at_once(world: World, n_rounds: int, seed: int = 4) -> dict[str, Any]:
    """Run three extractions of one bank together, and one that finishes it while a slow one is at work."""
    rng = random.Random(seed)
    calls, duration_s = measure(world)
    found: Counter[str] = Counter()
    bad: list[str] = []
    for index in range(n_rounds):
        cache = world.fresh(on_disk=True)
        together = index % 2 == 0
        if together:
            children = [fork(extraction(world, cache, elsewhere=True)) for _ in range(3)]
        else:
            # one waits before, or in the gap after, a call; the other comes, finishes the bank, and goes
            hook = _Wait(rng.randrange(len(calls)), 2 * duration_s, rng.random() < 0.5)
            children = [fork(extraction(world, cache, hook=hook, elsewhere=True))]
            time.sleep(rng.random() * duration_s)
            children.append(fork(extraction(world, cache, elsewhere=True)))
        results = [child.result() for child in children]
        said = difference(tree(cache), world.whole)
        found["together" if together else "one finishes beside a slow one"] += 1
        failed = [one for one in results if not isinstance(one, tuple)]
        found["exceptions"] += len(failed)
        found["identical"] += not said
        if failed or said:
            trace = failed[0].trace if failed and isinstance(failed[0], Failure) else failed
            bad.append(f"{said[:3]} {trace}")
        shutil.rmtree(cache)
    return {
        "figures": {
            "rounds of three together": found["together"],
            "rounds of one that finishes beside a slow one": found["one finishes beside a slow one"],
            "exceptions": found["exceptions"],
            "identical": found["identical"],
        },
        "bad": bad[:3],
        "ok": not bad,
    }


@dataclass
class _Wait:
    number: int
    duration_s: float
    after: bool

    def __call__(self, call: Call) -> Any:
        if call.number != self.number:
            return call.perform()
        if not self.after:
            time.sleep(self.duration_s)
        result = call.perform()
        if self.after:
            time.sleep(self.duration_s)
        return result


def moved(world: World, scale: float = 1.0) -> dict[str, Any]:
    """Move, rename, copy, link and write-protect a bank; read it from elsewhere."""
    done: dict[str, str] = {}
    for case in (_moved_cache, _renamed, _copied, _damaged_copy, _link, _elsewhere, _hijack, _read_only):
        name = case.__name__.strip("_").replace("_", " ")
        child = fork(_guarded(case, world))
        result = child.result()
        done[name] = "ok" if result is None and child.wait() == 0 else str(result)
    return {
        "figures": {"ways": len(done), "that work": sum(one == "ok" for one in done.values())},
        "bad": [f"{name}: {said}" for name, said in done.items() if said != "ok"],
        "ok": all(one == "ok" for one in done.values()),
    }


def _guarded(case: Callable[[World], None], world: World) -> Callable[[Board], None]:
    return lambda board: case(world)


def _bank(world: World, cache: Path) -> Path:
    shutil.copytree(world.root / "whole", cache, dirs_exist_ok=True)
    return cache / world.bank_path


def _check(world: World, path: Path) -> None:
    """Read every row of a bank and compare it with the one that was never touched."""
    from featbank.banks import Bank, verify_bank

    whole, bank = Bank.open(world.root / "whole" / world.bank_path), Bank.open(path)
    _must(bank.manifest.ids == whole.manifest.ids, "other rows")
    for cut in CUTS:
        ok = bank.rows_ok(cut)
        _must((bank[cut].read(ok) == whole[cut].read(ok)).all(), "other features")
    _must(verify_bank(path).ok, "verify finds faults")


def _must(condition: Any, otherwise: str) -> None:
    if not condition:
        raise RuntimeError(otherwise)


def _moved_cache(world: World) -> None:
    cache = world.fresh()
    _bank(world, cache)
    there = cache.rename(cache.with_name(cache.name + " moved"))
    _check(world, there / world.bank_path)
    _must(world.extract(there).pushed == 0, "a moved cache is extracted again")


def _renamed(world: World) -> None:
    path = _bank(world, world.fresh())
    _check(world, path.rename(path.with_name("my bank")))


def _copied(world: World) -> None:
    path = _bank(world, world.fresh())
    other = world.fresh() / "copy"
    shutil.copytree(path, other)
    _check(world, other)


def _damaged_copy(world: World) -> None:
    from featbank.banks import Bank
    from featbank.errors import CorruptBankError

    path = _bank(world, world.fresh())
    shard = sorted((path / CUTS[0]).glob("*.h5"))[0]
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    try:
        Bank.open(path)
    except CorruptBankError as error:
        _must(shard.name in str(error), f"the damaged shard is not named: {error}")
        return
    raise RuntimeError("a copy that was damaged on the way was opened")


def _link(world: World) -> None:
    cache = world.fresh()
    path = _bank(world, cache)
    link = world.fresh() / "link"
    link.symlink_to(path)
    _check(world, link)
    cache_link = world.fresh() / "cache"
    cache_link.symlink_to(cache)
    _must(world.extract(cache_link).pushed == 0, "extracted again through a link")
    world.extract(cache_link, cuts=("block3_pool",))
    _must((path / "block3_pool" / "cut.json").exists(), "a new cut did not arrive through a link")


def _elsewhere(world: World) -> None:
    cache = world.fresh()
    _bank(world, cache)
    os.chdir(cache.parent)
    _must(world.extract(Path(cache.name)).pushed == 0, "a relative cache is extracted again")
    from featbank.banks import Bank

    bank = Bank.open(Path(cache.name) / world.bank_path)
    first = bank[CUTS[0]].read(slice(0, 1))
    os.chdir("/")
    _check(world, cache / world.bank_path)
    _must(first.any(), "nothing was read")


def _hijack(world: World) -> None:
    """Lies in wait with files of the bank's names in the working folder: they must not be read."""
    from featbank.banks import Bank
    from featbank.errors import IncompleteBankError

    path, here = _bank(world, world.fresh()), world.fresh()
    for shard in (path / CUTS[0]).glob("*.h5"):
        shutil.copy(shard, here / shard.name)
        (here / CUTS[0]).mkdir(exist_ok=True)
        shutil.copy(shard, here / CUTS[0] / shard.name)
        shard.unlink()
    os.chdir(here)
    try:
        Bank.open(path)[CUTS[0]].read(slice(0, 1))
    except IncompleteBankError:
        return
    raise RuntimeError("a shard was read from the working folder")


def _read_only(world: World) -> None:
    from featbank.errors import CacheWriteError

    cache = world.fresh()
    path = _bank(world, cache)
    try:
        mount_read_only(cache)
    except OSError:  # no mounts for this user: rights do the same, except for root
        for folder in (path, *(path / cut for cut in CUTS)):
            folder.chmod(0o555)
        if os.getuid() == 0:
            return
    _check(world, path)
    _must(world.extract(cache).pushed == 0, "what is complete was pushed again")
    try:
        world.extract(cache, cuts=("block3_pool",))
    except CacheWriteError as error:
        _must("\n" not in str(error), "more than a line")
        return
    raise RuntimeError("a read-only cache was written to")
