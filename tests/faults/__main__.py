"""The fault bench: ``python tests/faults [--scale 1] [--only NAME ...] [--json FILE]``.

Each scenario breaks one thing on purpose, hundreds of times, and counts what was lost, damaged or silent.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded: children are forked

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Scenario = Callable[[Any, float], dict[str, Any]]


def scaled(whole: int, scale: float, least: int = 1) -> int:
    """Return so many of `whole` as `scale` (1 is the full form) asks for."""
    return max(least, round(whole * scale))


def scenarios() -> dict[str, Scenario]:
    """Return the scenarios in the order in which they run."""
    import banks_hostile
    import banks_mutated
    from bit_flips import bit_flips
    from bucket import bucket
    from combinations import combinations
    from foreign import foreign_modules
    from full_disk import failing_calls, small_disk
    from handles import handle_across_manifest_change, hosts_in_turn
    from kills import every_call, kills
    from names import names
    from neighbours import at_once, dry_run_beside, moved
    from power_loss import power_loss
    from saves import saves
    from slices import slices
    from stops import stops

    return {
        "kills-1": lambda world, scale: kills(world, scaled(200, scale, 4), processes=1),
        "kills-3": lambda world, scale: kills(world, scaled(200, scale, 4), processes=3),
        "every-call": every_call,
        "stops": lambda world, scale: stops(world, scaled(200, scale, 6)),
        "errno": failing_calls,
        "small-disk": lambda world, scale: small_disk(world, scaled(60, scale, 6)),
        "power-loss": lambda world, scale: power_loss(world, scaled(2000, scale, 30)),
        "at-once": lambda world, scale: at_once(world, scaled(100, scale, 4)),
        "slices": lambda world, scale: slices(world, scaled(200, scale, 3)),
        "dry-run-beside-extraction": lambda world, scale: dry_run_beside(world, scaled(60, scale, 4)),
        "moved": moved,
        "bucket": lambda world, scale: bucket(world, scaled(40, scale, 2)),
        "handle-across-manifest-change": lambda world, scale: handle_across_manifest_change(
            world, scaled(200, scale, 8)
        ),
        "hosts-in-turn": lambda world, scale: hosts_in_turn(world, scaled(40, scale, 4)),
        # a small share of the bits is many already
        "bit-flips": lambda world, scale: bit_flips(world, scale if scale > 0.1 else scale / 5),
        "saves": lambda world, scale: saves(world, scaled(200, scale, 12)),
        "names": lambda world, scale: names(world, scaled(10_000, scale, 200)),
        "combinations": combinations,
        "foreign-modules": lambda world, scale: foreign_modules(world, short=scale < 0.1),
        "hostile-banks": lambda world, scale: banks_hostile.run(scale),
        "mutated-banks": lambda world, scale: banks_mutated.run(scale),
        "ray-extract": lambda world, scale: alone("ray_cluster.py", "extract", "--scale", str(scale)),
        "ray-sweep": lambda world, scale: alone("ray_cluster.py", "sweep", "--scale", str(scale)),
        "decoders": lambda world, scale: alone("decoders.py"),
        "estimators": lambda world, scale: alone("estimators.py"),
        "image-corpus": lambda world, scale: alone("images_corpus.py"),
        "mutated-images": lambda world, scale: alone("images_mutated.py", "--scale", str(scale)),
        "mutated-runs-and-studies": lambda world, scale: alone("runs_mutated.py", "--scale", str(scale)),
        "hostile-weights": lambda world, scale: alone("weights_hostile.py"),
    }


def alone(file: str, *options: str) -> dict[str, Any]:
    """Run a scenario in a process of its own: this one decodes without processes, and has no clock."""
    command = [sys.executable, str(Path(__file__).with_name(file)), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"figures": {"exit code": done.returncode}, "bad": [done.stderr[-2000:]], "ok": False}
    return result


def main() -> int:
    """Run what was asked for; 0 if every scenario met its target."""
    parser = argparse.ArgumentParser(prog="python tests/faults", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is the full form; 0.1 a tenth of it")
    parser.add_argument("--only", nargs="*", default=None, help="names of scenarios")
    parser.add_argument("--json", type=Path, default=None, help="also write the results here")
    chosen = parser.parse_args()
    known = scenarios()
    names = chosen.only or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}; there are {', '.join(known)}")
    from world import World

    world = World()
    results: dict[str, Any] = {}
    for name in names:
        started = time.monotonic()
        try:
            one = known[name](world, chosen.scale)
        except Exception as error:  # noqa: BLE001 - the others still run
            one = {"ok": False, "figures": {"error": repr(error)}, "bad": [traceback.format_exc()]}
        one["duration_s"] = round(time.monotonic() - started, 1)
        results[name] = one
        sys.stderr.write(f"{name}: {'ok' if one['ok'] else 'NOT OK'} ({one['duration_s']} s)\n")
        if not one["ok"]:  # at once: the others take most of an hour
            sys.stderr.write(f"{one['figures']}\n" + "".join(f"  {said}\n" for said in one["bad"]))
        text = json.dumps({"scale": chosen.scale, "results": results}, indent=1)
        if chosen.json is not None:  # after each: who stops it keeps what was seen
            chosen.json.write_text(text + "\n")
    sys.stdout.write(text + "\n\n" + table(results))
    return 0 if all(one["ok"] for one in results.values()) else 1


def table(results: dict[str, Any]) -> str:
    """Return one line for each scenario, for docs/background/reliability.md."""
    lines = []
    for name, one in results.items():
        said = ", ".join(
            f"{value} {what}" if isinstance(value, int) else f"{what} {value}"
            for what, value in one["figures"].items()
        )
        lines.append(f"{'ok    ' if one['ok'] else 'NOT OK'} {name:14} {one['duration_s']:7.1f} s  {said}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
