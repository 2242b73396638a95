"""How long commands take that push nothing, and whether they imported torch; by hand (`make bench`).

Wanted: `--help` and `banks ls` under half a second, a second extraction of 1,280 photographs under 1.5 s and
without torch, a prediction under 3 s.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Relative to the checkout, as people type it.
PHOTOGRAPHS = "../shared/data/caltech101-32"
REPEATS = 3
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
def featbank(tmp_path: Path) -> Callable[..., tuple[float, str]]:
    """Run a command in the checkout, on a cache of this test; returns the seconds and what was imported."""

    def run(*arguments: str) -> tuple[float, str]:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, *arguments],
            cwd=ROOT,
            env={**os.environ, "FEATBANK_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )
        duration_s = time.perf_counter() - started
        assert done.returncode == 0, done.stderr
        (line,) = (one for one in done.stderr.splitlines() if one.startswith("imported"))
        return duration_s, line.removeprefix("imported").strip() or "no torch"

    return run


def tell(command: str, seen: list[tuple[float, str]], wanted_s: float) -> None:
    durations = sorted(duration_s for duration_s, _ in seen)
    median_s = durations[len(durations) // 2]
    print(  # noqa: T201
        f"\nfeatbank {command}: median {median_s:.2f} s of {len(seen)}, best {durations[0]:.2f} s, "
        f"{'within' if median_s <= wanted_s else 'OVER'} {wanted_s} s; imported {seen[-1][1]}"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["banks", "ls"]], ids=" ".join)
def test_commands_that_compute_nothing(
    featbank: Callable[..., tuple[float, str]], arguments: list[str]
) -> None:
    tell(" ".join(arguments), [featbank(*arguments) for _ in range(REPEATS)], 0.5)


@pytest.mark.shared
def test_a_second_extraction_and_a_prediction(featbank: Callable[..., tuple[float, str]]) -> None:
    if not (ROOT / PHOTOGRAPHS).is_dir():
        pytest.skip(f"{PHOTOGRAPHS} is not there")
    extract = ("extract", PHOTOGRAPHS, "--backbone", "minivgg", "--cut", "fc7")
    print(f"\nthe first extraction: {featbank(*extract)[0]:.1f} s")  # noqa: T201
    tell("extract (nothing to push)", [featbank(*extract) for _ in range(REPEATS)], 1.5)
    featbank("fit-head", "--cut", "fc7", "--head", "softmax", "--samples-per-class", "4", "--repeats", "1")
    image = next((ROOT / PHOTOGRAPHS).rglob("*.jpg")).relative_to(ROOT / PHOTOGRAPHS)
    predict = ("predict", "last", f"{PHOTOGRAPHS}/{image}")
    tell("predict", [featbank(*predict) for _ in range(REPEATS)], 3.0)
