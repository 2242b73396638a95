"""One plan for many processes: saved beside the bank, opened by its path, pushed by slices or by tasks.

The rows and the slot of each are those of the bank's manifest, which is written with the plan; what was
chosen (arithmetic, batch size, decoder) is the bank's key. The plan says the rest, and pins all of it:
whoever opens it hashes no image, chooses nothing, and refuses where its shards would not fit the others.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank._atomic import canonical_json, remove_file, sha256
from featbank._bucket import BucketPath
from featbank._cache import banks_folder, user_path
from featbank._settings import Progress
from featbank._stat_cache import DigestCache
from featbank.backbones.families import family_of
from featbank.backbones.weights_files import absolute_weights
from featbank.banks import Bank, BankStore
from featbank.banks.documents import PLAN_FILE, check_name, read_plan, write_plan
from featbank.datasets import open_dataset
from featbank.datasets.sources import absolute_source
from featbank.errors import (
    BankChangedError,
    BankError,
    BankNotFoundError,
    CorruptBankError,
    FeatbankError,
    IncompleteBankError,
    InvalidInputError,
    MissingDataError,
)
from featbank.extraction.forward import choose_devices, made_by
from featbank.extraction.missing import Missing, Task, find_missing
from featbank.extraction.planning import ExtractionPlan, Planned, refuse_if_full, said
from featbank.extraction.pushing import ExtractionResult, LookAgain, Pushing, push
from featbank.extraction.settings import ExtractionSettings, stored_dtype
from featbank.manifest import printable

if TYPE_CHECKING:
    import torch

__all__ = [
    "SavedPlan",
    "finish_plan",
    "open_plan",
    "plan_path",
    "push_tasks",
    "save_plan",
    "slices_of",
    "tasks_left",
]

#: Settings that are each process's own.
_OWN = ("device", "workers", "lanes", "cache_dir", "download", "rehash")
_AGAIN = "plan again (--plan-only); what is stored stays"


@dataclass(frozen=True)
class SavedPlan:
    """What a plan says that was saved beside its bank.

    Parameters
    ----------
    path : pathlib.Path
        Its file, in the bank's folder.
    digest : str
        SHA-256 of what it says.
    data : str
        What is extracted, as of `featbank.extract`.
    settings : ExtractionSettings
        What of it, and how; but for what is each process's own, such as its device.
    n_slices : int or None
        How many slices it was made for; None: any number.
    key_digest : str
        That of the bank's key.
    n_rows : int
        Rows of the dataset.
    places_digest : str
        As of `Bank`.
    shapes : mapping of str to tuple of int
        Shape of one row, of the cuts asked for and of `others`.
    dtypes : mapping of str to str
        What these are stored as.
    others : tuple of str
        Cuts that were not asked for, and lack features of images that got new slots.
    lenders : tuple of str
        Names of banks that features are copied from.
    errors : mapping of str to float
        Error of the arithmetic at each cut where it is known.
    device : str
        Kind of device that computes: ``"cpu"``, ``"cuda"``.
    machine : mapping of str to str
        What else decides the last bits: ``torch``, ``device`` as a shard says it, ``cpu``; empty where
        nothing has to be computed.

    Examples
    --------
    >>> import featbank
    >>> from featbank.extraction import plan
    >>> bank = featbank.open_bank("digits")  # of 300 images
    >>> with plan("digits", ExtractionSettings(backbone="minivgg", cuts=["fc7"], limit=310)) as todo:
    ...     path = save_plan(todo, n_slices=4)
    >>> saved = SavedPlan.read(path)
    >>> saved.data, saved.n_slices, saved.n_rows, dict(saved.shapes)
    ('digits', 4, 310, {'fc7': (256,)})
    """

    path: Path
    digest: str
    data: str
    settings: ExtractionSettings
    n_slices: int | None
    key_digest: str
    n_rows: int
    places_digest: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    others: tuple[str, ...]
    lenders: tuple[str, ...]
    errors: Mapping[str, float]
    device: str
    machine: Mapping[str, str]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> SavedPlan:
        """Read a plan, whoever made it: checked, bounded JSON.

        Raises
        ------
        BankNotFoundError
            If there is none.
        CorruptBankError, BankFormatError
            If it is damaged, or of another version.
        """
        file = user_path(path).absolute()
        said = read_plan(file) if PLAN_FILE.fullmatch(file.name) else None
        if said is None:
            raise BankNotFoundError(
                f"no plan {str(file)!r}; `featbank extract ... --plan-only --slices N` makes one"
            )
        try:
            asked = said["asked"]
            if file.name != _file_name(asked):
                raise ValueError("it is the plan of something else")
            for cut, shape in said["shapes"].items():
                check_name("cut", cut)
                if not all(type(side) is int and 0 < side < 1 << 32 for side in shape) or not shape:
                    raise ValueError(f"rows of shape {shape!r} are none of features")
            if said["dtypes"].keys() != said["shapes"].keys():
                raise ValueError("it does not say what every cut is stored as")
            for name in said["lenders"]:
                for part in name.split("/", 1):
                    check_name("bank", part)
            n_slices = said["slices"]
            if n_slices is not None and (type(n_slices) is not int or n_slices < 1):
                raise ValueError(f"it is for {n_slices!r} slices")
            return cls(
                file,
                sha256(canonical_json(said)),
                str(asked["data"]),
                ExtractionSettings(**asked["settings"]),
                n_slices,
                str(said["key_digest"]),
                int(said["rows"]),
                str(said["places_digest"]),
                {cut: tuple(shape) for cut, shape in said["shapes"].items()},
                {cut: _one_of(("float16", "float32"), one) for cut, one in said["dtypes"].items()},
                tuple(cut for cut in said["others"] if cut in said["shapes"]),
                tuple(said["lenders"]),
                {str(cut): float(error) for cut, error in said["errors"].items()},
                _one_of(("cpu", "cuda", "mps"), said["device"]),
                {str(name): str(value) for name, value in said["machine"].items()},
            )
        except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise CorruptBankError(
                f"plan {str(file)!r} makes no sense ({printable(str(error))}): delete it and {_AGAIN}"
            ) from error

    def write(self) -> None:
        """Write it to its file."""
        write_plan(
            self.path,
            {
                "asked": _asked(self.data, self.settings),
                "slices": self.n_slices,
                "key_digest": self.key_digest,
                "rows": self.n_rows,
                "places_digest": self.places_digest,
                "shapes": {cut: list(shape) for cut, shape in self.shapes.items()},
                "dtypes": dict(self.dtypes),
                "others": list(self.others),
                "lenders": list(self.lenders),
                "errors": dict(self.errors),
                "device": self.device,
                "machine": dict(self.machine),
            },
        )

    @property
    def made_by(self) -> dict[str, str]:
        """What shards say of what made them."""
        return {name: value for name, value in self.machine.items() if name in ("torch", "device")}

    def check_slices(self, n_slices: int) -> None:
        """Raise `InvalidInputError` for another number of slices than it was made for."""
        if self.n_slices not in (None, n_slices):
            raise InvalidInputError(
                f"this was planned for {self.n_slices} slices, not {n_slices}: give i/{self.n_slices}, or "
                f"plan again with --plan-only --slices {n_slices}"
            )

    def check_rows(self, bank: Bank) -> None:
        """Raise `BankChangedError` if another plan, or a bank of other rows, is in place by now."""
        if SavedPlan.read(self.path).digest != self.digest:
            raise BankChangedError(
                f"{str(self.path)!r} is another plan by now; what was pushed stays: run the command again"
            )
        if (bank.key.digest(), bank.places_digest) != (self.key_digest, self.places_digest):
            raise BankChangedError(
                f"bank {bank.name!r} has other rows than when this was planned ({self.n_rows} then, "
                f"{len(bank)} now), which another extraction has set: {_AGAIN}"
            )

    def check_machine(self, settings: ExtractionSettings) -> None:
        """Raise `InvalidInputError` if this process would compute other last bits than the plan's machine."""
        if not self.machine:
            raise InvalidInputError(
                f"this was planned where every image was to be copied from another bank, for no kind of "
                f"machine, and some have to be pushed by now: {_AGAIN}"
            )
        import torch

        there = torch.cuda.is_available()
        if self.device == "cuda" and not there and settings.device in (None, "auto", "cuda"):
            raise InvalidInputError(
                f"this was planned on {self.machine.get('device', 'cuda')}, and no CUDA device is visible "
                "here: run it on such a machine, or plan again with --device cpu"
            )
        here = _machine(choose_devices(settings.device))
        other = [
            f"{name} was {value}, here it is {here.get(name)}"
            for name, value in self.machine.items()
            if here.get(name) != value
        ]
        if other:
            raise InvalidInputError(
                f"features would differ in their last bits from those of the machine this was planned on "
                f"({'; '.join(other)}): run it on a machine like that one, or plan again on one like this"
            )


