"""A bank of millions of rows, made without images: what looking at it, planning, new rows and a fit cost.

``python tests/benchmarks/test_million_rows.py [ROWS ...]`` prints a table; each step runs in a process of its
own, whose time and largest memory are what it says of itself (`resource.getrusage`). The features that the
fit reads are zeros but for the rows it may look at, in files with holes: the bytes are those that their names
say, and what is read of them is counted by the pages that the system holds afterwards.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FEATURES = 4
#: Of the rows that a fit reads: those of a small vision transformer.
WIDTH = 768

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

MAKE_SPARSE = f"""
import hashlib, os
from featbank.banks.shards import encode_shard
from featbank.sampling import draw_nested
from featbank.sweep.features import rows_for_statistics
manifest = rows(n)
splits = np.where(np.arange(n) % max(3, n // 20_000 + 1) == 1, 2, 0).astype(np.uint8)
classes = tuple(f"class{{i:03d}}" for i in range(min(1000, n // 100)))
labels = (np.arange(n) % len(classes)).astype(np.int32)
manifest = manifest.replaced(splits=splits, labels=labels, classes=classes)
bank = BankStore(f"{{root}}-sparse").create_or_open("sparse", KEY, {{}})
bank.set_manifest(manifest)
train = np.flatnonzero(splits == 0)
drawn = train[draw_nested(manifest.labels[train], [16])[0][16]]
filled = np.zeros(n, bool)
for some in (drawn, np.flatnonzero(splits == 2), train[rows_for_statistics(len(train))]):
    filled[some] = True
centres = np.random.default_rng(1).standard_normal((len(classes), {WIDTH}))
writer = bank.cut_writer("fc7", ({WIDTH},), "float16")
writer.prepare()
for plan in writer.plans():
    at = np.flatnonzero(filled[plan.start:plan.stop])
    features = np.zeros((plan.n_rows, {WIDTH}), np.float16)
    noise = np.random.default_rng(plan.number).standard_normal((len(at), {WIDTH}))
    features[at] = (centres[manifest.labels[plan.start + at]] + 4 * noise).astype(np.float16)
    statuses = np.zeros(plan.n_rows, np.uint8)
    name, parts = encode_shard(writer._layout, plan, features, bank.slot_table, statuses)
    with open(writer.folder / name, "wb") as file:
        for part in parts:
            view = memoryview(part).cast("B")
            for start in range(0, len(view), 1 << 16):
                block = view[start:start + (1 << 16)]
                if np.frombuffer(block, np.uint8).any():
                    file.write(block)
                else:
                    file.seek(len(block), os.SEEK_CUR)
        file.truncate()
writer.finish({{}})
say()
"""

FIT = """
from featbank.cli import main
try:
    main([*"fit-head --cut fc7 --head ncm -n 16 --repeats 1 --cache-dir".split(), sys.argv[3]])
except SystemExit as end:
    assert not end.code
say(fit_s=time.process_time())
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
    "what a plan of slices has left": """
from featbank.extraction import ExtractionSettings, SavedPlan, saved_plan, tasks_left
bank = Bank.open(BankStore(root).paths()[0])
settings = ExtractionSettings(backbone="minivgg", cuts=["fc6"], shard_rows=4096)
path = bank.path / saved_plan.file_name(saved_plan.asked_of("digits", settings))
SavedPlan(path, "", "digits", settings, 64, KEY.digest(), n, bank.places_digest, {"fc6": (768,)},
          {"fc6": "float16"}, (), (), {}, "cpu", {}).write()
del bank
tasks, seconds = timed(lambda: tasks_left(path))
assert sum(one.n_images for one in tasks) == n and len(tasks) == -(-n // 4096), tasks[:3]
path.unlink()
say(tasks_left_s=seconds)
""",
    "load and labels": """
bank = Bank.open(BankStore(root).paths()[0])
(X, y), seconds = timed(lambda: bank.load("fc7", split="train"))
assert X.shape == (n, 4)
say(load_s=seconds)
""",
}


def step(code: str, root: Path, n: int, *more: object) -> dict[str, Any]:
    """Run one step; what it said, as its last line."""
    command = [sys.executable, "-c", COMMON + code, str(root), str(n), *map(str, more)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def measure(n: int, root: Path) -> dict[str, dict[str, Any]]:
    """Make a bank of `n` rows below `root` and measure what is done with it."""
    step(MAKE_ROWS, root / "banks", n)
    figures = {name: step(code, root / "banks", n) for name, code in STEPS.items()}
    figures["fit 16 of each class"] = _fit(n, root)
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


def _fit(n: int, root: Path) -> dict[str, Any]:
    """Fit a head to 16 images of each class; count the bytes of features that were read."""
    step(MAKE_SPARSE, root / "banks", n)
    cache = root / "fit"
    (cache / "banks").mkdir(parents=True)
    (root / "banks-sparse" / "sparse").rename(cache / "banks" / "sparse")
    shards = sorted(cache.glob("banks/sparse/*/fc7/*.h5"))
    for path in shards:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = sum(map(_held_bytes, shards))
    figures = step(FIT, root / "banks", n, cache)
    figures |= {"features_MB": round(sum(path.stat().st_size for path in shards) / 1e6)}
    return figures | {"read_MB": round((sum(map(_held_bytes, shards)) - before) / 1e6)}


def _held_bytes(path: Path) -> int:
    """Return how much of a file the system holds in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as mapped,
    ):
        pages = -(-len(mapped) // mmap.PAGESIZE)
        said = (ctypes.c_ubyte * pages)()
        array = memoryview(mapped)
        import numpy as np

        address = np.frombuffer(array, np.uint8).ctypes.data
        if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), said):
            raise OSError(ctypes.get_errno(), "mincore")
        array.release()
        return sum(one & 1 for one in said) * mmap.PAGESIZE


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
    assert set(figures) == {*STEPS, "banks ls", "fit 16 of each class"}
