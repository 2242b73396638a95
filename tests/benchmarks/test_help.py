"""How long commands take that compute nothing; by hand (`make bench`). The target is half a second."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

TARGET_S = 0.5


@pytest.mark.parametrize("arguments", [["--help"], ["banks", "ls"]], ids=" ".join)
def test_commands_that_compute_nothing_answer_at_once(arguments: list[str], tmp_path: Path) -> None:
    durations = []
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "featbank", *arguments], capture_output=True, cwd=tmp_path, check=False
        )
        durations.append(time.perf_counter() - started)
        assert done.returncode == 0, done.stderr.decode()
    best, median = min(durations), sorted(durations)[2]
    verdict = "within" if median <= TARGET_S else "OVER"
    print(  # noqa: T201
        f"\nfeatbank {' '.join(arguments)}: median {median:.2f} s, best {best:.2f} s, {verdict} {TARGET_S} s"
    )
