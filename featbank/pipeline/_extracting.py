"""The extraction an experiment needs: the same to be costed and to be run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featbank._cache import banks_folder
from featbank.banks import BankStore
from featbank.pipeline._sharing import take_over
from featbank.pipeline.opening import Opened
from featbank.pipeline.study import BackboneChoice

if TYPE_CHECKING:
    from featbank.extraction import Extraction

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """An extraction with nothing pushed yet.

    Parameters
    ----------
    task : Extraction
    shares : str or None
        Name of the bank whose features the study's own bank was given just now.
    """

    task: Extraction
    shares: str | None

    def discard(self) -> None:
        """Leave things as they were before: a plan alone leaves nothing behind."""
        self.task.discard()
        if self.shares is not None:
            BankStore(self.task.bank.path.parents[1]).remove(self.task.bank.path)


def prepare(
    choice: BackboneChoice,
    cuts: Sequence[str],
    opened: Opened,
    device: str | None,
    workers: int | None,
    cache_dir: str | os.PathLike[str] | None,
) -> Prepared:
    """Prepare the extraction of opened images into the study's own bank, with the features there are."""
    from featbank.extraction import Extraction  # loads torch, which reading a file does not need

    made = take_over(opened.dataset, opened.base, choice, cache_dir)
    wanted = None
    try:
        task = Extraction(
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
        )
        wanted = task.bank.path
    finally:
        store = BankStore(banks_folder(cache_dir))
        for path in made:
            if path != wanted:  # of another key, such as another image size
                store.remove(path)
    return Prepared(task, made.get(task.bank.path))
