"""The figures of a run: which there are, several runs in one, and what cannot be drawn."""

from __future__ import annotations

import copy
import dataclasses
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank.banks import Bank
from featbank.cli import main
from featbank.errors import InvalidInputError, RunError
from featbank.extraction import extract
from featbank.fitting import fit_heads
from featbank.inspection import MistakesDisplay
from featbank.plots import (
    FIGURES,
    ConfusionDisplay,
    CurveDisplay,
    CutsDisplay,
    Display,
    HistoryDisplay,
    ScoresDisplay,
    TemperatureDisplay,
    TimesDisplay,
    times,
)
from featbank.plots.chart import Chart, Look, Point, Series, Table, category_axis, linear_axis
from featbank.plots.figures import draw_all, suited
from featbank.runs import Run
from featbank.sweep.records import fits_to_csv


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run, Run]:
    """Two runs of one bank (five sizes; temperatures), and one of another backbone key."""
    cache = tmp_path_factory.mktemp("figures")
    options = {"backbone": "minivgg", "weights": "random", "split": "5,2,4", "limit": 110, "cache_dir": cache}
    # bfloat16 is so coarse that ten random logits are the same for all images, on whatever processor
    options["precision"] = "bfloat16"
    bank = extract("digits", cuts=("block4_pool", "block5_pool", "logits"), **options).bank
    other = extract("digits", cuts=("block5_pool",), name="numbers", **options).bank
    quick = {"head_params": {"softmax": {"max_epochs": 4}}, "repeats": 2, "cache_dir": cache}
    first = fit_heads(
        *(bank,),
        cuts=("pool4", "pool5"),
        heads=("softmax", "ncm"),
        samples_per_class="1..5:1",
        name="one",
        **quick,
    )
    with pytest.warns(UserWarning, match="training loss has not moved"):  # ten random logits say nothing
        second = fit_heads(
            *(bank,),
            cuts=("pool5", "softmax"),
            temperatures=(1, 4),
            samples_per_class="2,4",
            name="two",
            **quick,
        )
    third = fit_heads(other, samples_per_class="2,4", name="three", **quick)
    return first.run, second.run, third.run


@pytest.fixture
def one(runs):
    return runs[0]


def cuts_of(display) -> set[str]:
    return {cut for cut, _, _ in display.series}


def test_every_figure_a_run_allows_is_drawn(runs):
    drawn = [set(draw_all(run)) for run in runs]
    assert [one & {"cuts", "scores", "temperature"} for one in drawn] == [{"cuts"}, {"temperature"}, set()]
    assert all(one >= {"curve", "confusion", "history", "times"} for one in drawn)


def test_one_run(one):
    display = CurveDisplay.from_run(one)
    assert set(display.series) == {
        (cut, head, None) for cut in ("block4_pool", "block5_pool") for head in ("softmax", "ncm")
    }
    assert (display.title, display.metric, display.laws) == ("digits, minivgg", "top1", {})
    (softmax,) = CurveDisplay.from_run(one, cuts=["block5_pool"], heads=["softmax"]).series.values()
    expected = [fit.top1 for fit in one.result().fits if fit.key == ("block5_pool", "softmax", None)]
    np.testing.assert_allclose(
        [point.mean("top1") for point in softmax], np.reshape(expected, (5, 2)).mean(1)
    )


def test_runs_that_share_a_cut_are_told_apart_by_their_dataset(runs):
    one, _, other = runs
    display = CurveDisplay.from_run([one, other], heads=["softmax"])
    assert cuts_of(display) == {
        "block4_pool",
        "block5_pool (digits, minivgg)",
        "block5_pool (numbers, minivgg)",
    }
    assert display.title == "digits, minivgg; numbers, minivgg"
    (shared,) = [points for (cut, _, _), points in display.series.items() if "numbers" in cut]
    assert [point.mean("top1") for point in shared] == [
        point.mean("top1") for point in other.result().points()
    ]


def test_runs_of_one_dataset_and_backbone_are_told_apart_by_their_names(runs):
    one, two, _ = runs
    display = CurveDisplay.from_run([one, two], heads=["softmax"])
    assert cuts_of(display) == {
        "block4_pool",
        f"block5_pool ({one.name})",
        f"block5_pool ({two.name})",
        "softmax",
    }
    assert display.title == "digits, minivgg"
    assert all(len({point.n_per_class for point in line}) == len(line) for line in display.series.values())
    display.plot()


