"""Handles on a bank that another process changes, and copies of a bank that several hosts open in turn."""

from __future__ import annotations

import pickle
import random
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from processes import Board, fork
from world import CUTS, World


def handle_across_manifest_change(world: World, n_rounds: int, seed: int = 11) -> dict[str, Any]:
    """Change the rows of a bank behind live and pickled handles: none ever gives another row's features."""
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    bad: list[str] = []
    for _ in range(n_rounds):
        cache = world.fresh()
        shutil.copytree(world.root / "whole", cache, dirs_exist_ok=True)
        _one_change(cache / world.bank_path, rng, found, bad)
        shutil.rmtree(cache)
    figures = ("changes", "live handles that go on", "pickled handles refused", "reopened with the same rows")
    return {
        "figures": {name: found[name] for name in figures} | {"rows of other images": found["wrong"]},
        "bad": bad[:3],
        "ok": not bad and not found["wrong"] and found["pickled handles refused"] > 0,
    }


def _one_change(path: Path, rng: random.Random, found: Counter[str], bad: list[str]) -> None:
    from featbank.banks import Bank
    from featbank.errors import BankChangedError

    cut = rng.choice(CUTS)
    live = Bank.open(path, check="size")
    array, manifest, usable = live[cut], live.manifest, live.rows_ok(cut)
    right = array.read(usable)
    pickled = {name: pickle.dumps(one) for name, one in (("bank", live), ("cut", array))}
    unchanged = rng.random() < 0.25
    changed = manifest if unchanged else _changed(manifest, rng)

    def change(board: Board) -> None:
        Bank.open(path, check="size").set_manifest(changed)

    if fork(change).wait():
        bad.append("the rows could not be changed")
    found["changes"] += not unchanged
    for one in (live[cut], array):
        if live.manifest.ids == manifest.ids and np.array_equal(one.read(usable), right):
            found["live handles that go on"] += 1
        else:
            found["wrong"] += 1
    for name, data in pickled.items():
        try:
            again = pickle.loads(data)
        except BankChangedError:
            found["pickled handles refused"] += 1
            if unchanged:
                bad.append(f"{name} refused without a change")
            continue
        same = np.array_equal((again[cut] if name == "bank" else again).read(usable), right)
        found["reopened with the same rows" if same and unchanged else "wrong"] += 1


def _changed(manifest: Any, rng: random.Random) -> Any:
    """Return the rows in another order, fewer of them, or with another label or split."""
    n = len(manifest)
    order = np.arange(n)
    how = rng.choice(("order", "fewer", "label", "split"))
    if how == "order":
        order = np.roll(order, rng.randrange(1, n))
    elif how == "fewer":
        order = np.delete(order, rng.randrange(n))
    labels, splits = manifest.labels[order].copy(), manifest.splits[order].copy()
    if how == "label":
        row = rng.randrange(n)
        labels[row] = (labels[row] + 1) % len(manifest.classes)
    elif how == "split":
        row = rng.randrange(n)
        splits[row] = (splits[row] + 1) % 4
    return manifest.replaced(
        ids=tuple(manifest.ids[row] for row in order.tolist()),
        labels=labels,
        splits=splits,
        digests=manifest.digests[order],
        statuses=manifest.statuses[order],
    )


def hosts_in_turn(world: World, n_rounds: int, seed: int = 12) -> dict[str, Any]:
    """Open a copied bank from several hosts in turn, and from two at once: each hashes it once at most."""
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    bad: list[str] = []
    for index in range(n_rounds):
        cache = world.fresh()
        shutil.copytree(world.root / "whole", cache, dirs_exist_ok=True)
        path = cache / world.bank_path
        own_inodes = index % 2 == 1  # a file system that shows every host another inode
        hosts = [rng.choice("ABC") for _ in range(8)]
        hashed = fork(lambda board, *, p=path, h=hosts, o=own_inodes: _hashes(p, h, own_inodes=o)).result()
        found["openings"] += len(hosts)
        found["openings that hashed"] += sum(map(bool, hashed))
        allowed = len(set(hosts)) if own_inodes else 1
        first = [hosts.index(host) for host in set(hosts)] if own_inodes else [0]
        if sum(map(bool, hashed)) > allowed or any(n for place, n in enumerate(hashed) if place not in first):
            bad.append(f"hosts {hosts} hashed {hashed} shards")
        (path / ".verified.json").unlink()
        both = [fork(lambda board, p=path: _hashes(p, "A", own_inodes=False)) for _ in range(2)]
        if any(child.result() is None for child in both) or _hashes_after(path):
            bad.append("two hosts at once left no mark")
        found["rounds of two at once"] += 1
        shutil.rmtree(cache)
    figures = ("openings", "openings that hashed", "rounds of two at once")
    return {"figures": {name: found[name] for name in figures}, "bad": bad[:3], "ok": not bad}


def _hashes_after(path: Path) -> int:
    return sum(fork(lambda board: _hashes(path, "A", own_inodes=False)).result())


def _hashes(path: Path, hosts: Any, *, own_inodes: bool) -> list[int]:
    """Return how many shards each host hashes, in a process of its own: what it patches stays there."""
    import socket

    from featbank.banks import Bank, shards

    names: list[str] = []
    check, stat, shown = shards.check_hash, Path.stat, [0]

    def checking(shard: Path) -> Any:
        names.append(shard.name)
        return check(shard)

    def seen(file: Path, **options: Any) -> Any:
        real = stat(file, **options)
        if file.name != "bank.json" or not own_inodes:
            return real
        return SimpleNamespace(
            st_ino=real.st_ino + shown[0], st_ctime_ns=real.st_ctime_ns, st_mode=real.st_mode
        )

    shards.check_hash, Path.stat = checking, seen  # type: ignore[method-assign]
    found = []
    for host in hosts:
        socket.gethostname = lambda host=host: host
        shown[0] = ord(host)
        names.clear()
        Bank.open(path)
        found.append(len(names))
    return found
