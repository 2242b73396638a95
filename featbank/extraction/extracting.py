"""An extraction from end to end: it is planned here, and pushed here or by the nodes of a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from featbank._settings import Progress, takes_settings, with_options
from featbank.datasets import Dataset
from featbank.engines import RayEngine, map_unordered
from featbank.errors import (
    BankChangedError,
    FeatbankError,
    FeatureOverflowError,
    InvalidInputError,
    NodeError,
    WorkerLostError,
)
from featbank.extraction.missing import Task
from featbank.extraction.planning import ExtractionPlan, plan
from featbank.extraction.pushing import ExtractionResult, push
from featbank.extraction.settings import ExtractionSettings
from featbank.extraction.slices import SavedPlan, finish_plan, push_tasks, save_plan, tasks_left

__all__ = ["extract", "push_on"]


@takes_settings(ExtractionSettings)
def extract(
    data: str | os.PathLike[str] | Dataset = "digits",
    settings: ExtractionSettings | None = None,
    *,
    engine: RayEngine | None = None,
    progress: Progress | None = None,
    on_plan: Callable[[ExtractionPlan], None] | None = None,
    **options: Any,
) -> ExtractionResult:
    """Push each image of a dataset once through a backbone and keep what comes out at the cuts.

    Images whose features are in the bank already are not pushed again, whatever their name: rows are matched
    by the digest of the file. What another bank of the cache holds under an equal key is copied from there.
    An interrupted extraction is resumed by calling this again.

    Parameters
    ----------
    data : str, path or Dataset, default="digits"
        A folder of class folders, a CSV, ``"torchvision:NAME"``, or ``"digits"``.
    settings : ExtractionSettings, optional
        What is extracted, and how.
    engine : RayEngine, optional
        A cluster that pushes instead of this process, which plans; see `push_on`.
    progress : callable, optional
        Called with (images done, images to push).
    on_plan : callable, optional
        Called with the `ExtractionPlan` before anything is pushed.
    **options
        Fields of `ExtractionSettings`, such as ``backbone="vgg16", cuts=["fc7"]``; with `settings` they
        replace those of its fields.

    Returns
    -------
    ExtractionResult

    Raises
    ------
    UnknownNameError
        For an unknown backbone, cut, transform or weights name; the message has the nearest names.
    MissingDataError, MissingWeightsError
        If images or weights are not there.
    DatasetError, InvalidInputError
        If the dataset or an argument makes no sense.
    WeightsError
        If a weights file belongs to another architecture.
    CacheWriteError
        If the disk is full or not writable; what was written before stays and is not pushed again.
    FeatureOverflowError
        If a feature is not finite, or does not fit `dtype` and `on_overflow` is ``"error"``.
    TypeError
        If an option is no field of `ExtractionSettings`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as cache:
    ...     first = extract("digits", backbone="minivgg", cuts=["block5_pool"], limit=20, cache_dir=cache)
    ...     again = extract("digits", backbone="minivgg", cuts=["block5_pool"], limit=20, cache_dir=cache)
    >>> first.pushed, again.pushed, dict(first.cuts)
    (20, 0, {'block5_pool': (128, 1, 1)})
    """
    with plan(data, with_options(ExtractionSettings, settings, options, "extract")) as planned:
        if on_plan is not None:
            on_plan(planned)
        if engine is not None:
            return push_on(planned, engine, progress=progress)
        return push(planned, progress=progress)


def push_on(plan: ExtractionPlan, engine: RayEngine, *, progress: Progress | None = None) -> ExtractionResult:
    """Do what a plan says on the nodes of a cluster, a task at a time; the bank is that of one machine.

    The plan is saved beside the bank, which every node reaches under the same path, as it does the images
    and the weights. What a node that dies has not stored is pushed by another. Where this process is killed,
    the same command goes on.

    Parameters
    ----------
    plan : ExtractionPlan
        From `featbank.extraction.plan`, of data and backbone given by name or path; it is closed, whatever
        comes of it. Its `lanes` and `workers` are those of a task; one for each of its cores by default.
    engine : RayEngine
    progress : callable, optional
        Called with (images done, images to push).

    Returns
    -------
    ExtractionResult

    Raises
    ------
    NodeError
        If a node lacks the weights, the images or the bank, or is a machine of another kind.
    WorkerLostError
        If the processes that pushed a task died each time; all others are pushed before this is raised.
    InvalidInputError, CacheWriteError, FeatureOverflowError
        As of `save_plan` and `featbank.extraction.push`.
    """
    started = time.perf_counter()
    with plan:
        settings = plan.need_work().settings
        path = save_plan(plan)
    _check_cards(SavedPlan.read(path), engine)
    # the largest first, so that nobody begins one when the others are done
    tasks = sorted(tasks_left(path), key=lambda one: -one.n_images)
    total = sum(one.n_images for one in tasks)
    cores = engine.cpus_per_task
    push_one = _TaskPusher(path, settings.device, settings.workers or cores, settings.lanes or cores)
    done = n_pushed = 0
    lost: list[WorkerLostError] = []
    with closing(map_unordered(push_one, tasks, engine)) as found:
        for outcome in found:
            if isinstance(outcome.error, WorkerLostError):
                lost.append(outcome.error)
                continue
            n_pushed += outcome.get()
            done += outcome.item.n_images
            if progress is not None:
                progress(done, total)
    if lost:
        raise WorkerLostError(
            f"{len(lost)} of {len(tasks)} tasks could not be pushed: {lost[0]}; all others are stored, and "
            "the same command tries these again"
        )
    result = finish_plan(path, device=settings.device)
    return replace(
        result,
        pushed=n_pushed,
        skipped=result.skipped - n_pushed,
        duration_s=time.perf_counter() - started,
    )


def _check_cards(saved: SavedPlan, engine: RayEngine) -> None:
    """Refuse tasks without a card where the plan is for one, and the other way round."""
    if not saved.machine or (saved.device == "cuda") == (engine.gpus_per_task > 0):
        return
    if saved.device == "cuda":
        what = "a card, and a task has none: add --gpus-per-task 1, or --device cpu"
    else:
        what = (
            f"{saved.device}, and a task has {engine.gpus_per_task:g} cards (--gpus-per-task), which would "
            "give other last bits: leave them out, or run this on a node with a card"
        )
    raise InvalidInputError(f"this was planned for {what}")


class _TaskPusher:
    """Pushes tasks of a saved plan; each process keeps what it has opened for the next one."""

    def __init__(self, path: Path, device: str | None, workers: int, lanes: int) -> None:
        self._path, self._own = path, {"device": device, "workers": workers, "lanes": lanes}

    def __call__(self, task: Task) -> int:
        try:
            return push_tasks(self._path, [task.number], **self._own)  # type: ignore[arg-type]
        except (BankChangedError, FeatureOverflowError):  # everywhere the same
            raise
        except FeatbankError as error:
            raise NodeError(str(error)) from error
