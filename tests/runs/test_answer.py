"""The answer of a sweep in sentences: what they say, and how sure."""

from __future__ import annotations

import sys
import types

import pytest

from featbank.errors import MissingPackageError
from featbank.metrics import mean_interval
from featbank.runs import answer_of, open_run
from featbank.sweep import Fit, SweepResult
from featbank.sweep.results import answer_html

SIZES = (2, 4, 8, 16)


def fits(head, scores, *, val=0.0, sizes=SIZES, cut="fc7", **more):
    """Three repeats of a head whose accuracy at each size is known; each repeat is a point better."""
    return [
        Fit(cut, head, None, size, repeat, 3 * size if size != "all" else 90, 4, 0,
                  top1=score + 0.01 * repeat, val_top1=val + score, **more)
        for size, score in zip(sizes, scores, strict=True)
        for repeat in range(3)
    ]  # fmt: skip


def answer(*curves, n_rows=None):
    rows = {"train": 90, "test": 50} if n_rows is None else n_rows
    return answer_of(SweepResult([fit for curve in curves for fit in curve], n_rows=rows))


LAW = [0.9 - 0.4 * n**-0.5 for n in SIZES]


def test_the_best_is_chosen_by_validation_and_its_figure_is_of_the_test_images():
    found = answer(fits("mlp", [0.5, 0.6, 0.7, 0.8]), fits("ncm", [0.5, 0.5, 0.6, 0.7], val=0.3))
    low, high = mean_interval([0.70, 0.71, 0.72], share=48 / 90)[1:]
    assert found.accuracy == "71.0 %"
    assert found.best == (
        f"The ncm head on fc7 recognises 71.0 % of the 50 test images at 16 samples per class "
        f"({100 * low:.1f} to {100 * high:.1f} % for other training images, by 3 draws); "
        "the best of 2 curves by validation accuracy, "
        "behind the mlp head on fc7: -10.0 points in every draw."
    )


def test_a_rival_that_cannot_be_told_from_the_best_is_named():
    rival = fits("mlp", LAW)
    for fit, score in zip(rival[-3:], (0.79, 0.82, 0.79), strict=True):
        object.__setattr__(fit, "top1", score)
    assert ", not to be told from the mlp head on fc7: " in answer(fits("ncm", LAW, val=0.1), rival).best
    ahead = answer(fits("ncm", LAW, val=0.1), fits("mlp", [one - 0.1 for one in LAW]))
    assert ", ahead of the mlp head on fc7: +10.0 points in every draw." in ahead.best


def test_a_tie_is_told_as_one():
    found = answer(fits("ncm", LAW), fits("mlp", LAW)).best
    assert ", not to be told from the mlp head on fc7: both do exactly as well in every draw." in found
    assert "-0.0" not in str(answer(fits("ncm", [0.8] * 4), fits("mlp", [0.8 + 1e-9] * 4)))


def test_how_few_labels_come_within_two_points():
    found = answer(fits("ncm", [0.5, 0.785, 0.79, 0.8]))
    assert found.labels == (
        "4 per class (12 in all) come within two points of that: the rest brought +1.5 points (+1.5 to +1.5)."
    )
    found = answer(fits("ncm", [0.5, 0.6, 0.7, 0.8]))
    assert found.labels == (
        "Fewer labels do not come within two points of that: from 8 per class on it gained +10.0 points "
        "(+10.0 to +10.0)."
    )
    assert answer(fits("ncm", [0.8], sizes=(16,))).labels == ""


def test_all_samples_are_one_draw_and_have_no_interval():
    found = answer(fits("ncm", [0.6, 0.7, 0.8], sizes=(2, 4, "all")))
    assert " at 4 samples per class (" in found.best  # the largest size with an interval
    assert (
        "within two points of 81.0 % at all samples: from 4 per class on it gained +10.0 points."
        in found.labels
    )


