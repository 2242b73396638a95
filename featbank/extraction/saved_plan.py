"""What a plan says that was saved beside its bank, for many processes: read, checked, written.

The rows and the slot of each are those of the bank's manifest, which is written with the plan; what was
chosen (arithmetic, batch size, decoder) is the bank's key. The plan says the rest, and pins all of it:
whoever opens it hashes no image, chooses nothing, and refuses where its shards would not fit the others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank._atomic import canonical_json, sha256
from featbank._cache import user_path
from featbank.backbones.families import family_of
from featbank.backbones.loading import absolute_weights
from featbank.banks import Bank
from featbank.banks.documents import PLAN_FILE, check_name, read_plan, write_plan
from featbank.datasets.sources import absolute_source
from featbank.errors import BankChangedError, BankNotFoundError, CorruptBankError, InvalidInputError
from featbank.extraction.forward import choose_devices, made_by
from featbank.extraction.settings import ExtractionSettings
from featbank.manifest import printable

if TYPE_CHECKING:
    import torch

__all__ = ["PLAN_AGAIN", "SavedPlan", "asked_of", "file_name", "machine"]

#: Settings that are each process's own.
_OWN = ("device", "workers", "lanes", "cache_dir", "download", "rehash")
PLAN_AGAIN = "plan again (--plan-only); what is stored stays"


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
    >>> from featbank.extraction import plan, save_plan
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
            if file.name != file_name(asked):
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
                f"plan {str(file)!r} makes no sense ({printable(str(error))}): delete it and {PLAN_AGAIN}"
            ) from error

    def write(self) -> None:
        """Write it to its file."""
        write_plan(
            self.path,
            {
                "asked": asked_of(self.data, self.settings),
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
                f"{len(bank)} now), which another extraction has set: {PLAN_AGAIN}"
            )

    def check_machine(self, settings: ExtractionSettings) -> None:
        """Raise `InvalidInputError` if this process would compute other last bits than the plan's machine."""
        if not self.machine:
            raise InvalidInputError(
                f"this was planned where every image was to be copied from another bank, for no kind of "
                f"machine, and some have to be pushed by now: {PLAN_AGAIN}"
            )
        import torch

        there = torch.cuda.is_available()
        if self.device == "cuda" and not there and settings.device in (None, "auto", "cuda"):
            raise InvalidInputError(
                f"this was planned on {self.machine.get('device', 'cuda')}, and no CUDA device is visible "
                "here: run it on such a machine, or plan again with --device cpu"
            )
        here = machine(choose_devices(settings.device))
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


def machine(devices: list[torch.device]) -> dict[str, str]:
    """Return what decides the last bits of features, and is in no key."""
    import torch

    found = made_by(devices)
    if devices[0].type == "cpu":
        found["cpu"] = torch.backends.cpu.get_cpu_capability()
    return found


def asked_of(data: object, settings: ExtractionSettings) -> dict[str, Any]:
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


def file_name(asked: Any) -> str:
    """Return what the file of a plan is called, by what it is asked for."""
    return f"plan-{sha256(canonical_json(asked))[:16]}.json"
