"""Running a study: push what is missing, fit what was not fitted, put published beside measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from featbank._settings import Progress
from featbank.banks import Bank
from featbank.fitting import fit_heads
from featbank.manifest import Manifest, short_repr
from featbank.pipeline._extracting import plan_bank
from featbank.pipeline._record import find_finished, fingerprint, write_record
from featbank.pipeline.claims import StudyPoint, Verdict, check_claim
from featbank.pipeline.comparing import computed_differences, measure
from featbank.pipeline.opening import Opened, open_each
from featbank.pipeline.planning import Group, Planned, check_weights, plan_experiments, plan_trainings
from featbank.pipeline.reading import load_study
from featbank.pipeline.study import Experiment, Study
from featbank.pipeline.training import TrainingRun, run_training
from featbank.runs import Run
from featbank.sweep import SweepResult, SweepSettings
from featbank.training import DecodedImages

__all__ = ["ExperimentRun", "StudyResult", "run_study"]

#: Called with what begins, ``extract``, ``fit`` or ``train``; returns what is told how far it is.
Bars = Callable[[str], Progress]


@dataclass(frozen=True, eq=False)
class ExperimentRun:
    """What became of one experiment.

    Parameters
    ----------
    written, experiment : Experiment
        As the file has it, and as it was run.
    run : Run
        Its folder.
    result : SweepResult
    reused : bool
        Whether the sweep had been finished before, with the same bank, rows and parameters.
    pushed : int
        Images that went through the backbone for the bank of this experiment, now.
    manifest : Manifest
        The rows it was fitted on.
    opened : Opened
        Where the images came from.
    fingerprint : str
        Of all that decides its numbers.

    Examples
    --------
    >>> import featbank
    >>> from featbank.pipeline.opening import open_images
    >>> written, run = featbank.load_study("mini_digits").experiments[0], featbank.open_run()
    >>> opened, manifest = open_images(written), run.manifest
    >>> one = ExperimentRun(written, written, run, run.result(), False, 300, manifest, opened, "9f86d081")
    >>> f"{one.experiment.name}: {one.pushed} images pushed, {len(one.result.fits)} fits"
    'depth: 300 images pushed, 24 fits'
    """

    written: Experiment
    experiment: Experiment
    run: Run
    result: SweepResult
    reused: bool
    pushed: int
    manifest: Manifest
    opened: Opened
    fingerprint: str

    __repr__ = short_repr


@dataclass(eq=False)
class StudyResult:
    """What a study found.

    Parameters
    ----------
    study : Study
    experiments : list of ExperimentRun
    measured : list of dict
        One for each of the study's figures, see `featbank.pipeline.comparing.measure`.
    verdicts : list of Verdict
        One for each of its claims.
    differs : list of str
        Where the protocol differs from the published one, as the file says and as this run made it.
    figures : dict of str to pathlib.Path
        What was drawn of several experiments together; those of one are in its run.
    reports : dict of str to pathlib.Path
        Experiment -> the page about its run; first training on some images -> the page about all of them.
    trainings : list of TrainingRun
    pushed : int
        Images that went through a backbone for a bank.
    duration_s : float

    Examples
    --------
    >>> from featbank.pipeline import Verdict, load_study
    >>> verdicts = [Verdict("accuracy rises with depth", False, "softmax: 94.4 %, 95.7 %, 92.0 %")]
    >>> result = StudyResult(load_study("mini_digits"), [], [], verdicts, [])  # as run_study returns it
    >>> [one.text for one in result.verdicts if not one.holds]
    ['accuracy rises with depth']
    """

    study: Study
    experiments: list[ExperimentRun]
    measured: list[dict[str, Any]]
    verdicts: list[Verdict]
    differs: list[str]
    figures: dict[str, Path] = field(default_factory=dict)
    reports: dict[str, Path] = field(default_factory=dict)
    trainings: list[TrainingRun] = field(default_factory=list)
    pushed: int = 0
    duration_s: float = 0.0

    __repr__ = short_repr

    @property
    def points(self) -> list[StudyPoint]:
        """The points of the curves of all experiments, and of all trainings."""
        return _all_points(self.experiments, self.trainings)


def run_study(
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
    command: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
    progress: Bars | None = None,
) -> StudyResult:
    """Run a study: extract, fit, draw, compare with what was published.

    Only what is not in the cache is done: images whose features are there are not pushed, and a sweep that
    was finished with the same features, rows and parameters is not run again.

    Parameters
    ----------
    study : Study, str or path
        A study, its TOML file, or the name of one that came with featbank.
    data, test_data, limit, download
        See `open_images`.
    backbone, weights, only
        See `plan_experiments`.
    device, workers
        See `featbank.extract`.
    cache_dir : path, optional
        The cache.
    command : sequence of str, optional
        Kept in each ``run.json`` for people.
    say : callable, optional
        Called with a line on what comes next.
    progress : callable, optional
        Called with ``"extract"`` or ``"fit"`` where one begins; returns what is called with (done, in all).

    Returns
    -------
    StudyResult

    Raises
    ------
    InvalidInputError
        If the file has faults, or an option does not go with the study.
    UnknownNameError
        If there is no such backbone, cut or experiment.
    MissingDataError, MissingWeightsError
        If images or weights are not there. All are looked for before any image is pushed.
    CacheWriteError
        If the disk is full or not writable; repeating the command goes on.

    Examples
    --------
    >>> file = Path("tiny.toml")
    >>> text = '''
    ... [data]
    ... source = "digits"
    ... split = "4,2,2"
    ... [backbone]
    ... name = "minivgg"
    ... [sweep]
    ... cuts = ["fc7"]
    ... heads = ["ncm"]
    ... samples_per_class = "2,4"
    ... repeats = 3
    ... '''
    >>> result = run_study(file, limit=100) if file.write_text(text) else None
    >>> [(one.cut, one.n_per_class) for one in result.points]
    [('fc7', 2), ('fc7', 4)]
    """
    started = time.perf_counter()
    found = study if isinstance(study, Study) else load_study(study)
    groups = plan_experiments(found, backbone=backbone, weights=weights, test_data=test_data, only=only)
    firsts = [group.first for group in groups]
    opened = open_each(
        firsts, beside=found.path, data=data, test_data=test_data, limit=limit, download=download
    )
    check_weights(groups)
    trainings = plan_trainings(found, weights=weights, only=only)
    trained_on = open_each(trainings, beside=found.path, data=data, limit=limit, download=download)
    tell = say or (lambda _: None)
    tell(found.title)
    done: list[ExperimentRun] = []
    pushed = 0
    for group, images in zip(groups, opened, strict=True):
        runs = _run_group(found, group, images, device, workers, cache_dir, command, tell, progress)
        pushed += runs[0].pushed  # by all of them together
        done += runs
    trained, decoded = [], DecodedImages()
    for training, images in zip(trainings, trained_on, strict=True):
        trained.append(
            run_training(
                training,
                images,
                decoded=decoded,
                device=device,
                cache_dir=cache_dir,
                say=tell,
                progress=progress,
            )
        )
    result = _compared(found, done, trained, limit)
    result.figures = _draw_together(result)
    for one in done:
        write_record(one.run.path, _record(result, one))
    for by_name in trained:
        for network in by_name.results:
            write_record(network.folder, _facts(result, by_name.written.name))
    result.reports = _write_reports(done, trained)
    result.pushed = pushed
    result.duration_s = time.perf_counter() - started
    return result


def _run_group(
    study: Study,
    group: Group,
    opened: Opened,
    device: str | None,
    workers: int | None,
    cache_dir: str | os.PathLike[str] | None,
    command: Sequence[str],
    say: Callable[[str], None],
    progress: Bars | None,
) -> list[ExperimentRun]:
    from featbank.extraction import push  # which reading a file does not need

    choice = group.first.backbone
    say(f"{opened.dataset.name}: {len(opened.dataset.ids)} images, {choice.name}, {', '.join(group.cuts)}")
    plan = plan_bank(choice, group.cuts, opened, device, workers, cache_dir)
    if plan.to_copy:
        say(f"  with features of {', '.join(f'bank {name}' for name in plan.to_copy)}, which stays as it is")
    extracted = push(plan, progress=progress and progress("extract"))
    say(
        f"  {extracted.pushed} pushed, {extracted.skipped} were there already"
        + (f", {extracted.quarantined} could not be read" if extracted.quarantined else "")
    )
    bank = Bank.open(extracted.bank)
    found = []
    for item in group.experiments:
        wanted = fingerprint(bank, item.run.sweep)
        run = find_finished(wanted, cache_dir)
        reused = run is not None
        if run is not None:
            say(f"  {item.run.name}: fitted before, in {run.name}")
            result = run.result()
        else:
            say(f"  {item.run.name}: {', '.join(item.run.sweep.heads)} on {', '.join(item.run.sweep.cuts)}")
            run, result = _fit(study, item, bank, cache_dir, command, say, progress)
            # At once: a study that is interrupted later finds this sweep again.
            write_record(run.path, {"study": study.name, "title": study.title, "fingerprint": wanted})
        found.append(
            ExperimentRun(
                item.written,
                item.run,
                run,
                result,
                reused,
                extracted.pushed,
                bank.manifest,
                opened,
                wanted,
            )
        )
    return found


def _fit(
    study: Study,
    item: Planned,
    bank: Bank,
    cache_dir: str | os.PathLike[str] | None,
    command: Sequence[str],
    say: Callable[[str], None],
    progress: Bars | None,
) -> tuple[Run, SweepResult]:
    sweep = item.run.sweep
    fitted = fit_heads(
        bank,
        SweepSettings(**asdict(sweep)),
        weights=item.run.backbone.weights if "tail" in sweep.heads else None,
        name=study.name if item.run.name == study.name else f"{study.name}-{item.run.name}",
        command=command,
        cache_dir=cache_dir,
        announce=lambda line: say(f"  {line}"),
        progress=progress and progress("fit"),
    )
    return fitted.run, fitted.result


def _points(one: ExperimentRun) -> list[StudyPoint]:
    name, chance = one.written.name, 1 / one.opened.n_classes
    return [StudyPoint(**vars(point), experiment=name, chance=chance) for point in one.result.points()]


def _all_points(done: Sequence[ExperimentRun], trained: Sequence[TrainingRun]) -> list[StudyPoint]:
    return [point for one in done for point in _points(one)] + [
        point for one in trained for point in one.points
    ]


def _compared(
    study: Study, done: Sequence[ExperimentRun], trained: Sequence[TrainingRun], limit: int | None
) -> StudyResult:
    points = _all_points(done, trained)
    computed = computed_differences(
        (
            (one.written, one.experiment, {**one.run.source, "n_classes": one.opened.n_classes})
            for one in done
        ),
        limit,
    )
    return StudyResult(
        study,
        list(done),
        [measure(figure, points) for figure in study.figures],
        [check_claim(claim, points) for claim in study.claims],
        list(dict.fromkeys([*study.differs, *computed])),
        trainings=list(trained),
    )


def _record(result: StudyResult, one: ExperimentRun) -> dict[str, Any]:
    """What ``study.json`` of a run says: `find_finished` looks for the fingerprint."""
    return {
        **_facts(result, one.written.name),
        "data": {"source": one.experiment.data.source, "data_root": one.opened.data_root},
        "fingerprint": one.fingerprint,
    }


def _facts(result: StudyResult, experiment: str) -> dict[str, Any]:
    """What ``study.json`` of a run or a training says of the study: `featbank.report` shows it."""
    study = result.study
    return {
        "study": study.name,
        "title": study.title,
        "question": study.question,
        "experiment": experiment,
        "experiments": {other.written.name: other.run.name for other in result.experiments},
        "trainings": {
            other.written.name: [network.folder.name for network in other.results]
            for other in result.trainings
        },
        "published": [
            {
                "label": figure.label,
                "metric": _metric(figure.metric, figure.what),
                "unit": _UNITS[figure.what],
                "value": figure.value,
                "source": study.report,
            }
            for figure in study.figures
        ],
        "measured": [
            {**found, "metric": _metric(found["metric"], found["what"]), "unit": _UNITS[found["what"]]}
            for found in result.measured
        ],
        "claims": [
            {"text": verdict.text, "holds": verdict.holds, "said": verdict.said}
            for verdict in result.verdicts
        ],
        "differs": result.differs,
    }


#: What a figure is of -> unit of its value.
_UNITS = {"accuracy": "share", "temperature": "temperature"}


def _metric(metric: str, what: str) -> str:
    return metric if what == "accuracy" else f"temperature of the highest {metric}"


def _draw_together(result: StudyResult) -> dict[str, Path]:
    """Draw the curves of several experiments in one figure, and accuracy against depth across them."""
    from featbank.plots import CurveDisplay, CutsDisplay

    drawn: dict[str, Path] = {}
    if not result.experiments:
        return drawn
    folder = result.experiments[0].run.figures
    # A single size is a point, and a temperature has a figure of its own.
    lines = [one for one in result.experiments if len({at.n_per_class for at in _cold(one)}) > 1]
    if len(lines) > 1:
        points = [replace(at, cut=f"{at.cut}, {at.experiment}") for one in lines for at in _cold(one)]
        curve = CurveDisplay(points, title=result.study.title)
        drawn["study-curve"] = curve.plot().save(folder / "study-curve.png")
    deep = [one for one in result.experiments if any("top1" in at.scores for at in _cold(one))]
    points = [point for one in deep for point in _cold(one)]
    order = list(dict.fromkeys(cut for one in deep for cut in one.result.cuts))
    if len(deep) > 1 and len({one.run.source["bank"] for one in deep}) == 1 and len(order) > 1:
        depth = CutsDisplay(points, cuts=order, title=result.study.title)
        drawn["study-cuts"] = depth.plot().save(folder / "study-cuts.png")
    return drawn


def _cold(one: ExperimentRun) -> list[StudyPoint]:
    return [point for point in _points(one) if point.temperature is None]


def _write_reports(done: Sequence[ExperimentRun], trained: Sequence[TrainingRun]) -> dict[str, Path]:
    """Write the page of each run, and one of all trainings on the same images."""
    from featbank.report import write_report

    pages = {each.written.name: write_report(each.run, data=each.opened.dataset).path for each in done}
    firsts: dict[str, TrainingRun] = {}
    for one in trained:
        firsts.setdefault(one.results[0].dataset, one)
    for training in firsts.values():
        pages[training.written.name] = write_report(training.results[0].folder).path
    return pages
