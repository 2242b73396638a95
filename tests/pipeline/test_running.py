"""Running a study: only what is missing is done, and what was published stands beside what was measured."""

from __future__ import annotations

import json
import linecache
import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from featbank.backbones.network import TruncatedNetwork
from featbank.banks import Bank
from featbank.errors import InvalidInputError, MissingDataError, UnknownNameError
from featbank.pipeline import load_study, run_study, study_costs
from featbank.report._content import read_study
from featbank.runs import Run


@pytest.fixture
def drawn():
    """Ask for this where figures and pages are to be made; elsewhere they cost seconds and show nothing."""


@pytest.fixture(autouse=True)
def _undrawn(request, monkeypatch):
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("featbank.plots.display.draw_all", lambda run, **options: {})
        monkeypatch.setattr("featbank.pipeline.running._draw_together", lambda result: {})
        monkeypatch.setattr(
            "featbank.report.write_report", lambda run, **options: SimpleNamespace(path=run.path)
        )


@pytest.fixture
def pushed(monkeypatch):
    """Count the images that go through a network, whatever anybody says of it."""
    counts = []
    forward = TruncatedNetwork.forward

    def counted(self, batch, *args, **options):
        counts.append(len(batch))
        return forward(self, batch, *args, **options)

    monkeypatch.setattr(TruncatedNetwork, "forward", counted)
    return counts


def names(result):
    return [one.run.name for one in result.experiments]


@pytest.mark.slow
def test_what_a_study_leaves(small, drawn):
    lines, steps = [], []

    def begin(what):
        return lambda done, total: steps.append((what, done, total))

    result = run_study(small, command=["featbank", "run"], say=lines.append, progress=begin)
    deep, _shallow = result.experiments
    assert result.pushed == 24
    assert lines == [
        "Three colours",
        "colours.4-2-2: 24 images, minivgg, block5_pool, fc7, block3_pool",
        "  24 pushed, 0 were there already",
        "  deep: ncm on block5_pool, fc7",
        "  shallow: ncm on block3_pool",
    ]
    assert steps[0] == ("extract", 24, 24)
    assert steps[-1] == ("fit", 5, 5)
    # one pass for both experiments: three cuts in one bank
    assert Bank.open(deep.run.source["bank"]).cuts == ("block3_pool", "block5_pool", "fc7")
    assert deep.run.facts["name"] == "small-deep"
    assert deep.run.facts["command"] == "featbank run"
    assert result.differs == [
        "colours, not photographs",
        "minivgg has RANDOM weights: its features are those of no training",
        "3 classes here, 5 in the report",
    ]
    (found,) = result.measured
    top1 = next(one for one in result.points if (one.cut, one.n_per_class) == ("fc7", 4)).mean("top1")
    assert (found["value"], found["n_per_class"], found["n_repeats"]) == (top1, 4, 1)
    assert result.verdicts[0].text == "gains shrink"
    assert max(len(repr(one)) for one in (result, deep)) < 2000
    assert {path.name for path in result.figures.values()} == {"study-curve.png", "study-cuts.png"}
    assert all(path.is_file() for path in (*result.figures.values(), *result.reports.values()))


@pytest.mark.slow
def test_study_json_is_what_the_report_reads(small):
    result = run_study(small)
    for one in result.experiments:
        facts = json.loads((one.run.path / "study.json").read_bytes())
        assert facts["experiments"] == dict(zip(("deep", "shallow"), names(result), strict=True))
        assert facts["published"] == [
            {
                "label": "fc7, test",
                "metric": "top1",
                "unit": "share",
                "value": 0.75,
                "source": "a report on colours",
            }
        ]
        assert facts["measured"][0]["value"] == result.measured[0]["value"]
        assert facts["claims"] == [
            {"text": "gains shrink", "holds": result.verdicts[0].holds, "said": result.verdicts[0].said}
        ]
        said = read_study(one.run.path)
        assert (said.title, said.question) == ("Three colours", "Can it tell colours apart?")
        assert (said.comparisons[0].published, said.comparisons[0].measured) == (
            0.75,
            result.measured[0]["value"],
        )
        assert list(said.differs) == result.differs


def test_the_second_time_nothing_is_done(small, pushed):
    first = run_study(small)
    assert sum(pushed) >= 24
    pushed.clear()
    lines = []
    again = run_study(small, say=lines.append)
    assert pushed == []
    assert again.pushed == 0
    assert names(again) == names(first)
    assert all(one.reused for one in again.experiments)
    assert again.measured == first.measured
    assert lines[3] == f"  deep: fitted before, in {names(first)[0]}"