def _one_of(known: tuple[str, ...], value: Any) -> str:
    return known[known.index(value)]


def _machine(devices: list[torch.device]) -> dict[str, str]:
    """Return what decides the last bits of features, and is in no key."""
    import torch

    found = made_by(devices)
    if devices[0].type == "cpu":
        found["cpu"] = torch.backends.cpu.get_cpu_capability()
    return found


def _asked(data: object, settings: ExtractionSettings) -> dict[str, Any]:
    """Return what was asked for, in JSON values: equal for commands that share a plan."""
    if not isinstance(data, str | os.PathLike) or not isinstance(settings.backbone, str):
        what = f"data={type(data).__name__}" if isinstance(settings.backbone, str) else "the backbone"
        raise InvalidInputError(
            f"{what} is an object of this process; a plan for others needs data and backbone by name or path"
        )
    said: dict[str, Any] = {
        one.name: getattr(settings, one.name) for one in fields(settings) if one.name not in _OWN
    }
    root = settings.data_root
    said |= {
        "backbone": _absolute_backbone(settings.backbone),
        "weights": absolute_weights(settings.weights),
        "data_root": None if root is None else str(user_path(root).absolute()),
    }
    said = {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}
    return {"data": absolute_source(data), "settings": said}


def _absolute_backbone(backbone: str) -> str:
    """Return a backbone so that a process in another folder finds it: its path from the root, or its name."""
    family, name = family_of(backbone)
    place = family.place(name)
    if place is None or not backbone.endswith(name):
        return backbone
    return f"{backbone.removesuffix(name)}{place}"


def _file_name(asked: Any) -> str:
    return f"plan-{sha256(canonical_json(asked))[:16]}.json"


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
    asked = _asked(work.data, work.settings)
    refuse_if_full(plan)
    with contextlib.suppress(LookAgain):  # what was missing has been found anew
        Pushing(work, None).begin()
    bank, writers = Bank.open(work.path, check="size"), work.missing.writers
    if bank.places_digest != work.missing.bank.places_digest:  # which the plan would pin
        raise BankChangedError(
            f"another extraction has set other rows of bank {bank.name!r} just now; run the command again"
        )
    computing = work.computing
    file = work.path / _file_name(asked)
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
        machine={} if computing is None else _machine(computing.devices),
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
            f"back, or {_AGAIN}"
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
    asked, root = _asked(data, settings), banks_folder(settings.cache_dir)
    found = list(root.glob(f"*/*/{_file_name(asked)}"))
    if found:
        return found[0]
    near = []
    for path in root.glob("*/*/plan-*.json"):
        with contextlib.suppress(FeatbankError):
            plan = SavedPlan.read(path)
            other = _asked(plan.data, plan.settings)
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