def test_a_run_given_twice_is_drawn_once(one):
    assert CurveDisplay.from_run([one, Run.open(one.path)]).series == CurveDisplay.from_run(one).series


def test_a_curve_goes_on_by_its_law(one):
    display = CurveDisplay.from_run(one, heads=["softmax"], extrapolate=40)
    assert set(display.laws) == {("block4_pool", "softmax", None), ("block5_pool", "softmax", None)}
    assert display.until == 40
    law = display.laws["block5_pool", "softmax", None]
    assert law.n_max == 5
    drawn = [line for line in display.plot().ax_.get_lines() if line.get_linestyle() != "None"]
    assert {tuple(line.get_xdata()[[0, -1]]) for line in drawn} == {(1.0, 5.0), (5.0, 40.0)}


def test_too_few_points_are_not_continued(runs):
    with pytest.raises(InvalidInputError, match=r"a power law needs at least 4 sizes, got 2 \(2, 4\)"):
        CurveDisplay.from_run(runs[2], extrapolate=64)


@pytest.mark.parametrize("until", [5, 2.5])
def test_a_curve_goes_on_forwards_only(one, until):
    with pytest.raises(InvalidInputError) as caught:
        CurveDisplay.from_run(one, extrapolate=until)
    assert str(caught.value) == (
        f"cannot extrapolate to {until:g} samples per class; it must be over the largest size fitted, 5"
    )


def without_test_rows(run: Run, path: Path) -> Run:
    """The same run, as if the bank had had no test rows."""
    path.mkdir()
    for file in run.path.glob("*.json"):
        (path / file.name).write_bytes(file.read_bytes())
    blind = [
        dataclasses.replace(fit, top1=None, top5=None, best_top1=None, final_top1=None)
        for fit in run.result().fits
    ]
    (path / "results.csv").write_text(fits_to_csv(blind))
    return Run.open(path)


def test_without_test_rows_curves_are_of_the_validation_rows(runs, tmp_path):
    one, two = (without_test_rows(run, tmp_path / run.name) for run in runs[:2])
    display = CurveDisplay.from_run(one, extrapolate=40)
    assert (display.metric, len(display.laws)) == ("val_top1", 4)
    assert TemperatureDisplay.from_run(two).split == "val"
    assert TemperatureDisplay.from_run(runs[1]).split == "test"


def test_history_and_confusion_of_a_head(one):
    name = "block4_pool-softmax-n5-r0"
    kept = [entry["name"] for entry in one.heads() if entry["name"].startswith("block4_pool-softmax")]
    name = kept[0]
    display = HistoryDisplay.from_run(one, head=name)
    assert display.title == "digits, minivgg: softmax on block4_pool, 5 samples per class"
    assert display.best_epoch == one.entry(name)["best_epoch"]
    np.testing.assert_array_equal(display.history["val_loss"], one.histories()[name]["val_loss"])
    assert HistoryDisplay.from_run(one).title.startswith(f"digits, minivgg: {one.best_head()['head']} on ")
    assert (
        ConfusionDisplay.from_run(one, head=name).title
        == "digits, minivgg: softmax on block4_pool, 5 samples per class"
    )
    np.testing.assert_array_equal(ConfusionDisplay.from_run(one, head=name).matrix, one.confusion(name))


def test_what_cannot_be_drawn_says_so(one):
    with pytest.raises(RunError, match="has no head 'x'; it has 'block4_pool-softmax"):
        HistoryDisplay.from_run(one, head="x")
    ncm = next(entry["name"] for entry in one.heads() if entry["head"] == "ncm")
    with pytest.raises(InvalidInputError, match=f"head '{ncm}' was not trained in epochs; those that were: "):
        HistoryDisplay.from_run(one, head=ncm)
    with pytest.raises(InvalidInputError, match="the run has no fits of head 'mlp'; it has 'softmax', 'ncm'"):
        CurveDisplay.from_run(one, heads=["mlp"])
    with pytest.raises(InvalidInputError, match="no point has a temperature"):
        TemperatureDisplay.from_run(one)


def test_cuts_and_temperature_at_a_size(runs):
    assert CutsDisplay.from_run(runs[0], n_per_class=3).n_per_class == 3
    assert CutsDisplay.from_run(runs[0]).n_per_class == 5
    assert TemperatureDisplay.from_run(runs[1], n_per_class=2).n_per_class == 2


