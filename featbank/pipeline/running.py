"""Running a study: push what is missing, fit what was not fitted, put published beside measured."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from featbank import _atomic
from featbank._settings import Progress
from featbank._validation import check_values
from featbank.banks import Bank
from featbank.errors import RunError
from featbank.fitting import fit_heads
from featbank.manifest import Manifest, short_repr
from featbank.metrics import mean_interval
from featbank.metrics.catalogue import percent
from featbank.pipeline.comparing import StudyPoint, Verdict, check_claim, computed_differences, measure
from featbank.pipeline.planning import (
    Group,
    Opened,
    check_weights,
    open_each,
    plan_bank,
    plan_experiments,
    plan_trainings,
)
from featbank.pipeline.reading import load_study
from featbank.pipeline.study import Experiment, Study, Sweep, Training
from featbank.runs import Run, list_runs, open_run
from featbank.runs.folder import STUDY_FILE
from featbank.runs.store import versions
from featbank.sweep import Score, SweepResult, SweepSettings
from featbank.sweep.spec import plug_ins
from featbank.training import DecodedImages, TrainResult, train

__all__ = ["ExperimentRun", "StudyResult", "TrainingRun", "find_finished", "fingerprint", "run_study"]

#: Called with what begins, ``extract``, ``fit`` or ``train``; returns what is told how far it is.
Bars = Callable[[str], Progress]
#: Cuts of the points of a training: which images it is measured on.
TEST, BLURRED = "test", "blurred"
_METRICS = ("top1", "top5", "val_top1", "val_top5")
#: What a figure is of -> unit of its value.
_UNITS = {"accuracy": "share", "temperature": "temperature"}


def fingerprint(bank: Bank, sweep: Sweep) -> str:
    """Return what tells the numbers of a sweep from any other's: features, rows, parameters, versions.

    Unlike `featbank.runs.store.sweep_digest` it does not ask which shards the bank has: experiments of a
    study may share a bank, and each adds shards with rows the others do not read. The bank's name is part of
    it: the rows of another bank may change, and the run would no longer know its images.
    """
    own = SweepSettings(**asdict(sweep)).to_dict().get("estimators")
    identity = {
        "bank": bank.name,
        "key": bank.key.digest(),
        "manifest": bank.manifest.digest(),
        "sweep": asdict(sweep),
        "plug_ins": plug_ins(sweep.heads, sweep.metrics),
        "versions": versions(),
        **({"estimators": own} if own else {}),
    }
    return _atomic.sha256(_atomic.canonical_json(identity))


def find_finished(wanted: str, cache_dir: str | os.PathLike[str] | None) -> Run | None:
    """Find the newest finished run of a study with a fingerprint."""
    for path in reversed(list_runs(cache_dir)):
        try:
            run = open_run(path, cache_dir=cache_dir)
            said = run.checked(STUDY_FILE, check_values)
            if run.finished and isinstance(said, dict) and said.get("fingerprint") == wanted:
                run.result()
                return run
        except RunError:  # damaged: run it again
            continue
    return None


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """What became of one training of a study.

    Parameters
    ----------
    written : Training
        As it was run.
    results : list of TrainResult
        One for each seed.
    opened : Opened
        Where the images came from.

    Examples
    --------
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from featbank.pipeline import Data
    >>> from featbank.pipeline.planning import open_images
    >>> from featbank.training import Recipe
    >>> written = Training("scratch", Data("digits", "digits"), network="own_net", repeats=3)
    >>> net, counts, classes = Path("net"), np.eye(10, dtype=int), tuple("0123456789")
    >>> results = [  # as featbank.train returns them
    ...     TrainResult(net, net, net, "", [], {"test_top1": one}, counts, classes, Recipe(), 1, False, (9,))
    ...     for one in (0.71, 0.74, 0.72)
    ... ]
    >>> (point,) = TrainingRun(written, results, open_images(written)).points
    >>> point.head, point.n_repeats, round(point.mean("top1"), 4)
    ('own_net', 3, 0.7233)
    """

    written: Training
    results: list[TrainResult]
    opened: Opened

    __repr__ = short_repr

    @property
    def points(self) -> list[StudyPoint]:
        """Its scores as points of a curve: one on the test images, one on the blurred ones if there are."""
        found = []
        counts = self.results[0].n_per_class
        for cut, prefix in ((TEST, ""), (BLURRED, "blurred_")):
            scores = {}
            for metric in _METRICS:
                named = metric if metric.startswith("val_") else f"{prefix or 'test_'}{metric}"
                values = [one.scores[named] for one in self.results if named in one.scores]
                if values and (not prefix or not metric.startswith("val_")):
                    mean, low, high = mean_interval(values)
                    known = not math.isnan(low)  # else there are too few seeds for an interval
                    scores[metric] = Score(
                        mean, low if known else None, high if known else None, min(values), max(values)
                    )
            if scores:
                found.append(
                    StudyPoint(
                        cut,
                        self.written.subject,
                        "all",
                        scores,
                        n_repeats=len(self.results),
                        all_samples=True,
                        fewest_per_class=min(counts),
                        most_per_class=max(counts),
                        experiment=self.written.name,
                        chance=1 / self.opened.n_classes,
                    )
                )
        return found


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
    >>> from featbank.pipeline.planning import open_images
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

    @property
    def points(self) -> list[StudyPoint]:
        """The points of its curves."""
        name, chance = self.written.name, 1 / self.opened.n_classes
        return [StudyPoint(**vars(one), experiment=name, chance=chance) for one in self.result.points()]


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
        fitted = [point for one in self.experiments for point in one.points]
        return fitted + [point for one in self.trainings for point in one.points]


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
    work = _Work(found, device, workers, cache_dir, command, say or (lambda _: None), progress)
    work.say(found.title)
    result = StudyResult(found, [], [], [], [])
    for group, images in zip(groups, opened, strict=True):
        runs = work.run_group(group, images)
        result.pushed += runs[0].pushed  # by all of them together
        result.experiments += runs
    decoded = DecodedImages()
    for training, images in zip(trainings, trained_on, strict=True):
        result.trainings.append(work.run_training(training, images, decoded))
    points = result.points
    result.measured = [measure(figure, points) for figure in found.figures]
    result.verdicts = [check_claim(claim, points) for claim in found.claims]
    ran = [
        (one.written, one.experiment, {**one.run.source, "n_classes": one.opened.n_classes})
        for one in result.experiments
    ]
    result.differs = list(dict.fromkeys([*found.differs, *computed_differences(ran, limit)]))
    result.figures = _draw_together(result)
    for one in result.experiments:
        origin = {"source": one.experiment.data.source, "data_root": one.opened.data_root}
        own = {"data": origin, "fingerprint": one.fingerprint}  # which `find_finished` looks for
        _atomic.write_json(one.run.path / STUDY_FILE, _facts(result, one.written.name) | own)
    for trained in result.trainings:
        for network in trained.results:
            _atomic.write_json(network.folder / STUDY_FILE, _facts(result, trained.written.name))
    result.reports = _write_reports(result)
    result.duration_s = time.perf_counter() - started
    return result


@dataclass(frozen=True)
class _Work:
    """A study, and how it is run: see `run_study`."""

    study: Study
    device: str | None
    workers: int | None
    cache_dir: str | os.PathLike[str] | None
    command: Sequence[str]
    say: Callable[[str], None]
    progress: Bars | None

    def run_group(self, group: Group, opened: Opened) -> list[ExperimentRun]:
        """Extract one bank, and fit on it what was not fitted before."""
        from featbank.extraction import push  # which reading a file does not need

        choice, say, name = group.first.backbone, self.say, opened.dataset.name
        say(f"{name}: {len(opened.dataset.ids)} images, {choice.name}, {', '.join(group.cuts)}")
        plan = plan_bank(choice, group.cuts, opened, self.device, self.workers, self.cache_dir)
        if plan.to_copy:
            banks = ", ".join(f"bank {name}" for name in plan.to_copy)
            say(f"  with features of {banks}, which stays as it is")
        extracted = push(plan, progress=self.progress and self.progress("extract"))
        say(
            f"  {extracted.pushed} pushed, {extracted.skipped} were there already"
            + (f", {extracted.quarantined} could not be read" if extracted.quarantined else "")
        )
        bank = Bank.open(extracted.bank)
        found = []
        for item in group.experiments:
            wanted = fingerprint(bank, item.run.sweep)
            run = find_finished(wanted, self.cache_dir)
            reused = run is not None
            if run is not None:
                say(f"  {item.run.name}: fitted before, in {run.name}")
                result = run.result()
            else:
                run, result = self._fit(item.run, bank)
                # At once: a study that is interrupted later finds this sweep again.
                said = {"study": self.study.name, "title": self.study.title, "fingerprint": wanted}
                _atomic.write_json(run.path / STUDY_FILE, said)
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

    def _fit(self, experiment: Experiment, bank: Bank) -> tuple[Run, SweepResult]:
        sweep, study = experiment.sweep, self.study
        self.say(f"  {experiment.name}: {', '.join(sweep.heads)} on {', '.join(sweep.cuts)}")
        fitted = fit_heads(
            bank,
            SweepSettings(**asdict(sweep)),
            weights=experiment.backbone.weights if "tail" in sweep.heads else None,
            name=study.name if experiment.name == study.name else f"{study.name}-{experiment.name}",
            command=self.command,
            cache_dir=self.cache_dir,
            announce=lambda line: self.say(f"  {line}"),
            progress=self.progress and self.progress("fit"),
        )
        return fitted.run, fitted.result

    def run_training(self, written: Training, opened: Opened, decoded: DecodedImages) -> TrainingRun:
        """Train a network once for each seed; what is in the cache is not trained again."""
        results = []
        for seed in range(written.repeats):
            named = f", seed {seed}" if written.repeats > 1 else ""
            self.say(f"  {written.name}: {written.subject}{named}")
            result = train(
                opened.dataset,
                network=written.network,
                params=written.params,
                backbone=written.backbone,
                weights=written.weights,
                unfreeze=written.unfreeze,
                recipe={**written.recipe, "random_state": written.random_state + seed},
                image_size=written.image_size,
                split=opened.split,
                limit=opened.limit,
                val=written.val,
                blur=written.blur,
                decoded=decoded,
                device=self.device,
                cache_dir=self.cache_dir,
                say=lambda line: self.say(f"    {line}"),
                on_step=self.progress and self.progress("train"),
            )
            scores = ", ".join(
                f"{name.replace('_', ' ')} {percent(value, 2)}"
                for name, value in result.scores.items()
                if not name.endswith("loss")
            )
            self.say(f"    {scores}" + (" (trained before)" if result.reused else ""))
            results.append(result)
        return TrainingRun(written, results, opened)


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
        "claims": [asdict(verdict) for verdict in result.verdicts],
        "differs": result.differs,
    }


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
    return [point for point in one.points if point.temperature is None]


def _write_reports(result: StudyResult) -> dict[str, Path]:
    """Write the page of each run, and one of all trainings on the same images."""
    from featbank.report import write_report

    pages = {
        one.written.name: write_report(one.run, data=one.opened.dataset).path for one in result.experiments
    }
    firsts: dict[str, TrainingRun] = {}
    for trained in result.trainings:
        firsts.setdefault(trained.results[0].dataset, trained)
    for training in firsts.values():
        pages[training.written.name] = write_report(training.results[0].folder).path
    return pages
