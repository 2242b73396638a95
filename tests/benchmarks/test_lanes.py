"""Whole extractions against those of the commit before lanes, turn by turn; by hand (`make bench`).

Wanted: 1.10 (VGG16), 1.15 (ResNet18) and 1.3 (MobileNetV2) times as fast on a quiet machine, 1.6 beside one
busy loop, never slower beside two. $FEATBANK_BENCH_REPEATS says how many rounds (3), $FEATBANK_BENCH_LIMIT
how many images instead of those below.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from featbank.benchmark._neighbours import neighbours

ROOT = Path(__file__).parents[2]
BEFORE = "42e6cd4"
REPEATS = int(os.environ.get("FEATBANK_BENCH_REPEATS", "3"))
MOBILENET = "mobilenet_v2-imagenet1k.safetensors"

#: Extracts into a new cache; says how long it took in all, imports too, and the rate from the first stored
#: images on.
SCRIPT = """
import json, sys, time
started = time.perf_counter()
import featbank
from featbank import extract
given = json.loads(sys.argv[1])
assert featbank.__file__.startswith(given.pop("tree")), featbank.__file__
seen = []
done = extract(**given, progress=lambda count, total: seen.append((time.perf_counter(), count)))
ended = time.perf_counter()
rate = (done.pushed - seen[0][1]) / (ended - seen[0][0])
print(json.dumps({"whole": done.pushed / (ended - started), "pass": rate}))
"""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The checkout of the commit before, as a worktree of this one."""
    tree = tmp_path_factory.mktemp("before") / "checkout"
    git = ["git", "-C", str(ROOT), "worktree"]
    if subprocess.run(
        [*git, "add", "--detach", str(tree), BEFORE], capture_output=True, check=False
    ).returncode:
        pytest.skip(f"commit {BEFORE} is not in this repository")
    try:
        yield tree
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def extract(tree: Path, cache: Path, **given: object) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps({"tree": str(tree), "cache_dir": str(cache), **given})],
        env={**os.environ, "PYTHONPATH": str(tree)},
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.shared
@pytest.mark.parametrize(("n_neighbours", "always"), [(0, None), (1, 1.6), (2, 1.0)])
@pytest.mark.parametrize(
    ("backbone", "cut", "weights", "limit", "quiet"),
    [
        ("vgg16", "block4_pool", "random", 192, 1.10),
        ("resnet18", "layer4", "random", 512, 1.15),
        ("mobilenet_v2", "avgpool", MOBILENET, 1024, 1.3),
    ],
)
def test_against_the_commit_before(
    shared: Path,
    before: Path,
    tmp_path: Path,
    backbone: str,
    cut: str,
    weights: str,
    limit: int,
    quiet: float,
    n_neighbours: int,
    always: float | None,
) -> None:
    photographs, file = shared / "data" / "caltech101-32", shared / "weights" / weights
    if not photographs.is_dir() or not (weights == "random" or file.is_file()):
        pytest.skip(f"{photographs} or {file} is not there")
    given = {
        "data": str(photographs),
        "backbone": backbone,
        "cuts": [cut],
        "weights": weights if weights == "random" else str(file),
        "limit": int(os.environ.get("FEATBANK_BENCH_LIMIT", limit)),
    }
    ratios: dict[str, list[float]] = {"whole": [], "pass": []}
    with neighbours(n_neighbours):
        for number in range(REPEATS):
            rates = [
                extract(tree, tmp_path / f"{name}{number}", **given)
                for name, tree in (("old", before), ("new", ROOT))
            ]
            print(f"\n{backbone} {cut} beside {n_neighbours}: {rates[0]}, now {rates[1]}")  # noqa: T201
            for what, found in ratios.items():
                found.append(rates[1][what] / rates[0][what])
    medians = ", ".join(f"{what} {statistics.median(found):.2f}" for what, found in ratios.items())
    print(  # noqa: T201
        f"{backbone} {cut} beside {n_neighbours} busy loops, images/s now over those of {BEFORE}: {medians}; "
        f"wanted {always or quiet}"
    )
