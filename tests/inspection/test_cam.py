"""Class activation maps of scores of which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from featbank.errors import InvalidInputError
from featbank.inspection import CamDisplay, OcclusionDisplay

IMAGE = np.full((12, 12, 3), 40, np.uint8)


@pytest.fixture
def maps() -> np.ndarray:
    return np.random.default_rng(0).gamma(1.0, size=(40, 4, 4)).astype(np.float32)


def test_a_linear_score_of_the_mean_is_told_exactly(maps) -> None:
    weights = np.random.default_rng(1).normal(size=40)
    evidence, exact = CamDisplay.evidence_of(maps, lambda batch: batch.mean(axis=(2, 3)) @ weights + 3.0)
    assert exact
    np.testing.assert_allclose(evidence, np.tensordot(weights, maps, axes=1), atol=1e-3)
    assert evidence.mean() + 3.0 == pytest.approx(maps.mean(axis=(1, 2)) @ weights + 3.0, abs=1e-3)


def test_other_scores_weigh_by_their_gradient(maps) -> None:
    weights = np.random.default_rng(1).normal(size=(40, 4, 4)) / 10

    def score(batch: np.ndarray) -> np.ndarray:
        return np.tanh((batch.astype(np.float64) * weights).sum(axis=(1, 2, 3)))

    slope = 1 - score(maps[None])[0] ** 2
    evidence, exact = CamDisplay.evidence_of(maps, score)
    assert not exact
    expected = np.tensordot(slope * weights.sum(axis=(1, 2)), maps, axes=1)
    np.testing.assert_allclose(evidence, expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("beside", [False, True])
def test_it_is_drawn_with_and_without_occlusion(beside: bool) -> None:
    evidence = np.zeros((3, 3))
    evidence[2, 0] = 5.0
    hidden = OcclusionDisplay(IMAGE, [0, 6], [0, 6], 6, [[0.9, 0.9], [0.1, 0.9]], 0.9, "cat")
    display = CamDisplay(
        IMAGE, evidence, "cat", probability=0.9, cut="pool", exact=True, occlusion=hidden if beside else None
    )
    facts = display.facts()
    assert facts["highest_at"] == {"row": 10, "column": 2}
    assert ("occlusion" in facts) == beside
    figure = display.plot().figure_
    assert isinstance(figure, Figure)
    titles = [axes.get_title("left") for axes in figure.axes if axes.get_title("left")]
    assert len(titles) == (3 if beside else 2)
    assert titles[1] == "map of pool, weights of the head"


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(InvalidInputError, match=r"^an image has shape \(h, w, 3\), got \(12, 12\)$"):
        CamDisplay(IMAGE[..., 0], [[1.0]], "cat", probability=None, cut="pool", exact=False)
    with pytest.raises(InvalidInputError, match=r"^evidence has shape \(rows, columns\), got \(1,\)$"):
        CamDisplay(IMAGE, [1.0], "cat", probability=None, cut="pool", exact=False)
