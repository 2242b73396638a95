"""Decoding processes end with the call that started them, also when it fails and its exception is kept."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from world import make_images

_PATIENCE_S = 2.0


def children() -> set[int]:
    """Return the processes of this one that run; torch may have threads, but starts no process here."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(parent) == os.getpid() and state not in "ZX":
            found.add(int(stat.parent.name))
    return found


def stop(*_: Any) -> None:
    """Fail, as a callback of the user's may."""
    raise RuntimeError("stopped")


def interrupt(*_: Any) -> None:
    """Be interrupted, as by a key."""
    raise KeyboardInterrupt


def failures(folder: Path) -> dict[str, Callable[[], Any]]:
    """Return extractions that end in other ways than well, and two that do nothing but plan."""
    import featbank
    from featbank.cli import main as cli
    from featbank.extraction import ExtractionPlan, ExtractionSettings, plan

    data = folder / "images"

    def settings(name: str, **options: Any) -> dict[str, Any]:
        fixed = {"backbone": "minivgg", "cuts": ["fc7"], "precision": "float32", "compile": "off"}
        return {**fixed, "cache_dir": folder / name, "workers": 2, "batch_size": 4, **options}

    def extract(name: str, **options: Any) -> Any:
        return featbank.extract(data, **settings(name, **options))

    def gone(*_: Any) -> None:
        for bank in folder.glob("d/banks/images/*"):
            shutil.rmtree(bank)

    def dry_run() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            cli(["extract", str(data), "--cut", "fc7", "--dry-run", "--cache-dir", str(folder / "e")])

    def planned(end: Callable[[ExtractionPlan], None]) -> Callable[[], None]:
        def run() -> None:
            made = plan(data, ExtractionSettings(**settings("planned")), measure=True)
            end(made)
            kept.append(made)

        return run

    kept: list[Any] = []

    def other_images() -> None:
        """Be refused after a batch was decoded to choose the precision."""
        make_images(folder / "other" / "images", 8)
        extract("same-name")
        shutil.rmtree(data)
        (folder / "other" / "images").rename(folder / "elsewhere")
        featbank.extract(folder / "elsewhere", **settings("same-name", name="images", precision="bfloat16"))

    def repair() -> None:
        bank = extract("repaired").bank
        for shard in (bank / "fc7").glob("*.h5"):
            shard.write_bytes(b"")
        featbank.repair_bank(bank, progress=stop, workers=2)

    return {
        "the user's callback fails": lambda: extract("a", progress=stop),
        "interrupted": lambda: extract("b", progress=interrupt),
        "on_plan fails": lambda: extract("c", on_plan=stop),
        "the bank goes away": lambda: extract("d", progress=gone),
        "a repair fails": repair,
        "a dry run": dry_run,
        "a plan that is closed": planned(lambda made: made.close()),
        "other images of the name": other_images,
    }


def main() -> int:
    """Print the result as JSON."""
    folder = Path(tempfile.mkdtemp(prefix="featbank-faults-"))
    bad: list[str] = []
    kept, n_calls, left = [], 0, 0
    try:
        make_images(folder / "images", 24)
        for name, call in failures(folder).items():
            before = children()
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - kept, as a notebook does
                kept.append(error)
            end = time.monotonic() + _PATIENCE_S
            while (alive := children() - before) and time.monotonic() < end:
                time.sleep(0.02)
            n_calls += 1
            left += len(alive)
            bad += [f"after {name}: process {one} is left" for one in sorted(alive)]
    finally:
        shutil.rmtree(folder)
    if len(kept) < n_calls - 2:
        bad.append(f"only {len(kept)} of the calls failed")
    figures = {"calls": n_calls, "exceptions kept": len(kept), "decoding processes left": left}
    sys.stdout.write(json.dumps({"figures": figures, "bad": bad[:5], "ok": not bad}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
