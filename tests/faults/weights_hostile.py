"""Hostile weights files: refused before their tensors are read; no code run, no file opened, no memory."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_MARK = "from-here-on"
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "backbones"))


def attempts(folder: Path) -> dict[str, Any]:
    """Try to load each file here; returns what became of it, and the memory that took."""
    from hostile_weights import ARCHIVES, SAFETENSORS

    from featbank.backbones import load_backbone
    from featbank.errors import WeightsError

    state = dict(load_backbone("minivgg", weights="random").module.state_dict())
    found: dict[str, Any] = {}
    # What torch and torchvision load and start on their way is theirs.
    (folder / "warm.pth").write_bytes(ARCHIVES["wrong-shape"][0](state, folder))
    with contextlib.suppress(WeightsError):
        load_backbone("minivgg", weights=folder / "warm.pth")
    (folder / _MARK).mkdir()
    for suffix, cases in ((".safetensors", SAFETENSORS), (".pth", ARCHIVES)):
        for name, (make, said) in cases.items():
            path = folder / f"{name}{suffix}"
            path.write_bytes(make(state, folder))
            Path("/proc/self/clear_refs").write_text("5")
            before = _high_water_bytes()
            try:
                load_backbone("minivgg", weights=path)
                outcome = "loaded"
            except WeightsError as error:
                outcome = str(error)
            right = said in outcome
            found[path.name] = {
                "refused": right,
                "said": outcome,
                "peak_bytes": _high_water_bytes() - before,
                "code_run": (folder / "canary").exists(),
            }
    return found


def _high_water_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def run(scale: float) -> dict[str, Any]:
    """Try all of them in a process whose calls are watched; `scale` changes nothing.

    Returns
    -------
    dict
        ``figures``; ``bad``; ``ok``.
    """
    del scale
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "secret").write_text("secret")
        calls = Path(place) / "calls"
        command = [sys.executable, __file__, "--attempts", place]
        strace = shutil.which("strace")
        if strace:
            traced = "trace=openat,open,openat2,execve,execveat,mkdir,mkdirat"
            command = [strace, "-f", "-qq", "-e", traced, "-o", str(calls), *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"figures": {}, "bad": [done.stderr[-2000:]], "ok": False}
        watched = calls.read_text().partition(_MARK)[2] if strace else ""
    found = json.loads(done.stdout)
    opened = len(re.findall(r"open[^\n]*/secret\"", watched))
    ran = sum(one["code_run"] for one in found.values()) + watched.count("/canary")
    bad = [f"{name}: {one['said']}" for name, one in found.items() if not one["refused"]]
    started = len(re.findall(r"\bexecve(?:at)?\(", watched))
    figures = {
        "hostile files": len(found),
        "refused with the reason declared": sum(one["refused"] for one in found.values()),
        "code run": ran,
        "files opened that should not be": opened if strace else "not counted: no strace here",
        "programs started": started,
        "most memory": f"{max(one['peak_bytes'] for one in found.values()) / 2**20:.0f} MiB",
    }
    ok = not bad and not ran and not opened and not started
    return {"figures": figures, "bad": bad, "ok": ok}


def main() -> int:
    """Run the scenario alone; ``--attempts`` is how it calls itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=Path, default=None, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.attempts is not None:
        sys.stdout.write(json.dumps(attempts(chosen.attempts)))
        return 0
    result = run(1.0)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
