"""Peak memory of an extraction does not grow with the number of images; by hand (`make bench`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

#: Bytes of one row of minivgg's `block1_pool` at 128 pixels, in float16.
ROW_BYTES = 32 * 64 * 64 * 2

# VmHWM, because ru_maxrss survives an exec: a child would start with the peak of the test run itself.
_PROGRAM = """
import json, resource, sys
from pathlib import Path
from featbank.extraction import extract
done = extract(sys.argv[1], backbone="minivgg", cuts=["block1_pool"], image_size=128, precision="float32",
               cache_dir=sys.argv[2])
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
unit = 1 if sys.platform == "darwin" else 1024
peak_bytes = peaks[0] if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps({"pushed": done.pushed, "peak_bytes": peak_bytes}))
"""


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
