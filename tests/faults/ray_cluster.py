"""Three simulated Ray nodes: workers, nodes and the command itself are killed, and nothing is lost.

``python tests/faults/ray_cluster.py extract|sweep [--scale 1]`` prints figures as JSON.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded, here and on the nodes
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import argparse
import csv
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nodes import Nodes
from slices import said_of
from world import difference, make_images

N_IMAGES, SHARD_ROWS = 240, 2
EXTRACT = ["--backbone", "minivgg", "--cut", "block4_pool,fc7", "--precision", "float32", "--compile", "off"]
EXTRACT += ["--batch-size", "2", "--shard-rows", str(SHARD_ROWS), "--split", "0.6,0.2,0.2"]
#: Two cuts, five heads, four sizes, five repeats.
SWEEP = ["--cut", "block4_pool,fc7", "--head", "softmax,logreg,ncm,knn", "--n-neighbors", "1,3"]
SWEEP += ["--max-epochs", "20", "-n", "4,8,16,32", "--repeats", "5"]
N_FITS = 200


def featbank(*arguments: object) -> list[str]:
    """Return a command line."""
    return [sys.executable, "-m", "featbank", *map(str, arguments)]


def run(command: list[str]) -> str:
    """Run a command to its end; return what is wrong with that, or nothing."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"ended with {done.returncode}: {done.stderr[-500:]}"


def disturbed(
    command: list[str], steps: Callable[[], int], moments: dict[int, Callable[[], Any]], again: int
) -> tuple[str, int]:
    """Run a command, doing something when it has got so far, and kill it and run it again at one point.

    Parameters
    ----------
    command : list of str
    steps : callable
        Says how far it has got.
    moments : dict of int to callable
        Steps -> what is done then.
    again : int
        Steps at which the command itself is killed.

    Returns
    -------
    str
        What went wrong, empty if nothing.
    int
        How far it had got when it was killed.
    """
    left, killed_at = dict(sorted(moments.items())), -1
    while True:
        with tempfile.TemporaryFile("w+") as said:
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, text=True)
            while child.poll() is None:
                got = steps()
                for moment in [one for one in left if one <= got]:
                    left.pop(moment)()
                if killed_at < 0 and got >= again:
                    child.kill()
                    child.wait()
                    killed_at = got
                time.sleep(0.01)
            if child.returncode == -9 and killed_at >= 0 and again >= 0:
                again = -1
                continue
            said.seek(0)
            trouble = "" if child.returncode == 0 else f"ended with {child.returncode}: {said.read()[-500:]}"
            return trouble or (f"{len(left)} kills came too late" if left else ""), killed_at


def extraction(nodes: Nodes, root: Path, n_rounds: int, seed: int = 5) -> dict[str, Any]:
    """Push a bank with a worker, a node and the command killed; compare every byte with one machine's."""
    rng, found, bad = random.Random(seed), Counter[str](), list[str]()
    data = root / "images"
    make_images(data, N_IMAGES)
    trouble = run(featbank("extract", data, *EXTRACT, "--cache-dir", root / "whole"))
    if trouble:
        raise RuntimeError(trouble)
    whole, n_tasks = said_of(root / "whole"), N_IMAGES // SHARD_ROWS
    for _ in range(n_rounds):
        cache = root / "pushed"

        def kill_worker() -> None:
            found["workers killed"] += nodes.kill_worker()

        def kill_node() -> None:
            nodes.kill_node()
            found["nodes killed"] += 1

        moments = {rng.randrange(2, n_tasks // 3): kill_worker}
        moments[rng.randrange(n_tasks // 3, n_tasks // 2)] = kill_node
        asked = ["extract", data, *EXTRACT, "--cache-dir", cache]
        trouble, killed_at = disturbed(
            featbank(*asked, "--engine", "ray", "--address", nodes.address),
            lambda cache=cache: sum(1 for _ in cache.glob("banks/*/*/fc7/*.h5")),
            moments,
            rng.randrange(n_tasks // 2, 4 * n_tasks // 5),
        )
        found["commands killed"] += killed_at >= 0
        found["rounds"] += 1
        said = difference(said_of(cache), whole)
        found["banks identical"] += not said
        bad += [one for one in (trouble, *said[:3]) if one]
        nodes.add_node()
        shutil.rmtree(cache)
    figures = ("rounds", "workers killed", "nodes killed", "commands killed", "banks identical")
    return {
        "figures": {"tasks": n_tasks} | {name: found[name] for name in figures},
        "bad": bad[:3],
        "ok": not bad and found["banks identical"] == found["rounds"] == found["nodes killed"],
    }


def sweep(nodes: Nodes, root: Path, n_rounds: int, seed: int = 6) -> dict[str, Any]:
    """Fit 200 heads with a node and the command killed; compare ``results.csv`` with that of one machine."""
    rng, found, bad = random.Random(seed), Counter[str](), list[str]()
    asked = ["--backbone", "minivgg", "--cut", "block4_pool,fc7", "--limit", 900, "--cache-dir", root]
    trouble = run(featbank("extract", "digits", *asked))
    alone = ["fit-head", *SWEEP, "--cache-dir", root]
    trouble = trouble or run(featbank(*alone, "--name", "alone"))
    if trouble:
        raise RuntimeError(trouble)
    want = _results(root, "alone")
    for number in range(n_rounds):
        name = f"round-{number}"

        def kill_node() -> None:
            nodes.kill_node()
            found["nodes killed"] += 1

        def n_done(name: str = name) -> int:
            return sum(path.read_bytes().count(b"\n") for path in root.glob(f"runs/*-{name}/results.csv"))

        at_node, at_command = rng.sample(range(20, 180), 2)
        trouble, killed_at = disturbed(
            featbank(*alone, "--name", name, "--engine", "ray", "--address", nodes.address),
            n_done,
            {at_node: kill_node},
            at_command,
        )
        found["commands killed"] += killed_at >= 0
        found["rounds"] += 1
        got = _results(root, name)
        same = sorted(got) == sorted(want) and len(got) == len(set(got)) == N_FITS
        found["results equal"] += same
        bad += [one for one in (trouble, "" if same else f"{len(got)} fits, or others") if one]
        nodes.add_node()
    figures = ("rounds", "nodes killed", "commands killed", "results equal")
    return {
        "figures": {"fits": N_FITS} | {name: found[name] for name in figures},
        "bad": bad[:3],
        "ok": not bad and found["results equal"] == found["rounds"] == found["nodes killed"],
    }


def _results(root: Path, name: str) -> list[tuple[tuple[str, str], ...]]:
    """Return the lines of the one run of that name, but for the time each fit took."""
    (path,) = root.glob(f"runs/*-{name}/results.csv")
    with path.open(newline="") as file:
        return [tuple((k, v) for k, v in line.items() if k != "duration_s") for line in csv.DictReader(file)]


def main() -> int:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("extract", "sweep"))
    parser.add_argument("--scale", type=float, default=1.0)
    chosen = parser.parse_args()
    run_it = {"extract": extraction, "sweep": sweep}[chosen.what]
    nodes = Nodes()
    try:
        with tempfile.TemporaryDirectory(prefix="featbank-ray-") as root:
            found = run_it(nodes, Path(root), max(1, round(10 * chosen.scale)))
    finally:
        nodes.shutdown()
    sys.stdout.write(json.dumps(found) + "\n")
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
