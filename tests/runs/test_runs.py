"""A run folder holds what a sweep gave, whole at every moment, and gives it back."""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from featbank.banks import Bank, BankKey, BankStore
from featbank.errors import CacheWriteError, RunError, RunNotFoundError
from featbank.manifest import SPLITS, Manifest
from featbank.runs import Run, answer_of, describe_run, list_runs, open_run
from featbank.runs.store import create_run
from featbank.sweep import run_sweep
from featbank.sweep.results import ranked

NOON = datetime(2026, 3, 4, 12, 0, 5)
TRANSFORM = {"mode": "squash", "mean": [0.5, 0.5, 0.5]}
KEY = BankKey(
    backbone="minivgg",
    weights_sha256="ab" * 32,
    transform=TRANSFORM,
    image_size=32,
    precision="float32",
    dtype="float16",
    batch_size=64,
    decoder="pillow-13",
)
SWEEP = {
    "heads": ["softmax", "ncm"],
    "samples_per_class": "2,4",
    "repeats": 3,
    "head_params": {"softmax": {"max_epochs": 6, "lr": 0.05}},
}


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    """A real bank of two cuts: 8 train, 4 val and 6 test rows of each of 3 classes."""
    counts = {"train": 8, "val": 4, "test": 6}
    labels = np.concatenate([np.tile(np.arange(3), n) for n in counts.values()])
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(3, 8))
    manifest = Manifest(
        ids=tuple(f"{row:03d}.png".encode() for row in range(len(labels))),
        labels=labels.astype(np.int32),
        classes=("ant", "bee", "caf\udce9"),  # a name that is not UTF-8 on disk
        splits=np.concatenate([np.full(3 * n, SPLITS.index(s)) for s, n in counts.items()]).astype(np.uint8),
        digests=rng.integers(0, 256, (len(labels), 32), dtype=np.uint8),
        statuses=np.zeros(len(labels), np.uint8),
    )
    provenance = {
        "weights": "shipped",
        "weights_path": "/weights/minivgg.safetensors",
        "random_state": 7,
        "location": "here",
    }
    made = BankStore(tmp_path / "cache" / "banks").create_or_open("insects", KEY, provenance)
    made.set_manifest(manifest)
    for cut, noise in (("block1_pool", 2.0), ("fc7", 0.5)):
        features = (centres[labels] + noise * rng.normal(size=(len(labels), 8))).astype(np.float16)
        writer = made.cut_writer(cut, (2, 2, 2), "float16")
        for plan in writer.missing():
            block = np.zeros((plan.n_rows, 2, 2, 2), np.float16)
            used = min(plan.stop, len(labels)) - plan.start
            block[:used] = features[plan.start : plan.start + used].reshape(-1, 2, 2, 2)
            writer.write(plan, block, np.zeros(plan.n_rows, np.uint8))
        writer.finish({})
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fill(bank: Bank, cache: Path, **changes):
    run = create_run(cache, "fit head!", bank=bank, command=["featbank", "fit-head", "my bank"], now=NOON)
    result = run_sweep(bank, on_result=run.add, **{**SWEEP, **changes})
    run.finish(result)
    return run, result


def test_a_run_comes_back_as_it_was(bank, cache):
    run, result = fill(bank, cache)
    assert run.path == cache / "runs" / "20260304-120005-fit_head_"
    again = Run.open(run.path)
    assert again.result().fits == result.fits
    assert again.result().points() == result.points()
    assert (again.result().cuts, again.result().classes) == (result.cuts, bank.classes)
    assert again.facts["status"] == "finished"
    assert again.facts["command"] == "featbank fit-head 'my bank'"
    assert [one["name"] for one in again.heads()] == [kept.name for kept in result.heads]
    assert len(again.heads()) == 4  # one per cut and head
    for entry, kept in zip(again.heads(), result.heads, strict=True):
        answers = again.predictions(entry["name"])
        for part in ("rows", "y_true", "y_pred", "p_true", "p_pred"):
            np.testing.assert_array_equal(getattr(answers, part), getattr(kept.predictions, part))
        X = bank.features(entry["cut"], answers.rows)
        np.testing.assert_array_equal(again.load_head(entry["name"]).predict(X), answers.y_pred)
        matrix = again.confusion(entry["name"])
        assert np.trace(matrix) / matrix.sum() == entry["top1"]
    assert set(again.histories()) == {one["name"] for one in again.heads() if one["head"] == "softmax"}
    assert again.histories()[result.heads[0].name] == result.heads[0].history


