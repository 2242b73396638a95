"""Several extractions of one bank at once, and banks that are moved, copied, linked, read-only, elsewhere."""

from __future__ import annotations

import contextlib
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
        if index % 4 == 3:
            said = _with_other_images(world, cache, rng, duration_s)
            found["with other images"] += 1
            found["each right"] += not said
            bad += said[:1]
            shutil.rmtree(cache)
            continue
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
            "rounds of three with other images each": found["with other images"],
            "in which all came to their own end": found["each right"],
        },
        "bad": bad[:3],
        "ok": not bad,
    }


def _with_other_images(world: World, cache: Path, rng: random.Random, duration_s: float) -> list[str]:
    """Let three extractions of one name but of other images run at once; say what is not right afterwards."""
    from featbank.banks import Bank, verify_bank

    names = rng.sample([name for name in world.others if name != "apart"], 3)
    rng.shuffle(names)
    children = []
    for name in names:
        children.append(fork(extraction(world, cache, elsewhere=True, data=world.others[name])))
        time.sleep(rng.random() * duration_s / 2)
    said = []
    for name, child in zip(names, children, strict=True):
        result, n_files = child.result(), len(list(world.others[name].glob("*/*")))
        if not isinstance(result, tuple) or (result[0], result[3]) != (n_files, 1):
            said.append(f"{names}: {name}: {getattr(result, 'trace', result)}, of {n_files} files")
    bank = Bank.open(cache / world.bank_path)
    if bank.cuts != CUTS or verify_bank(bank.path).findings:
        said.append(f"{names}: {bank.cuts} {bank.partial_cuts} {verify_bank(bank.path).findings[:2]}")
    for name in names:
        again, alone = world.extract(cache, data=world.others[name]), world.fresh()
        if again.pushed or again.quarantined != 1:
            said.append(f"{names}: {name}: {again.pushed} pushed again, {again.quarantined} quarantined")
        bank, own = Bank.open(again.bank), Bank.open(world.extract(alone, data=world.others[name]).bank)
        for cut in CUTS:
            ok = own.rows_ok(cut)
            if (bank.rows_ok(cut) != ok).any() or (bank[cut].read(ok) != own[cut].read(ok)).any():
                said.append(f"{names}: {name}: other features at {cut}")
        shutil.rmtree(alone)
    return said


def dry_run_beside(world: World, n_rounds: int, seed: int = 5) -> dict[str, Any]:
    """Plan beside an extraction, and in every state it can be in: the plans touch nothing."""
    rng = random.Random(seed)
    calls, duration_s = measure(world)
    found: Counter[str] = Counter()
    bad: list[str] = []
    for index in range(n_rounds):
        cache = world.fresh(on_disk=True)
        hook = _Wait(rng.randrange(len(calls)), duration_s, rng.random() < 0.5)
        child = fork(extraction(world, cache, hook=hook))
        plans = []
        for _ in range(3):
            time.sleep(rng.random() * duration_s / 2)
            plans.append(fork(_dry_run(world, cache, rng.randrange(len(_PLANS)))))
        results = [child.result(), *(one.result() for one in plans)]
        failed = [one for one in results if isinstance(one, Failure)]
        said = difference(tree(cache), world.whole)
        if index % 2:  # one that was stopped in the middle, and what it leaves
            shutil.rmtree(cache)
            cache = world.fresh(on_disk=True)
            fork(extraction(world, cache, hook=_Stop(rng.randrange(len(calls))))).wait()
        before = _stamps(cache)
        results = [fork(_dry_run(world, cache, which)).result() for which in range(len(_PLANS))]
        failed += [one for one in results if isinstance(one, Failure) and not one.deliberate]
        found["plans"] += len(plans) + len(_PLANS)
        found["exceptions"] += len(failed)
        found["identical"] += not said
        found["untouched"] += _stamps(cache) == before
        if said or failed or _stamps(cache) != before:
            bad.append(f"{said[:3]} {failed[0].trace if failed else 'touched'}")
        shutil.rmtree(cache)
    return {
        "figures": {
            "extractions with plans beside them": n_rounds,
            "plans": found["plans"],
            "exceptions": found["exceptions"],
            "banks identical": found["identical"],
            "caches untouched by plans": found["untouched"],
        },
        "bad": bad[:3],
        "ok": not bad,
    }


#: What is added to the command of the extraction.
_PLANS = ([], ["--limit", "5"], ["--split", "3,1,1"], ["--cut", "block3_pool"], ["--image-size", "40"])


def _dry_run(world: World, cache: Path, which: int) -> Callable[[Board], None]:
    def work(board: Board) -> None:
        from featbank.cli.app import app

        words = [*world.command(cache), *_PLANS[which], "--dry-run"]
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
            app(words, standalone_mode=False)

    return work


def _stamps(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the time of change and the bytes of everything below a folder, locks included."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


@dataclass
class _Stop:
    number: int

    def __call__(self, call: Call) -> Any:
        if call.number == self.number:
            os._exit(1)
        return call.perform()


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
