"""Misclassified images: which, in what order, with what under them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from featbank.errors import InvalidInputError, MissingDataError
from featbank.inspection import MistakesDisplay, RunImages, find_mistakes
from featbank.inspection.mistakes import Mistake
from featbank.manifest import Manifest
from featbank.sweep import Predictions


def manifest(n: int = 8) -> Manifest:
    return Manifest(
        ids=tuple(f"{row}.png".encode() for row in range(n)),
        labels=np.array([row % 2 for row in range(n)], np.int32),
        classes=("cat", "dog"),
        splits=np.full(n, 2, np.uint8),
        digests=np.zeros((n, 32), np.uint8),
        statuses=np.zeros(n, np.uint8),
    )


def answers(sure: bool = True) -> Predictions:
    """Five rows of which three are wrong: 1, 4 and 7."""
    rows = np.array([0, 1, 4, 6, 7])
    p_true = np.array([0.9, 0.2, 0.05, 0.8, 0.2])
    p_pred = np.array([0.9, 0.6, 0.95, 0.8, 0.7])
    return Predictions(
        "test", rows, rows % 2, np.array([0, 0, 1, 0, 0]), p_true if sure else None, p_pred if sure else None
    )


def test_worst_first() -> None:
    found = find_mistakes(answers(), manifest())
    assert found == [
        Mistake(4, "4.png", "cat", "dog", 0.05, 0.95),
        Mistake(7, "7.png", "dog", "cat", 0.2, 0.7),  # of equal ones the surer
        Mistake(1, "1.png", "dog", "cat", 0.2, 0.6),
    ]
    assert [one.row for one in find_mistakes(answers(sure=False), manifest())] == [1, 4, 7]
    assert find_mistakes(answers(sure=False), manifest())[0].p_true is None


def test_rows_that_have_changed_are_refused() -> None:
    changed = dataclasses.replace(manifest(), labels=np.zeros(8, np.int32))
    for other in (changed, manifest(7)):
        with pytest.raises(InvalidInputError) as caught:
            find_mistakes(answers(), other)
        assert str(caught.value) == (
            "the answers are not those of the manifest's rows: the run is damaged; run the command again"
        )


def test_from_a_run(photo_bank, tmp_path, whole, caplog) -> None:
    rows = photo_bank.manifest.rows("test")
    true = photo_bank.manifest.labels[rows].astype(np.int64)
    wrong = true.copy()
    wrong[[1, 3]] = (wrong[[1, 3]] + 1) % 3
    shares = np.linspace(0.4, 0.1, len(rows))
    predictions = Predictions("test", rows, true, wrong, shares, 1 - shares)
    images = RunImages(photo_bank.manifest, photo_bank.provenance)
    display = MistakesDisplay.from_predictions(predictions, images, title="photos").plot()
    assert [one.row for one in display.mistakes] == [rows[3], rows[1]]
    for one, pixels in zip(display.mistakes, display.images, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / "photos" / one.id)))
    assert display.heading() == "2 of 6 test images wrong, the least probable true class first"
    facts = display.facts()
    assert (facts["split"], facts["wrong"], facts["of"]) == ("test", 2, 6)
    assert facts["mistakes"][0]["id"] == display.mistakes[0].id
    whole(display)
    one = MistakesDisplay.from_predictions(predictions, images, most=1)
    assert one.heading() == "2 of 6 test images wrong, the least probable true class first; 1 shown"
    (tmp_path / "photos" / display.mistakes[0].id).unlink()
    with caplog.at_level("WARNING", "featbank"):
        gone = MistakesDisplay.from_predictions(predictions, images).plot()
    assert [one["found"] for one in gone.facts()["mistakes"]] == [False, True]
    assert [text.get_text() for text in gone.ax_[0].texts] == ["image gone"]
    assert "1 of 2 images are not shown; the first: image" in caplog.text
    (tmp_path / "photos" / display.mistakes[1].id).unlink()
    with pytest.raises(MissingDataError, match="no other image there has its bytes"):
        MistakesDisplay.from_predictions(predictions, images)
    with pytest.raises(InvalidInputError, match="most=0 must be at least 1"):
        MistakesDisplay.from_predictions(predictions, images, most=0)


def display_of(n: int, **options: object) -> MistakesDisplay:
    random = np.random.default_rng(0)
    shapes = [(8, 8), (160, 40), (40, 160)]
    names = ["cat", "a very long name of a class, in $words$", "dog_with_an_unbroken_underscored_name"]
    found = [Mistake(at, f"{at}", names[at % 3], names[(at + 1) % 3], 0.0123, 0.95) for at in range(n)]
    pictures = [random.integers(0, 255, (*shapes[at % 3], 3), np.uint8) for at in range(n)]
    return MistakesDisplay(found, pictures, **{"n_wrong": n, "n_rows": 40, "title": "x", **options})


@pytest.mark.slow
@pytest.mark.parametrize("n", [0, 1, 7, 24])
def test_any_number_of_any_shape_fits(n, whole, tmp_path) -> None:
    display = display_of(n).plot()
    assert len(display.ax_) == max(1, n)
    whole(display)
    if n == 7:
        assert display.ax_[0].get_title(loc="left").startswith("cat: 1.2 %\ntaken for a very long name\n")
        boxes = [axes.title.get_window_extent() for axes in display.ax_]
        titles = [axes._left_title.get_window_extent() for axes in display.ax_]
        assert len(boxes) == len(titles)
        assert not any(a.overlaps(b) for at, a in enumerate(titles) for b in titles[at + 1 :])
    for ending in ("png", "svg"):
        assert display.save(tmp_path / f"one.{ending}").stat().st_size > 1000


def test_without_probabilities_and_without_mistakes() -> None:
    one = Mistake(0, "0.png", "cat", "dog", None, None)
    display = MistakesDisplay([one], [np.zeros((4, 4, 3), np.uint8)], n_wrong=1, n_rows=2, split="val")
    assert display.plot().ax_[0].get_title(loc="left") == "cat\ntaken for dog"
    assert display.heading() == "1 of 2 validation images wrong, in the order of the rows"
    assert display_of(0).heading() == "0 of 40 test images wrong"


def test_wrong_axes_and_wrong_images() -> None:
    with pytest.raises(InvalidInputError, match="this page of mistakes is drawn on 2 axes, got 3"):
        display_of(2).plot(Figure().subplots(3))
    with pytest.raises(InvalidInputError, match="1 mistakes need as many images, got 0"):
        MistakesDisplay([Mistake(0, "", "a", "b", None, None)], [], n_wrong=1, n_rows=1)
