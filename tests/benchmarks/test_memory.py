"""Peak memory: of extractions, which does not grow with the images, and of sweeps; by hand (`make bench`).

A sweep may take 600 MB and one and a half times the float16 features of the rows its fits draw, however many
rows the bank has.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

#: Bytes of one row of minivgg's `block1_pool` at 128 pixels, in float16.
ROW_BYTES = 32 * 64 * 64 * 2

# VmHWM, because ru_maxrss survives an exec: a child would start with the peak of the test run itself.
_PEAK = """
import json, resource, sys
from pathlib import Path
def peak_bytes():
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    unit = 1 if sys.platform == "darwin" else 1024
    return peaks[0] if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
"""
_PROGRAM = (
    _PEAK
    + """
from featbank.extraction import extract
done = extract(sys.argv[1], backbone="minivgg", cuts=["block1_pool"], image_size=128, precision="float32",
               cache_dir=sys.argv[2])
print(json.dumps({"pushed": done.pushed, "peak_bytes": peak_bytes()}))
"""
)

# features are noise of one block, shifted, and a pattern of the class
_MAKE = """
import sys
import numpy as np
from featbank.banks import BankKey, BankStore
from featbank.manifest import Ids, Manifest
root, n, width, n_classes = sys.argv[1], *map(int, sys.argv[2:5])
n_test = max(1000, n_classes)
rows = n + n_test
labels = (np.arange(rows) % n_classes).astype(np.int32)
random = np.random.default_rng(0)
manifest = Manifest(Ids.of([b"%09d.jpg" % i for i in range(rows)]), labels,
                    tuple(f"class{i:05d}" for i in range(n_classes)),
                    np.where(np.arange(rows) < n, 0, 2).astype(np.uint8),
                    random.integers(0, 256, (rows, 32), np.uint8), np.zeros(rows, np.uint8))
key = BankKey(backbone="minivgg", weights_sha256="0" * 64, transform={}, image_size=32, precision="float32",
              dtype="float16", batch_size=64, decoder="none")
bank = BankStore(root).create_or_open("made", key, {})
bank.set_manifest(manifest)
writer = bank.cut_writer("block3_pool", (width,), "float16")
noise = random.standard_normal(2**22, dtype=np.float32).astype(np.float16)
for plan in writer.missing():
    out = np.empty((plan.n_rows, width), np.float16)
    for at in range(plan.n_rows):
        row = plan.start + at
        pieces = np.resize(np.roll(noise[: max(width, 2**16)], 7919 * row), width)
        pattern = np.random.default_rng(int(labels[row])).integers(0, width, 64)
        out[at] = pieces
        out[at, pattern] += np.float16(2)
    writer.write(plan, out, np.zeros(plan.n_rows, np.uint8))
writer.finish({})
"""
_SWEEP = (
    _PEAK
    + """
import time
from featbank.banks import Bank, BankStore
from featbank.sweep import run_sweep
root, sizes, repeats, *heads = sys.argv[1:]
bank = Bank.open(BankStore(root).paths()[0])
started = time.perf_counter(), time.process_time()
result = run_sweep(bank, heads=heads, samples_per_class=sizes, repeats=int(repeats))
print(json.dumps({"fits": len(result.fits), "failed": len(result.failed),
                  "top1": max(one.top1 or 0 for one in result.fits), "peak_bytes": peak_bytes(),
                  "wall_s": time.perf_counter() - started[0],
                  "processor_s": time.process_time() - started[1]}))
"""
)


def run(program: str, *arguments: object) -> dict[str, float]:
    """Run a program of its own; what its last line says."""
    call = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    done = subprocess.run(call, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    return found


def make_photographs(folder: Path, count: int) -> Path:
    """Write so many different JPEGs, in two classes."""
    random = np.random.default_rng(count)
    for number in range(count):
        path = folder / ("ab"[number % 2]) / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((320, 240)).save(path, quality=85)
    return folder


def test_peak_memory_is_flat(tmp_path: Path) -> None:
    peaks = {}
    for count in (1_000, 20_000):
        data = make_photographs(tmp_path / f"photos-{count}", count)
        call = [sys.executable, "-c", _PROGRAM, str(data), str(tmp_path / f"cache-{count}")]
        done = subprocess.run(call, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        assert found["pushed"] == count
        peaks[count] = found["peak_bytes"]
        said = f"{count} images, {count * ROW_BYTES / 1e6:.0f} MB of features"
        print(f"\n{said}: peak {peaks[count] / 1e6:.0f} MB", end="")  # noqa: T201
    grown, written = peaks[20_000] - peaks[1_000], 19_000 * ROW_BYTES
    print(f"\n{grown / 1e6:.0f} MB more for {written / 1e6:.0f} MB more features")  # noqa: T201
    # what grows is the list of the images; whoever kept the features would need all of them
    assert grown < 0.05 * written


@pytest.mark.parametrize(("n_rows", "n_features"), [(100_000, 25_088), (12_000, 200_704)])
def test_sweep_holds_what_it_draws(tmp_path: Path, n_rows: int, n_features: int) -> None:
    n_classes, largest, repeats = 10, 32, 5
    run(_MAKE, tmp_path, n_rows, n_features, n_classes)
    drawn = largest * n_classes * repeats * n_features * 2  # at most; repeats may share rows
    allowed = 600e6 + 1.5 * drawn
    for head in ("logreg", "softmax", "svm", "ridge", "ncm", "knn"):
        found = run(_SWEEP, tmp_path, f"4..{largest}", repeats, head)
        print(  # noqa: T201
            f"\n{n_rows} x {n_features}, {head}: {found['fits']} fits, {found['wall_s']:.0f} s "
            f"({found['processor_s']:.0f} s of processor), best {found['top1']:.2f}, peak "
            f"{found['peak_bytes'] / 1e6:.0f} MB; drawn {drawn / 1e6:.0f} MB, allowed {allowed / 1e6:.0f} MB",
            end="",
            flush=True,
        )
        assert not found["failed"]
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(("n_classes", "sizes", "repeats"), [(1000, "4..16", 2), (10_000, "4", 1)])
def test_many_classes_sweep(tmp_path: Path, n_classes: int, sizes: str, repeats: int) -> None:
    run(_MAKE, tmp_path, 16 * n_classes if n_classes < 10_000 else 4 * n_classes, 1280, n_classes)
    for head in ("ncm", "ridge", "logreg", "softmax"):
        found = run(_SWEEP, tmp_path, sizes, repeats, head)
        print(  # noqa: T201
            f"\n{n_classes} classes, {head}: {found['fits']} fits of {sizes} in {found['wall_s']:.0f} s "
            f"({found['processor_s']:.0f} s of processor), best {found['top1']:.2f}, peak "
            f"{found['peak_bytes'] / 1e6:.0f} MB, wanted at most 4,000 MB",
            end="",
            flush=True,
        )
        assert not found["failed"]
