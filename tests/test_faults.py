"""The fault bench in short: every scenario of ``tests/faults``; ``make faults`` runs it in full."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

BENCH = Path(__file__).parent / "faults"
#: Those of foreign banks have tests of their own.
SCENARIOS = [
    "kills-1",
    "kills-3",
    "every-call",
    "stops",
    "errno",
    "small-disk",
    "power-loss",
    "at-once",
    "slices",
    "dry-run-beside-extraction",
    "moved",
    *(["bucket"] if find_spec("moto") and find_spec("obstore") else []),
    "handle-across-manifest-change",
    "hosts-in-turn",
    "bit-flips",
    "saves",
    "names",
    "combinations",
    "foreign-modules",
    "estimators",
    "decoders",
    "mutated-runs-and-studies",
]


#: Each is a process of the bench, and a test: a bench for each scenario would say the same several times.
HALVES = (SCENARIOS[::2], SCENARIOS[1::2])


@pytest.mark.parametrize("half", [0, 1])
def test_nothing_is_lost_or_silent(tmp_path: Path, half: int) -> None:
    # a process of its own: the bench forks, and patches what it watches
    place, names = tmp_path / "results.json", HALVES[half]
    command = [sys.executable, str(BENCH), "--scale", "0.01", "--json", str(place), "--only", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert place.exists(), done.stderr
    results: dict[str, Any] = json.loads(place.read_text())["results"]
    assert sorted(results) == sorted(names)
    assert {name: (one["figures"], one["bad"]) for name, one in results.items() if not one["ok"]} == {}
    for name, one in results.items():
        assert one["figures"].get("kills", 4) >= (1 if name in ("slices", "bucket") else 4), name
    if "power-loss" in results:  # without fsync it fails
        assert float(results["power-loss"]["figures"]["share of these that fail"].rstrip("%")) > 40


def test_make_faults_runs_every_scenario_the_page_names() -> None:
    command = [sys.executable, str(BENCH), "--only", "all-there-are"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    known = set(said.rpartition("there are ")[2].strip().split(", "))
    assert set(SCENARIOS) < known
    page = Path(__file__).parents[1] / "docs" / "background" / "reliability.md"
    table = page.read_text().partition("| claim | scenario |")[2].partition("\n\n")[0]
    scenarios = " ".join(line.split("|")[2] for line in table.splitlines() if line.startswith("| "))
    named = set(re.findall(r"`([\w-]+)`", scenarios))
    assert len(named) > 12
    assert named <= known
