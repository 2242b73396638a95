"""The power goes at any moment: what was not fsynced is lost, torn or reordered, as SQLite tests it.

Every call of an extraction (and of the one that goes on after it was killed) is recorded. Any beginning of
the record is replayed into a model of a file system that promises only what POSIX does: bytes are safe once
the file was fsynced, a name once its folder was. All else is kept, dropped or torn at random, folder by
folder and sector by sector. The rest of featbank then sees that state as after a reboot.
"""

from __future__ import annotations

import pickle
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import Board, extraction, fork
from syscalls import Call, Recorder
from world import World, difference, tree

Log = list[tuple[str, str, Any]]

_SECTORS = (512, 4096)


@dataclass
class _File:
    now: bytes = b""
    safe: bytes = b""


@dataclass
class _Folder:
    now: dict[str, Any] = field(default_factory=dict)
    safe: dict[str, Any] = field(default_factory=dict)
    #: What was done to it since its last fsync: (name that goes, name that comes, what comes).
    pending: list[tuple[str | None, str | None, Any]] = field(default_factory=list)

    def change(self, gone: str | None, name: str | None, node: Any) -> None:
        if gone is not None:
            self.now.pop(gone, None)
        if name is not None:
            self.now[name] = node
        self.pending.append((gone, name, node))


class Disk:
    """What is on the disk after some calls, for certain and perhaps.

    Parameters
    ----------
    log : list of tuple
        Of `Recorder`.
    """

    def __init__(self, log: Log) -> None:
        self._root = _Folder()
        for word, path, detail in log:
            self._play(word, path, detail)

    def _folder(self, path: str) -> tuple[_Folder, str]:
        *parts, name = Path(path).parts or (".",)
        folder = self._root
        for part in parts:
            folder = folder.now[part]
        return folder, name

    def _play(self, word: str, path: str, detail: Any) -> None:
        if word in ("shard", "finished"):
            return
        if path == ".":
            if word == "fsync":
                self._root.safe, self._root.pending = dict(self._root.now), []
            return
        folder, name = self._folder(path)
        if word in ("create", "mkdir"):
            folder.change(None, name, _File() if word == "create" else _Folder())
        elif word == "write":
            folder.now[name].now += detail
        elif word == "fsync":
            node = folder.now[name]
            if isinstance(node, _File):
                node.safe = node.now
            else:
                node.safe, node.pending = dict(node.now), []
        elif word == "rename":
            target, new_name = self._folder(detail)
            node = folder.now[name]
            if target is folder:
                folder.change(name, new_name, node)
            else:
                folder.change(name, None, None)
                target.change(None, new_name, node)
        elif word in ("unlink", "rmdir"):
            folder.change(name, None, None)
        else:
            raise ValueError(f"the model does not know {word!r}")

    def write(self, place: Path, rng: random.Random | None) -> None:
        """Put one possible state on a real disk; without `rng`, that of a disk that was never cut off."""
        self._put(self._root, place, rng)

    def _put(self, folder: _Folder, place: Path, rng: random.Random | None) -> None:
        place.mkdir(exist_ok=True)
        names = dict(folder.now)
        if rng is not None:
            names, kept = dict(folder.safe), rng.choice([0.0, 0.2, 0.5, 0.8, 1.0])
            for gone, name, node in folder.pending:
                if rng.random() < kept:
                    if gone is not None:
                        names.pop(gone, None)
                    if name is not None:
                        names[name] = node
        for name, node in names.items():
            if isinstance(node, _Folder):
                self._put(node, place / name, rng)
            else:
                (place / name).write_bytes(node.now if rng is None else _torn(node, rng))


def _torn(file: _File, rng: random.Random) -> bytes:
    """Return one content a file may have after power loss."""
    if file.now == file.safe:
        return file.now
    how = rng.choice(["safe", "all", "empty", "zeros", "short", "sectors", "sectors"])
    if how == "safe":
        return file.safe
    if how == "all":
        return file.now
    if how == "empty":
        return b""
    if how == "zeros":
        return bytes(len(file.now))
    if how == "short":
        return file.now[: rng.randrange(len(file.now) + 1)]
    size = rng.choice(_SECTORS)
    parts = []
    for start in range(0, len(file.now), size):
        sector = file.now[start : start + size]
        parts.append(rng.choice([sector, sector, bytes(len(sector)), rng.randbytes(len(sector))]))
    return b"".join(parts)


