"""Intervals cover what they say they cover: what other training images would have given."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from featbank.sampling import draw_nested
from featbank.sweep.curves import LearningCurve
from featbank.sweep.records import Fit

SIZES, N_POOL, N_REPEATS, N_CLASSES, N_FEATURES = (4, 8, 16, 24, 28), 28, 5, 8, 16
N_WORLDS, N_POOLS = 8, 150
DRAWN = slice(0, 4)  # the last size takes the whole pool, and has no interval


@pytest.fixture(scope="module")
def worlds():
    """Accuracies of two heads (nearest mean, least squares), by world, pool, head, size and repeat.

    A world has its classes, each of three kinds of images with rare odd ones, and its test images; the pools
    are as many data sets that somebody might have collected in it.
    """
    y_test, y = (np.repeat(np.arange(N_CLASSES), n) for n in (25, N_POOL))
    found = np.empty((N_WORLDS, N_POOLS, 2, len(SIZES), N_REPEATS))
    for world in range(N_WORLDS):
        rng = np.random.default_rng([7, world])
        kinds = (
            rng.normal(size=(N_CLASSES, 1, N_FEATURES)) + rng.normal(size=(N_CLASSES, 3, N_FEATURES)) * 0.7
        )
        spread = np.exp(rng.normal(size=N_FEATURES) * 0.5)

        def images(labels, rng=rng, kinds=kinds, spread=spread):
            odd = np.sqrt(rng.chisquare(4, (len(labels), 1)) / 4)
            noise = rng.normal(size=(len(labels), N_FEATURES)) * spread / odd
            return kinds[labels, rng.integers(0, 3, len(labels))] + noise

        X_test = images(y_test)
        for pool in range(N_POOLS):
            X = images(y)
            for repeat, draw in enumerate(draw_nested(y, SIZES, repeats=N_REPEATS, random_state=pool)):
                for at, size in enumerate(SIZES):
                    drawn = X[draw[size]]
                    means = drawn.reshape(N_CLASSES, size, N_FEATURES).mean(axis=1)
                    near = 2 * X_test @ means.T - (means * means).sum(axis=1)
                    center = drawn.mean(axis=0)
                    gram = (drawn - center).T @ (drawn - center) + 10 * np.eye(N_FEATURES)
                    # centered targets times centered rows are the class means, but for a factor
                    line = (X_test - center) @ np.linalg.solve(gram, (means - center).T)
                    for head, scores in enumerate((near, line)):
                        found[world, pool, head, at, repeat] = (scores.argmax(axis=1) == y_test).mean()
    return found


def curve_of(scores, head="ncm", known=True):
    """Return the curve of one pool as a sweep leaves it."""
    fits = [
        Fit("fc7", head, None, size, repeat, N_CLASSES * size, N_FEATURES, 0, top1=top1)
        for size, line in zip(SIZES, scores, strict=True)
        for repeat, top1 in enumerate(line.tolist())
    ]
    return LearningCurve(tuple(fits), {"train": N_CLASSES * N_POOL} if known else {})


@pytest.mark.slow
def test_coverage_of_means_and_differences(worlds):
    """At each size, of both heads and of their difference: as often as they say."""
    covered = defaultdict(list)
    for world in worlds:
        truth = world.mean(axis=(0, 3))[:, DRAWN]  # by head and size, over other training images
        for scores in world:
            pair = [curve_of(*one) for one in zip(scores, ("ncm", "ridge"), strict=True)]
            for name, curve, true in (
                ("ncm", pair[0], truth[0]),
                ("ridge", pair[1], truth[1]),
                ("overlap ignored", curve_of(scores[0], known=False), truth[0]),
            ):
                low, high = np.array([one.interval("top1") for one in curve.points()[DRAWN]]).T
                covered[name].append((low <= true) & (true <= high))
            apart = [pair[0].difference(pair[1], size) for size in SIZES[DRAWN]]
            _, low, high = np.array(apart).T
            covered["difference"].append((low <= truth[0] - truth[1]) & (truth[0] - truth[1] <= high))
    shares = {name: np.mean(one, axis=0).round(3).tolist() for name, one in covered.items()}
    ignored = shares.pop("overlap ignored")
    assert ignored[0] > 0.85 > 0.65 > ignored[-1], ignored  # the simulation can tell
    assert all(0.93 <= one <= 0.98 for line in shares.values() for one in line), shares


@pytest.mark.slow
def test_coverage_of_what_is_extrapolated(worlds):
    """The band at four times the pool holds the law, with the size that takes all images and without it."""
    a, b, c = 0.9, 0.6, 0.5
    law = (a - b * np.array(SIZES, dtype=float) ** -c)[:, None]
    covered = defaultdict(list)
    for world in worlds[:, ::5, 0]:
        luck = world - world.mean(axis=(0, 2))[:, None]  # of the pool and the draw, at each size
        for one in luck:
            curve = curve_of(law + one)
            for name, fits in (("all", curve.fits), ("drawn", curve.fits[: 4 * N_REPEATS])):
                low, high = LearningCurve(fits, curve.n_rows).power_law().band([4 * N_POOL])
                covered[name].append(low[0] <= a - b * (4 * N_POOL) ** -c <= high[0])
    shares = {name: round(float(np.mean(one)), 3) for name, one in covered.items()}
    assert all(0.93 <= one <= 0.98 for one in shares.values()), shares
