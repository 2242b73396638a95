"""Time and memory of a manifest of a million images, none of which exists; by hand (`make bench`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# The folders are listed, and the files looked at and read, in name only; all else is what an extraction does.
_PROGRAM = """
import json, os, sys, time
from pathlib import Path

n, folder = int(sys.argv[1]), os.fsencode(sys.argv[2])
before = os.stat(folder)
from featbank.datasets import _folder, build_manifest, open_dataset
from featbank._cache import DigestCache

class Entry:
    def __init__(self, name, folder):
        self.name, self.is_folder = name, folder
    def is_file(self, follow_symlinks=True):
        return not self.is_folder
    def is_symlink(self):
        return False
    def stat(self):
        return before

class Listing(list):
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass

def scandir(path):
    if not isinstance(path, bytes):
        return original[1](path)
    if path.rstrip(b"/") == folder:
        return Listing(Entry(b"class-%03d" % at, True) for at in range(100))
    first = n // 100 * int(path[-3:])
    return Listing(Entry(b"%08d.jpg" % at, False) for at in range(first, first + n // 100))

original = os.stat, os.scandir
os.scandir = scandir
def stat(path, **options):
    made_up = isinstance(path, bytes) and b"/class-" in path
    return original[0](folder if made_up else path, **options)
os.stat = stat
_folder.read_regular_file = bytes

def peak_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")][0]

start, started = peak_bytes(), time.process_time()
dataset = open_dataset(Path(os.fsdecode(folder)))
scanned = time.process_time()
digests = DigestCache(Path(sys.argv[3]), settle_s=-1e9)
manifest = build_manifest(dataset, digests=digests)
built = time.process_time()
digests.save()
print(json.dumps({
    "rows": len(manifest), "peak_bytes": peak_bytes() - start, "scan_s": scanned - started,
    "manifest_s": built - scanned, "save_s": time.process_time() - built,
}))
"""


def measured(n_rows: int, folder: Path, cache: Path) -> dict[str, float]:
    call = [sys.executable, "-c", _PROGRAM, str(n_rows), str(folder), str(cache)]
    found = json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert found["rows"] == n_rows
    return dict(found)


def test_a_million_rows(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for time in ("first", "second"):
        small, large = (measured(n, folder, tmp_path / f"digests-{n}") for n in (100_000, 1_000_000))
        slope = (large["peak_bytes"] - small["peak_bytes"]) / 900_000
        said = ", ".join(f"{name[:-2]} {large[name]:.1f} s" for name in ("scan_s", "manifest_s", "save_s"))
        print(f"\n{time} time, 1,000,000 images: {slope:.0f} bytes a row, {said}", end="")  # noqa: T201
        assert slope <= 250
