"""A sweep that was killed goes on where it stopped: nothing is fitted twice, and the end is the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featbank.banks import Bank
from featbank.fitting import fit_heads
from featbank.manifest import SPLITS
from featbank.runs import Run, list_runs
from featbank.runs.store import Claim, find_unfinished, sweep_digest
from featbank.sweep import fitting

#: 2 cuts x 5 heads x 4 sizes x 5 repeats = 200 fits: one by one, and 15 at a time.
SWEEP = {
    "heads": ["logreg", "ncm", "ridge"],
    "head_params": {"logreg": {"C": [0.01, 0.1, 1]}},
    "samples_per_class": "2..16",
    "repeats": 5,
}

#: Runs the sweep; notes every fit in a file when it is made, and kills itself at the moments it is told.
CHILD = """
import json, os, signal, sys
from featbank import fitting
from featbank.runs import Run
from featbank.sweep import fitting as sweeping

bank, cache, counter, when, moment, sweep = sys.argv[1:]
made = added = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def scored(one, *rest):
    global made
    outcome = inner(one, *rest)
    with open(counter, "a") as file:
        file.write(f"{one.cut} {one.head} {one.n_per_class} {one.repeat}\\n")
    made += 1
    if when == "fit" and made == int(moment):
        die()
    return outcome

def add(self, group):
    global added
    added += len(group)
    if when == "before" and added >= int(moment):
        die()
    keep(self, group)
    if when == "after" and added >= int(moment):
        die()

def append(self, fits, metrics):
    if when == "between" and added >= int(moment):
        die()
    grow(self, fits, metrics)