def record(world: World, kill_at: int | None) -> Log:
    """Record an extraction; with `kill_at`, one that is killed before that call and the one that goes on."""
    cache, place = world.fresh(), world.fresh() / "log"
    log: Log = []
    for stop in [None] if kill_at is None else [kill_at, None]:
        child = fork(_recorded(world, cache, stop, place))
        if child.wait() != 0:
            raise RuntimeError(f"the extraction to be recorded failed: {child.result()}")
        log += pickle.loads(place.read_bytes())
    replayed = world.fresh()
    Disk(log).write(replayed, None)
    said = difference(tree(replayed), tree(cache))
    if said:
        raise RuntimeError(f"the record does not replay to what was written: {said}")
    for folder in (cache, replayed, place.parent):
        shutil.rmtree(folder)
    return log


def _recorded(world: World, cache: Path, stop: int | None, place: Path) -> Callable[[Board], None]:
    def work(board: Board) -> None:
        recorder = Recorder(str(cache))

        def hook(call: Call) -> Any:
            if call.number == stop:
                recorder.hand_over(place)  # and nothing more: the process is gone
            return recorder(call)

        run = extraction(world, cache, hook=hook, on_ack=lambda name: recorder.note("shard", name))
        run(board)
        recorder.note("finished", "")
        recorder.hand_over(place)

    return work


def power_loss(world: World, n_states: int, seed: int = 2) -> dict[str, Any]:
    """Cut the power `n_states` times, and a tenth as often with all fsyncs taken out of the record."""
    rng = random.Random(seed)
    whole = record(world, None)
    n_calls = sum(word not in ("shard", "finished") for word, _, _ in whole)
    logs = [whole] + [record(world, rng.randrange(n_calls)) for _ in range(max(2, n_states // 50))]
    found, bad = _cut(world, logs, n_states, rng)
    stripped = [[one for one in log if one[0] != "fsync"] for log in logs]
    n_without = max(40, n_states // 4)
    without, _ = _cut(world, stripped, n_without, rng)
    share = without["failed"] / n_without
    return {
        "figures": {
            "states": n_states,
            "acknowledged rows lost": found["rows_lost"],
            "damage nothing named": found["silent"],
            "banks that did not open": found["unopened"],
            "resumed to identical trees": found["identical"],
            "states without fsync": n_without,
            "share of these that fail": f"{share:.1%}",
        },
        "without_fsync": dict(without),
        "bad": bad[:3],
        # a test that passes without fsyncs would test nothing
        "ok": found["failed"] == 0 and found["identical"] == n_states and share > 0.4,
    }


def _cut(world: World, logs: list[Log], n_states: int, rng: random.Random) -> tuple[Counter[str], list[str]]:
    found: Counter[str] = Counter()
    bad: list[str] = []
    cache = world.fresh() / "cache"
    for _ in range(n_states):
        log = rng.choice(logs)
        # at any call, and often right after featbank said that it is done
        stop = len(log) if rng.random() < 0.1 else rng.randrange(len(log) + 1)
        # a crash in the middle of a call is one after it, with its effect not yet safe
        Disk(log[:stop]).write(cache, rng)
        promised = {path for word, path, _ in log[:stop] if word == "shard"}
        done = any(word == "finished" for word, _, _ in log[:stop])
        state = world.faults(cache, promised)
        there = tree(cache) if done else {}
        gone = [name for name in world.whole if done and there.get(name) != world.whole[name]]
        try:
            world.extract(cache)
            said = difference(tree(cache), world.whole)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
            said = [f"{type(error).__name__}: {error}"]
        shutil.rmtree(cache)
        found["rows_lost"] += state["rows_lost"]
        found["silent"] += len(state["silent"])
        found["named"] += len(state["named"])
        found["unopened"] += bool(state["unopened"])
        found["identical"] += not said
        found["finished"] += done
        if gone or said or state["rows_lost"] or state["silent"] or state["unopened"]:
            found["failed"] += 1
            bad.append(f"at call {stop} of {len(log)}: {gone[:2]} {said[:2]} {state}")
    return found, bad
