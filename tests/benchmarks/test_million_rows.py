"""A bank of a million rows, made without images: what looking at it, planning and new rows cost.

``python tests/benchmarks/test_million_rows.py [ROWS ...]`` prints a table; each step runs in a process of its
own, whose time and largest memory are what it says of itself (`resource.getrusage`).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FEATURES = 4

COMMON = """
import json, resource, sys, time
import numpy as np
from pathlib import Path
from featbank.banks import Bank, BankKey, BankStore
from featbank.manifest import Ids, Manifest
root, n = sys.argv[1], int(sys.argv[2])
KEY = BankKey(backbone="minivgg", weights_sha256="0" * 64, transform={}, image_size=32, precision="float32",
              dtype="float16", batch_size=64, decoder="none")

def rows(n):
    parts = np.load(f"{root}-{n}.npz")
    n_rows = len(parts["digests"])
    return Manifest(Ids(parts["data"], parts["offsets"]), (np.arange(n_rows) % 1000).astype(np.int32),
                    tuple(f"class{i:03d}" for i in range(1000)), np.zeros(n_rows, np.uint8), parts["digests"],
                    np.zeros(n_rows, np.uint8))

def say(**times):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({**{k: round(v, 3) for k, v in times.items()}, "peak_MB": round(peak / 1e6)}))
    sys.exit()

def timed(function):  # processor time: a busy neighbour is not counted, nor is waiting for the disk
    started = time.process_time()
    found = function()
    return found, time.process_time() - started
"""

MAKE_ROWS = """
random = np.random.default_rng(0)
for more in (0, 1):
    ids = Ids.of([b"class%03d/image_%08d.jpg" % (i % 1000, i) for i in range(n + more)])
    digests = np.random.default_rng(0).integers(0, 256, (n + more, 32), np.uint8)
    np.savez(f"{root}-{n + more}.npz", data=ids.data, offsets=ids.offsets, digests=digests)
say()
"""

STEPS = {
    "imports alone": "say()",
    "make": f"""
bank = BankStore(root).create_or_open("million", KEY, {{}})
manifest = rows(n)
_, set_manifest = timed(lambda: bank.set_manifest(manifest))
writer = bank.cut_writer("fc7", ({FEATURES},), "float16", shard_bytes=1 << 20)
def write():
    for plan in writer.missing():
        writer.write(plan, np.ones((plan.n_rows, {FEATURES}), np.float16), np.zeros(plan.n_rows, np.uint8))
_, writing = timed(write)
_, finish = timed(lambda: writer.finish({{}}))
say(set_manifest_s=set_manifest, write_s=writing, finish_s=finish)
""",
    "manifest alone": "manifest = rows(n); say()",
    "open": "bank, opening = timed(lambda: Bank.open(BankStore(root).paths()[0])); say(open_s=opening)",
    "open and plan, complete": f"""
manifest = rows(n)
def plan():
    bank = BankStore(root).planned("million", KEY, {{}}).with_rows(manifest)
    writer = bank.cut_writer("fc7", ({FEATURES},), "float16")
    return writer.missing(), writer.absent(), writer.finished
found, seconds = timed(plan)
assert found == ([], set(), True), found
say(open_and_plan_s=seconds)
""",
    "open and plan, one image more": f"""
manifest = rows(n + 1)
def plan():
    bank = BankStore(root).planned("million", KEY, {{}}).with_rows(manifest)
    return bank.cut_writer("fc7", ({FEATURES},), "float16").missing()
found, seconds = timed(plan)
assert sum(one.n_rows for one in found) == 1, found
say(open_and_plan_s=seconds)
""",
    "other rows set": """
manifest = rows(n)
order = np.arange(n)[::-1]
bank = Bank.open(BankStore(root).paths()[0])
changed = manifest.replaced(labels=manifest.labels[::-1].copy(), digests=manifest.digests[order])
_, seconds = timed(lambda: bank.set_manifest(changed))
say(set_manifest_s=seconds)
""",
    "load and labels": """
bank = Bank.open(BankStore(root).paths()[0])
(X, y), seconds = timed(lambda: bank.load("fc7", split="train"))
assert X.shape == (n, 4)
say(load_s=seconds)
""",
}


def step(code: str, root: Path, n: int) -> dict[str, Any]:
    """Run one step; what it said."""
    command = [sys.executable, "-c", COMMON + code, str(root), str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def measure(n: int, root: Path) -> dict[str, dict[str, Any]]:
    """Make a bank of `n` rows below `root` and measure what is done with it."""
    step(MAKE_ROWS, root / "banks", n)
    figures = {name: step(code, root / "banks", n) for name, code in STEPS.items()}
    call = "from featbank.cli import main; main(['banks', 'ls', '--cache-dir', sys.argv[1]])"
    times, busy = [], []
    for _ in range(3):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-c", f"import sys; {call}", str(root)], check=True, capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(time.perf_counter() - started)
        busy.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    figures["banks ls"] = {"processor_s": round(min(busy), 3), "wall_s": round(min(times), 3)}
    return figures


def main(sizes: list[int]) -> None:
    """Print the figures for each size, and how memory grows from the smallest to the largest."""
    found = {}
    for n in sizes:
        with tempfile.TemporaryDirectory(prefix="featbank-rows-") as place:
            found[n] = measure(n, Path(place))
        for name, figures in found[n].items():
            print(f"{n:>9,} {name:30} {figures}", flush=True)  # noqa: T201
    low, high = min(sizes), max(sizes)
    for name in STEPS if low < high else ():
        grown = (found[high][name]["peak_MB"] - found[low][name]["peak_MB"]) * 1e6
        print(f"{name:30} {grown / (high - low):6.0f} bytes a row")  # noqa: T201


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main([int(one) for one in sys.argv[1:]] or [100_000, 1_000_000])


def test_the_bench_runs_at_a_small_size(tmp_path: Path) -> None:
    figures = measure(2000, tmp_path)
    assert set(figures) == {*STEPS, "banks ls"}
