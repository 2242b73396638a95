"""The extraction an experiment needs: the same to be costed and to be run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featbank.pipeline._sharing import lenders
from featbank.pipeline.opening import Opened
from featbank.pipeline.study import BackboneChoice

if TYPE_CHECKING:
    from featbank.extraction import Extraction

__all__ = ["prepare"]


def prepare(
    choice: BackboneChoice,
    cuts: Sequence[str],
    opened: Opened,
    device: str | None,
    workers: int | None,
    cache_dir: str | os.PathLike[str] | None,
) -> Extraction:
    """Prepare the extraction of opened images into the study's own bank, with the features there are."""
    from featbank.extraction import Extraction  # loads torch, which reading a file does not need

    return Extraction(
        opened.dataset,
        backbone=choice.name,
        cuts=cuts,
        weights=choice.weights,
        split=opened.split,
        override_split=opened.split is not None,  # a study's own protocol
        image_size=choice.image_size,
        transform=choice.transform,
        precision=choice.precision,
        dtype=choice.dtype,
        batch_size=choice.batch_size,
        limit=opened.limit,
        name=None,
        device=device,
        workers=workers,
        random_state=0,
        data_root=None,
        download=False,
        cache_dir=cache_dir,
        lenders=lenders(opened.dataset, opened.base, choice, cache_dir),
    )
