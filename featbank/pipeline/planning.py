"""From a study to what is run: its images as their protocol picks them, one bank at a time, at what cost."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from featbank._atomic import canonical_json, sha256
from featbank._cache import user_path
from featbank._cuts import SOFTMAX, CutName, with_views
from featbank._registry import nearest
from featbank.backbones import get_spec
from featbank.datasets import Dataset, open_dataset, parse_split, select_images
from featbank.datasets.derived import BlurredDataset, is_tiny_imagenet, open_tiny_imagenet, with_test_images
from featbank.datasets.sources import data_folder, find_images
from featbank.errors import FeatbankError, InvalidInputError, MissingDataError, UnknownNameError
from featbank.manifest import printable
from featbank.pipeline.reading import load_study
from featbank.pipeline.study import BackboneChoice, Data, Experiment, Study, TestData, Training
from featbank.sampling import parse_sizes

if TYPE_CHECKING:
    from featbank.extraction import ExtractionPlan

__all__ = [
    "ExperimentCost",
    "Group",
    "Opened",
    "Planned",
    "bank_name",
    "check_weights",
    "open_each",
    "open_images",
    "plan_bank",
    "plan_experiments",
    "plan_trainings",
    "study_costs",
]


@dataclass(frozen=True)
class Opened:
    """A dataset as an experiment takes it.

    Parameters
    ----------
    dataset : Dataset
        Its name is that of the study's own bank, see `bank_name`.
    split : str or None
        For `featbank.extract`.
    limit : int or None
        For `featbank.extract`; None where whole classes were left out instead.
    n_classes : int
        Classes there are.
    data_root : str or None
        Where torchvision found it.
    group_by : str or None
        For `featbank.extract`.
    """

    dataset: Dataset
    split: str | None
    limit: int | None
    n_classes: int
    data_root: str | None
    group_by: str | None = None


def open_images(
    experiment: Experiment | Training,
    *,
    beside: Path | None = None,
    data: str | os.PathLike[str] | None = None,
    test_data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    download: bool = False,
) -> Opened:
    """Open the images of an experiment.

    Parameters
    ----------
    experiment : Experiment or Training
    beside : pathlib.Path, optional
        The study's file.
    data : str or path, optional
        Where the study's data is: for a torchvision dataset the folder torchvision calls root, or a folder
        of class folders; else the folder or CSV file. By default the source's path from the current folder,
        beside the study's file, or below the data root, ``$FEATBANK_DATA`` or else ``./data``; torchvision's
        datasets in that root.
    test_data : str or path, optional
        Where the user's own test images are; by default as `data`.
    limit : int, optional
        At most so many images. Where the split counts images of each class, whole classes are left out, so
        that the counts still hold; else classes are taken in turn.
    download : bool, default=False
        Let torchvision fetch what is not there.

    Returns
    -------
    Opened

    Raises
    ------
    MissingDataError
        If images are not there; the message says how to get them.
    InvalidInputError
        If `limit` leaves fewer than two classes.
    """
    chosen = experiment.data
    name = bank_name(experiment, limit)
    folders = () if beside is None else (beside.parent,)
    dataset, root = _source(chosen, data, download, folders)
    split, rows_limit, classes = chosen.split, limit, chosen.classes
    rule = None if split is None else parse_split(split)
    if limit is not None and rule is not None and rule.kind == "counts":
        each = int(sum(rule.parts))
        fitting = limit // each
        if fitting < 2:
            raise InvalidInputError(
                f"limit={limit} leaves {fitting} of the classes, of which the split {split!r} takes {each} "
                f"images each; use a limit of at least {2 * each}"
            )
        rows_limit = None
        if isinstance(classes, tuple):
            classes = classes[:fitting]
        else:
            classes = fitting if classes is None else min(classes, fitting)
    found = select_images(
        dataset,
        classes=classes,
        without=chosen.without,
        images_per_class=chosen.images_per_class,
        splits=chosen.splits,
        name=name,
    )
    n_classes = len(found.classes)
    if experiment.test_data is not None:
        tested = _test_images(experiment.test_data, test_data, folders)
        found = with_test_images(found, tested, name=name)
    return Opened(found, split, rows_limit, n_classes, root, chosen.group_by)


def open_each(
    experiments: Sequence[Experiment | Training],
    *,
    beside: Path | None = None,
    data: str | os.PathLike[str] | None = None,
    test_data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    download: bool = False,
) -> list[Opened]:
    """Open the images of each experiment, as `open_images` does; those that take the same share them."""
    opened: list[Opened] = []
    for at, one in enumerate(experiments):
        same = (
            before
            for before in range(at)
            if (experiments[before].data, experiments[before].test_data) == (one.data, one.test_data)
        )
        first = next(same, None)
        opened.append(
            open_images(one, beside=beside, data=data, test_data=test_data, limit=limit, download=download)
            if first is None
            else opened[first]
        )
    return opened


def bank_name(experiment: Experiment | Training, limit: int | None = None) -> str:
    """Return what the bank of an experiment's images is called: their name, and what is taken of them.

    Two protocols on the same images have different rows, or the same rows in different splits, and so have
    banks of their own, which no other study and no ``featbank extract`` changes.

    Parameters
    ----------
    experiment : Experiment or Training
    limit : int, optional
        As for `open_images`.

    Returns
    -------
    str
        ``"digits.own-split"``, ``"caltech101-32.28-4-8.40-each"``; what is long to say is a digest.
    """
    data, test = experiment.data, experiment.test_data
    parts = [data.name, "own-split" if data.split is None else data.split.replace(",", "-").replace(" ", "")]
    if data.images_per_class is not None:
        parts.append(f"{data.images_per_class}-each")
    if isinstance(data.classes, int):
        parts.append(f"{data.classes}-classes")
    plain = len(data.without) == 1 and re.fullmatch(r"[A-Za-z0-9._-]+", data.without[0])
    if plain:
        parts.append(f"without-{data.without[0]}")
    if limit is not None:
        parts.append(f"limit-{limit}")
    others = {
        "classes": data.classes if isinstance(data.classes, tuple) else None,
        "splits": dict(data.splits),
        "without": [] if plain else sorted(data.without),
        "test_data": None if test is None else [test.source, test.blur],
    }
    others |= {key: value for key in ("group", "group_by") if (value := getattr(data, key)) is not None}
    if any(others.values()):
        parts.append(sha256(canonical_json(others))[:8])
    name = ".".join(parts)
    # names of folders end somewhere
    return name if len(name) <= 100 else f"{name[:91]}.{sha256(name.encode())[:8]}"


def _source(
    chosen: Data, data: str | os.PathLike[str] | None, download: bool, folders: Sequence[Path]
) -> tuple[Dataset, str | None]:
    """Open the whole dataset; returns where torchvision found it, too."""
    if not chosen.source.startswith("torchvision:"):
        if chosen.source == "digits" and data is None:
            return open_dataset("digits"), None
        if download:
            raise InvalidInputError(f"--download is for torchvision datasets, and this is {chosen.source!r}")
        return _folder(chosen.source, chosen.how, data, "--data", folders, chosen.group), None
    root = os.fspath(data_folder() if data is None else data)
    try:
        return open_dataset(chosen.source, data_root=root, download=download), root
    except MissingDataError as error:
        # Class folders will do as well, as the archive of the dataset's publisher has them.
        if data is not None and not download:
            try:
                return open_dataset(data), None
            except FeatbankError:
                pass
        said = str(error) if download else f"{chosen.source} is not in {printable(root)!r}"
        raise MissingDataError(
            f"{said}: {chosen.how or 'let torchvision fetch it with --download'}; or say where it is with "
            "--data PATH"
        ) from error


def _folder(
    source: str,
    how: str,
    data: str | os.PathLike[str] | None,
    option: str,
    folders: Sequence[Path],
    group: str | None = None,
) -> Dataset:
    found, looked_for = find_images(source, *folders) if data is None else find_images(data)
    if found is None and data is None:
        get = how or f"put {source} there"
        raise MissingDataError(
            f"no images at {source!r} (looked for {looked_for}): {get}; or say where they are with "
            f"{option} PATH"
        )
    if group is None and found is not None and is_tiny_imagenet(found):
        return open_tiny_imagenet(found)
    return open_dataset((found or source) if data is None else data, group_column=group)


def _test_images(
    chosen: TestData, test_data: str | os.PathLike[str] | None, folders: Sequence[Path]
) -> Dataset:
    found = _folder(chosen.source, chosen.how, test_data, "--test-data", folders)
    return found if chosen.blur is None else BlurredDataset(found, chosen.blur)


@dataclass(frozen=True)
class Planned:
    """An experiment as the file has it, and as it is run."""

    written: Experiment
    run: Experiment


@dataclass
class Group:
    """Experiments that read one bank of the same rows, and the cuts they need of it.

    Parameters
    ----------
    experiments : list of Planned
    """

    experiments: list[Planned]

    @property
    def first(self) -> Experiment:
        """Any of them: data and backbone are the same for all."""
        return self.experiments[0].run

    @property
    def cuts(self) -> tuple[str, ...]:
        """What has to be extracted: ``softmax`` is derived from the logits."""
        spec = get_spec(self.first.backbone.name)
        asked = [
            cut for one in self.experiments for cut in with_views(one.run.sweep.cuts, one.run.sweep.views)
        ]
        return tuple(cut.name for cut in spec.to_store(asked))


def plan_experiments(
    study: Study,
    *,
    backbone: str | None = None,
    weights: Sequence[str] = (),
    test_data: str | os.PathLike[str] | None = None,
    only: Sequence[str] = (),
) -> list[Group]:
    """Apply what was overridden, and put experiments that share a bank together.

    Parameters
    ----------
    study : Study
    backbone : str, optional
        Instead of every backbone of the study; experiments that become the same are run once.
    weights : sequence of str, default=()
        ``"FILE"``, a torchvision weights name or ``"random"`` for all backbones, or ``"BACKBONE=..."`` for
        one.
    test_data : str or path, optional
        See `open_images`; only looked at for whether there is an experiment that could take it.
    only : sequence of str, default=()
        Names of the experiments to run; all by default.

    Returns
    -------
    list of Group
        In the order of the study.

    Raises
    ------
    UnknownNameError
        If there is no such experiment, backbone, or cut of a backbone.
    InvalidInputError
        If a weights file is given for several backbones at once, or only trainings are run, and a backbone
        or test data for experiments is given.
    """
    _check_only(study, only)
    taken = [one for one in study.experiments if not only or one.name in only]
    for option, value in (("--backbone", backbone), ("--test-data", test_data)):
        if value is not None and not taken:
            raise InvalidInputError(
                f"{option} {os.fspath(value)!r} is for experiments, and only trainings are run of study "
                f"{study.name!r}; leave it out"
            )
    choices = {id(one): _overridden(one.backbone, backbone) for one in taken}
    given = _weights(weights, _backbones(study, only, [one.name for one in choices.values()]))
    planned: list[Planned] = []
    for one in taken:
        choice = choices[id(one)]
        if choice.name in given:
            choice = replace(choice, weights=given[choice.name])
        spec = get_spec(choice.name)
        cuts = tuple(dict.fromkeys(spec.cut(cut).name for cut in one.sweep.cuts))
        run = replace(one, backbone=choice, sweep=replace(one.sweep, cuts=cuts))
        if any(replace(run, name=other.run.name) == other.run for other in planned):
            continue  # with one backbone for all, these are the same
        planned.append(Planned(one, run))
    groups: list[Group] = []
    for item in planned:
        for group in groups:
            if _same_rows(group.first, item.run):
                group.experiments.append(item)
                break
        else:
            groups.append(Group([item]))
    return groups


def plan_trainings(study: Study, *, weights: Sequence[str] = (), only: Sequence[str] = ()) -> list[Training]:
    """Choose the trainings of a study, with the weights that were given; as `plan_experiments`."""
    _check_only(study, only)
    taken = [one for one in study.trainings if not only or one.name in only]
    own = [one.backbone.name for one in study.experiments if not only or one.name in only]
    given = _weights(weights, _backbones(study, only, own))
    return [
        replace(one, weights=given[one.backbone]) if one.backbone in given else one  # type: ignore[index]
        for one in taken
    ]


def _check_only(study: Study, only: Sequence[str]) -> None:
    names = [*(one.name for one in study.experiments), *(one.name for one in study.trainings)]
    for name in only:
        if name not in names:
            raise UnknownNameError(
                f"study {study.name!r} has no experiment {name!r}; it has {nearest(name, names)}"
            )


def _backbones(study: Study, only: Sequence[str], of_experiments: Sequence[str]) -> list[str]:
    """Return the backbones whose weights may be given, each once."""
    tuned = [one.backbone for one in study.trainings if one.backbone and (not only or one.name in only)]
    return list(dict.fromkeys([*of_experiments, *tuned]))


def check_weights(groups: Sequence[Group]) -> None:
    """Find the weights of all backbones before an image is pushed; raises what `load_backbone` does."""
    from featbank.backbones.loading import find_source

    for choice in dict.fromkeys(group.first.backbone for group in groups):
        find_source(get_spec(choice.name), choice.weights)


def _same_rows(one: Experiment, other: Experiment) -> bool:
    return (one.data, one.test_data, one.backbone) == (other.data, other.test_data, other.backbone)


def _overridden(choice: BackboneChoice, backbone: str | None) -> BackboneChoice:
    if backbone is None or backbone == choice.name:
        return choice
    # The weights of one backbone are no weights of another.
    return replace(choice, name=get_spec(backbone).name, weights=None)


def _weights(given: Sequence[str], backbones: list[str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, rest = text.partition("=")
        if not text or (equals and not rest):
            raise InvalidInputError(f"--weights {text!r} names none; write --weights FILE or BACKBONE=FILE")
        if equals and not user_path(text).exists():
            if name not in backbones:
                raise UnknownNameError(
                    f"--weights {text!r} is for the backbone {name!r}; the study has "
                    f"{nearest(name, backbones)}"
                )
            found[name] = rest
            continue
        from featbank.backbones.loading import looks_like_file  # loads torch

        # minivgg's weights come with featbank, so a file is hardly ever meant for it
        others = [one for one in backbones if one != "minivgg"] or backbones
        if looks_like_file(text):
            if len(others) > 1:
                raise InvalidInputError(
                    f"--weights {text!r} is one file, and the study has {len(backbones)} backbones; write "
                    f"--weights {others[0]}={os.fspath(text)} and the same for {', '.join(others[1:])}"
                )
            found[others[0]] = text
        else:
            found.update(dict.fromkeys(backbones, text))
    return found


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
