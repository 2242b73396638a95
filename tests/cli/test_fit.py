"""``featbank fit-head``."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

import pytest
from joblib.externals.loky import get_reusable_executor

from featbank.cli._fitted import print_scores
from featbank.runs import Run, open_run
from featbank.sweep import Fit, SweepResult

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
        assert point["n_repeats"] == point["n_draws"] == 2
        assert point["top1_low"] is point["top1_high"] is None  # two draws are too few
        assert point["top1_min"] <= point["top1_mean"] <= point["top1_max"]
    assert set(found["figures"]) >= {"curve", "confusion", "history"}
    assert found["answer"].startswith("The ")
    assert all(Path(path).exists() for path in found["figures"].values())
    assert run.facts["parameters"]["head_params"]["mlp"] == {"max_epochs": 4, "hidden_units": 8}
    assert run.facts["parameters"]["head_params"]["softmax"] == {"max_epochs": 4}


def test_an_interval_that_is_cut_off_is_its_ends_as_in_compare(capsys):
    shares = {"ncm": (0.875, 1.0, 1.0), "knn": (0.5, 0.5625, 0.625)}
    fits = [
        Fit("fc7", head, None, 4, repeat, 8, 10, 0, top1=top1)
        for head, several in shares.items()
        for repeat, top1 in enumerate(several)
    ]
    print_scores(SweepResult(fits, n_rows={"test": 16}))
    (heading, *_, ncm, knn) = [line for line in capsys.readouterr().out.splitlines() if line][:5]
    assert heading.endswith(" for other training images ([ends] where 0 or 100 % cuts it off)")
    assert ncm.endswith("95.8 [77.9, 100.0]")
    assert knn.endswith("56.2 ±15.5")


@pytest.mark.slow
def test_a_table_otherwise(call, place):
    done = call(*QUICK, "--repeats", 3, "-c", "block5_pool", "-n", "2,4")
    lines = done.out.splitlines()
    what = "test accuracy in % by samples per class: mean of 3 draws and half width of its 95 % interval for"
    assert lines[1] == f"{what} other training images"
    assert lines[3].split() == ["cut", "head", "2", "4"]
    assert lines[-1].startswith("The softmax head on block5_pool recognises ")
    assert lines[-1].endswith("to say what the next doubling would bring takes four sizes.")
    assert lines[5].split()[:2] == ["block5_pool", "softmax"]
    assert lines[5].count("±") == 2
    assert lines[-3].startswith("times       ")


@pytest.mark.slow
def test_what_has_no_interval_is_said(call, place):
    out = call("fit-head", "--repeats", 2, "-c", "pool5", "--head", "ncm", "-n", "2,6").out
    assert "test accuracy in % by samples per class: mean\n" in out
    assert "±" not in out
    assert "\nno interval (it takes 3): 2 (2 draws); 6 (one draw, all samples)\n" in out
    out = call("fit-head", "--repeats", 5, "-c", "pool5", "--head", "ncm", "-n", "2,6").out
    (line,) = (line for line in out.splitlines() if line.startswith("block5_pool"))
    assert line.count("±") == 1  # all six of each class are drawn five times: one draw, no "±0.0"
    assert "\nno interval: 6 (one draw, all samples)\n" in out


@pytest.mark.slow
def test_all_of_unbalanced_classes_is_called_all(call, place):
    for gone in ("00.png", "01.png", "02.png", "03.png"):
        (place / "photos" / "red" / gone).unlink()
    call(
        "extract", "photos", "-b", "minivgg", "--weights", "random", "-c", "pool5", "--split", "0.5,0.25,0.25"
    )
    out = call("fit-head", "--repeats", 3, "-c", "pool5", "--head", "ncm", "-n", "2,all").out
    header = next(line.split() for line in out.splitlines() if line.startswith("cut "))
    assert header == ["cut", "head", "2", *["all", "(4-10", "per", "class)"]]
    assert (
        "\nno interval: all (one draw)\nall samples (4-10 per class): every training image; 6.667 per" in out
    )
    assert "ncm on block5_pool, all samples (4-10 per class), one fit: " in out


@pytest.mark.slow
def test_all_of_uneven_classes_is_called_all_where_its_mean_is_whole(call, place):
    """A class of 4 and two of 7 are 6 per class on average, and no class has 6."""
    assert call("fit-head", "-c", "pool5", "--head", "ncm", "-n", "2").code == 0  # the bank is there
    table = ["path,label,split"]
    for label, n in (("red", 4), ("green", 7), ("blue", 7)):
        files = sorted((place / "photos" / label).glob("*.png"))
        table += [f"{file},{label},{'train' if at < n else 'test'}" for at, file in enumerate(files)]
    (place / "t.csv").write_text("\n".join(table))
    call("extract", "t.csv", "-b", "minivgg", "--weights", "random", "-c", "pool5")
    fit = ("fit-head", "t", "-c", "pool5", "--head", "ncm", "-n", "2,4,all", "--repeats", 3)
    out = call(*fit).out
    assert re.search(r"^cut +head +2 +4 +all \((\d)-\d per class\)$", out, re.MULTILINE)
    assert "6 per class" not in out.replace("on average", "").split("head ")[-1]
    run = open_run()
    assert {one["name"].rpartition("-r")[0].rpartition("-")[2] for one in run.heads()} == {"all"}
    sizes = [line.split(",")[3] for line in (run.path / "results.csv").read_text().splitlines()[1:]]
    assert sizes == ["2"] * 3 + ["4"] * 3 + ["all"]
    assert [one["n_per_class"] for one in call(*fit, "--fresh", "--json").json["curve"]] == [2, 4, "all"]
    assert '"fewest_per_class": 4' in run.path.joinpath("run.json").read_text()
    assert " 2..all " in call("runs", "ls").out
    assert re.search("per class +2, 4, all", call("runs", "info", run.path).out)
    call("report", run.path)
    assert "all samples (" in run.path.joinpath("report.html").read_text()
    assert call("compare", "last", "--samples", "all", "--json").json["n_per_class"] == "all"
    assert call("plot", "curve", "last", "--json").json["figure"]


@pytest.mark.slow
def test_classes_without_training_images_are_said_in_every_result(call, place):
    table = ["path,label,split"]
    for label in ("red", "green", "blue"):
        for at, file in enumerate(sorted((place / "photos" / label).glob("*.png"))):
            split = "train" if at < 6 and label != "blue" else "val" if at < 8 and label != "blue" else "test"
            table.append(f"{file},{label},{split}")
    (place / "t.csv").write_text("\n".join(table))
    call("extract", "t.csv", "-b", "minivgg", "--weights", "random", "-c", "pool5")
    fit = ("fit-head", "t", "-c", "pool5", "--head", "ncm", "-n", "2,all", "--repeats", 2)
    done = call(*fit)
    note = (
        "1 class without training images, which no head can answer: blue; their 12 test images are left out"
    )
    assert done.code == 0
    assert done.err.count(note) == 1
    (images,) = (line for line in done.out.splitlines() if line.startswith("images"))
    assert images.endswith("8 for the test; left out 12 of 1 class without training images")
    assert note in open_run().facts["notes"][0]
    call("report", "last")
    page = (open_run().path / "report.html").read_text()
    assert page.count(note) == 1
    kept = call(*fit, "--untrained-classes", "keep", "--json").json
    assert (kept["rows"]["test"], kept["untrained"]["policy"]) == (20, "keep")
    assert kept["curve"][0]["top1_mean"] <= 8 / 20
    wrong = call(*fit, "--untrained-classes", "both")
    told = "untrained_classes='both' (--untrained-classes) is not one of 'drop', 'keep'"
    assert (wrong.code, wrong.message) == (2, told)


@pytest.mark.slow
def test_a_parameter_that_was_chosen_is_told(call, place):
    options = ("fit-head", "--repeats", 2, "-c", "pool5", "-n", "2,4")
    done = call(*options, "--head", "logreg,ncm", "--C", "auto")
    lines = done.out.splitlines()
    at = lines.index("C chosen, by samples per class: its range where draws differ")
    assert lines[at + 2].split() == ["cut", "head", "2", "4"]
    assert lines[at + 4].split()[:2] == ["block5_pool", "logreg"]
    fits = open_run().result().fits
    chosen = [
        sorted({fit.C for fit in fits if fit.head == "logreg" and fit.n_per_class == n}) for n in (2, 4)
    ]
    said = [f"{one[0]:.4g}" if len(one) == 1 else f"{one[0]:.4g} to {one[-1]:.4g}" for one in chosen]
    assert " ".join(lines[at + 4].split()[2:]) == " ".join(said)
    assert "ncm" not in "".join(lines[at : at + 6])
    assert " chosen, " not in call(*options, "--head", "logreg", "--C", "0.1,1").out


@pytest.mark.slow
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

    monkeypatch.setattr("featbank.heads.fit_stack", fail)
    done = call(*QUICK, "-c", "pool5", "-n", "4", "--json")
    assert (done.code, done.json["failed"], done.json["curve"]) == (1, 2, [])
    assert "note: 2 of 2 fits failed: RuntimeError: no luck" in done.err
    lines = (Path(done.json["run"]) / "results.csv").read_text().splitlines()[1:]
    assert [line.count(",failed,RuntimeError: no luck,,") for line in lines] == [1, 1]
    assert "nan" not in "".join(lines).lower()


@pytest.mark.slow
def test_lists_of_values_are_a_family(call, place):
    done = call(
        *("fit-head", "--repeats", 2, "-c", "pool5", "-n", "2,4", "--json"),
        *("--head", "logreg,softmax", "--C", "0.1,1", "--lr", "1e-3, 1e-2", "--max-epochs", 3),
    )
    heads = ["logreg(C=0.1)", "logreg(C=1)", "softmax(lr=0.001)", "softmax(lr=0.01)"]
    assert list(dict.fromkeys(point["head"] for point in done.json["curve"])) == heads
    assert open_run(done.json["run"]).facts["parameters"]["head_params"] == {
        "logreg": {"C": [0.1, 1.0]},
        "softmax": {"lr": [0.001, 0.01], "max_epochs": 3},
    }
    picture = call("plot", "curve", "--head", "logreg", "--cut", "pool5", "-o", "family.svg")
    assert (picture.code, (place / "family.svg").exists()) == (0, True)


@pytest.mark.slow
def test_an_interrupted_run_is_continued(call, place, monkeypatch):
    options = ("fit-head", "--repeats", 3, "-c", "pool5", "--head", "ncm", "-n", "1,2,4", "--json")
    add = Run.add

    def interrupted(run, fits):
        add(run, fits)
        if len(run.result().fits) == 3:  # one size
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "add", interrupted)
        assert call(*options).code == 130
    name = open_run().name
    done = call(*options)
    assert (done.code, done.json["resumed"], open_run().name) == (0, 3, name)
    assert f"continuing run {name}: 3 of 9 fits were done\n" in done.err
    assert [point["n_repeats"] for point in done.json["curve"]] == [3, 3, 3]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "add", interrupted)
        assert call(*options).code == 130
    assert call(*options, "--fresh").json["resumed"] == 0


@pytest.mark.slow
def test_counts_and_the_answering_head_are_told(call, place):
    done = call(*QUICK, "-c", "block5_pool", "-n", "4")
    lines = done.out.splitlines()
    (images,) = (line for line in lines if line.startswith("images"))
    assert images == "images      18 to train on, 9 for validation, 9 for the test"
    (head,) = (line for line in lines if line.startswith("head  "))
    assert re.fullmatch(
        r"head        softmax on block5_pool, 4 samples per class, one fit: \d+\.\d %; "
        r"weakest (\w+ \d+ % \(\d of 3; 95 %: \d+ to \d+\)(, |$)){3}",
        head,
    )
    found = call(*QUICK, "-c", "block5_pool", "-n", "4", "--json").json
    assert found["rows"] == {"train": 18, "val": 9, "test": 9}
    assert found["head"]["name"] == open_run().best_head()["name"]
    assert set(found["head"]["per_class"]) == {"blue", "green", "red"}
    mean = sum(found["head"]["per_class"].values()) / 3
    assert mean == pytest.approx(found["head"]["top1"])


@pytest.mark.slow
def test_an_interval_over_the_test_images(call, place):
    options = ("fit-head", "--repeats", 2, "-c", "block4_pool", "--head", "knn", "-n", "1")
    found = call(*options, "--interval", "bootstrap", "--json").json
    assert found["interval"] == "bootstrap"
    (point,) = found["curve"]
    assert point["top1_low"] <= point["top1_mean"] <= point["top1_high"]
    assert point["val_top1_low"] is None
    table = call(*options, "--interval", "bootstrap").out.splitlines()
    assert table[1].endswith("mean and 95 % interval over the test images")
    table = call(*options, "--interval", "bootstrap", "--metric", "macro_f1").out
    assert "no interval: --interval bootstrap knows those of accuracies only, not of macro_f1" in table


def test_near_identical_images_are_looked_for(call, place):
    options = ("fit-head", "--repeats", 1, "-c", "pool5", "--head", "ncm", "-n", "1")
    found = call(*options, "--check-leaks", "--leak-cosine", 0.01, "--json")
    assert found.json["near_duplicates"]["cut"] == "logits"
    assert found.json["near_duplicates"]["count"] == 18
    assert "note: 18 validation or test images are near-identical to a training image" in found.err
    assert "near_duplicates" not in call(*options, "--json").json


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--C", "1,x", "--head", "logreg"],
            "--C '1,x' is not a number over 0 or 'auto', and no list of such values",
        ),
        (["--lr", ""], "--lr '' is not a number over 0, 'auto' or None, and no list of such values"),
        (["--interval", "z"], "--interval 'z' is not one of t, bootstrap"),
        (["--leak-cosine", 0.9], "--leak-cosine is for --check-leaks; add it"),
        (
            ["--check-leaks", "--leak-cosine", 2],
            "check_leaks=2.0 (--leak-cosine) must be True, False or a cosine over 0 and up to 1",
        ),
        (["-j", 0], "n_jobs=0 leaves nobody to fit; give 1 or more, or -1 for one per core"),
        (["--hidden-units", 5], "--hidden-units is for --head mlp, got --head softmax"),
        (["--C", 2, "--head", "softmax,mlp"], "--C is for --head logreg, svm, got --head softmax, mlp"),
        (
            ["--patience", 2, "--head", "ncm"],
            "--patience is for --head softmax, mlp, tail, got --head ncm",
        ),
        (
            ["--head", "sofmax"],
            "unknown head 'sofmax'; known: 'softmax', 'svm', 'mlp', 'logreg', 'ncm' and 3 more",
        ),
        (["--temperature", "1,x"], "--temperature '1,x' is not a list of numbers such as 0.5,1,2"),
        (
            ["--temperature", "2", "-c", "pool5"],
            "temperatures=[2.0] (--temperature) are for the cut 'softmax', got 'block5_pool'; add "
            "--cut softmax",
        ),
        (["-c", "softmax", "--temperature", "0"], "temperature=0.0 must be a finite number over 0"),
        (["--repeats", 0], "repeats=0 must be at least 1"),
        (["--save-heads", "some"], "save_heads='some' (--save-heads) is not one of 'best', 'all', 'none'"),
        (
            ["-n", 2, "--lr", -1],
            "head 'softmax' cannot be fitted with lr=-1.0 (allowed: a number over 0, 'auto' or None)",
        ),
        (
            ["-n", 2, "--head", "svm,logreg", "--C", "auto"],
            "head 'svm' cannot be fitted with C='auto' (allowed: a number over 0)",
        ),
        (
            ["-n", 2, "--head", "logreg,svm", "--C", "0.1,auto"],
            "head 'svm' cannot be fitted with C='auto' (allowed: a number over 0)",
        ),
        (
            ["-n", 2, "--head", "mlp,ridge", "--alpha", "nan"],
            "head 'mlp' cannot be fitted with alpha=nan (allowed: a number from 0)",
        ),
        (
            ["-n", 2, "--val", "1"],
            "val=1.0 (--val) is not a part of each draw, over 0 and under 1, such as 0.2, and not 'none'",
        ),
        (
            ["-n", 2, "--val", "nan"],
            "val=nan (--val) is not a part of each draw, over 0 and under 1, such as 0.2, and not 'none'",
        ),
        (["-c", "softmax", "--temperature", "nan"], "temperature=nan must be a finite number over 0"),
        (["-c", "softmax", "--temperature", "1,inf"], "temperature=inf must be a finite number over 0"),
        (
            ["-n", 2, "--val", "some"],
            "val='some' (--val) is not a part of each draw, over 0 and under 1, such as 0.2, and not 'none'",
        ),
    ],
)
def test_wrong_options(call, place, options, message):
    runs = sorted((place / "cache" / "runs").iterdir())
    done = call("fit-head", *options)
    assert (done.code, done.message) == (2, message)
    assert sorted((place / "cache" / "runs").iterdir()) == runs


def test_a_head_of_ones_own(call, place, monkeypatch):
    get_reusable_executor().shutdown(wait=True)  # processes of other tests, which began in other folders
    monkeypatch.chdir(place)
    (place / "own_heads.py").write_text(
        "from sklearn.neighbors import KNeighborsClassifier as KNN\n\n\nclass Mine(KNN):\n    pass\n\n\n"
        "def worst(y_true, y_pred):\n    return float((y_true == y_pred).all())\n"
    )
    options = ("--repeats", 1, "-c", "pool5", "-n", "4", "--json")
    done = call(
        *("fit-head", "--head", "own_heads:Mine", "--head", "ncm", *options, "-j", 2),
        *("--metric", "own_heads:worst", "--metric", "macro_f1"),
    )
    assert [
        (one["head"], one["own_heads:worst_mean"], one["macro_f1_mean"]) for one in done.json["curve"]
    ] == [("Mine", 1, 1), ("ncm", 1, 1)]
    failed = call("fit-head", "--head", "own_heads:Yours", *options)
    assert (failed.code, failed.message) == (
        2,
        "head 'own_heads:Yours' (--head) cannot be had (AttributeError: module 'own_heads' has no attribute "
        "'Yours'); give module:Class of a module in this folder or installed, whose class needs no arguments",
    )
    # the numbers stand in the run: whoever reads it needs the function no more, who goes on with it does
    (place / "own_heads.py").unlink()
    sys.modules.pop("own_heads")
    compared = call("compare", "--metric", "own_heads:worst", "--json")
    assert [one["mean"] for one in compared.json["curves"]] == [1, 1]
    assert call("report", "last").code == 0
    page = html.unescape((open_run(cache_dir="cache").path / "report.html").read_text())
    assert '"metric own_heads:worst": "source ' in page
    again = call("fit-head", "--metric", "own_heads:worst", *options)
    assert (again.code, again.message) == (
        2,
        "metric 'own_heads:worst' (--metric) cannot be had (ModuleNotFoundError: No module named "
        "'own_heads'); give module:function of a module in this folder or installed, such as "
        "my_module:worst_class",
    )


@pytest.mark.slow
def test_what_is_spent_and_what_decides(call, place):
    options = ("-c", "pool5", "--head", "logreg", "-n", "2,100", "--up-to", "--val-per-class", 1)
    done = call("fit-head", *options, "--class-weight", "balanced", "--metric", "macro_f1", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert [point["n_per_class"] for point in found["curve"]] == [2, 6]  # all there are
    assert {point["n_val"] for point in found["curve"]} == {3}
    assert "comes to macro_f1" in found["answer"]
    assert "3 validation labels" in found["answer"]
    scores = found["head"]["per_class_scores"]["blue"]
    assert scores["recall_low"] <= scores["recall"] <= scores["recall_high"]
    assert open_run(found["run"]).facts["parameters"]["head_params"]["logreg"] == {"class_weight": "balanced"}


def test_a_protocol_says_heads_itself(call, place):
    done = call("fit-head", "--protocol", "simpleshot", "--head", "ncm")
    assert (done.code, done.message) == (
        2,
        "protocol 'simpleshot' (--protocol) says heads, their parameters and val itself; leave --head ncm "
        "out, or the protocol",
    )
    done = call("fit-head", "--protocol", "simple")
    assert done.code == 2
    assert done.message.startswith("unknown protocol 'simple' (--protocol); known: 'simpleshot'")
