"""``featbank fit-head``."""

from __future__ import annotations

from pathlib import Path

import pytest

from featbank.runs import open_run

QUICK = ("fit-head", "--repeats", 2, "--max-epochs", 4)


def test_json_has_the_run_and_the_curve(call, place):
    done = call(*QUICK, "-c", "pool5", "--head", "softmax,mlp", "-n", "2..4", "--hidden-units", 8, "--json")
    assert done.code == 0
    found = done.json
    run = open_run(found["run"])
    assert run.path.parent == place / "cache" / "runs"
    assert run.facts["status"] == "finished"
    assert [(point["cut"], point["head"], point["n_per_class"]) for point in found["curve"]] == [
        ("block5_pool", head, size) for head in ("softmax", "mlp") for size in (2, 4)
    ]
    for point in found["curve"]:
        assert point["n_repeats"] == 2
        assert point["top1_low"] <= point["top1_mean"] <= point["top1_high"]
    assert {kind: Path(path).exists() for kind, path in found["figures"].items()} == {
        "curve": True,
        "confusion": True,
        "history": True,
    }
    assert run.facts["parameters"]["head_params"]["mlp"] == {"max_epochs": 4, "hidden_units": 8}
    assert run.facts["parameters"]["head_params"]["softmax"] == {"max_epochs": 4}


def test_a_table_otherwise(call, place):
    done = call(*QUICK, "-c", "block5_pool", "-n", "2,4")
    lines = done.out.splitlines()
    assert lines[1] == "test accuracy in % by samples per class: mean and half width of the 95 % interval"
    assert lines[3].split() == ["cut", "head", "2", "4"]
    assert lines[5].split()[:2] == ["block5_pool", "softmax"]
    assert lines[5].count("±") == 2
    assert done.out.rstrip().splitlines()[-1].startswith("history     ")


def test_one_temperature_is_one_curve(call, place):
    done = call(*QUICK, "-c", "softmax", "--temperature", "0.5,2", "-n", "4", "--json")
    assert [point["temperature"] for point in done.json["curve"]] == [0.5, 2.0]
    assert "temperature" in done.json["figures"]
    # said once, as a note, and not as a warning too
    assert done.err.count("softmax at T=2, softmax") == 1
    assert "note: softmax at T=2, softmax: 2 of 2 heads: training loss has not moved" in done.err


@pytest.mark.parametrize("head", ["logreg", "ncm", "knn", "svm", "ridge"])
def test_heads_without_epochs(call, place, head):
    done = call("fit-head", "--repeats", 1, "-c", "pool5", "--head", head, "-n", "4", "--json")
    assert done.code == 0
    assert done.json["curve"][0]["top1_mean"] == 1.0


def test_features_can_be_left_as_they_are(call, place):
    run = call(*QUICK, "-c", "pool5", "-n", "4", "--no-standardize", "--json").json["run"]
    assert open_run(run).facts["parameters"]["head_params"]["softmax"]["standardize"] is False


def test_a_failed_fit_ends_with_1(call, place, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("no luck")

    monkeypatch.setattr("featbank.sweep._fitting._stack", fail)
    done = call(*QUICK, "-c", "pool5", "-n", "4", "--json")
    assert (done.code, done.json["failed"], done.json["curve"]) == (1, 2, [])
    assert "note: 2 of 2 fits failed: RuntimeError: no luck" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hidden-units", 5], "--hidden-units is for --head mlp, got --head softmax"),
        (["--C", 2, "--head", "softmax,mlp"], "--C is for --head logreg, svm, got --head softmax, mlp"),
        (
            ["--tolerance", 2, "--head", "ncm"],
            "--tolerance is for --head softmax, mlp, got --head ncm",
        ),
        (
            ["--head", "sofmax"],
            "unknown head 'sofmax'; known: 'softmax', 'svm', 'mlp', 'logreg', 'ncm' and 2 more",
        ),
        (["--temperature", "1,x"], "--temperature '1,x' is not a list of numbers such as 0.5,1,2"),
        (
            ["--temperature", "2", "-c", "pool5"],
            "temperatures=[2.0] are for the cut 'softmax', got 'block5_pool'; add --cut softmax",
        ),
        (["-c", "softmax", "--temperature", "0"], "temperature=0.0 must be a finite number over 0"),
        (["--repeats", 0], "repeats=0 must be at least 1"),
        (["--save-heads", "some"], "--save-heads 'some' is not one of best, all, none"),
        (["-n", 2, "--lr", -1], "SoftmaxClassifier cannot be fitted with lr=-1.0 (allowed: more than 0)"),
    ],
)
def test_wrong_options(call, place, options, message):
    runs = sorted((place / "cache" / "runs").iterdir())
    done = call("fit-head", *options)
    assert (done.code, done.message) == (2, message)
    assert sorted((place / "cache" / "runs").iterdir()) == runs
