"""A folder of class folders, perhaps below or above folders of splits: which of them is which."""

# Names must survive byte for byte, and pathlib has no bytes paths.
# ruff: noqa: PTH118, PTH119

from __future__ import annotations

import logging
import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from featbank.datasets._files import Folder, Listing, Scan, read_regular_file
from featbank.datasets.sources import require_two_classes, safe_name
from featbank.errors import DatasetError, InvalidInputError
from featbank.manifest import SPLITS, printable

__all__ = ["SPLIT_FOLDERS", "ClassFolders", "FolderDataset", "splits_of_names"]

logger = logging.getLogger(__name__)

#: Words (any case) for splits, and the split each stands for.
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "holdout", "heldout"), "test"),
}
#: Words for images that are nobody's to score, beside folders of splits.
_UNLABELLED = dict.fromkeys(
    ("pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled"), "none"
)
_WORDS = {**SPLIT_FOLDERS, **_UNLABELLED}
#: Words that may stand beside one of them and change nothing: ``train_images``, ``Test_Set``.
_FILLERS = frozenset(
    "set sets data dataset datasets image images img imgs pic pics picture pictures photo photos split "  # noqa: SIM905
    "splits folder folders dir file files sample samples part subset fold jpg jpeg png px x new final full "
    "small mini clean resized cropped raw original labeled labelled class classes cls".split()
)
_JOINED = {
    ("hold", "out"): "holdout",
    ("held", "out"): "heldout",
    **{("train", word): "trainval" for word in ("val", "valid", "validation")},
}
_LEVELS = ("split", "class", "any")
_WANTED = "wanted: FOLDER/CLASS/image.jpg, or FOLDER/train/CLASS/image.jpg beside val/ and test/"
_LAYOUTS = (
    "write 'class', 'split/class', 'class/split', or with 'any' for a level that says nothing 'any/class'"
)
_SHOWN = 3
_SHOWN_EMPTY = 5


