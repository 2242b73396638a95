"""``featbank compare``."""

from __future__ import annotations

import csv
import io
import re
import shutil

import pytest

from featbank.runs import open_run


def test_the_newest_run_by_default(call, place):
    found = call("compare", "--json").json
    assert (found["metric"], found["n_per_class"], found["notes"]) == ("top1", 4, [])
    assert {(one["cut"], one["temperature"]) for one in found["curves"]} == {
        ("block5_pool", None),
        ("softmax", 1.0),
        ("softmax", 2.0),
    }
    assert found["ranked_by"] == "val_top1"
    ranks = [one["rank"] for one in found["curves"]]
    assert ranks == sorted(ranks, reverse=True)
    best, *others = found["curves"]
    assert best["difference"] is None
    for one in others:
        assert one["difference"]["mean"] == pytest.approx(one["mean"] - best["mean"])
        assert one["difference"]["low"] is one["difference"]["high"] is None  # two draws are too few
        assert one["fit_s"] > 0


def test_a_table_otherwise(call, place):
    lines = call("compare", "depth", "--samples", 2).out.splitlines()
    assert lines[1] == (
        "top1 in %, 2 samples per class: mean of 2 draws (an interval takes 3 different draws);"
    )
    assert lines[2] == "best by val_top1 first; difference to the best on the same subsets"
    assert lines[4].split()[:4] == ["cut", "head", "top1", "val_top1"]
    rows = [line.split() for line in lines[6:]]
    assert sorted(row[:2] for row in rows) == sorted(
        [cut, head] for cut in ("block4_pool", "block5_pool") for head in ("softmax", "ncm")
    )
    assert " best " in lines[6]
    assert all(re.search(r" [+-]\d+\.\d ", line) for line in lines[7:])


def test_a_bank_stands_for_its_runs(call, place):
    # the runs were made on the bank where it was first
    (bank,) = (place / "cache" / "banks" / "photos").iterdir()
    for name in ("depth", "warmth"):
        run = open_run(name, cache_dir="cache")
        run.facts["source"]["bank"] = str(bank)
        run.write()
    found = call("compare", "photos/minivgg", "--json").json
    assert {one["run"].rpartition("-")[2] for one in found["curves"]} == {"depth", "warmth"}
    assert found["notes"] == []  # the same draws: all are paired
    assert [one["difference"] is None for one in found["curves"]].count(True) == 1
    assert "(photos, minivgg)" in call("compare", bank).out
    for name in ("depth", "warmth"):
        shutil.rmtree(open_run(name, cache_dir="cache").path)
    done = call("compare", "photos")
    assert (done.code, done.message) == (3, "no run of bank 'photos'; make one with featbank fit-head")


def test_runs_that_drew_other_images_are_not_paired(call, place):
    call("fit-head", "--repeats", 2, "-c", "pool5", "--head", "ncm", "-n", "4", "--seed", 1, "--name", "luck")
    done = call("compare", "depth", "luck", "--json")
    assert [one["difference"] is None for one in done.json["curves"]].count(True) >= 2
    (note,) = done.json["notes"]
    assert note.startswith("no paired differences: ")
    assert note.endswith("(another split or seed)")
    assert f"note: {note}" in done.err
    assert "not paired" in call("compare", "depth", "luck").out


def test_all_sizes_beside_each_other(call, place):
    lines = call("compare", "depth", "--all-sizes").out.splitlines()
    assert lines[1] == (
        "top1 in % by samples per class: mean over the draws; best at the largest size by val_top1 first"
    )
    assert lines[3].split() == ["cut", "head", "1", "2", "3", "4"]
    assert len(lines) == 5 + 4
    found = call("compare", "depth", "--all-sizes", "--json").json["sizes"]
    assert [one["n_per_class"] for one in found] == [1, 2, 3, 4]
    assert found[-1] == call("compare", "depth", "--json").json
    best = found[-1]["curves"][0]
    assert lines[5].split()[:2] == [best["cut"], best["head"]]


def test_csv_is_exact(call, place):
    lines = list(csv.DictReader(io.StringIO(call("compare", "depth", "--format", "csv").out)))
    found = call("compare", "depth", "--all-sizes", "--json").json["sizes"]
    assert [(one["n_per_class"], one["cut"], one["head"]) for one in lines] == [
        (f"{size['n_per_class']}", one["cut"], one["head"]) for size in found for one in size["curves"]
    ]
    for line, one in zip(lines, [one for size in found for one in size["curves"]], strict=True):
        assert float(line["mean"]) == one["mean"]
        assert line["low"] == line["difference_low"] == ""  # two draws
        assert line["difference_mean"] == (f"{one['difference']['mean']}" if one["difference"] else "")
    only = call("compare", "depth", "--format", "csv", "--samples", 2).out.splitlines()
    assert len(only) == 1 + 4


def test_tables_for_a_paper(call, place):
    latex = call("compare", "depth", "--format", "latex").out.splitlines()
    assert latex[0].startswith(
        "% top1 in % by samples per class: mean over the draws; bold: best by val_top1"
    )
    assert latex[1:5] == [
        r"\begin{tabular}{llrrrr}",
        r"\toprule",
        r"cut & head & 1 & 2 & 3 & 4 \\",
        r"\midrule",
    ]
    assert latex[-2:] == [r"\bottomrule", r"\end{tabular}"]
    body = latex[5:-2]
    assert len(body) == 4
    assert all(line.startswith(r"block") and r"\_pool & " in line for line in body)
    assert sum(line.count(r"\textbf{") for line in body) == 4  # the best of each size
    found = call("compare", "depth", "--json").json["curves"][0]
    assert body[0].endswith(rf"\textbf{{{100 * found['mean']:.1f}}} \\")
    markdown = call("compare", "depth", "warmth", "--format", "markdown").out.splitlines()
    assert markdown[0] == "| run | cut | head | 1 | 2 | 3 | 4 |"
    assert markdown[1] == "| --- | --- | --- | --: | --: | --: | --: |"
    assert sum(line.count("**") for line in markdown) == 8
    assert markdown[-1].endswith("bold: best by val_top1")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing"], 3, "no run 'nothing'; there are "),
        (["--samples", 3], 2, "3 samples per class were not fitted; there are 2, 4"),
        (["--metric", "top2"], 2, "metric='top2' is not one of top1, top5, "),
        (["--format", "xml"], 2, "--format 'xml' is not one of table, csv, latex, markdown"),
        (["--samples", 2, "--all-sizes"], 2, "--samples '2' is one size; leave it out for --all-sizes"),
    ],
)
def test_wrong_input(call, place, arguments, code, message):
    done = call("compare", *arguments)
    assert done.code == code
    assert done.message.startswith(message)


def test_all_sizes_are_those_that_have_the_metric(call, place):
    """Of one image per class none can be held out, so there is no validation accuracy at 1."""
    call("fit-head", "-c", "pool5", "--head", "ncm", "-n", "1,2,4", "--val", "0.4", "--name", "held")
    done = call("compare", "held", "--format", "csv", "--metric", "val_top1")
    assert done.code == 0, done.err


@pytest.mark.slow
def test_folds_are_called_folds(call, place):
    options = ("-c", "block5_pool", "--head", "ncm", "-n", "2,4")
    call("fit-head", "photos", "--folds", 3, *options, "--name", "dealt")
    lines = call("compare", "dealt", "--samples", 2).out.splitlines()
    assert lines[1].startswith("top1 in %, 2 samples per class: mean of 3 folds and half width of its ")
    lines = call("compare", "dealt", "--all-sizes").out.splitlines()
    assert lines[1].startswith("top1 in % by samples per class: mean over the folds ")
