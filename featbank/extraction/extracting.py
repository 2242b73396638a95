"""An extraction from end to end: planned here, and pushed here, by slices, or by the nodes of a cluster."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank._atomic import remove_file
from featbank._bucket import BucketPath
from featbank._cache import DigestCache, banks_folder, user_path
from featbank._settings import Progress, takes_settings, with_options
from featbank.banks import Bank, BankStore
from featbank.datasets import Dataset, open_dataset
from featbank.datasets.sources import absolute_sources
from featbank.engines import RayEngine, map_unordered
from featbank.errors import (
    BankChangedError,
    BankError,
    BankNotFoundError,
    FeatbankError,
    FeatureOverflowError,
    IncompleteBankError,
    InvalidInputError,
    MissingDataError,
    NodeError,
    WorkerLostError,
)
from featbank.extraction.planning import (
    ExtractionPlan,
    Missing,
    Planned,
    Task,
    find_missing,
    plan,
    refuse_if_full,
    said,
)
from featbank.extraction.pushing import ExtractionResult, LookAgain, Pushing, push
from featbank.extraction.saved_plan import PLAN_AGAIN, SavedPlan, asked_of, file_name, machine
from featbank.extraction.settings import ExtractionSettings, stored_dtype
from featbank.manifest import printable

if TYPE_CHECKING:
    pass

__all__ = [
    "extract",
    "finish_plan",
    "open_plan",
    "plan_path",
    "push_on",
    "push_tasks",
    "save_plan",
    "slices_of",
    "tasks_left",
]

# One plan for many processes: saved beside the bank, opened by its path, pushed by slices or by tasks -


def save_plan(plan: ExtractionPlan, *, n_slices: int | None = None) -> Path:
    """Save a plan beside its bank, for other processes, on this machine or others, to push.

    The bank is made if there is none, and its rows are set. Planning again replaces the plan.

    Parameters
    ----------
    plan : ExtractionPlan
        From `featbank.extraction.plan`, of data and backbone given by name or path.
    n_slices : int, optional
        How many slices there are to be; another number is refused then.

    Returns
    -------
    pathlib.Path
        The file of the plan, for `open_plan`.

    Raises
    ------
    InvalidInputError
        If data or backbone is an object, or `n_slices` is below 1.
    BankChangedError
        If another process sets other rows of the bank at the same time.
    CacheWriteError
        If the disk cannot hold what is to be written, or the bank cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from featbank.extraction import plan
    >>> with tempfile.TemporaryDirectory() as cache:
    ...     what = {"backbone": "minivgg", "cuts": ["fc7"], "limit": 40, "batch_size": 8, "shard_rows": 8}
    ...     with plan("digits", ExtractionSettings(**what, cache_dir=cache)) as todo:
    ...         path = save_plan(todo)
    ...     before = [one.number for one in tasks_left(path)]
    ...     n_pushed = push_tasks(path, before[:1])
    ...     before, n_pushed, len(tasks_left(path))
    ([0, 1, 2, 3, 4], 8, 4)
    """
    work = plan.need_work()
    if n_slices is not None and n_slices < 1:
        raise InvalidInputError(f"n_slices={n_slices!r} must be at least 1")
    asked = asked_of(work.data, work.settings)
    refuse_if_full(plan)
    with contextlib.suppress(LookAgain):  # what was missing has been found anew
        Pushing(work, None).begin()
    bank, writers = Bank.open(work.path, check="size"), work.missing.writers
    if bank.places_digest != work.missing.bank.places_digest:  # which the plan would pin
        raise BankChangedError(
            f"another extraction has set other rows of bank {bank.name!r} just now; run the command again"
        )
    computing = work.computing
    file = work.path / file_name(asked)
    saved = SavedPlan(
        path=file,
        digest="",
        data=asked["data"],
        settings=work.settings,
        n_slices=n_slices,
        key_digest=bank.key.digest(),
        n_rows=len(bank),
        places_digest=bank.places_digest,
        shapes={cut: writer.shape for cut, writer in writers.items()},
        dtypes={cut: writer.dtype.name for cut, writer in writers.items()},
        others=tuple(cut for cut in writers if cut not in work.cuts),
        lenders=tuple(f"{one.path.parent.name}/{one.path.name}" for one in work.missing.lenders),
        errors={cut: error for cut, error in work.errors.items() if error < np.inf},
        device="cpu" if computing is None else computing.devices[0].type,
        machine={} if computing is None else machine(computing.devices),
    )
    saved.write()
    for other in work.store.root.glob(f"*/*/{file.name}"):
        if other != file:  # of a bank that this command would not make now
            other.unlink() if isinstance(other, BucketPath) else remove_file(other)
    work.digests.save()
    return file


def open_plan(
    path: str | os.PathLike[str],
    *,
    device: str | None = None,
    workers: int | None = None,
    lanes: int | None = None,
    download: bool = False,
) -> ExtractionPlan:
    """Open a saved plan; no image is hashed, no weights are loaded, nothing is chosen.

    Parameters
    ----------
    path : str or path-like
        As `save_plan` returned it.
    device, workers, lanes, download
        As of `ExtractionSettings`, for this process; by default the kind of device it was planned on.

    Returns
    -------
    ExtractionPlan
        For `featbank.extraction.push`, whole or a `ExtractionPlan.slice` of it.

    Raises
    ------
    BankNotFoundError
        If there is none.
    BankChangedError
        If the bank has other rows by now: plan again.
    CorruptBankError, BankFormatError
        If the plan is damaged, or of another version.
    MissingDataError
        If the images are not there.

    Examples
    --------
    >>> import featbank
    >>> from featbank.extraction import plan
    >>> bank = featbank.open_bank("digits")  # of 300 images
    >>> with plan("digits", ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=310)) as todo:
    ...     path = save_plan(todo)
    >>> with open_plan(path) as todo:  # elsewhere, later
    ...     todo.to_push, todo.slice(1, 2).to_push, todo.slice(2, 2).to_push
    (10, 0, 10)
    """
    saved = SavedPlan.read(path)
    bank, missing = _found(saved)
    settings = replace(
        saved.settings, device=device or saved.device, workers=workers, lanes=lanes, download=download
    )
    dataset = open_dataset(saved.data, **settings.options_of(open_dataset))
    known = set(dataset.ids)
    if not any(one in known for one in bank.manifest.ids):
        raise MissingDataError(
            f"none of the {len(bank)} images of the plan is in {printable(dataset.location)!r} now: put them "
            f"back, or {PLAN_AGAIN}"
        )
    return said(
        Planned(
            settings=settings,
            dataset=dataset,
            store=BankStore(saved.path.parents[2]),
            digests=DigestCache(None),
            cuts=tuple(cut for cut in saved.shapes if cut not in saved.others),
            manifest=bank.manifest,
            missing=missing,
            provenance=bank.provenance,
            errors=saved.errors,
            computing=None,
            started=time.perf_counter(),
            data=saved.data,
            saved=saved,
        )
    )


def _found(saved: SavedPlan) -> tuple[Bank, Missing]:
    """Return the bank of a plan, and what it lacks now."""
    bank = Bank.open(saved.path.parent, check="size")
    saved.check_rows(bank)
    lenders = []
    for name in saved.lenders:
        with contextlib.suppress(BankError, OSError):  # gone since: its images are pushed
            lenders.append(Bank.open(saved.path.parents[2] / name, check="size"))
    wide = {cut for cut, kind in saved.dtypes.items() if stored_dtype(cut, bank.key.dtype) != np.dtype(kind)}
    missing = find_missing(
        bank,
        bank.manifest,
        [cut for cut in saved.shapes if cut not in saved.others],
        shapes=saved.shapes,
        lenders=lenders,
        made_by=saved.made_by or None,
        wide=wide,
        others=saved.others,
        shard_rows=saved.settings.shard_rows,
        renews=False,
    )
    return bank, missing


def tasks_left(path: str | os.PathLike[str]) -> list[Task]:
    """List what a saved plan has still to push: one task for each run of slots, in order. Opens no data.

    Raises
    ------
    BankNotFoundError, BankChangedError, CorruptBankError, BankFormatError
        As of `open_plan`.

    Examples
    --------
    >>> import featbank
    >>> from featbank.extraction import plan
    >>> bank = featbank.open_bank("digits")  # of 300 images
    >>> with plan("digits", ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=310)) as todo:
    ...     path = save_plan(todo)
    >>> tasks_left(path)
    [Task(number=1, n_images=10, cuts=('fc7',))]
    """
    return _found(SavedPlan.read(path))[1].tasks()


#: The plan that this process pushed tasks of last, by path and what it was opened with: the data set stays
#: listed, the backbone loaded, the processes that decode stay.
_opened: dict[tuple[Any, ...], ExtractionPlan] = {}


def push_tasks(
    path: str | os.PathLike[str],
    numbers: Collection[int],
    *,
    device: str | None = None,
    workers: int | None = None,
    lanes: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Push some tasks of a saved plan in this process, which keeps what it needed for the next call.

    Parameters
    ----------
    path : str or path-like
        As `save_plan` returned it.
    numbers : collection of int
        Of tasks, as `tasks_left` gave them; what another process has stored since is not pushed again.
    device, workers, lanes
        As of `open_plan`.
    progress : callable, optional
        Called with (images done, images to push).

    Returns
    -------
    int
        How many images went through the backbone.

    Raises
    ------
    FeatbankError
        As of `open_plan` and `featbank.extraction.push`.

    Examples
    --------
    >>> import featbank
    >>> from featbank.extraction import plan
    >>> bank = featbank.open_bank("digits")  # of 300 images
    >>> with plan("digits", ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=310)) as todo:
    ...     path = save_plan(todo)
    >>> push_tasks(path, [one.number for one in tasks_left(path)])
    10
    >>> finish_plan(path).rows
    310
    """
    file = user_path(path).absolute()
    saved = SavedPlan.read(file)
    this = (file, saved.digest, device, workers, lanes)
    if this not in _opened:
        for other in list(_opened):
            _opened.pop(other).close()
        _opened[this] = open_plan(file, device=device, workers=workers, lanes=lanes)
    work = _opened[this].need_work()
    missing = replace(work.missing.refreshed(), mine=frozenset(numbers))
    if len(missing.slots()):
        work.need_computing()
    part = Pushing(replace(work, missing=missing), progress)
    part.store()
    return len(part.pushed)


