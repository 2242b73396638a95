"""The trainings of a study: networks from scratch and fine-tuned backbones, beside heads on banks."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featbank.manifest import short_repr
from featbank.metrics import mean_interval
from featbank.pipeline.claims import StudyPoint
from featbank.pipeline.opening import Opened
from featbank.pipeline.study import Training
from featbank.sweep import Score
from featbank.training import DecodedImages, TrainResult, train

if TYPE_CHECKING:
    from featbank.pipeline.running import Bars

__all__ = ["TrainingRun", "run_training"]

#: Cuts of the points of a training: which images it is measured on.
TEST, BLURRED = "test", "blurred"
_METRICS = ("top1", "top5", "val_top1", "val_top5")


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """What became of one training of a study.

    Parameters
    ----------
    written : Training
        As it was run.
    results : list of TrainResult
        One for each seed.
    opened : Opened
        Where the images came from.

    Examples
    --------
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from featbank.pipeline import Data
    >>> from featbank.pipeline.opening import open_images
    >>> from featbank.training import Recipe
    >>> written = Training("scratch", Data("digits", "digits"), network="own_net", repeats=3)
    >>> net, counts, classes = Path("net"), np.eye(10, dtype=int), tuple("0123456789")
    >>> results = [  # as featbank.train returns them
    ...     TrainResult(net, net, net, "", [], {"test_top1": one}, counts, classes, Recipe(), 1, False, (9,))
    ...     for one in (0.71, 0.74, 0.72)
    ... ]
    >>> (point,) = TrainingRun(written, results, open_images(written)).points
    >>> point.head, point.n_repeats, round(point.mean("top1"), 4)
    ('own_net', 3, 0.7233)
    """

    written: Training
    results: list[TrainResult]
    opened: Opened

    __repr__ = short_repr

    @property
    def points(self) -> list[StudyPoint]:
        """Its scores as points of a curve: one on the test images, one on the blurred ones if there are."""
        found = []
        counts = self.results[0].n_per_class
        for cut, prefix in ((TEST, ""), (BLURRED, "blurred_")):
            scores = {}
            for metric in _METRICS:
                named = metric if metric.startswith("val_") else f"{prefix or 'test_'}{metric}"
                values = [one.scores[named] for one in self.results if named in one.scores]
                if values and (not prefix or not metric.startswith("val_")):
                    mean, low, high = mean_interval(values)
                    known = not math.isnan(low)  # else there are too few seeds for an interval
                    scores[metric] = Score(
                        mean, low if known else None, high if known else None, min(values), max(values)
                    )
            if scores:
                found.append(
                    StudyPoint(
                        cut,
                        self.written.subject,
                        "all",
                        scores,
                        n_repeats=len(self.results),
                        all_samples=True,
                        fewest_per_class=min(counts),
                        most_per_class=max(counts),
                        experiment=self.written.name,
                        chance=1 / self.opened.n_classes,
                    )
                )
        return found


def run_training(
    written: Training,
    opened: Opened,
    *,
    decoded: DecodedImages | None = None,
    device: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    say: Callable[[str], None],
    progress: Bars | None = None,
) -> TrainingRun:
    """Train a network of a study once for each seed; what is in the cache is not trained again.

    Parameters
    ----------
    written : Training
    opened : Opened
        Its images.
    decoded : DecodedImages, optional
        Keeps them between trainings.
    device : str, optional
        The best there is by default.
    cache_dir : path, optional
        The cache.
    say, progress : callable
        As for `run_study`.

    Raises
    ------
    TrainingDivergedError
        If a loss runs away.
    """
    results = []
    for seed in range(written.repeats):
        say(f"  {written.name}: {written.subject}" + (f", seed {seed}" if written.repeats > 1 else ""))
        result = train(
            opened.dataset,
            network=written.network,
            params=written.params,
            backbone=written.backbone,
            weights=written.weights,
            unfreeze=written.unfreeze,
            recipe={**written.recipe, "random_state": written.random_state + seed},
            image_size=written.image_size,
            split=opened.split,
            limit=opened.limit,
            val=written.val,
            blur=written.blur,
            decoded=decoded,
            device=device,
            cache_dir=cache_dir,
            say=lambda line: say(f"    {line}"),
            on_step=progress and progress("train"),
        )
        scores = ", ".join(
            f"{name.replace('_', ' ')} {100 * value:.2f} %"
            for name, value in result.scores.items()
            if not name.endswith("loss")
        )
        say(f"    {scores}" + (" (trained before)" if result.reused else ""))
        results.append(result)
    return TrainingRun(written, results, opened)
