"""The course of a training: its scale, and what is drawn where there was no course."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from featbank.plots import HistoryDisplay


def test_history_of_extreme_losses_is_logarithmic():
    steep = {"train_loss": np.geomspace(3, 1e-4, 30), "train_accuracy": np.linspace(0, 1, 30)}
    plain = {"train_loss": np.linspace(2, 0.5, 20), "train_accuracy": np.linspace(0.1, 0.5, 20)}
    assert HistoryDisplay(steep).plot().ax_[0].get_yscale() == "log"
    assert HistoryDisplay(plain).plot().ax_[0].get_yscale() == "linear"
    broken = {"train_loss": [1.0, np.nan], "train_accuracy": [0.5, 0.1]}
    assert HistoryDisplay(broken).plot().ax_[0].get_yscale() == "linear"


def test_a_logarithmic_loss_axis_has_plain_numbers() -> None:
    display = HistoryDisplay({"train_loss": [2.0, 0.2, 0.002], "train_accuracy": [0.1, 0.9, 1.0]}).plot()
    display.figure_.canvas.draw()
    labels = [label.get_text() for label in display.ax_[0].get_yticklabels()]
    assert display.ax_[0].get_yscale() == "log"
    assert "0.01" in labels
    assert not [label for label in labels if "$" in label]


@pytest.mark.parametrize(
    ("lr", "said"), [(np.nan, "solved exactly, in one step"), (1e-3, "one epoch: no course")]
)
def test_a_history_without_a_course_is_bars_with_values(lr, said):
    values = {"train": 1.0, "val": 0.5, "test": 0.25}
    history = {f"{split}_{kind}": [value] for split, value in values.items() for kind in ("loss", "accuracy")}
    display = HistoryDisplay({**history, "lr": [lr]}, best_epoch=1).plot()
    loss, accuracy = display.ax_
    assert [bar.get_height() for bar in accuracy.patches] == [100.0, 50.0, 25.0]
    assert [text.get_text() for text in accuracy.texts] == ["100.0", "50.0", "25.0"]
    assert [text.get_text() for text in loss.texts] == ["1", "0.5", "0.25"]
    assert [label.get_text() for label in loss.get_xticklabels()] == ["training", "validation", "test"]
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("Rows (split)", "Cross-entropy loss (nats)")
    assert said in " ".join(text.get_text() for text in display.figure_.legends[0].get_texts())
    assert not loss.lines  # neither a lonely dot nor an epoch to mark


def test_bars_in_a_column_of_a_journal_do_not_run_into_each_other():
    history = {f"{split}_accuracy": [1.0] for split in ("train", "val", "test")}
    history |= {name.replace("accuracy", "loss"): [0.0695] for name in history}
    figure = HistoryDisplay(history).plot(size=(3.3, 2.4)).figure_
    figure.draw_without_rendering()
    for axes in figure.axes:
        values = [one.get_window_extent() for one in axes.texts]
        assert not any(left.overlaps(right) for left, right in pairwise(values))
        assert {one.get_rotation() for one in axes.get_xticklabels()} == {30.0}


def test_a_network_has_axes_for_top_5_and_time(tmp_path):
    kinds = [f"{split}_{kind}" for split in ("train", "test") for kind in ("loss", "top1", "top5")]
    history = [
        {"epoch": at, "lr": 0.1, "duration_s": 2.0 * at, **dict.fromkeys(kinds, 0.5)} for at in (1.0, 2.0)
    ]
    training = SimpleNamespace(history=history, classes="abcdef", best_epoch=1, folder=tmp_path / "net")
    display = HistoryDisplay.from_training(training).plot()
    assert [axes.get_ylabel() for axes in display.ax_] == [
        "Cross-entropy loss (nats)", "Top-1 accuracy (%)", "Top-5 accuracy (%)", "Time per epoch (s)",
    ]  # fmt: skip
    assert [2.0, 4.0] in [list(line.get_ydata()) for line in display.ax_[3].lines]
    columns = ("Epoch", "Training loss", "Test loss", "Training accuracy", "Test accuracy")
    assert display.table().columns == (*columns, "Training top-5", "Test top-5", "Seconds")
    assert display.table().rows[0][-3:] == ("50.0 %", "50.0 %", "2")
    # of five classes every answer is among the first five
    training.classes = "abcde"
    assert len(HistoryDisplay.from_training(training).plot().ax_) == 3
