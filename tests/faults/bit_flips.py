"""Every bit of a small bank, flipped alone: opening or verifying the bank must name the file."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from processes import Board, fork
from world import CUTS, UNIMPORTANT, World

#: Verified in full at each so many flips, also where opening has named the file already.
_VERIFY_EVERY = 64


def bit_flips(world: World, share: float) -> dict[str, Any]:
    """Flip the given share of all bits, one at a time, in two processes."""
    path = _small_bank(world)
    files = sorted(one for one in path.rglob("*") if one.is_file() and one.name not in UNIMPORTANT)
    step = max(1, round(1 / share))
    if step % 2 == 0:
        step += 1  # or the same bits of each byte would never be flipped
    children = [fork(_part(world, path, files, step, part)) for part in range(2)]
    found: Counter[str] = Counter()
    bad: list[str] = []
    for child in children:
        result = child.result()
        if not isinstance(result, tuple):
            return {
                "figures": {"error": str(result)},
                "bad": [str(getattr(result, "trace", result))],
                "ok": False,
            }
        found += result[0]
        bad += result[1]
    # the mark of a checked copy only decides whether shards are hashed once more
    return {
        "figures": {
            "files": len(files),
            "bits": 8 * sum(one.stat().st_size for one in files),
            "flips": found["flips"],
            "named": found["named"],
            "silent": found["silent"],
            "crashes": found["crashes"],
        },
        "by_file": {name: count for name, count in found.items() if "/" in name},
        "bad": bad[:8],
        "ok": not found["silent"] and not found["crashes"] and found["flips"] == found["named"] > 0,
    }


def _small_bank(world: World) -> Path:
    """Make a bank of four pictures, one bad one, two cuts with one shard each."""
    from world import make_images

    data, cache = world.fresh() / "pictures", world.fresh()
    make_images(data, 3)
    world_data, world.data = world.data, data
    try:
        bank: Path = world.extract(cache, cuts=CUTS).bank
    finally:
        world.data = world_data
    return bank


def _part(world: World, path: Path, files: list[Path], step: int, part: int) -> Any:
    def work(board: Board) -> tuple[Counter[str], list[str]]:
        copy = world.fresh() / "bank"
        shutil.copytree(path, copy)
        found: Counter[str] = Counter()
        bad: list[str] = []
        position = 0
        for file in files:
            relative = file.relative_to(path)
            data = file.read_bytes()
            descriptor = os.open(copy / relative, os.O_RDWR)
            for bit in range(8 * len(data)):
                position += 1
                if position % step or (position // step) % 2 != part:
                    continue
                at, value = bit // 8, data[bit // 8]
                os.pwrite(descriptor, bytes([value ^ (1 << bit % 8)]), at)
                word = _judge(copy, copy / relative, verify=(position // step) % _VERIFY_EVERY < 2)
                os.pwrite(descriptor, bytes([value]), at)
                found["flips"] += 1
                found[word.split(":")[0]] += 1
                found[f"{word.split(':')[0]}/{relative.name}"] += 1
                if word != "named":
                    bad.append(
                        f"{relative} byte {at} bit {bit % 8} ({data[max(0, at - 12) : at + 12]!r}): {word}"
                    )
            os.close(descriptor)
        return found, bad

    return work


def _judge(bank: Path, file: Path, *, verify: bool) -> str:
    """Say whether a damaged file is named by opening the bank, or else by verifying it."""
    from featbank.banks import Bank, verify_bank
    from featbank.errors import BankError

    named = False
    try:
        Bank.open(bank, check="sha256")
    except BankError as error:
        named = file.name in str(error)
    except Exception as error:  # noqa: BLE001 - counted
        return f"crashes: {error!r}"
    if named and not verify:
        return "named"
    try:
        said = any(one.path == file for one in verify_bank(bank).faults)
    except Exception as error:  # noqa: BLE001 - counted
        return f"crashes: {error!r}"
    return "named" if said else "silent"
