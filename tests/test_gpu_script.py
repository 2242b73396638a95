"""The script for a machine with a card runs to its end at toy size on the CPU, with little installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent / "gpu"
STEPS = 12

#: What a bare machine may lack; as if it were not installed, here and in every process that is started.
ABSENT = """
import importlib.machinery
find = importlib.machinery.PathFinder.find_spec
absent = {"annotated_types", "pydantic", "pydantic_core", "safetensors", "typer"}
importlib.machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.split(".")[0] in absent else find(name, *rest)
)
"""


@pytest.fixture(scope="module")
def driving() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_driving", SCRIPT / "driving.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_driving"] = module
    spec.loader.exec_module(module)
    return module


def read(results: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in results.read_text().splitlines()]


@pytest.mark.slow
def test_every_step_runs_at_toy_size_on_a_bare_machine(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    path = os.pathsep.join([str(tmp_path), str(SCRIPT.parents[1])])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--toy", "--slower", "20", "--out", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = read(tmp_path / "out" / "results.jsonl")
    ended = [(line["step"], line["state"]) for line in lines if "ended" in line]
    assert ended == [(number, "done") for number in range(STEPS)]
    measured = [line for line in lines if "name" in line]
    said = [line["step"] for line in measured if line["value"] == "no card: ran on the CPU at toy size"]
    assert set(said) == set(range(STEPS - 1))
    checks = {line["name"]: line["ok"] for line in measured if "ok" in line}
    assert len(checks) >= 10
    assert all(checks.values())
    (absent,) = [line["value"] for line in measured if line["name"] == "not installed"]
    assert {"pydantic", "safetensors", "typer"} <= set(absent)  # type: ignore[call-overload]
    table = (tmp_path / "out" / "table.txt").read_text()
    assert table in done.stdout
    for line in measured:
        assert str(line["name"]) in table


def test_a_step_that_hangs_or_fails_is_reported_and_the_next_one_runs(
    driving: ModuleType, tmp_path: Path
) -> None:
    def step(number: int, code: str, limit_s: float = 60) -> object:
        return driving.Step(number, f"step {number}", [sys.executable, "-c", code], limit_s)

    results = tmp_path / "results.jsonl"
    note = f"import os; os.system('echo {{}} >> {results}')"
    states = driving.drive(
        [step(0, f"{note}; import time; time.sleep(60)", 1), step(1, "raise SystemExit(3)"), step(2, note)],
        results,
        60,
    )
    assert states == ["killed", "failed", "done"]
    lines = read(results)
    # what the killed step had noted is there
    assert [line.get("state", "noted") for line in lines] == ["noted", "killed", "failed", "noted", "done"]
    assert [line["exit_code"] for line in lines if "state" in line] == [None, 3, 0]


def test_no_step_begins_when_the_time_for_all_is_over(driving: ModuleType, tmp_path: Path) -> None:
    mark = tmp_path / "begun"
    command = [sys.executable, "-c", f"open({str(mark)!r}, 'w')"]
    assert driving.drive([driving.Step(0, "late", command, 60)], tmp_path / "results.jsonl", 0) == [
        "not begun"
    ]
    assert not mark.exists()


@pytest.mark.slow
def test_without_a_card_the_full_size_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--step", "0", "--out", str(tmp_path), "--work", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "no card here; --toy runs every step on the CPU at toy size"


@pytest.mark.slow
def test_networks_are_trained_at_toy_size(tmp_path: Path) -> None:
    script = [sys.executable, str(SCRIPT / "training.py"), "--toy", "--out", str(tmp_path)]
    done = subprocess.run(
        [*script, "--only", "imp1", "--limit-s", "500"],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = read(tmp_path / "results.jsonl")
    assert (line["job"], line["state"], line["epochs_done"]) == ("imp1", "done", 2), line
    assert {"val_top1", "test_top5", "blurred_top1"} <= set(line["scores"])  # type: ignore[call-overload]
    assert (tmp_path / "imp1.safetensors").is_file()