def finish_plan(path: str | os.PathLike[str], *, device: str | None = None) -> ExtractionResult:
    """Write the facts of the cuts of a saved plan, once every shard is there; pushes nothing.

    Parameters
    ----------
    path : str or path-like
        As `save_plan` returned it.
    device : str, optional
        As of `open_plan`.

    Returns
    -------
    ExtractionResult

    Raises
    ------
    IncompleteBankError
        If a shard is missing.
    FeatbankError
        As of `open_plan`.

    Examples
    --------
    >>> import featbank
    >>> from featbank.extraction import plan
    >>> bank = featbank.open_bank("digits")  # of 300 images
    >>> with plan("digits", ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=310)) as todo:
    ...     path = save_plan(todo)
    >>> finish_plan(path)  # before the tasks that are left
    Traceback (most recent call last):
        ...
    featbank.errors.IncompleteBankError: bank 'digits/minivgg-...' cannot be finished yet: 10 images are
    still to be pushed (--shards-left says by which slices)
    """
    with open_plan(path, device=device) as todo:
        if left := todo.tasks():
            raise IncompleteBankError(
                f"bank {todo.need_work().missing.bank.name!r} cannot be finished yet: "
                f"{sum(one.n_images for one in left)} images are still to be pushed (--shards-left says by "
                "which slices)"
            )
        return push(todo.of_tasks(()))