def test_times_of_fitting_and_extracting(one, tmp_path):
    display = TimesDisplay.from_run(one)
    fits = [fit for fit in one.result().fits if fit.key == ("block4_pool", "softmax", None)]
    assert display.seconds["block4_pool", "fit softmax"] == pytest.approx(sum(fit.duration_s for fit in fits))
    bank = Bank.open(one.source["bank"])
    passes = [bank.facts(cut)["duration_s"] for cut in ("block4_pool", "block5_pool")]
    assert display.seconds[None, "extract"] == max(passes)  # one pass, one bar
    assert display.cuts == [None, "block4_pool", "block5_pool"]
    assert sum(name == "extract" for _, name in display.seconds) == 1
    assert display.note.splitlines()[1:] == ["extract: 110 images,", "a pass of several cuts once"]
    facts = {**one.facts, "source": {**one.source, "bank": str(tmp_path / "gone")}}
    blind = TimesDisplay.from_run(Run(one.path, facts))
    assert blind.names == ["fit softmax", "fit ncm"]
    assert "the bank is gone" in blind.note


def test_mistakes_are_what_the_confusion_matrix_counts(one):
    for entry in one.heads():
        display = MistakesDisplay.from_run(one, head=entry["name"], most=3)
        matrix = one.confusion(entry["name"])
        assert display.n_wrong == matrix.sum() - matrix.trace()
        assert display.n_rows == matrix.sum()
        assert len(display.images) == min(3, display.n_wrong)
    assert "on block" in display.title


def test_the_temperature_figure_says_what_chose_the_best_epoch(runs, tmp_path):
    two = runs[1]
    assert TemperatureDisplay.from_run(two).chosen_by == {"softmax": "validation loss"}
    told = {**two.facts["parameters"], "head_params": {"softmax": {"monitor": "accuracy"}}}
    assert TemperatureDisplay.from_run(Run(two.path, {**two.facts, "parameters": told})).chosen_by == {
        "softmax": "validation accuracy"
    }


def test_a_pass_is_known_by_what_the_bank_says_not_by_its_time(tmp_path):
    """Two cuts in one pass and a third in a pass of its own, all of which took equally long."""
    photos = tmp_path / "photos"
    for label in ("a", "b"):
        (photos / label).mkdir(parents=True)
        for at in range(3):
            Image.new("RGB", (32, 32), (40 * at, 80, 9)).save(photos / label / f"{label}{at}.png")
    common = {"backbone": "minivgg", "weights": "random", "cache_dir": tmp_path / "cache"}
    extract(photos, cuts=["block4_pool", "block5_pool"], **common)
    bank = Bank.open(extract(photos, cuts=["fc7"], **common).bank)
    known = {cut: {**bank.facts(cut), "duration_s": 2.0} for cut in bank.cuts}
    assert [cuts for cuts, _ in times._passes(known)] == [["block4_pool", "block5_pool"], ["fc7"]]
    Image.new("RGB", (32, 32), (1, 2, 3)).save(photos / "a" / "new.png")
    bank = Bank.open(extract(photos, cuts=["block4_pool", "fc7"], **common).bank)
    known = {cut: bank.facts(cut) for cut in bank.cuts}
    # the last pass was shared, the first was not
    assert [cuts for cuts, _ in times._passes(known)] == [["block4_pool"], ["fc7"]]
    assert times._passes({"a": {"duration_s": 1.0}, "b": {"duration_s": 1.0}, "c": {}}) == [
        (["a"], 1.0),
        (["b"], 1.0),
    ]


def test_cuts_of_a_pass_are_named():
    assert times._of_pass(["b", "a"], "abcde") == "a + b"
    assert times._of_pass(["d", "b", "a"], "abcde") == "a + 1 more + d"
    assert times._of_pass(list("abcde"), "abcde") is None
    assert times._of_pass(["a"], "a") == "a"


def test_a_run_of_temperatures_has_no_depth(runs, monkeypatch):
    points = [point for point in runs[1].result().points() if point.temperature is not None]
    monkeypatch.setattr("featbank.sweep.SweepResult.points", lambda _, **__: points)
    with pytest.raises(InvalidInputError, match="has only the cut 'softmax', which has no depth; draw its"):
        CutsDisplay.from_run(runs[1])


