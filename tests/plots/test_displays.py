"""Displays: what they store, what they draw, and that a file is the same every time and cuts nothing off."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from featbank.errors import CacheWriteError, InvalidInputError
from featbank.metrics import fit_power_law
from featbank.plots import (
    ConfusionDisplay,
    CurveDisplay,
    CutsDisplay,
    HistoryDisplay,
    TemperatureDisplay,
    TimesDisplay,
)
from featbank.sweep import CurvePoint

CUTS = ("block1_pool", "block2_pool", "block3_pool", "block4_pool", "block5_pool")


def curve_of(values, **options):
    return CurveDisplay([CurvePoint.from_dict(one) for one in values], **options)


def cuts_of(values, **options):
    return CutsDisplay([CurvePoint.from_dict(one) for one in values], **options)


def temperature_of(values, **options):
    return TemperatureDisplay([CurvePoint.from_dict(one) for one in values], **options)


def point(cut="fc7", head="softmax", n=4, mean=0.5, temperature=None, **more):
    around = {"top1_low": mean - 0.02, "top1_high": mean + 0.02}
    return {
        "cut": cut, "head": head, "temperature": temperature, "n_per_class": n, "n_repeats": 5,
        "top1_mean": mean, "val_top1_mean": mean, "train_top1_mean": 1.0, **around, **more,
    }  # fmt: skip


POINTS = [
    point(cut, head, n, 0.3 + 0.1 * at + 0.03 * np.log2(n) + 0.01 * of)
    for at, cut in enumerate(CUTS)
    for of, head in enumerate(("softmax", "mlp"))
    for n in (4, 8, 16, 32)
]
HISTORY = {
    f"{split}_{kind}": np.linspace(start, 0.5, 20)
    for split in ("train", "val", "test")
    for kind, start in (("loss", 2.0), ("accuracy", 0.1))
}
WARM = [
    point("softmax", "softmax", 16, 0.4, t, best_top1_mean=0.4 - 0.05 * abs(t - 1.5), final_top1_mean=0.3)
    for t in (0.5, 1.0, 1.5, 2.0, 4.0)
]
MANY = ConfusionDisplay.from_predictions(
    np.repeat(np.arange(256), 4),
    np.repeat(np.arange(256), 4) // 2 * 2,
    [f"{i:03d}.a-class" for i in range(256)],
)
FEW = ConfusionDisplay(
    [[8, 2, 0], [0, 0, 0], [1, 3, 96]], ["cat", "a $dollar_$ dog", "a very very very long name"]
)
TIMES = [
    {"what": what, "cut": cut, "duration_s": seconds}
    for cut in CUTS
    for what, seconds in [("extract", 3.25), ("fit softmax", 61.2), ("fit softmax", 0.3), ("fit mlp", 1234.5)]
]
DISPLAYS = {
    "curve": lambda: curve_of(POINTS, title="digits"),
    "laws": lambda: curve_of(
        [one for one in POINTS if one["cut"] == "block5_pool"],
        laws={
            ("block5_pool", "mlp", None): fit_power_law([4, 8, 16, 32], [0.5, 0.6, 0.66, 0.7], n_bootstrap=20)
        },
        until=128,
    ),
    "history": lambda: HistoryDisplay(HISTORY, best_epoch=7, title="fc7, softmax"),
    "cuts": lambda: cuts_of(POINTS),
    "temperature": lambda: temperature_of(WARM),
    "few classes": lambda: ConfusionDisplay(FEW.matrix, FEW.classes),
    "times": lambda: TimesDisplay(TIMES, title="digits", note="12 fits in all"),
    "many classes": lambda: ConfusionDisplay(MANY.matrix, MANY.classes),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DISPLAYS)
def test_files_are_equal_for_equal_data(name, tmp_path):
    starts = {"png": b"\x89PNG", "svg": b"<?xml"}
    starts |= {"pdf": b"%PDF", "eps": b"%!PS"} if name == "curve" else {}  # fonts take seconds
    files: dict[str, list[bytes]] = {}
    for at in range(2):
        display = DISPLAYS[name]().plot()
        for ending in starts:
            files.setdefault(ending, []).append(display.save(tmp_path / f"{at}.{ending}").read_bytes())
    for ending, (one, two) in files.items():
        assert one == two
        assert one.startswith(starts[ending])


@pytest.mark.parametrize("name", DISPLAYS)
def test_nothing_is_cut_off_and_every_axis_has_a_name_and_a_unit(name):
    display = DISPLAYS[name]()
    assert display.plot() is display
    figure = display.figure_
    figure.draw_without_rendering()
    box = figure.get_tightbbox()  # inches
    width, height = figure.get_size_inches()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height
    for axes in figure.axes:
        if axes.axison:
            for label in (
                axes.get_xlabel() if axes.get_label() != "<colorbar>" else "(%)",
                axes.get_ylabel(),
            ):
                assert label.endswith(")"), label


@pytest.mark.parametrize("name", DISPLAYS)
def test_a_long_title_takes_several_lines(name):
    display = DISPLAYS[name]()
    display.title = (
        "caltech256-of-somebody-with-a-long-name, mobilenet_v3_large: logreg(C=0.01) on features, " * 2
    )
    figure = display.plot().figure_
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height


def test_pyplot_is_left_alone():
    code = """
