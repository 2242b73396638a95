"""Everything that needs a card, in one go: ``PYTHONPATH=. python3 tests/gpu [--steps 2,3] [--toy]``.

Twelve steps, each in a process of its own with a limit of its own; at most seven minutes in all. Nothing is
installed, no file is fetched. What a step sees is appended to ``results.jsonl`` in the folder that ``--out``
names at once, so that whatever ends the script, it stays; the last step writes ``table.txt`` beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
from pathlib import Path

import driving

#: Seconds for all steps but the table, whatever their own limits add up to.
_ALL_S = 410


def main() -> int:
    """Run the script, or one step of it."""
    parser = argparse.ArgumentParser(prog="tests/gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="where results go")
    parser.add_argument("--steps", help="numbers of the steps to run, such as 2,3,10; all of them otherwise")
    parser.add_argument("--toy", action="store_true", help="everything tiny, on the CPU if there is no card")
    parser.add_argument("--images", type=Path, help="a folder of JPEG photographs, instead of drawn ones")
    parser.add_argument(
        "--slower", type=float, default=1, help="allow so many times the seconds, on a slow or busy machine"
    )
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step is None and given.variant is None:
        return run_all(given)
    import logging

    import networks
    import steps
    from bench import Bench

    logging.getLogger("featbank").setLevel(logging.ERROR)  # random weights, few images: that is known
    bench = Bench(6 if given.step is None else given.step, given.out, given.work, given.toy, given.images)
    if given.variant is not None:
        networks.variant(bench, given.variant)
        return 0
    name, run, _ = steps.STEPS[given.step]
    if run is not steps.table and not bench.on_card:
        if not bench.toy:
            raise SystemExit("no card here; --toy runs every step on the CPU at toy size")
        with bench.part(name) as note:
            note("no card: ran on the CPU at toy size")
    run(bench)
    return 0


def run_all(given: argparse.Namespace) -> int:
    """Run the steps asked for; returns 0 if all ended by themselves and every check held."""
    import json

    import steps

    if importlib.util.find_spec("featbank") is None:
        raise SystemExit("featbank is not found: run this at the top of the checkout with PYTHONPATH=.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended
    given.out.mkdir(parents=True, exist_ok=True)
    results = given.out.absolute() / "results.jsonl"
    results.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="featbank-gpu-") as work:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(work) / "compiler")
        command = [sys.executable, str(Path(__file__).parent), "--out", str(results.parent), "--work", work]
        command += ["--toy"] if given.toy else []
        command += ["--images", str(given.images.absolute())] if given.images else []
        last = len(steps.STEPS) - 1
        # what the first step draws, others push
        wanted = {0, last, *map(int, given.steps.split(","))} if given.steps else range(last + 1)
        made = [
            driving.Step(number, name, [*command, "--step", str(number)], given.slower * limit_s)
            for number, (name, _, limit_s) in enumerate(steps.STEPS)
            if number in wanted
        ]
        # the table needs a moment, whatever the others took
        states = driving.drive(made[:-1], results, given.slower * _ALL_S)
        states += driving.drive(made[-1:], results, made[-1].limit_s)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    wrong = [f"{line['step']} {line['name']}" for line in lines if line.get("ok") is False]
    ended = [
        f"{step.number} {step.name}: {state}"
        for step, state in zip(made, states, strict=True)
        if state != "done"
    ]
    for one in (*ended, *wrong):
        print(f"NOT WELL: {one}")  # noqa: T201
    return 1 if ended or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