def test_a_run_knows_all_that_a_prediction_needs(bank, cache):
    run, _ = fill(bank, cache)
    assert Run.open(run.path).source == {
        "bank": str(bank.path),
        "key_digest": KEY.digest(),
        "dataset": "insects",
        "backbone": "minivgg",
        "weights": "shipped",
        "weights_path": "/weights/minivgg.safetensors",
        "weights_sha256": "ab" * 32,
        "random_state": 7,
        "transform": TRANSFORM,
        "image_size": 32,
        "precision": "float32",
        "dtype": "float16",
        "cut_dtypes": {"block1_pool": "float16", "fc7": "float16"},
        "batch_size": 64,
        "decoder": KEY.decoder,
        "format_version": KEY.format_version,
        "provenance": dict(bank.provenance),
    }
    assert set(run.facts["versions"]) == {
        "python",
        "featbank",
        "torch",
        "torchvision",
        "numpy",
        "scikit-learn",
    }


def test_the_best_head_is_the_best_by_validation(bank, cache):
    run, _ = fill(bank, cache, save_heads="all")
    best = run.best_head()
    curve = [one for one in run.heads() if (one["cut"], one["head"]) == (best["cut"], best["head"])]
    most = max(one["n_per_class"] for one in curve)
    assert best["n_per_class"] == most
    assert best["val_top1"] == max(one["val_top1"] for one in curve if one["n_per_class"] == most)
    assert len(run.heads()) == 24
    assert len(list((run.path / "heads").glob("*.safetensors"))) == 24
    # However good a head was on the test rows, it is not chosen by them.
    run.facts["heads"][0].update(top1=2.0, val_top1=0.01)
    assert run.best_head()["name"] == best["name"]


def test_every_best_is_that_of_the_answer(bank, cache):
    run, result = fill(bank, cache)
    best = ranked(result).curves[0].key
    # one validation image more in a single draw decides nothing: the mean over draws does
    for one in run.facts["heads"]:
        one["val_top1"] = 0.1 if (one["cut"], one["head"], one["temperature"]) == best else 1.0
    first = run.best_head()
    assert (first["cut"], first["head"], first["temperature"]) == best
    assert (run.entry(), run.predictions().rows.size > 0, run.unkept()) == (first, True, "")
    listed = describe_run(run.path).best
    assert (listed.cut, listed.head, listed.temperature) == best
    assert f"The {best[1]} head on {best[0]} recognises {100 * listed.mean:.1f} %" in str(answer_of(result))
    run.facts["heads"].remove(first)
    assert run.best_head()["val_top1"] == 1.0
    assert run.unkept().startswith(f"{best[1]} on {best[0]}")


def test_a_head_without_the_metric_is_not_the_best(bank, cache):
    options = {"cuts": ["fc7"], "heads": ["ncm", "logreg"], "metrics": ["log_loss"], "head_params": None}
    run = create_run(cache, "loss", bank=bank, parameters={"metrics": ["log_loss"]}, now=NOON)
    result = run_sweep(bank, on_result=run.add, **{**SWEEP, **options})
    run.finish(result)
    assert {one["head"] for one in run.heads() if one.get("val_metric") is None} == {"ncm"}
    assert run.best_head()["head"] == "logreg"


class HaltError(Exception):
    pass


def test_an_interrupted_sweep_leaves_a_run_that_can_be_read(bank, cache):
    run = create_run(cache, "halted", bank=bank, now=NOON)
    groups = []

    def take(group):
        if groups:
            raise HaltError
        groups.append(group)
        run.add(group)

    with pytest.raises(HaltError):
        run_sweep(bank, on_result=take, **SWEEP)
    again = Run.open(run.path)
    assert again.facts["status"] == "running"
    assert again.result().fits == groups[0]
    assert again.best_head()["name"] == next(fit.name for fit in groups[0] if fit.estimator)
    assert not list(run.path.rglob(".tmp-*"))