def test_the_next_doubling_is_that_of_the_law():
    found = answer(fits("ncm", LAW))
    gain = 0.4 * (16**-0.5 - 32**-0.5)
    assert found.doubling.startswith(f"Twice as many, 32 per class, would bring {100 * gain:+.1f} points (")
    low, high = found.doubling.partition("points (")[2].partition(")")[0].split(" to ")
    assert float(low) <= 100 * gain + 0.05
    assert float(high) >= 100 * gain - 0.05
    few = answer(fits("ncm", LAW[:2], sizes=(2, 4)))
    assert few.doubling == (
        f"From 2 to 4 per class it gained {100 * (LAW[1] - LAW[0]):+.1f} points "
        f"({100 * (LAW[1] - LAW[0]):+.1f} to {100 * (LAW[1] - LAW[0]):+.1f}); to say what the next doubling "
        "would bring takes four sizes."
    )
    assert answer(fits("ncm", [0.8], sizes=(16,))).doubling == ""


def test_two_draws_say_so():
    two = [fit for fit in fits("ncm", LAW) if fit.repeat < 2]
    assert "(2 draws, no interval)." in answer(two).best
    assert "(" not in answer(two).labels.partition("points")[2]


def test_without_test_images_it_is_of_the_validation_images():
    blind = [Fit("fc7", "ncm", None, 4, r, 12, 4, 0, val_top1=0.5) for r in range(3)]
    found = answer(blind, n_rows={"train": 90, "val": 20}).best
    assert "50.0 % of the 20 validation images" in found
    assert "; nothing was tested, so no interval)" in found
    assert "for other" not in found
    assert " to +" not in str(answer(blind, n_rows={"train": 90, "val": 20}))
    unseen = [Fit("fc7", "ncm", None, 4, r, 12, 4, 0, top1=0.5) for r in range(3)]
    rival = [Fit("fc7", "mlp", None, 4, r, 12, 4, 0, top1=0.4) for r in range(3)]
    assert "by the same images, which flatters it" in answer(unseen, rival).best


@pytest.mark.parametrize("of", [[], [Fit("fc7", "ncm", None, 4, 0, 12, 4, 0, status="failed")]])
def test_where_nothing_succeeded_there_is_no_answer(of):
    assert answer_of(SweepResult(of)) is None
    trained = Fit("fc7", "ncm", None, 4, 0, 12, 4, 0, train_top1=1.0)
    assert answer_of(SweepResult([trained])) is None


def test_curves_without_a_common_size_are_compared_at_the_largest():
    found = answer(fits("ncm", [0.5], sizes=(4,)), fits("mlp", [0.7], sizes=(8,)))
    assert found.best.startswith("The mlp head on fc7 recognises 71.0 %")


def test_a_notebook_shows_the_answer_and_the_curves():
    found = answer_html("<b>", SweepResult(fits("ncm", LAW, cut="<i>"), n_rows={"train": 90, "test": 50}))
    assert found.startswith("<p><b>&lt;b&gt;</b></p><p>The ncm head on &lt;i&gt; recognises 81.0 %")
    assert "<tr><th>cut</th><th>head</th><th>2</th><th>4</th><th>8</th><th>16</th></tr>" in found
    assert "<tr><td>&lt;i&gt;</td><td>ncm</td><td>62.7</td>" in found
    assert found.endswith("<p>test accuracy in % by samples per class</p>")
    assert "No fit succeeded." in answer_html("x", SweepResult([]))


def test_a_run_shows_itself_and_gives_a_frame(cache, monkeypatch):
    run = open_run("a-good", cache_dir=cache)
    found = run._repr_html_()
    assert f": run {run.name}</b></p><p>The " in found
    assert found.count("<tr>") == 3
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match="to_frame needs pandas; install it: pip install pandas"):
        run.to_frame()
    frames = types.ModuleType("pandas")
    frames.DataFrame = lambda lines: lines
    monkeypatch.setitem(sys.modules, "pandas", frames)
    lines = run.to_frame()
    assert [(one["head"], one["n_per_class"], one["top1"]) for one in lines] == [
        (one.head, one.n_per_class, one.top1) for one in run.result().fits
    ]
