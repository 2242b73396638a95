"""From a study and what the command line overrides to the experiments that are run, one bank at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from featbank._cache import user_path
from featbank._cuts import with_views
from featbank._registry import nearest
from featbank.backbones import get_spec
from featbank.errors import InvalidInputError, UnknownNameError
from featbank.pipeline.study import BackboneChoice, Experiment, Study, Training

__all__ = ["Group", "Planned", "check_weights", "plan_experiments", "plan_trainings"]


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
