"""How long commands take that push nothing, and whether they imported torch; by hand (`make bench`).

Wanted: `--help` and `banks ls` under half a second, a second extraction of 1,280 photographs under 1.5 s and
without torch, a prediction under 3 s, one head on the digits with its figures under 2.5 s. Beside the seconds
stand those of the processor, which tell more where other programs run, and those of importing by itself what
a head and a figure need. Modules are compiled once, as pip does when it installs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Relative to the checkout, as people type it.
PHOTOGRAPHS = "../shared/data/caltech101-32"
REPEATS = 3
#: What no fit with figures does without.
FLOOR = "import scipy.linalg, sklearn.linear_model, h5py, matplotlib.figure, matplotlib.backends.backend_agg"
#: Seconds by the clock and of the processor, and what was imported.
Seen = tuple[float, float, str]
#: Runs the command line in this process and says what it imported.
WATCHED = """
import sys
from featbank.cli import main
try:
    main()
finally:
    print("imported", *(name for name in ("torch", "torch._dynamo") if name in sys.modules), file=sys.stderr)
"""


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., Seen]:
    """Run a program in the checkout, on a cache of this test."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "FEATBANK_CACHE": str(tmp_path / "cache"),
        "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled"),
    }

    def run(code: str, *arguments: str) -> Seen:
        before, started = os.times(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        duration_s, after = time.perf_counter() - started, os.times()
        assert done.returncode == 0, done.stderr
        said = [one for one in done.stderr.splitlines() if one.startswith("imported")]
        computed_s = after.children_user + after.children_system - before.children_user
        return duration_s, computed_s - before.children_system, "".join(said).removeprefix("imported").strip()

    return run


@pytest.fixture
def featbank(python: Callable[..., Seen]) -> Callable[..., Seen]:
    """Run a command."""
    return partial(python, WATCHED)


def tell(command: str, run: Callable[[], Seen], wanted_s: float | None = None) -> None:
    run()  # what is compiled and remembered once
    seen = [run() for _ in range(REPEATS)]
    durations, computed = (sorted(one[at] for one in seen) for at in (0, 1))
    median_s = durations[len(durations) // 2]
    within = "" if wanted_s is None else f"{'within' if median_s <= wanted_s else 'OVER'} {wanted_s} s; "
    print(  # noqa: T201
        f"\n{command}: median {median_s:.2f} s of {len(seen)}, best {durations[0]:.2f} s, of the processor "
        f"{computed[len(computed) // 2]:.2f} s; {within}imported {seen[-1][2] or 'no torch'}"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["banks", "ls"]], ids=" ".join)
def test_commands_that_compute_nothing(featbank: Callable[..., Seen], arguments: list[str]) -> None:
    tell(f"featbank {' '.join(arguments)}", lambda: featbank(*arguments), 0.5)


def test_one_head_on_the_digits(python: Callable[..., Seen], featbank: Callable[..., Seen]) -> None:
    extract = ("extract", "digits", "--backbone", "minivgg", "--cut", "fc7")
    featbank(*extract)
    tell("extract digits (nothing to push)", lambda: featbank(*extract), 1.5)
    tell("importing numpy, scipy, scikit-learn, h5py, matplotlib", lambda: python(FLOOR))
    tell("importing torch", lambda: python("import torch"))
    for head in ("ncm", "logreg", "softmax"):
        fit = ("fit-head", "--cut", "fc7", "--head", head, "--samples-per-class", "8", "--repeats", "1")
        tell(f"fit-head --head {head}", lambda fit=fit: featbank(*fit), 2.5)  # type: ignore[misc]
    tell("plot curve", lambda: featbank("plot", "curve"), 1.5)


@pytest.mark.shared
def test_a_second_extraction_and_a_prediction(featbank: Callable[..., Seen]) -> None:
    if not (ROOT / PHOTOGRAPHS).is_dir():
        pytest.skip(f"{PHOTOGRAPHS} is not there")
    extract = ("extract", PHOTOGRAPHS, "--backbone", "minivgg", "--cut", "fc7")
    print(f"\nthe first extraction: {featbank(*extract)[0]:.1f} s")  # noqa: T201
    tell("extract (nothing to push)", lambda: featbank(*extract), 1.5)
    featbank("fit-head", "--cut", "fc7", "--head", "softmax", "--samples-per-class", "4", "--repeats", "1")
    image = next((ROOT / PHOTOGRAPHS).rglob("*.jpg")).relative_to(ROOT / PHOTOGRAPHS)
    tell("predict", lambda: featbank("predict", "last", f"{PHOTOGRAPHS}/{image}"), 3.0)
