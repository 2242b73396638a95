"""The corpus of odd images, as declared: decoded here, in a whole extraction, and under strace."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "datasets"))
import corpus  # noqa: E402 - found beside the tests of datasets

_DECODE_ALL = """
import sys
from pathlib import Path
from featbank.datasets import decode_image
from featbank.errors import ImageDecodeError
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode_image(path.read_bytes())
    except ImageDecodeError:
        pass
"""


def run(scale: float) -> dict[str, Any]:
    """Check every specimen; `scale` changes nothing, the corpus is small.

    Returns
    -------
    dict
        ``figures``; ``bad`` (what is not as declared); ``ok``.
    """
    del scale
    bad: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        wanted = corpus.write_folder(folder)
        figures: dict[str, Any] = {
            "files": len(wanted),
            "as declared when decoded": sum(_as_declared(one, bad) for one in wanted.values()),
            "as declared in an extraction": _extracted(folder, wanted, Path(place) / "cache", bad),
        }
        figures["processes started (strace)"] = _started(folder / "a", bad)
    figures |= _peaks(bad)
    whole = figures["files"]
    ok = not bad and figures["as declared when decoded"] == figures["as declared in an extraction"] == whole
    return {"figures": figures, "bad": bad, "ok": ok}


def _as_declared(specimen: corpus.Specimen, bad: list[str]) -> bool:
    from featbank.datasets import decode_image
    from featbank.errors import ImageDecodeError

    try:
        pixels = np.asarray(decode_image(specimen.make())).astype(int)
    except ImageDecodeError as error:
        right, said = error.reason == specimen.reason, str(error)
    else:
        expected = None if specimen.pixels is None else specimen.pixels()
        right = (
            expected is not None
            and expected.shape == pixels.shape
            and np.abs(pixels - expected).max() <= specimen.tolerance
        )
        said = f"pixels {pixels.shape}"
    if not right:
        bad.append(f"{specimen.name!r}: {said}, declared {specimen.reason or 'pixels'}")
    return bool(right)


def _extracted(folder: Path, wanted: dict[bytes, corpus.Specimen], cache: Path, bad: list[str]) -> int:
    import featbank
    from featbank.banks import Bank

    result = featbank.extract(
        folder,
        backbone="minivgg",
        weights="random",
        cuts=["block1_pool"],
        precision="float32",
        cache_dir=cache,
    )
    bank = Bank.open(result.bank)
    reasons = {record.id: record.reason for record in bank.quarantine()}
    readable = {bank.manifest.ids[row] for row in bank.manifest.rows()}
    right = 0
    for one, specimen in wanted.items():
        as_declared = reasons.get(one) == specimen.reason and (one in readable) == (specimen.reason is None)
        right += as_declared
        if not as_declared:
            bad.append(f"{one!r}: {reasons.get(one)} in quarantine.jsonl, declared {specimen.reason}")
    return right


def _started(folder: Path, bad: list[str]) -> int | str:
    """Count the programs that decoding starts, this interpreter's own start left out."""
    strace = shutil.which("strace")
    if strace is None:
        return "not counted: no strace here"
    command = [
        strace,
        "-f",
        "-qq",
        "-e",
        "trace=execve,execveat",
        sys.executable,
        "-c",
        _DECODE_ALL,
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    started = len(re.findall(r"\bexecve(?:at)?\(", done.stderr)) - 1
    if started or done.returncode:
        bad.append(f"decoding started programs: {done.stderr[-2000:]}")
    return started


def _peaks(bad: list[str]) -> dict[str, Any]:
    if sys.platform != "linux":
        return {}
    done = subprocess.run(
        [sys.executable, corpus.__file__, "--peak"], capture_output=True, text=True, check=True
    )
    bombs = {name: one for name, one in json.loads(done.stdout).items() if one["bomb"]}
    bad += [
        f"{name}: {one}"
        for name, one in bombs.items()
        if one["peak_bytes"] > 16 << 20 or one["duration_s"] > 1
    ]
    return {
        "bombs": len(bombs),
        "most memory of a bomb": f"{max(one['peak_bytes'] for one in bombs.values()) / 2**20:.1f} MiB",
        "longest time of a bomb": f"{max(one['duration_s'] for one in bombs.values()) * 1000:.0f} ms",
    }


def main() -> int:
    """Run the scenario alone."""
    result = run(1.0)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
