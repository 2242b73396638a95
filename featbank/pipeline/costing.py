"""What a study would cost, before anything is pushed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featbank._cuts import SOFTMAX, CutName
from featbank.pipeline._extracting import plan_bank
from featbank.pipeline.opening import open_each
from featbank.pipeline.planning import plan_experiments
from featbank.pipeline.reading import load_study
from featbank.pipeline.study import Study
from featbank.sampling import parse_sizes

if TYPE_CHECKING:
    from featbank.extraction import ExtractionPlan

__all__ = ["ExperimentCost", "study_costs"]


@dataclass(frozen=True)
class ExperimentCost:
    """What one bank of a study and the sweeps on it would cost.

    Parameters
    ----------
    experiments : tuple of str
        Their names.
    plan : ExtractionPlan
        Rows, images to push, bytes, time.
    fits : int
        Heads to fit, those of sweeps that were finished before included.

    Examples
    --------
    >>> from featbank.extraction import ExtractionSettings, plan
    >>> todo = plan("digits", ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=100))
    >>> cost = ExperimentCost(("depth",), todo, fits=25)
    >>> f"{', '.join(cost.experiments)}: {cost.plan.to_push} images, {cost.fits} heads"
    'depth: 100 images, 25 heads'
    """

    experiments: tuple[str, ...]
    plan: ExtractionPlan
    fits: int


def study_costs(
    study: Study | str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    test_data: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    weights: Sequence[str] = (),
    limit: int | None = None,
    only: Sequence[str] = (),
    download: bool = False,
    device: str | None = None,
    workers: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[ExperimentCost]:
    """Say what `run_study` would do; the parameters and errors are the same, and nothing is left behind.

    Returns
    -------
    list of ExperimentCost
        One per bank. Where two of them share images, each counts them.

    Examples
    --------
    >>> for cost in study_costs("mini_digits", only=["depth"], limit=100):
    ...     print(f"{', '.join(cost.experiments)}: {cost.plan.to_push} images, {cost.fits} heads")
    depth: 100 images, 100 heads
    """
    found = study if isinstance(study, Study) else load_study(study)
    groups = plan_experiments(found, backbone=backbone, weights=weights, test_data=test_data, only=only)
    firsts = [group.first for group in groups]
    opened = open_each(
        firsts, beside=found.path, data=data, test_data=test_data, limit=limit, download=download
    )
    costs = []
    for group, images in zip(groups, opened, strict=True):
        choice = group.first.backbone
        with plan_bank(choice, group.cuts, images, device, workers, cache_dir, measure=True) as plan:
            pass  # what decoded for the clock ends here
        fits = 0
        for one in group.experiments:
            sweep = one.run.sweep
            curves = len(sweep.heads) * sum(
                len(sweep.temperatures or (1.0,)) if CutName.parse(cut).base == SOFTMAX else 1
                for cut in sweep.cuts
            )
            fits += curves * len(parse_sizes(sweep.samples_per_class)) * (sweep.folds or sweep.repeats)
        costs.append(ExperimentCost(tuple(one.written.name for one in group.experiments), plan, fits))
    return costs
