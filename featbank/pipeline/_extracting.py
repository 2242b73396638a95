"""The extraction an experiment needs: the same to be costed and to be run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from featbank.pipeline.opening import Opened
from featbank.pipeline.study import BackboneChoice

if TYPE_CHECKING:
    from featbank.extraction import ExtractionPlan

__all__ = ["plan_bank"]


def plan_bank(
    choice: BackboneChoice,
    cuts: Sequence[str],
    opened: Opened,
    device: str | None,
    workers: int | None,
    cache_dir: str | os.PathLike[str] | None,
    *,
    measure: bool = False,
) -> ExtractionPlan:
    """Plan the study's own bank of opened images; what other banks hold of them is copied into it."""
    from featbank.extraction import ExtractionSettings, plan  # which reading a file does not need

    given = asdict(choice)
    settings = ExtractionSettings(
        backbone=given.pop("name"),
        cuts=cuts,
        **given,
        split=opened.split,
        override_split=opened.split is not None,  # a study's own protocol
        limit=opened.limit,
        group_by=opened.group_by,
        device=device,
        workers=workers,
        cache_dir=cache_dir,
    )
    return plan(opened.dataset, settings, measure=measure)