def test_cuts_and_heads_are_chosen_in_every_figure(runs):
    one, two, _ = runs
    chosen = {"cuts": ["pool5"], "heads": ["ncm"]}
    assert set(CurveDisplay.from_run(one, **chosen).series) == {("block5_pool", "ncm", None)}
    assert CutsDisplay.from_run(one, **chosen).cuts == [("block5_pool", None)]
    assert {point.key for point in ScoresDisplay.from_run(one, **chosen).points} == {
        ("block5_pool", "ncm", None)
    }
    assert set(TimesDisplay.from_run(one, **chosen).seconds) == {
        ("block5_pool", "extract"),
        ("block5_pool", "fit ncm"),
    }
    assert TemperatureDisplay.from_run(two, cuts=["softmax"], heads=["softmax"]).heads == ["softmax"]
    for display in (ConfusionDisplay, HistoryDisplay):
        for cut in ("pool4", "pool5"):
            assert f" on block{cut[-1]}_pool, " in display.from_run(one, cuts=[cut]).title
    for display in (CurveDisplay, CutsDisplay, ScoresDisplay, TimesDisplay, ConfusionDisplay, HistoryDisplay):
        with pytest.raises(InvalidInputError, match="the run has no fits of cut 'fc7'; it has 'block"):
            display.from_run(one, cuts=["fc7"])


class Plugged(Display):
    """A figure of somebody else's: how many fits there are."""

    page_title = "How many fits"
    on_page = True

    def __init__(self, counts):
        self.counts = counts

    @classmethod
    def from_run(cls, run, *, heads=()):
        fits = [one for one in run.result().fits if not heads or one.head in heads]
        return cls({cut: sum(one.cut == cut for one in fits) for cut in run.result().cuts})

    def charts(self):
        points = tuple(
            Point(at, n, said=(cut, f"{n}", "")) for at, (cut, n) in enumerate(self.counts.items())
        )
        series = (Series("fits", points, Look("h0", marker=0)),)
        y = linear_axis("Fits (number)", self.counts.values(), floor=0)
        return [Chart("Number of fits by cut", category_axis("Cut (name)", [*self.counts]), y, series)]

    def table(self):
        return Table(("Cut", "Fits"), tuple((cut, f"{n}") for cut, n in self.counts.items()))


def test_a_figure_is_one_class_and_one_line(one, monkeypatch, tmp_path, capsys):
    """Registered, it is drawn by `featbank plot`, by a finished run, and on its page."""
    from featbank.report.page import render_report

    registry = copy.deepcopy(FIGURES)
    registry.register("fits", Plugged)
    monkeypatch.setattr("featbank.plots.figures.FIGURES", registry)
    monkeypatch.setattr("featbank.plots.FIGURES", registry)
    assert "fits" in draw_all(one)
    page = render_report(one)
    assert 'aria-label="Number of fits by cut"' in page
    assert '<h2 id="h-fits">How many fits</h2>' in page
    cache = str(one.path.parents[1])
    with pytest.raises(SystemExit) as done:
        main(["plot", "fits", one.name, "--head", "ncm", "-o", str(tmp_path / "a.svg"), "--cache-dir", cache])
    assert done.value.code in (0, None)
    assert b"Fits (number)" in (tmp_path / "a.svg").read_bytes()
    capsys.readouterr()


def test_a_plug_in_that_cannot_be_loaded_costs_only_its_figure(one, monkeypatch, caplog, capsys):
    registry = copy.deepcopy(FIGURES)
    monkeypatch.setattr("featbank.plots.figures.FIGURES", registry)
    monkeypatch.setattr("featbank.plots.FIGURES", registry)
    broken = EntryPoint("broken", "no_such_module:Display", "featbank.figures")
    number = EntryPoint("number", "math:pi", "featbank.figures")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [broken, number])
    assert "number" not in suited(one)
    assert "figure 'number' of the package '?' is 3.14" in caplog.text
    assert "which is no subclass of featbank.plots.Display with from_run; mend or" in caplog.text
    for arguments, said in (
        (["times", "--metric", "top1"], "plot times takes no --metric (got 'top1'); it is for plot curve\n"),
        (["number"], "figure 'number' of the package '?' is 3.14"),
    ):
        with pytest.raises(SystemExit):
            main(["plot", *arguments, "--cache-dir", str(one.path.parents[1])])
        assert said in capsys.readouterr().err
    assert "broken" not in suited(one)
    assert "figure 'broken' of the package '?' cannot be loaded" in caplog.text
    assert "curve" in suited(one)
