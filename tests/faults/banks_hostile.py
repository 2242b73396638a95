"""Banks made to do harm: each breaks one rule of what is let in; none may open, run, write or take anything.

``python tests/faults/banks_hostile.py`` prints a table; `run` gives the figures. The import runs under strace
where there is one, so that an attempt to open a file is seen even if it fails.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import hostile_chunks  # noqa: F401 - registers its cases
import hostile_contents  # noqa: F401 - registers its cases
import hostile_folders  # noqa: F401 - registers its cases
import hostile_headers  # noqa: F401 - registers its cases
import made_bank
from hostile_cases import CASES

SECRET = b"secret that must not be read" * 10


def prepare(place: Path) -> tuple[Path, Path]:
    """Make the good pack and folder that all cases start from."""
    bank = made_bank.make(place / "good")
    return made_bank.packed(bank, place / "good.h5"), bank.path


def make_all(place: Path) -> dict[str, Path]:
    """Make every case in a folder of its own, each with its secrets."""
    pack, folder = prepare(place)
    made = {}
    for number, (name, (make, _)) in enumerate(CASES.items()):
        room = place / str(number)
        room.mkdir()
        for secret in ("secret.bin", "secret.h5"):
            (room / secret).write_bytes(SECRET)
        made[name] = make(room, pack, folder)
    return made


def attempt(path: Path, says: str, store: Path) -> dict[str, Any]:
    """Take one bank in; what came of it."""
    from featbank.banks import BankStore, import_bank
    from featbank.errors import FeatbankError

    started = time.monotonic()
    try:
        import_bank(path, BankStore(store))
        outcome = "accepted"
    except FeatbankError as error:
        outcome = (
            "refused" if re.search(says, str(error)) and "\x1b" not in str(error) else f"other words: {error}"
        )
    except BaseException as error:  # noqa: BLE001 - a traceback is what this looks for
        outcome = f"crash: {error!r}"
    left = [str(one) for one in store.rglob("*")] if store.exists() else []
    return {
        "outcome": outcome,
        "archive": attempt_archive(path),
        "left": left,
        "duration_s": time.monotonic() - started,
    }


def attempt_archive(path: Path) -> str:
    """Open one as an archive, without unpacking it, and verify it; what came of it."""
    from featbank.banks import Archive
    from featbank.errors import FeatbankError

    try:
        with Archive(path) as archive:
            try:
                archive.verify()
            except FeatbankError:
                return "refused by verify"
            return "accepted"
    except FeatbankError as error:
        return "refused" if "\x1b" not in str(error) else f"words: {error!r}"
    except BaseException as error:  # noqa: BLE001 - a traceback is what this looks for
        return f"crash: {error!r}"


def worker(place: Path) -> dict[str, Any]:
    """Take in all cases that stand below `place`."""
    paths = json.loads((place / "cases.json").read_text())
    made_bank.make(place / "warm")  # everything that is imported late is there
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (place / "begin").touch()  # what is traced from here on is the work of the banks
    results = {
        name: attempt(Path(path), CASES[name][1], place / "stores" / str(number))
        for number, (name, path) in enumerate(paths.items())
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"results": results, "peak_bytes": peak, "more_bytes": peak - before}


def run(scale: float = 1.0) -> dict[str, Any]:
    """Run all cases; the scale does not matter, they take seconds."""
    with tempfile.TemporaryDirectory(prefix="featbank-hostile-") as temporary:
        place = Path(temporary)
        paths = make_all(place)
        (place / "cases.json").write_text(json.dumps({name: str(path) for name, path in paths.items()}))
        (place / "plugins").mkdir()
        (place / "plugins" / "libfilter.so").write_bytes(b"\x7fELF")
        strace = shutil.which("strace")
        log = place / "strace.log"
        traced = [
            strace,
            "-f",
            "-qq",
            "-s",
            "4096",
            "-e",
            "trace=open,openat,openat2,execve,connect,bind",
            "-o",
            str(log),
        ]
        command = [sys.executable, str(Path(__file__).absolute()), "--worker", str(place)]
        environment = {**os.environ, "HDF5_PLUGIN_PATH": str(place / "plugins"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*(traced if strace else []), *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return {"ok": False, "figures": {"crashes": 1}, "bad": [done.stderr[-2000:]]}
        said = json.loads(done.stdout)
        traced_calls = log.read_text(errors="replace").partition(f"{place}/begin")[2] if strace else ""
        lines = traced_calls.splitlines()
    results = said["results"]
    bad = [
        f"{name}: {one['outcome']} {one['left']}"
        for name, one in results.items()
        if one["outcome"] != "refused" or one["left"]
    ]
    bad += [
        f"{name} as an archive: {one['archive']}"
        for name, one in results.items()
        if one["archive"] not in ("refused", "refused by verify")
    ]
    foreign = [
        line
        for line in lines
        if re.search(rf"secret\.(bin|h5)|{place}/plugins|hdf5/lib/plugin|/dev/zero", line)
    ]
    started = [line for line in lines if "execve(" in line and "= 0" in line]
    bad += foreign[:10]
    bad += started
    return {
        "ok": not bad,
        "figures": {
            "hostile_banks": len(results),
            "refused": sum(one["outcome"] == "refused" for one in results.values()),
            "crashes": sum(one["outcome"].startswith("crash") for one in results.values()),
            "foreign_files_opened": len(foreign) if strace else "not traced",
            "programs_run": len(started) if strace else "not traced",
            "peak_MB": round(said["peak_bytes"] / 1e6),
            "of_which_the_banks_MB": round(said["more_bytes"] / 1e6),
            "slowest_s": round(max(one["duration_s"] for one in results.values()), 2),
        },
        "bad": bad,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        sys.stdout.write(json.dumps(worker(Path(sys.argv[2]))))
    else:
        sys.stdout.write(json.dumps(run(), indent=1) + "\n")