from featbank.sweep.records import GrowingTables
inner, keep, grow = sweeping._scored, Run.add, GrowingTables.append
sweeping._scored, Run.add, GrowingTables.append = scored, add, append
fitting.fit_heads(bank, cache_dir=cache, **json.loads(sweep))
"""


def run_child(bank: Bank, cache: Path, counter: Path, when: str, moment: int) -> int:
    arguments = [str(bank.path), str(cache), str(counter), when, str(moment), json.dumps(SWEEP)]
    return subprocess.run([sys.executable, "-c", CHILD, *arguments], check=False).returncode


def counted(counter: Path) -> Counter[str]:
    return Counter(counter.read_text().splitlines()) if counter.exists() else Counter()


def spelled(fit) -> str:
    return f"{fit.cut} {fit.head} {fit.n_per_class} {fit.repeat}"


def rows_of(run: Run) -> list[object]:
    return [replace(fit, duration_s=0.0) for fit in run.result().fits]


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    """They take longer than the fits."""
    monkeypatch.setattr("featbank.plots.display.draw_all", lambda *_, **__: {})


@pytest.mark.slow
def test_a_killed_sweep_repeats_no_finished_fit_and_ends_the_same(flowers, tmp_path):
    whole = fit_heads(flowers, cache_dir=tmp_path / "whole", **SWEEP)
    assert len(whole.result.fits) == 200
    cache, counter = tmp_path / "killed", tmp_path / "counter"
    random = np.random.default_rng(5)
    before: dict[str, int] = {}
    for when, moment in zip(("fit", "after", "between"), random.integers(20, 60, 3).tolist(), strict=True):
        assert run_child(flowers, cache, counter, when, moment) == -9
        (path,) = list_runs(cache)
        done = [spelled(fit) for fit in Run.open(path).result().fits]
        made = counted(counter)
        assert len(before) < len(done) < 200
        assert {one: made[one] for one in before} == before
        assert set(done) <= set(made)
        before = {one: made[one] for one in done}
    # Only what was under way when the process was killed is not written down: 15 exact heads, or one.
    assert sum(made.values()) - len(done) <= 15 * 3
    said: list[str] = []
    fitted = fit_heads(flowers, cache_dir=cache, announce=said.append, **SWEEP)
    assert said == [f"continuing run {path.name}: {len(done)} of 200 fits were done"]
    assert fitted.n_resumed == len(done)
    assert fitted.run.path == path
    assert rows_of(fitted.run) == rows_of(whole.run)
    assert [one.id for one in fitted.result.fits] == [one.id for one in whole.result.fits]
    assert len(fitted.run.facts["continued"]) == 3
    for name in ("heads", "notes", "cuts", "draws", "rows"):
        assert fitted.run.facts[name] == whole.run.facts[name], name
    for folder in ("heads", "predictions"):
        names = sorted(file.name for file in (whole.run.path / folder).iterdir())
        assert sorted(file.name for file in (fitted.run.path / folder).iterdir()) == names
        for name in names:
            ours, theirs = ((one.run.path / folder / name).read_bytes() for one in (fitted, whole))
            assert ours == theirs, name
    for name in ("hits.jsonl", "histories.json"):
        assert (fitted.run.path / name).read_bytes() == (whole.run.path / name).read_bytes()


class StopError(BaseException):
    """Not an error a fit may end with."""


def stop_after(n: int):
    def progress(done: int, total: int) -> None:
        if done >= n:
            raise StopError

    return progress


def interrupted(bank: Bank, cache: Path, n: int = 20, **changes) -> Run:
    with pytest.raises(StopError):
        fit_heads(bank, cache_dir=cache, progress=stop_after(n), **{**SWEEP, **changes})
    return Run.open(list_runs(cache)[-1])


def test_every_finished_fit_is_written_at_once(flowers, tmp_path):
    run = interrupted(flowers, tmp_path, 73, heads=["ncm"], head_params=None, repeats=20)
    assert len(run.result().fits) == 80  # four sizes of 20 repeats, which are fitted together
    run = interrupted(flowers, tmp_path, 20, heads=["logreg"])
    assert len(run.result().fits) == 30  # the 16 and the 8 per class, each of 5 repeats and 3 C


def test_only_what_is_not_done_is_fitted(flowers, tmp_path, monkeypatch):
    run = interrupted(flowers, tmp_path, 73, heads=["ncm"], head_params=None, repeats=20)
    done = {fit.id for fit in run.result().fits}
    asked = []
    inner = fitting.Sweep.fit_task

    def watching(self, task):
        asked.extend(task.fits)
        return inner(self, task)

    monkeypatch.setattr(fitting.Sweep, "fit_task", watching)
    fit_heads(flowers, cache_dir=tmp_path, **{**SWEEP, "heads": ["ncm"], "head_params": None, "repeats": 20})
    assert (len(done), len(asked), done & set(asked)) == (80, 160 - 80, set())


@pytest.mark.slow
def test_fresh_starts_anew(flowers, tmp_path):
    run = interrupted(flowers, tmp_path)
    fitted = fit_heads(flowers, cache_dir=tmp_path, fresh=True, **SWEEP)
    assert fitted.run.path != run.path
    assert fitted.n_resumed == 0
    again = fit_heads(flowers, cache_dir=tmp_path, **SWEEP)
    assert again.run.path == run.path


def test_a_finished_run_is_not_continued(flowers, tmp_path):
    quick = {**SWEEP, "heads": ["ncm"], "head_params": None, "repeats": 1, "cache_dir": tmp_path}
    first, second = fit_heads(flowers, **quick), fit_heads(flowers, **quick)
    assert (first.run.path == second.run.path, second.n_resumed) == (False, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"repeats": 6},
        {"samples_per_class": "2..8"},
        {"random_state": 1},
        {"cuts": ["fc7"]},
        {"name": "other"},
        {"head_params": {"logreg": {"C": [0.01, 0.1, 2]}}},
        {"save_heads": "all"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_sweep_is_not_continued(flowers, tmp_path, change):
    run = interrupted(flowers, tmp_path)
    found = interrupted(flowers, tmp_path, **change)
    assert found.path != run.path


def test_other_content_of_the_bank_is_another_sweep(flowers, tmp_path):
    parameters = {"cuts": ["fc7"], "heads": ["ncm"]}
    before = sweep_digest(flowers, "a", parameters)
    assert sweep_digest(Bank.open(flowers.path), "a", dict(parameters)) == before
    shard = next((flowers.path / "fc7").glob("0*.h5"))
    shard.rename(shard.with_name(shard.name.replace("00000-", "00000-f", 1)))
    assert sweep_digest(flowers, "a", parameters) != before
    assert sweep_digest(flowers, "a", {**parameters, "cuts": ["block4_pool"]}) != before
    shard.with_name(shard.name.replace("00000-", "00000-f", 1)).rename(shard)
    assert sweep_digest(flowers, "a", parameters) == before
    manifest = flowers.manifest
    splits = manifest.splits.copy()
    splits[-1] = SPLITS.index("none")
    flowers.set_manifest(manifest.replaced(splits=splits))
    assert sweep_digest(Bank.open(flowers.path), "a", parameters) != before


def test_a_run_somebody_else_is_writing_is_left_alone(flowers, tmp_path):
    run = interrupted(flowers, tmp_path)
    digest = run.facts["sweep"]["digest"]
    claim = Claim(run.path)
    assert claim.held
    assert not Claim(run.path).held
    assert find_unfinished(tmp_path, digest) is None
    claim.let_go()
    found = find_unfinished(tmp_path, digest)
    assert found is not None
    assert found[0].path == run.path
    found[1].let_go()
    assert find_unfinished(tmp_path, "0" * 64) is None


def test_a_last_line_that_is_not_whole_is_no_line(flowers, tmp_path):
    run = interrupted(flowers, tmp_path)
    n_done = len(run.result().fits)
    for name in ("results.csv", "hits.jsonl"):
        with (run.path / name).open("ab") as file:
            file.write(b"fc7,ncm,,16,0,48,4")
    assert len(Run.open(run.path).result().fits) == n_done
    again = interrupted(flowers, tmp_path, n_done + 20)  # what is appended now must not grow onto that line
    assert (again.path, len(again.result().fits)) == (run.path, n_done + 30)
    assert all(fit.hits is not None for fit in again.result().fits)
    fitted = fit_heads(flowers, cache_dir=tmp_path, **SWEEP)
    assert fitted.n_resumed == n_done + 30
    assert len(Run.open(run.path).result().fits) == 200


def test_pages_lost_with_the_power_are_no_lines(flowers, tmp_path):
    run = interrupted(flowers, tmp_path)
    n_done = len(run.result().fits)
    for name in ("results.csv", "hits.jsonl"):
        with (run.path / name).open("ab") as file:
            file.write(b"\0" * 100 + b"\n")
    assert len(Run.open(run.path).result().fits) == n_done


@pytest.mark.slow
def test_a_run_that_only_lacked_its_end_is_finished_without_a_fit(flowers, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("featbank.runs.Run.finish", lambda *_: (_ for _ in ()).throw(StopError()))
        with pytest.raises(StopError):
            fit_heads(flowers, cache_dir=tmp_path, **SWEEP)
    monkeypatch.setattr("featbank.heads.head.fit_stack", pytest.fail)
    fitted = fit_heads(flowers, cache_dir=tmp_path, **SWEEP)
    assert (fitted.n_resumed, fitted.run.facts["status"]) == (200, "finished")