def slices_of(tasks: Collection[Task], n_slices: int) -> list[str]:
    """Return the slices that tasks belong to, as ``i/n``, in order.

    Examples
    --------
    >>> slices_of([Task(1, 8, ("fc7",)), Task(4, 8, ("fc7",)), Task(5, 8, ("fc7",))], 4)
    ['1/4', '2/4']
    """
    return [f"{number}/{n_slices}" for number in sorted({one.number % n_slices + 1 for one in tasks})]


def plan_path(data: str | os.PathLike[str], settings: ExtractionSettings) -> Path:
    """Find the plan that was saved for this very data and these settings, without looking at the data.

    Parameters
    ----------
    data, settings
        As of `featbank.extraction.plan`.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    BankNotFoundError
        If there is none in the cache; the message says how the one that comes nearest differs.
    """
    asked, root = asked_of(data, settings), banks_folder(settings.cache_dir)
    # a node that has no images, such as one that only asks what is left, cannot say which place was meant
    for place in absolute_sources(data) if isinstance(data, str | os.PathLike) else ():
        found = next(root.glob(f"*/*/{file_name({**asked, 'data': place})}"), None)
        if found is not None:
            return found
    near = []
    for path in root.glob("*/*/plan-*.json"):
        with contextlib.suppress(FeatbankError):
            plan = SavedPlan.read(path)
            other = asked_of(plan.data, plan.settings)
            differing = {
                name: (other["settings"][name], value)
                for name, value in asked["settings"].items()
                if other["settings"][name] != value
            }
            if plan.data != asked["data"]:
                differing["data"] = (plan.data, asked["data"])
            near.append((len(differing), path.stem, differing))
    said = ""
    if near:
        _, name, differing = min(near, key=lambda one: one[:2])
        words = "; ".join(f"{one} is {a!r}, not {b!r}" for one, (a, b) in differing.items())
        said = f" (in {name} {printable(words)})"
    raise BankNotFoundError(
        f"no plan of this command in {str(root)!r}{said}: the same with --plan-only --slices N makes it, "
        "once; then --shard i/N pushes"
    )


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