def test_results_are_replaced_whole_or_not_at_all(bank, cache, monkeypatch):
    run, result = fill(bank, cache)
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    groups = []
    run_sweep(bank, on_result=groups.append, **SWEEP)
    with pytest.raises(CacheWriteError):
        run.add(groups[0])
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before
    assert Run.open(run.path).result().fits == result.fits


class Mine:
    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.zeros(len(X), int)


def test_an_estimator_of_the_callers_own_is_recorded_and_not_saved(bank, cache):
    run, _ = fill(bank, cache, heads=[("my own/head", Mine())], head_params=None)
    (first, _) = run.heads()
    assert (first["name"], first["saved"]) == ("block1_pool-my_own_head-n4-r0", False)
    assert run.confusion(first["name"]).sum() == 18
    with pytest.raises(RunError) as caught:
        run.load_head(first["name"])
    assert str(caught.value) == (
        f"head {first['name']!r} is an estimator of your own, which featbank does not save"
    )
    with pytest.raises(RunError) as caught:
        run.best_head()
    assert str(caught.value) == (
        "run '20260304-120005-fit_head_' saved none of its heads, which are estimators of "
        "your own; fit one of featbank's as well"
    )


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", "{", "'{run}/run.json' is damaged: Expecting property name enclosed in double quotes: "),
        (
            "run.json",
            "[]",
            "'{run}/run.json' is damaged: it must be a table, got []; run the command again",
        ),
        (
            "run.json",
            {"format": 9},
            "'{run}/run.json' has format 9, this version reads 1; run the command again",
        ),
        ("results.csv", "a,b\n", "'{run}/results.csv' is damaged: not the columns of this version: a, b, "),
        (
            "histories.json",
            "no",
            "'{run}/histories.json' is damaged: Expecting value: line 1 column 1 (char 0); ",
        ),
        (
            "predictions/{head}.json",
            "{}",
            "'{run}/predictions/{head}.json' is damaged: it lacks 'split'; it lacks 'rows'; ",
        ),
        (
            "predictions/{head}.json",
            None,
            "run '{name}' lacks predictions/{head}.json; run the command again",
        ),
    ],
)
def test_damage_is_told_and_names_the_file(bank, cache, file, content, message):
    run, _ = fill(bank, cache)
    words = {"run": run.path, "name": run.name, "head": run.best_head()["name"]}
    path = run.path / file.format(**words)
    if content is None:
        path.unlink()
    elif isinstance(content, dict):
        path.write_text(json.dumps({**run.facts, **content}))
    else:
        path.write_text(content)

    def read():
        opened = Run.open(run.path)
        return opened.result(), opened.histories(), opened.predictions()

    with pytest.raises(RunError) as caught:
        read()
    assert str(caught.value).startswith(message.format(**words))


def test_runs_are_found_by_path_name_part_and_age(bank, cache):
    for second in (7, 6):
        create_run(cache, "sweep", bank=bank, now=NOON.replace(second=second))
    names = [create_run(cache, "sweep", bank=bank, now=NOON.replace(second=8)).name for _ in range(11)]
    assert names[0] == "20260304-120008-sweep"
    assert names[1] == "20260304-120008-sweep-2"
    assert open_run(cache_dir=cache).name == "20260304-120008-sweep-11"
    # the order in which they were made, whatever the clock said
    assert [path.name for path in list_runs(cache)][:2] == ["20260304-120007-sweep", "20260304-120006-sweep"]
    assert open_run(cache_dir=cache).name == open_run(cache_dir=cache).name
    assert open_run("last", cache_dir=cache).name == open_run(cache_dir=cache).name
    assert open_run("20260304-120008-sweep", cache_dir=cache).name == "20260304-120008-sweep"
    assert open_run("120007", cache_dir=cache).name == "20260304-120007-sweep"
    assert open_run(cache / "runs" / "20260304-120006-sweep").name == "20260304-120006-sweep"
    with pytest.raises(RunError) as caught:
        open_run("sweep-1", cache_dir=cache)
    assert str(caught.value) == (
        "run='sweep-1' is part of 2 names: '20260304-120008-sweep-11', '20260304-120008-sweep-10'; "
        "give more of one"
    )
    with pytest.raises(RunNotFoundError) as caught:
        open_run("20260304-120009-sweep", cache_dir=cache)
    assert str(caught.value).startswith("no run '20260304-120009-sweep'; there are '20260304-12000")
    with pytest.raises(RunNotFoundError) as caught:
        Run.open(cache)
    assert str(caught.value) == f"no run at {str(cache)!r}: it has no run.json"