@pytest.mark.slow
def test_only_the_sweep_that_changed_is_run_again(small, edited, pushed):
    first = run_study(small)
    pushed.clear()
    changed = run_study(edited(("heads.ncm.standardize = false", "sweep.repeats = 3")))
    assert pushed == []
    assert [one.reused for one in changed.experiments] == [True, False]
    assert names(changed)[0] == names(first)[0]
    assert len(changed.experiments[1].result.fits) == 7  # all samples once


@pytest.mark.slow
def test_a_head_of_ones_own_lies_beside_the_study(edited, tmp_path):
    text = "from sklearn.naive_bayes import GaussianNB\n\n\nclass Mine(GaussianNB):\n    weight = 1\n"
    own = ('sweep.cuts = ["block3_pool"]\nsweep.heads = ["ncm"]\nheads.ncm.standardize = false', "")
    file = edited((own[0], 'sweep.cuts = ["block3_pool"]\nsweep.heads = ["studys_head:Mine", "ncm"]'))
    (tmp_path / "studies").mkdir()
    file = file.rename(tmp_path / "studies" / file.name)
    module = tmp_path / "studies" / "studys_head.py"
    module.write_text(text)
    result = run_study(file, only=["shallow"])
    assert {one.head for one in result.points} == {"Mine", "ncm"}
    assert run_study(file, only=["shallow"]).experiments[0].reused
    sys.modules.pop("studys_head")
    module.write_text(text.replace("weight = 1", "weight = 22"))  # another head of the same name
    linecache.clearcache()
    assert not run_study(file, only=["shallow"]).experiments[0].reused
    sys.modules.pop("studys_head")