class ClassFolders:
    """Images in class folders, wherever these lie; how they are read is for those that are made of it.

    Parameters
    ----------
    listing : Listing
        What there is.
    name, layout, skip_empty_classes
        As of `FolderDataset`.

    Raises
    ------
    InvalidInputError, DatasetError
        As `FolderDataset`.
    """

    def __init__(self, listing: Listing, *, name: str, layout: str | None, skip_empty_classes: bool) -> None:
        levels = None if layout is None else _levels(layout)
        self.layout, self.location, self.name = layout, listing.location, safe_name(name)
        listing.tell()
        top = listing.top
        if not top.n_images:
            raise DatasetError(f"no images in {self.location!r}{_others(top)}; {_WANTED}")
        if not top.filled:
            n = len(top.images)
            held = f"{n} image{'s' if n != 1 else ''}"
            raise DatasetError(f"{self.location!r} holds {held} but no class folders; {_WANTED}")
        reading = _read(top, levels or self._found_levels(top), sure=levels is not None)
        if not reading.places:
            raise self._without_classes(reading)
        self._tell(reading, skip_empty_classes)
        ids = [one for place in reading.places for one in place.folder.walk()]
        place_of = np.repeat(
            np.arange(len(reading.places), dtype=np.int32), [one.folder.n_images for one in reading.places]
        )
        order = np.array(ids, dtype=object).argsort()
        labels = [os.fsdecode(one.label) for one in reading.places]  # one object for each, not for each row
        splits = [one.split for one in reading.places]
        self.ids: tuple[bytes, ...] = tuple(ids[at] for at in order)
        self.labels: tuple[str | None, ...] = tuple(labels[at] for at in place_of[order])
        self.classes: tuple[str, ...] = tuple(sorted(set(labels), key=os.fsencode))
        self.splits: tuple[str, ...] | None = (
            tuple(splits[at] for at in place_of[order]) if "split" in reading.levels else None
        )
        require_two_classes(self.classes, repr(self.location))

    def _found_levels(self, top: Folder) -> tuple[str, ...]:
        """Find out what the levels of folders are; refuse what can be read in two ways."""
        base = _unwrapped(top, [], before="split")
        filled, named = base.filled, _splits(base.folders)
        # Where a level says nothing, wrappers are levels too, or nobody could tell which one is meant.
        wrappers = ("any",) * (base.path.count(b"/") + 1 if base.path else 0)
        split_folders = [one for one in filled if named.get(one, "none") != "none"]
        if split_folders:
            others = [one for one in filled if one not in named]
            if others:
                why = f"{_names(split_folders)} may be splits, or classes as {_names(others)} beside"
                raise self._ambiguous(why, top, ("split", "class"), ("class",))
            parts = [_unwrapped(one, [], before="class").filled for one in split_folders]
            if all(_alike(classes) for classes in parts):
                raise self._ambiguous(
                    _why_alike(parts[0]), top, ("split", "class"), (*wrappers, "split", "any", "class")
                )
            return ("split", "class")
        inside = {one: _splits(one.filled) for one in filled}
        if any(len(set(found.values())) > 1 for found in inside.values()):
            below = [split for found in inside.values() for split in found]
            whole = all(not one.images and len(inside[one]) == len(one.filled) for one in filled)
            if whole and not _alike(below):
                return ("class", "split")
            why = f"folders like {_names(below)} in {_names(filled)} may be splits or belong to the classes"
            wider = [(*wrappers, "any", "split", "class")] if _alike(below) else []
            raise self._ambiguous(why, top, ("class", "split"), *wider, ("class",))
        if _alike(filled):
            above = _unwrapped(filled[0], [], before="class").path.count(b"/") + 1
            raise self._ambiguous(_why_alike(filled), top, ("class",), (*("any",) * above, "class"))
        return ("class",)

    def _ambiguous(self, why: str, top: Folder, *readings: tuple[str, ...]) -> DatasetError:
        command = f"featbank extract {shlex.quote(self.location)}"
        said = "; or ".join(
            f"{_read(top, levels, sure=True).summary()}: '{command} --layout {'/'.join(levels)}'"
            for levels in readings
        )
        return DatasetError(
            f"{self.location!r} can be read in {'two' if len(readings) == 2 else 'three'} ways: {why}. "
            f"Say which (in Python layout=...): {said}"
        )

    def _without_classes(self, reading: _Reading) -> DatasetError:
        if reading.unlabelled:
            first = min(reading.unlabelled, key=lambda one: one.path)
            hint = "" if reading.sure else "; if such folders are classes: --layout class (layout='class')"
            return DatasetError(
                f"'{printable(first.path)}/' in {self.location!r} holds {first.n_images} "
                f"image{'s' if first.n_images != 1 else ''} but no class folders; {_WANTED}{hint}"
            )
        levels = "/".join(reading.levels)
        fault = f"no images in {self.location!r} by the layout {levels!r}"
        if reading.aside:
            fault += f": none of {_names(reading.aside)} is called like a split (train, val, test, ...)"
        return DatasetError(f"{fault}; {_LAYOUTS}")

    def _tell(self, reading: _Reading, skip_empty_classes: bool) -> None:
        """Log what a reading leaves out, and refuse classes without images."""
        whole: list[Folder] = []
        some: list[Folder] = []
        for folders in reading.classes.values():
            bare = [one for one in folders if not one.n_images]
            (whole if len(bare) == len(folders) else some).extend(bare)
        if whole:
            listed = ", ".join(
                f"'{printable(one.path)}'{_others(one) or ' (empty)'}" for one in whole[:_SHOWN_EMPTY]
            )
            more = f" and {len(whole) - _SHOWN_EMPTY} more" if len(whole) > _SHOWN_EMPTY else ""
            fault = (
                f"{_count(len(whole), 'class folder')} of {self.location!r} without images: {listed}{more}"
            )
            if not skip_empty_classes:
                raise DatasetError(
                    f"{fault}; add images, move the folders away, or leave these classes out with "
                    "--skip-empty-classes (skip_empty_classes=True)"
                )
            logger.warning("%s; left out", fault)
        if some:
            logger.warning(
                "%s of %s without images, where other splits have some: %s",
                _count(len(some), "class folder"),
                self.location,
                _names(some),
            )
        if reading.strays:
            logger.warning(
                "skipped %d images in %s outside %s folders, the first is '%s'",
                len(reading.strays),
                self.location,
                reading.levels[-1],
                printable(min(reading.strays)),
            )
        if reading.aside:
            logger.warning(
                "skipped %d images in folders of %s that are not called like a split: %s",
                sum(one.n_images for one in reading.aside),
                self.location,
                _names(reading.aside),
            )
        if reading.unlabelled:
            logger.warning(
                "skipped %d images of %s that no class folder labels: %s (a class that only this split has "
                "is kept by --layout %s)",
                sum(one.n_images for one in reading.unlabelled),
                self.location,
                _names(reading.unlabelled),
                "/".join(reading.levels),
            )
        if reading.bare:
            logger.warning("folders of %s without images: %s", self.location, _names(reading.bare))
        for split, folders in reading.splits.items():
            if split != "none" and len({one.name.lower() for one in folders}) > 1:
                logger.warning("%s in %s are all taken as %s", _names(folders), self.location, split)


