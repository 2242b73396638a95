"""The fault bench in short: every scenario of ``tests/faults``; ``make faults`` runs it in full."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
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


#: Each is a process of the bench, and where tests have two processes each has one.
HALVES = (SCENARIOS[::2], SCENARIOS[1::2])


@pytest.fixture(scope="module")
def results_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """Run half of the scenarios in one process of its own: it forks, and patches what it watches."""

    @functools.cache
    def run(half: int) -> dict[str, Any]:
        place = tmp_path_factory.mktemp("faults") / "results.json"
        command = [
            sys.executable,
            str(BENCH),
            "--scale",
            "0.01",
            "--json",
            str(place),
            "--only",
            *HALVES[half],
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
        assert place.exists(), done.stderr
        found: dict[str, Any] = json.loads(place.read_text())["results"]
        return found

    return run


@pytest.mark.parametrize(
    ("half", "name"),
    [
        pytest.param(half, name, marks=pytest.mark.xdist_group(f"faults-{half}"), id=name)
        for half, names in enumerate(HALVES)
        for name in names
    ],
)
def test_nothing_is_lost_or_silent(results_of: Callable[[int], dict[str, Any]], half: int, name: str) -> None:
    one = results_of(half)[name]
    assert one["ok"], f"{one['figures']} {' '.join(map(str, one['bad']))}"
    if "kills" in one["figures"]:
        assert one["figures"]["kills"] >= (1 if name in ("slices", "bucket") else 4)


@pytest.mark.xdist_group("faults-0")
def test_without_fsync_the_test_of_power_loss_fails(results_of: Callable[[int], dict[str, Any]]) -> None:
    figures = results_of(0)["power-loss"]["figures"]
    assert float(figures["share of these that fail"].rstrip("%")) > 40


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