@pytest.mark.slow
def test_other_rows_are_another_sweep(small, edited, pushed, caplog):
    first = run_study(small)
    pushed.clear()
    changed = run_study(edited(('split = "4,2,2"', 'split = "5,1,2"')))
    assert pushed == []
    assert [one.reused for one in changed.experiments] == [False, False]
    assert "featbank.extraction.planning" not in caplog.text
    for result, split in ((first, "4,2,2"), (changed, "5,1,2")):
        bank = Bank.open(result.experiments[0].run.source["bank"])
        assert ",".join(map(str, (n // 3 for n in bank.manifest.counts().values()))) == split


@pytest.mark.slow
def test_a_run_that_was_not_finished_is_no_result(small):
    first = run_study(small)
    run = first.experiments[0].run
    run.facts["status"] = "running"
    run.write()
    again = run_study(small)
    assert [one.reused for one in again.experiments] == [False, True]


@pytest.mark.slow
def test_a_damaged_record_is_run_again(small):
    first = run_study(small)
    (first.experiments[0].run.path / "study.json").write_text("{")
    assert [one.reused for one in run_study(small).experiments] == [False, True]


@pytest.mark.slow
def test_a_cut_that_is_new_is_extracted_alone(small, edited, pushed):
    run_study(small)
    pushed.clear()
    more = edited(('sweep.cuts = ["block3_pool"]', 'sweep.cuts = ["block3_pool", "block2_pool"]'))
    result = run_study(more)
    assert sum(pushed) >= 24
    assert [one.reused for one in result.experiments] == [True, False]


@pytest.mark.slow
def test_experiments_on_a_part_of_the_rows_have_a_bank_of_their_own(edited, caplog):
    part = edited(('name = "shallow"\n', 'name = "shallow"\ndata.classes = 2\n'))
    with caplog.at_level(logging.WARNING, "featbank.extraction"):
        result = run_study(part)
    assert "featbank.extraction.planning" not in caplog.text
    assert [len(one.manifest) for one in result.experiments] == [24, 16]
    banks = [Bank.open(one.run.source["bank"]) for one in result.experiments]
    assert [one.dataset for one in banks] == ["colours.4-2-2", "colours.4-2-2.2-classes"]
    assert [len(one.manifest) for one in banks] == [24, 16]
    assert result.pushed == 24 + 16  # another cut, of two classes
    again = run_study(part)
    assert all(one.reused for one in again.experiments)


@pytest.mark.slow
def test_the_page_of_a_study_shows_test_images_of_ones_own(edited, tmp_path, photo_folder, drawn):
    """No text says where both data sets are, so the page gets them as the study opened them."""
    own = edited(
        ('split = "4,2,2"\n', ""),
        ('name = "shallow"\n', 'name = "shallow"\ntest_data.source = "mine"\ntest_data.how = "paint"\n'),
    )
    photos = tmp_path / "data" / "photos"
    photos.rename(tmp_path / "train")
    photos.mkdir()
    (tmp_path / "train").rename(photos / "train")
    mine = photo_folder(n_per_class=3, name="data/mine")
    names = sorted(one.name for one in mine.iterdir())
    for name in names:  # every image bears the name of another class, so that each is a mistake to be shown
        (mine / name).rename(mine / f"{name}-moved")
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        (mine / f"{name}-moved").rename(mine / other)
    for file in mine.rglob("*.png"):
        file.write_bytes(file.read_bytes() + b"no copy of a training image")
    result = run_study(own, only=["shallow"])
    run = result.experiments[0].run
    answers = run.predictions()
    wrong = answers.rows[answers.y_true != answers.y_pred]
    assert len(wrong) > 3
    assert all(run.manifest.ids[row].startswith(b"~test_data/") for row in wrong)
    text = result.reports["shallow"].read_text("utf-8")
    assert "not shown" not in text
    assert text.count("data:image/") >= len(wrong)


def test_only_some_experiments(small):
    result = run_study(small, only=["shallow"])
    assert [one.written.name for one in result.experiments] == ["shallow"]
    assert result.measured[0]["value"] is None
    assert result.verdicts[0].holds is None
    assert result.figures == {}
    with pytest.raises(UnknownNameError) as caught:
        run_study(small, only=["shalow"])
    assert str(caught.value) == "study 'small' has no experiment 'shalow'; it has 'shallow', 'deep'"


def test_a_limit_leaves_out_classes_where_a_split_counts_them(small):
    result = run_study(small, limit=17)
    assert result.experiments[0].manifest.counts() == {"train": 8, "val": 4, "test": 4}
    assert "2 classes here, 5 in the report" in result.differs
    assert result.differs[-1] == "at most 17 images (--limit)"
    with pytest.raises(InvalidInputError) as caught:
        run_study(small, limit=15)
    assert str(caught.value) == (
        "limit=15 leaves 1 of the classes, of which the split '4,2,2' takes 8 images each; use a limit of at "
        "least 16"
    )


def test_missing_data_says_how_to_get_it_before_anything_is_done(small, tmp_path):
    (tmp_path / "data" / "photos").rename(tmp_path / "elsewhere")
    with pytest.raises(MissingDataError) as caught:
        run_study(small)
    assert str(caught.value) == (
        f"no images at 'photos' (looked for '{tmp_path}/photos' and '{tmp_path}/data/photos'): paint some; "
        "or say where they are with --data PATH"
    )
    assert not (tmp_path / "cache").exists()
    assert run_study(small, data=tmp_path / "elsewhere").pushed == 24


def test_data_below_the_folder_of_the_environment(small, tmp_path, monkeypatch):
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("FEATBANK_DATA", str(tmp_path / "elsewhere"))
    assert run_study(small).pushed == 24


@pytest.mark.slow
def test_costs_are_told_and_nothing_is_left(small, tmp_path):
    (cost,) = study_costs(small)
    assert (cost.experiments, cost.plan.rows, cost.plan.to_push, cost.fits) == (
        ("deep", "shallow"),
        24,
        24,
        18,
    )
    assert not list(tmp_path.glob("cache/banks/*"))
    run_study(small)
    assert study_costs(small)[0].plan.to_push == 0


def test_weights_that_are_not_there_come_before_any_image(small, tmp_path):
    study = load_study(small)
    first, second = study.experiments
    second = replace(second, backbone=replace(second.backbone, weights="gone.safetensors"))
    with pytest.raises(FileNotFoundError, match=r"weights file 'gone.safetensors' does not exist"):
        run_study(replace(study, experiments=(first, second)))
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_a_run_of_a_study_is_a_run_like_any_other(small):
    found = run_study(small).experiments[0].run
    assert Run.open(found.path).best_head()["saved"]


@pytest.mark.slow
def test_the_tail_head_finds_weights_that_have_moved(edited, tmp_path):
    from featbank.backbones import loading as module

    shipped = Path(module.__file__).parent / "pretrained" / "minivgg-cifar10.safetensors"
    here = tmp_path / "here.safetensors"
    here.write_bytes(shipped.read_bytes())
    run_study(edited(('weights = "random"\n', "")), weights=[str(here)], only=["shallow"])
    there = here.rename(tmp_path / "there.safetensors")
    file = edited(
        ('weights = "random"\n', ""),
        (
            'sweep.cuts = ["block3_pool"]\nsweep.heads = ["ncm"]',
            'sweep.cuts = ["block3_pool"]\nsweep.heads = ["tail"]',
        ),
        ("heads.ncm.standardize = false", "heads.tail.max_epochs = 1"),
    )
    (one,) = run_study(file, weights=[str(there)], only=["shallow"]).experiments
    assert one.pushed == 0
    assert {fit.status for fit in one.result.fits} == {"ok"}