class FolderDataset(ClassFolders):
    """Images in class folders.

    Files are found below each class folder at any depth. What counts as an image, and what is left out, is
    told in `featbank.datasets._files.Scan`.

    Parameters
    ----------
    folder : str or os.PathLike
        The folder.
    name : str, optional
        Name of the dataset; default: the folder's.
    layout : str, optional
        What each level of folders stands for, from `folder` down: ``"class"``, ``"split/class"`` or
        ``"class/split"``; ``"any"`` is a level that says nothing, as in ``"any/class"``. Without ``"any"``,
        a folder that only wraps another is no level. At a level of splits, folders that are not called like
        one are left out. By default it is found out: split folders are those called ``train``, ``val``,
        ``test`` or one of the other names in use, in any case and with what usually goes with it
        (``Training_Set``, ``val2017``, or ``seg_train`` beside ``seg_test``).
    skip_empty_classes : bool, default=False
        Leave out classes without images, with a warning, instead of refusing them.

    Attributes
    ----------
    layout : str or None
        As it was given.

    Raises
    ------
    InvalidInputError
        If `layout` cannot be one.
    DatasetError
        If the folders can be read in two ways (the message has the layouts), there are no images, fewer than
        two classes, a class without images, images outside class folders only, or a sub-folder cannot be
        listed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        name: str | None = None,
        layout: str | None = None,
        skip_empty_classes: bool = False,
    ) -> None:
        self._root = os.path.realpath(os.fsencode(folder))
        super().__init__(
            Scan(self._root),
            name=os.fsdecode(os.path.basename(self._root)) if name is None else name,
            layout=layout,
            skip_empty_classes=skip_empty_classes,
        )

    def read(self, index: int) -> bytes:
        """Return the bytes of image `index`; raises `OSError` or `ImageDecodeError`."""
        return read_regular_file(self.path_of(index))

    def path_of(self, index: int) -> bytes:
        """Return the path of image `index`, for whoever reads it elsewhere."""
        return os.path.join(self._root, self.ids[index])


@dataclass
class _Reading:
    """What comes of a folder when its levels are taken for what they are said to be."""

    levels: tuple[str, ...]
    sure: bool
    #: Folders with all images of one class, of one split.
    places: list[_Place] = field(default_factory=list)
    #: The folders of each class.
    classes: dict[bytes, list[Folder]] = field(default_factory=dict)
    #: The folders of each split.
    splits: dict[str, list[Folder]] = field(default_factory=dict)
    #: Images above the folders of a level.
    strays: list[bytes] = field(default_factory=list)
    #: Folders at a level of splits that are not called like one.
    aside: list[Folder] = field(default_factory=list)
    #: Folders of splits without class folders.
    unlabelled: list[Folder] = field(default_factory=list)
    #: Folders above the classes without images.
    bare: list[Folder] = field(default_factory=list)

    def summary(self) -> str:
        """Say in a few words what is read."""
        present = sorted({one.label for one in self.places})
        listed = ", ".join(f"'{printable(one)}'" for one in present[:_SHOWN])
        said = (
            f"{_count(len(present), 'class', 'classes')} ({listed}{', ...' if len(present) > _SHOWN else ''})"
        )
        if not present:
            said = "no class folders"
        elif "split" in self.levels:
            counts: Counter[str] = Counter()
            for one in self.places:
                counts[one.split] += one.folder.n_images
            said += " in splits (" + ", ".join(f"{one} {counts[one]}" for one in SPLITS if counts[one]) + ")"
        if self.aside:
            said += f" without {_names(self.aside)}"
        return said


@dataclass(frozen=True)
class _Place:
    """A folder on the way down, and what the levels above it said."""

    folder: Folder
    label: bytes = b""
    split: str = ""


def _levels(layout: str) -> tuple[str, ...]:
    levels = tuple(str(layout).split("/"))
    if (
        not isinstance(layout, str)
        or set(levels) - set(_LEVELS)
        or levels.count("class") != 1
        or levels.count("split") > 1
    ):
        raise InvalidInputError(f"layout={layout!r} is none; {_LAYOUTS}")
    return levels


def _read(top: Folder, levels: tuple[str, ...], *, sure: bool) -> _Reading:
    """Go down level by level; `sure` says that the user named the levels, which were only guessed else."""
    reading = _Reading(levels, sure)
    places = [_Place(top)]
    for at, level in enumerate(levels):
        if "any" not in levels:
            places = _past_wrappers(places, level, reading.strays)
        if level == "class" and "split" in levels[:at]:
            places = _labelled(places, reading)
        below = []
        for place in places:
            reading.strays += place.folder.images
            named = _splits(place.folder.folders) if level == "split" else {}
            for one in place.folder.folders:
                if level == "class":
                    reading.classes.setdefault(one.name, []).append(one)
                elif not one.n_images:
                    reading.bare.append(one)
                if not one.n_images:
                    continue
                if level == "split" and one not in named:
                    reading.aside.append(one)
                    continue
                if level == "split":
                    reading.splits.setdefault(named[one], []).append(one)
                below.append(
                    _Place(one, one.name if level == "class" else place.label, named.get(one, place.split))
                )
        places = below
    reading.places = places
    return reading


def _past_wrappers(places: Sequence[_Place], level: str, strays: list[bytes]) -> list[_Place]:
    """Enter folders in which all images are in one folder, unless that one is a class of another split."""
    several = [place.folder.filled for place in places if len(place.folder.filled) > 1]
    kept = {one.name.lower() for filled in several for one in filled}
    return [
        _Place(_unwrapped(place.folder, strays, before=level, kept=kept), place.label, place.split)
        for place in places
    ]


def _unwrapped(folder: Folder, strays: list[bytes], *, before: str, kept: Iterable[bytes] = ()) -> Folder:
    """Return the folder that `folder` only wraps, or itself; images beside wrapped folders go to `strays`."""
    while len(folder.filled) == 1:
        (inside,) = folder.filled
        named = _splits(inside.filled)
        if before == "split" and inside in _splits(folder.folders) and len(set(named.values())) < 2:
            break
        if not inside.filled or inside.name.lower() in kept:
            break
        # Images in it, or an empty folder beside it, make it a class rather than a wrapper.
        empty = any(not (one.n_images or one.other) for one in folder.folders)
        if (inside.images or empty) and not named:
            break
        strays += folder.images
        folder = inside
    return folder


def _labelled(places: Sequence[_Place], reading: _Reading) -> list[_Place]:
    """Leave out splits without class folders, such as the flat test set of a competition."""
    found = []
    known = Counter(one.name for place in places for one in place.folder.filled)
    several = {one.name for place in places for one in place.folder.filled if len(place.folder.filled) > 1}
    for place in places:
        classes = place.folder.filled
        flat = not classes
        if len(classes) == 1 and not classes[0].filled and not reading.sure:
            # One folder whose name no other split knows is no class: val/images.
            name = classes[0].name
            flat = name not in several if several else len(places) > 1 and known[name] == 1
        if flat:
            reading.unlabelled.append(place.folder)
        else:
            found.append(place)
    return found


def _splits(folders: Sequence[Folder]) -> dict[Folder, str]:
    """Return which folders are called like splits, and like which.

    A name may have other words beside that of the split (``seg_train``) if a folder of another split has the
    very same.
    """
    parsed = {one: found for one in folders if (found := _split_of(os.fsdecode(one.name))) is not None}
    shared: dict[tuple[str, ...], set[str]] = {}
    for split, rest in parsed.values():
        shared.setdefault(rest, set()).add(split)
    return {one: split for one, (split, rest) in parsed.items() if not rest or len(shared[rest]) > 1}


def splits_of_names(names: Sequence[str]) -> list[str] | None:
    """Return the split that each file's name says; None unless all of them say one, and not all the same.

    Examples
    --------
    >>> splits_of_names(["train-00000-of-00002.parquet", "validation-00000.parquet"])
    ['train', 'val']
    >>> splits_of_names(["train-0.tar", "more.tar"])
    """
    found = [_split_of(name.partition(".")[0]) for name in names]
    splits = [one[0] for one in found if one is not None]
    return splits if len(splits) == len(names) and len(set(splits)) > 1 else None


def _split_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the split that a name has a word for, and the other words; None unless it is just one split.

    Examples
    --------
    >>> _split_of("Training_Set"), _split_of("val2017"), _split_of("asl_alphabet_train")
    (('train', ()), ('val', ()), ('train', ('asl', 'alphabet')))
    >>> _split_of("trainer"), _split_of("train_test")
    (None, None)
    """
    text = re.sub(r"([^\W\d_A-Z])([A-Z])", r"\1 \2", unicodedata.normalize("NFKC", name))
    words = re.findall(r"[^\W\d_]+", text.casefold())
    for at in range(len(words) - 1, 0, -1):
        joined = _JOINED.get((words[at - 1], words[at]))
        if joined is not None:
            words[at - 1 : at + 1] = [joined]
    found: set[str] = set()
    rest = []
    for word in words:
        split = _WORDS.get(word) or _WORDS.get(_without_filler(word))
        if split is not None:
            found.add(split)
        elif word not in _FILLERS:
            rest.append(word)
    return (found.pop(), tuple(rest)) if len(found) == 1 else None