def test_an_empty_cache_says_how_to_make_a_run(tmp_path):
    with pytest.raises(RunNotFoundError) as caught:
        open_run(cache_dir=tmp_path)
    assert str(caught.value) == f"no run in {str(tmp_path / 'runs')!r}; make one with featbank fit-head"


def test_a_head_that_is_not_there_gets_the_nearest_names(bank, cache):
    run, _ = fill(bank, cache, heads=["ncm"], head_params=None)
    for ask in (run.entry, run.load_head, run.predictions, run.confusion):
        with pytest.raises(RunError) as caught:
            ask("fc7-ncm-n4-r9")
        assert str(caught.value).startswith(
            f"run '{run.name}' has no head 'fc7-ncm-n4-r9'; it has 'fc7-ncm-n4-r"
        )


def test_the_entry_of_a_head(bank, cache):
    run, _ = fill(bank, cache)
    for one in run.heads():
        assert run.entry(one["name"]) == one
    assert run.entry() == run.best_head()


def test_a_loss_that_is_no_number_survives(bank, cache):
    run = create_run(cache, "diverged", bank=bank, now=NOON)
    groups = []
    run_sweep(bank, on_result=groups.append, **{**SWEEP, "heads": ["softmax"]})
    kept = next(fit for fit in groups[0] if fit.estimator)
    kept.estimator.history_["train_loss"][1:3] = [float("nan"), float("inf")]
    run.add(groups[0])
    json.loads((run.path / "histories.json").read_text(), parse_constant=pytest.fail)
    run.add(groups[1])  # reads what is there, and writes it again
    found = Run.open(run.path).histories()[kept.name]
    assert np.isnan(found["train_loss"][1:3]).all()
    np.testing.assert_array_equal(found["train_accuracy"], kept.history["train_accuracy"])


def test_a_run_that_was_killed_between_its_two_files_can_be_read(bank, cache):
    run, result = fill(bank, cache)
    run.facts.update(cuts=["block1_pool"])
    run.write()
    again = Run.open(run.path).result()
    assert (again.cuts, again.fits) == (("block1_pool", "fc7"), result.fits)


def test_figures_have_a_folder(bank, cache):
    run = create_run(cache, "drawn", bank=bank, now=NOON)
    assert run.figures == run.path / "figures"
    assert run.figures.is_dir()


def test_the_newest_run_does_not_go_by_the_clock(bank, cache, tmp_path):
    from datetime import timedelta

    made = [create_run(cache, "a", bank=bank, now=NOON), create_run(cache, "b", bank=bank, now=NOON)]
    # copied in from a machine whose clock is two years ahead
    ahead = create_run(tmp_path / "elsewhere", "c", bank=bank, now=NOON + timedelta(days=730))
    shutil.copytree(ahead.path, cache / "runs" / ahead.path.name)
    assert open_run(cache_dir=cache).name == made[1].name
    assert [path.name for path in list_runs(cache)] == [ahead.name, made[0].name, made[1].name]
    # and the clock here goes back
    made.append(create_run(cache, "d", bank=bank, now=NOON - timedelta(days=365)))
    assert open_run(cache_dir=cache).name == made[2].name
    shutil.rmtree(made[2].path)
    assert open_run(cache_dir=cache).name == made[1].name
    # the whole cache goes elsewhere, every time of it new
    shutil.copytree(cache, tmp_path / "moved")
    for path in (tmp_path / "moved").rglob("*"):
        os.utime(path)
    assert open_run(cache_dir=tmp_path / "moved").name == made[1].name


def test_without_its_record_the_runs_go_by_their_names(bank, cache, caplog):
    for second in (7, 6):
        create_run(cache, "sweep", bank=bank, now=NOON.replace(second=second))
    for content in (b"", b"{}", b"[1]", b"\xff", b"[" * 100_000):
        (cache / "runs" / ".order.json").write_bytes(content)
        caplog.clear()
        assert open_run(cache_dir=cache).name == "20260304-120007-sweep"
        assert "the order of what is in" in caplog.text
    newest = create_run(cache, "sweep", bank=bank, now=NOON)
    assert open_run(cache_dir=cache).name == newest.name