import sys
from featbank.plots import CurveDisplay
from featbank.sweep import CurvePoint, Score
points = [CurvePoint("fc7", "softmax", n, {"top1": Score(n / 10)}) for n in (1, 2)]
assert len(CurveDisplay(points)._repr_png_()) > 1000
sys.exit("matplotlib.pyplot" in sys.modules)
"""
    no_display = {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, env=no_display)


def test_what_the_user_has_set_stands():
    import matplotlib

    own = {"font.size": 6, "lines.linewidth": 0.7, "axes.facecolor": "#ffeeee", "text.color": "red"}
    with matplotlib.rc_context(own):
        display = curve_of(POINTS).plot()
        assert matplotlib.rcParams["lines.linewidth"] == 0.7
    axes = display.ax_
    assert {line.get_linewidth() for line in axes.lines} == {0.7}
    assert axes.get_facecolor() == matplotlib.colors.to_rgba("#ffeeee")
    assert axes.get_xticklabels()[0].get_fontsize() == 6
    assert {line.get_markerfacecolor() for line in axes.lines} > {"#ffeeee"}  # of open markers
    assert {one.get_color() for one in display.figure_.legends[0].get_texts()} == {"red"}
    assert axes.xaxis.label.get_fontsize() == pytest.approx(6.6)  # what was not set is in proportion
    assert matplotlib.rcParams["font.size"] == 10


def test_on_dark_axes_lines_have_the_colours_of_a_dark_page():
    from matplotlib import style
    from matplotlib.colors import to_rgb

    with style.context("dark_background"):
        axes = curve_of(POINTS).plot().ax_
    assert min(sum(to_rgb(line.get_color())) for line in axes.lines) > 1
    assert axes.get_xticklabels()[0].get_color() == "white"


def test_axes_of_the_user_have_the_users_settings_alone():
    from matplotlib.figure import Figure

    plain, drawn = Figure().add_subplot(), Figure().add_subplot()
    curve_of(POINTS).plot(drawn)
    for one in (plain, drawn):
        one.figure.draw_without_rendering()
    assert drawn.spines["top"].get_visible()
    assert [one.get_linewidth() for one in drawn.xaxis.get_gridlines()][:1] == [
        one.get_linewidth() for one in plain.xaxis.get_gridlines()
    ][:1]
    assert drawn.xaxis.label.get_fontsize() == plain.xaxis.label.get_fontsize()
    with pytest.raises(InvalidInputError, match="size and font_size are of a new figure; with ax, set them"):
        curve_of(POINTS).plot(drawn, size=(3, 3))


def lines_hidden(axes, legend) -> bool:
    box = legend.get_window_extent()
    return any(one.get_path().transformed(one.get_transform()).intersects_bbox(box) for one in axes.lines)


@pytest.mark.parametrize("name", [one for one in DISPLAYS if "classes" not in one])
def test_a_column_of_a_journal_holds_every_figure(name):
    """3.3 x 2.4 inches: nothing is cut off or overlaps, text is small but can be read."""
    display = DISPLAYS[name]()
    display.title = None
    figure = display.plot(size=(3.3, 2.4)).figure_
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert tuple(figure.get_size_inches()) == (3.3, 2.4)
    assert min(box.x0, box.y0) >= 0
    assert (box.x1, box.y1) <= (3.3, 2.4)
    for axes in figure.axes:
        room = axes.get_window_extent()
        assert min(room.width / figure.dpi, room.height / figure.dpi) > 0.9
        labels = [one.get_window_extent() for one in axes.get_xticklabels() if not one.get_rotation()]
        assert all(left.x1 < right.x0 for left, right in pairwise(labels))
        assert all(one.get_fontsize() >= 5.9 for one in (*axes.texts, *axes.get_xticklabels()))
        if axes.get_legend() is not None:
            assert not lines_hidden(axes, axes.get_legend())
    for legend in figure.legends:
        assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_the_name_of_a_colour_bar_is_no_longer_than_the_bar():
    figure = ConfusionDisplay(FEW.matrix, FEW.classes).plot(size=(3.3, 2.4)).figure_
    figure.draw_without_rendering()
    bar = figure.axes[-1]
    assert bar.yaxis.label.get_window_extent().height <= bar.get_window_extent().height


def test_the_legend_goes_where_it_is_wanted():
    def places(**options):
        display = curve_of(POINTS).plot(**options)
        return bool(display.figure_.legends), display.ax_.get_legend() is not None

    assert places() == (True, False)
    assert places(size=(7, 4)) == (True, False)
    assert places(size=(3.3, 2.4)) == (True, False)  # inside it would hide a line
    assert places(size=(3.3, 2.4), legend="inside") == (False, True)
    assert places(size=(3.3, 2.4), legend="none") == (False, False)
    two = [one for one in POINTS if one["cut"] == "block1_pool"]
    display = curve_of(two).plot(size=(3.3, 2.4))
    texts = [one.get_text() for one in display.ax_.get_legend().get_texts()]
    assert texts == ["softmax", "mlp"]  # lines alone; the caption says the rest
    assert display.caption().endswith("Band: 95 % interval for other training images (5 draws).")


def test_a_legend_that_would_cover_small_axes_is_left_out(caplog):
    from matplotlib.figure import Figure

    axes = Figure(figsize=(1.9, 1.6), layout="constrained").add_subplot()
    curve_of(POINTS).plot(axes)
    assert axes.get_legend() is None
    assert "of these axes and is left out; make them larger" in caplog.text
    assert curve_of(POINTS).plot(axes, legend="inside").ax_.get_legend() is not None
    axes.figure.draw_without_rendering()  # and the layout does not collapse, which is a warning
    wide = Figure(figsize=(6, 4)).add_subplot()
    assert curve_of(POINTS).plot(wide).ax_.get_legend() is not None


@pytest.mark.parametrize("kind", ["pdf", "eps", "svg"])
def test_text_is_text(kind, tmp_path):
    """Not outlines: it can be searched, edited and read aloud."""
    one = curve_of(POINTS).plot(size=(3.3, 2.4)).save(tmp_path / "a", kind).read_bytes()
    if kind == "svg":
        assert b">block1_pool</text>" in one
    elif kind == "pdf":
        assert b"/FontFile2" in one  # TrueType, which journals ask for; Type 3 has no such file
        assert b"/Type3" not in one
    else:
        assert b"/FontType 42 def" in one
        assert b"CreationDate" not in one


def test_postscript_knows_no_transparency(tmp_path, caplog):
    display = curve_of(POINTS).plot(size=(3.3, 2.4))
    bands = [(one.get_alpha(), one.get_facecolor().tolist()) for one in display.ax_.collections]
    display.save(tmp_path / "a.eps")
    assert "transparency" not in caplog.text
    assert [(one.get_alpha(), one.get_facecolor().tolist()) for one in display.ax_.collections] == bands
    assert bands[0][0] == 0.12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0.2, 3)}, r"size=\(0.2, 3\) is no width and height between 1 and 60 inches"),
        ({"font_size": 0}, "font_size=0 is not between 1 and 100 points"),
        ({"legend": "left"}, "legend='left' is not one of outside, inside, none"),
    ],
)
def test_wrong_layouts(options, message):
    with pytest.raises(InvalidInputError, match=message):
        curve_of(POINTS).plot(**options)


def test_a_small_confusion_matrix_says_as_much_as_there_is_room_for():
    matrix = np.full((10, 10), 3) + 90 * np.eye(10, dtype=int)
    classes = [f"class {at}" for at in range(10)]
    texts = [one.get_text() for one in ConfusionDisplay(matrix, classes).plot().ax_.texts]
    assert texts[0] == "93\n78 %"
    small = ConfusionDisplay(matrix, classes).plot(size=(2.4, 2.4))
    assert small.ax_.texts[0].get_text() == "93"
    assert len(small.figure_.axes) == 2  # the matrix and its colour bar: no list beside it
    assert not ConfusionDisplay(matrix, classes).plot(size=(1.6, 1.6)).ax_.texts


def test_saving_says_what_it_can_write(tmp_path):
    with pytest.raises(InvalidInputError) as caught:
        curve_of(POINTS).save("curve.gif")
    assert str(caught.value) == "cannot write a figure to 'curve.gif'; end it in .png, .svg, .pdf or .eps"
    with pytest.raises(InvalidInputError, match="format='gif' is not one of png, svg, pdf, eps"):
        curve_of(POINTS).save("curve.png", "gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheWriteError):
        curve_of(POINTS).save(tmp_path / "file" / "curve.svg")


def test_curve_draws_means_and_bands_of_every_cut_and_head():
    axes = curve_of(POINTS).plot().ax_
    assert len(axes.lines) == 10
    assert len(axes.collections) == 5  # of many curves the best head of each cut
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [36.0, 39.0, 42.0, 45.0])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8", "16", "32"]
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines}
    assert len(looks) == 10
    assert len({color for color, _, _ in looks}) == 5
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((35.0, 48.0))


def test_cuts_are_told_apart_by_brightness_too():
    from matplotlib.colors import to_rgb

    axes = curve_of([one for one in POINTS if one["head"] == "mlp"]).plot().ax_
    grey = [np.dot(to_rgb(line.get_color()), (0.299, 0.587, 0.114)) for line in axes.lines]
    assert np.all(np.diff(grey) > 0.08)  # dark to light: shallow to deep
    assert grey[-1] < 0.8  # and still seen on white


def test_order_of_the_cuts_can_be_given():
    cuts = list(curve_of(POINTS, cuts=CUTS[::-1]).series)
    assert [cut for cut, head, _ in cuts if head == "mlp"] == list(CUTS[::-1])


def test_one_repeat_has_no_band_and_one_size_has_a_width():
    lonely = point(top1_low=None, top1_high=None)
    display = curve_of([lonely]).plot()
    assert "Band" not in [text.get_text() for text in display.figure_.legends[0].get_texts()]
    low, high = display.ax_.get_xlim()
    assert low < 4 < high


def test_curve_falls_back_to_validation_where_nothing_was_tested():
    display = curve_of([point(top1_mean=None)])
    assert display.metric == "val_top1"
    assert display.plot().ax_.get_ylabel() == "Top-1 accuracy on validation images (%)"


def test_axes_of_the_caller_are_drawn_on():
    from matplotlib.figure import Figure

    axes = Figure(figsize=(30, 4)).subplots(1, 5)
    assert curve_of(POINTS).plot(axes[0]).figure_ is axes[0].figure
    assert cuts_of(POINTS).plot(axes[4]).ax_ is axes[4]
    assert FEW.plot(axes[1]).ax_ is axes[1]
    assert list(HistoryDisplay(HISTORY).plot(axes[2:4]).ax_) == list(axes[2:4])
    assert len(axes[2].lines) == 3
    assert axes[0].get_legend() is not None


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 9, 10, 33, 200])
def test_ticks_never_touch(n):
    display = curve_of([point(n=size) for size in range(1, n + 1)]).plot()
    display.figure_.draw_without_rendering()
    boxes = [label.get_window_extent() for label in display.ax_.get_xticklabels()]
    assert len(boxes) >= 2
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_cuts_show_the_largest_size_that_all_have():
    display = cuts_of([*POINTS, point("fc7", "softmax", 4)])
    assert display.n_per_class == 4
    display = cuts_of(POINTS).plot()
    assert display.n_per_class == 32
    assert [label.get_text() for label in display.ax_.get_xticklabels()] == list(CUTS)
    train, test = display.ax_.lines[:2]
    np.testing.assert_allclose(train.get_ydata(), 100.0)
    np.testing.assert_allclose(test.get_ydata(), [45.0, 55.0, 65.0, 75.0, 85.0])


def test_temperature_marks_the_highest():
    display = temperature_of(WARM).plot()
    texts = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    # no validation accuracy of the best epoch is known here, so nothing is chosen: no ring
    assert "best epoch\nhighest on test: T = 1.5" in texts
    assert len(display.ax_.lines) == 2
    assert [label.get_text() for label in display.ax_.get_xticklabels()] == ["0.5", "1", "1.5", "2", "4"]
    one_step = [{**one, "best_top1_mean": None, "final_top1_mean": None} for one in WARM]
    assert temperature_of(one_step).lines == {"": "top1"}


def test_temperature_says_by_what_it_was_chosen():
    """Validation prefers T = 2, the test images T = 1.5: the choice is the first, the second only said."""
    points = [{**one, "best_val_top1_mean": 0.4 - 0.1 * abs(one["temperature"] - 2)} for one in WARM]
    display = temperature_of(points, chosen_by={"softmax": "validation loss"}).plot()
    texts = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    best = "best epoch (by validation loss)\nring: T = 2, by validation accuracy\nhighest on test: T = 1.5"
    assert best in texts
    assert "final epoch\nhighest on test: T = 0.5" in texts
    (ring,) = [line for line in display.ax_.lines if line.get_fillstyle() == "none"]
    assert (ring.get_xdata().tolist(), ring.get_ydata()) == ([2.0], pytest.approx([37.5]))
    assert display.choice("softmax", "best_top1") == 2.0
    assert display.choice("softmax", "final_top1") is None
    agreed = temperature_of([{**one, "best_val_top1_mean": one["best_top1_mean"]} for one in points])
    said = [text.get_text() for text in agreed.plot().figure_.legends[0].get_texts()]
    assert "best epoch\nring: T = 1.5, by validation accuracy\nhighest on test: T = 1.5 too" in said
    blind = temperature_of(points, split="val")
    assert blind.choice("softmax", "best_val_top1") == 2.0
    assert not any("test" in text.get_text() for text in blind.plot().figure_.legends[0].get_texts())


def test_times_add_up_and_say_their_values():
    display = TimesDisplay(TIMES).plot()
    assert display.seconds["block1_pool", "fit softmax"] == 61.5
    assert [text.get_text() for text in display.ax_.texts][:3] == ["3.25 s", "61.5 s", "1,234 s"]
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == list(CUTS)
    low, high = display.ax_.get_ylim()
    assert low > high  # the first cut on top
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in display.ax_.patches}) == 3
    assert TimesDisplay([{"what": "decode", "duration_s": 2}]).plot().ax_.get_yticklabels()[0].get_text() == (
        "all cuts"
    )


def test_cuts_fall_back_to_validation_where_nothing_was_tested():
    blind = [{**one, "top1_mean": None, "val_top1_mean": 0.25} for one in POINTS]
    display = cuts_of(blind).plot()
    assert display.metric == "val_top1"
    texts = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    assert "validation" in texts
    assert "test" not in texts
    np.testing.assert_allclose(display.ax_.lines[1].get_ydata(), 25.0)


def test_confusion_counts_shares_and_pairs():
    shares = FEW.shares()
    np.testing.assert_allclose(shares[0], [80, 20, 0])
    assert np.isnan(shares[1]).all()
    assert FEW.pairs == [(2, 1, 3), (0, 1, 2), (2, 0, 1)]
    few = FEW.plot()
    texts = [text.get_text() for text in few.ax_.texts]
    (listed,) = few.figure_.axes[1].texts
    assert listed.get_text().startswith(
        "3 of 100 (3 %):  a very very very … → a $dollar_$ dog\n2 of 10 (20 %)"
    )
    assert texts[:2] == ["8\n80 %", "2\n20 %"]
    assert texts[-1] == "96\n96 %"
    names = [label.get_text() for label in FEW.ax_.get_yticklabels()]
    assert names == ["cat", "a $dollar_$ dog", "a very very very …"]


def test_confusion_of_many_classes_lists_pairs_instead_of_numbers():
    display = ConfusionDisplay(MANY.matrix, MANY.classes).plot()
    assert list(display.ax_.texts) == []
    (listed,) = display.figure_.axes[1].texts
    assert listed.get_text().startswith("4 of 4 (100 %):  001.a-class → 000.a-class\n")
    assert "right in all: 50.0 %" in listed.get_text()
    assert f"and {128 - listed.get_text().count('→') + 1} more pairs" in listed.get_text()
    perfect = ConfusionDisplay(np.eye(20, dtype=int), [str(i) for i in range(20)]).plot()
    assert perfect.figure_.axes[1].texts[0].get_text().startswith("none: ")


def test_confusion_of_a_thousand_classes_is_pooled():
    y_true = np.repeat(np.arange(1, 1201), 2)  # class 0 has no rows
    y_pred = np.where(np.arange(2400) % 2, y_true, 7)
    display = ConfusionDisplay.from_predictions(y_true, y_pred, [str(i) for i in range(1201)]).plot()
    (image,) = display.ax_.images
    shares = np.asarray(image.get_array())
    assert shares.shape == (601, 601)
    np.testing.assert_allclose(shares[0, [0, 3]], [50, 50])  # of the one class there
    np.testing.assert_allclose(shares[1, [1, 3, 5]], [50, 50, 0])
    np.testing.assert_allclose(shares[3, 3], 100)
    assert display.matrix[[7, 8, 8], [7, 7, 8]].tolist() == [2, 1, 1]
    assert display.ax_.get_xticks()[1] == 200
    assert "mean of 2 x 2 classes" in display.figure_.axes[-1].get_ylabel()


def test_names_no_font_has_do_not_fail(tmp_path):
    ConfusionDisplay([[1, 0], [0, 1]], ["猫", "개\n\x1b"]).save(tmp_path / "far.png")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: curve_of([]),
            "no curve to draw: there are no points; see the failed fits in results.csv",
        ),
        (
            lambda: curve_of([point()], metric="top5"),
            "no curve to draw: none of the 1 points has top5; see the failed fits in results.csv",
        ),
        (
            lambda: curve_of([point()], metric="f1"),
            "metric='f1' is not one of top1, top5, val_top1, val_top5, train_top1, train_top5",
        ),
        (
            lambda: HistoryDisplay({"lr": [1.0]}),
            "no history to draw: the head was fitted in one step, or its history was not kept; "
            "heads trained in epochs (softmax, mlp) have one",
        ),
        (
            lambda: HistoryDisplay({"train_loss": [1.0], "train_accuracy": [1.0, 2.0]}),
            "the parts of a history must be equally long, got [1, 2] epochs",
        ),
        (lambda: HistoryDisplay(HISTORY).plot([None]), "a history is drawn on 2 axes, got 1"),
        (
            lambda: cuts_of([]),
            "no cut to draw: there are no points; see the failed fits in results.csv",
        ),
        (
            lambda: cuts_of(POINTS, n_per_class=5),
            "5 samples per class were not fitted; the run has 4, 8, 16, 32",
        ),
        (
            lambda: temperature_of(POINTS),
            "no point has a temperature; fit with --cut softmax --temperature 0.5,1,2",
        ),
        (
            lambda: temperature_of(WARM, n_per_class=4),
            "4 samples per class were not fitted; the run has 16",
        ),
        (lambda: TimesDisplay([]), "no times to draw: nothing was measured"),
        (
            lambda: TimesDisplay([{"what": "fit", "cut": "a", "duration_s": float("nan")}]),
            "duration_s=nan of 'fit' is no number of seconds",
        ),
        (lambda: temperature_of(WARM, split="train"), "split='train' is not one of test, val"),
        (
            lambda: ConfusionDisplay([[1, 2]], ["a"]),
            "a confusion matrix of 1 classes cannot have shape (1, 2)",
        ),
    ],
)
def test_what_cannot_be_drawn_says_why(call, message):
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert str(caught.value) == message


def test_points_of_two_draws_and_of_one_have_no_bars():
    few = {"top1_low": None, "top1_high": None, "top1_min": 0.4, "top1_max": 0.6}
    for n_draws, said in ((1, "no interval: one draw"), (2, "no interval: 2 draws (dots)")):
        display = cuts_of([point(cut, **few, n_draws=n_draws) for cut in CUTS]).plot()
        texts = [text.get_text() for text in display.figure_.legends[0].get_texts()]
        assert said in " ".join(texts)
        assert "bars: 95 % interval" not in texts
        dots = [line for line in display.ax_.lines if line.get_marker() == "."]
        assert len(dots) == (2 if n_draws == 2 else 0)
    warm = [{**one, "best_top1_low": None, "n_draws": 1} for one in WARM]
    texts = [text.get_text() for text in temperature_of(warm).plot().figure_.legends[0].get_texts()]
    assert "no interval: one draw" in texts


def test_heads_solved_in_one_step_have_one_line_over_temperature():
    solved = [{**one, "final_top1_mean": one["best_top1_mean"]} for one in WARM]
    assert temperature_of(solved).lines == {"": "top1"}
    assert list(temperature_of(WARM).lines) == ["best epoch", "final epoch"]


@pytest.mark.parametrize("name", DISPLAYS)
def test_the_wrong_number_of_axes_is_told(name):
    from matplotlib.figure import Figure

    with pytest.raises(InvalidInputError, match=r" is drawn on [12] axes, got 3"):
        DISPLAYS[name]().plot(Figure().subplots(1, 3))


def test_a_legend_makes_its_own_room():
    """Twenty heads with long names: the figure grows, the axes stay readable, nothing is cut off."""
    heads = [f"a head with quite a long name, number {at}" for at in range(20)]
    display = cuts_of([point(cut, head, mean=0.5) for cut in CUTS[:2] for head in heads]).plot()
    figure = display.figure_
    figure.draw_without_rendering()
    box, (width, height) = figure.legends[0].get_window_extent(), figure.get_size_inches() * figure.dpi
    assert 0 <= box.x0 < box.x1 <= width
    assert 0 <= box.y0 < box.y1 <= height
    assert display.ax_.get_window_extent().width / figure.dpi > 3.5