def _without_filler(word: str) -> str:
    """Return what stands before a word such as "set" at the end, as in ``trainset``."""
    match = re.fullmatch(r"(.+?)(sets?|data|dataset|images?|imgs?|photos?|pics?|pictures?|split|files)", word)
    return match[1] if match else ""


def _alike(folders: Sequence[Folder]) -> bool:
    """Return whether folders hold the same folders and nothing else, as two parts of one dataset do."""
    bases = [_unwrapped(one, [], before="class") for one in folders]
    inside = [{one.name.lower() for one in base.filled} for base in bases if not base.images]
    if len(folders) < 2 or len(inside) < len(folders):
        return False
    common = set.intersection(*inside)
    return len(common) > 1 and 2 * len(common) >= len(set.union(*inside))


def _why_alike(folders: Sequence[Folder]) -> str:
    inside = _names(_unwrapped(folders[0], [], before="class").filled, path=False)
    return f"{_names(folders)} hold the same folders, {inside}, which may be the classes (of each, or of all)"


def _names(folders: Sequence[Folder], *, path: bool = True) -> str:
    shown = [f"'{printable(one.path if path else one.name)}'" for one in folders[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(folders) - _SHOWN} more" if len(folders) > _SHOWN else "")


def _others(folder: Folder) -> str:
    if folder.problem:
        return f" ({folder.problem})"
    if not folder.other:
        return ""
    return f" ({', '.join(f'{count} {suffix}' for suffix, count in folder.other.most_common(_SHOWN))})"


def _count(n: int, one: str, several: str | None = None) -> str:
    return f"{n} {one if n == 1 else several or one + 's'}"
