"""Near-identical images across splits are told on request, before anything is fitted."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from featbank.datasets.duplicates import deepest_vector_cut
from featbank.errors import InvalidInputError, LeakWarning
from featbank.manifest import SPLITS, Manifest
from featbank.sweep import run_sweep


class Rows:
    """A bank in memory: 2 classes, 8 train, 3 val, 4 test rows of each; row 22 is nearly row 0."""

    def __init__(self) -> None:
        counts = {"train": 8, "val": 3, "test": 4}
        labels = np.concatenate([np.tile(np.arange(2), n) for n in counts.values()])
        splits = np.concatenate([np.full(2 * n, SPLITS.index(name)) for name, n in counts.items()])
        rng = np.random.default_rng(0)
        self.manifest = Manifest(
            ids=tuple(b"%02d.jpg" % row for row in range(len(labels))),
            labels=labels.astype(np.int32),
            classes=("ant", "bee"),
            splits=splits.astype(np.uint8),
            digests=rng.integers(0, 256, (len(labels), 32), dtype=np.uint8),
            statuses=np.zeros(len(labels), np.uint8),
        )
        X = rng.normal(size=(len(labels), 50)).astype(np.float32)
        X[22] = 3 * X[0] + 0.5 * rng.normal(size=50)
        self.arrays = {"fc7": X, "logits": rng.normal(size=(len(labels), 2)).astype(np.float32)}
        self.cuts = tuple(self.arrays)

    def features(self, cut, rows=None, dtype=np.float32):
        return self.arrays[cut][rows]

    def softmax(self, temperature, rows=None):
        raise NotImplementedError


def sweep(bank, **changes):
    return run_sweep(bank, cuts=["logits"], heads=["ncm"], samples_per_class="4", repeats=1, **changes)


def test_they_are_told_with_their_cosines():
    bank = Rows()
    with pytest.warns(LeakWarning) as caught:
        result = sweep(bank, check_leaks=True)
    (message,) = (str(one.message) for one in caught)
    assert message.startswith(
        "1 validation or test image is near-identical to a training image (cosine at fc7 of 0.9 or more; the "
        "largest: 0.9"
    )
    assert "first: 22.jpg ~ 00.jpg); look at them" in message
    assert result.notes == [message]
    found = result.near_duplicates
    assert (found["cut"], found["threshold"], found["count"], len(found["largest"])) == ("fc7", 0.9, 1, 5)
    x, y = bank.arrays["fc7"][[0, 22]]
    (pair,) = found["pairs"]
    assert (pair["train"], pair["other"], pair["split"]) == ("00.jpg", "22.jpg", "test")
    assert pair["cosine"] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-6)


def test_that_there_are_none_is_told_as_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = sweep(Rows(), check_leaks=0.9999)
    (note,) = result.notes
    assert note.startswith("no validation or test image is near-identical to a training image: the largest ")
    assert ", all under 0.9999; this finds copies; whether images of one patient, place or video" in note
    assert result.near_duplicates["count"] == 0


def test_a_split_that_tears_series_apart_is_not_explained_away():
    bank = Rows()
    X, rng = bank.arrays["fc7"], np.random.default_rng(1)
    train, others = bank.manifest.rows("train"), np.setdiff1d(np.arange(30), bank.manifest.rows("train"))
    X[others] = X[train[: len(others)]] + 0.2 * rng.normal(size=(len(others), 50))  # the next frame of each
    with pytest.warns(LeakWarning):
        (note,) = sweep(bank, check_leaks=True).notes
    assert "(that is 100% of them, and 7% of pairs at random: it is the split that leaks" in note
    assert "all images are alike" not in note
    X[:] = 1 + 0.01 * rng.normal(size=X.shape)  # a cut at which everything is alike
    with pytest.warns(LeakWarning):
        (note,) = sweep(bank, check_leaks=True).notes
    assert "and 100% of pairs at random: at this cut unrelated images are as alike" in note


def test_nobody_looks_unasked():
    assert sweep(Rows()).near_duplicates == {}


@pytest.mark.parametrize("asked", [0.0, 1.5, -1])
def test_a_cosine_there_is_not(asked):
    with pytest.raises(InvalidInputError) as caught:
        sweep(Rows(), check_leaks=asked)
    assert str(caught.value) == (
        f"check_leaks={asked!r} (--leak-cosine) must be True, False or a cosine over 0 and up to 1"
    )


def test_the_deepest_vector_is_asked():
    shapes = {"pool5": (512, 7, 7), "fc6": (4096,), "fc7": (4096,), "logits": (1000,)}
    assert deepest_vector_cut(["pool5", "fc6", "fc7", "logits"], shapes) == "fc7"
    assert deepest_vector_cut(["pool5", "logits"], shapes) == "logits"
    shapes |= {"fc7@hflip": (4096,), "logits@hflip": (1000,), "pool5:gap": (512,)}
    assert deepest_vector_cut(["fc6", "fc7", "fc7@hflip", "logits", "logits@hflip"], shapes) == "fc7"
    assert deepest_vector_cut(["pool5:gap", "logits", "logits@hflip"], shapes) == "pool5:gap"
    with pytest.raises(InvalidInputError, match="check_leaks needs a cut with one vector per image"):
        deepest_vector_cut(["pool5"], shapes)
