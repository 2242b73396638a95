"""``featbank run``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featbank.cli._fitted import print_scores
from featbank.cli._options import CacheDir, Device, Json, known_studies, split_commas
from featbank.cli._output import counted, human_bytes, human_time, print_json, print_table, progress_bar, say
from featbank.cli.fit import noted_not_warned
from featbank.errors import FeatbankError, InvalidInputError
from featbank.manifest import printable
from featbank.metrics.catalogue import mean_text, percent
from featbank.sampling import size_words

if TYPE_CHECKING:
    from featbank._settings import Progress
    from featbank.pipeline import ExperimentCost, StudyResult, Training

__all__ = ["run"]


def run(
    study: Annotated[
        str | None,
        typer.Argument(
            help="A TOML file, or the name of a study; without it they are listed.",
            autocompletion=known_studies,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Where the study's data is: torchvision's root, a folder of class folders, or a CSV "
            "(default: here, beside the study, or below $FEATBANK_DATA, else ./data)."
        ),
    ] = None,
    test_data: Annotated[
        str | None, typer.Option(help="Your own test images, where a study asks for some.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", "-b", help="Instead of the backbones of the study.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="A weights file or name, or 'random'; BACKBONE=FILE where the study has several backbones."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most N images: fewer classes where a split counts per class.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run these experiments of the study only; repeat it for more.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Let torchvision fetch a dataset that is not there.")
    ] = False,
    device: Device = None,
    workers: Annotated[int | None, typer.Option(help="Decoding processes; one per core by default.")] = None,
    cache_dir: CacheDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, push nothing.")] = False,
    template: Annotated[
        bool,
        typer.Option("--template", help="Print a study to change, with every key explained; runs as it is."),
    ] = False,
    as_json: Json = False,
) -> None:
    r"""Run a study, yours or a published one: extract, fit, draw, print.

    Only what is not in the cache is done.

    A study is a TOML file: \[data] source, split; \[backbone] name; \[sweep] cuts, heads, samples_per_class,
    repeats; \[heads.NAME] parameters; \[\[experiment]] name, and what differs there; \[published] what it is
    compared with. --template explains every key.

    Example: featbank run mini_digits

    Example: featbank run --template > my.toml && featbank run my.toml
    """
    if template:
        if study is not None:
            raise InvalidInputError(f"--template prints a study to change; leave out {study!r}")
        from featbank.pipeline import TEMPLATE

        typer.echo(TEMPLATE.read_text("utf-8"), nl=False)
        return
    if study is None:
        _list_studies(as_json)
        return
    from featbank import pipeline

    chosen = pipeline.load_study(study)
    asked: dict[str, Any] = {
        "data": data,
        "test_data": test_data,
        "backbone": backbone,
        "weights": weights or (),
        "limit": limit,
        "only": split_commas(only),
        "download": download,
        "device": device,
        "workers": workers,
        "cache_dir": cache_dir,
    }
    if dry_run:
        trainings = [one for one in chosen.trainings if not asked["only"] or one.name in asked["only"]]
        _print_costs(pipeline.study_costs(chosen, **asked), trainings, as_json)
        return
    with noted_not_warned(), _bars() as progress:
        result = pipeline.run_study(chosen, **asked, command=sys.argv, say=say, progress=progress)
    for note in dict.fromkeys(note for one in result.experiments for note in one.result.notes):
        say(f"note: {note}")
    if as_json:
        _print_json(result)
    else:
        _print_result(result)
    if any(one.result.failed for one in result.experiments):
        raise typer.Exit(1)


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[str], Progress]]:
    """Give one bar after the other: the next begins with its first step, and ends with its last."""
    with contextlib.ExitStack() as stack:

        def begin(what: str) -> Progress:
            stack.close()
            bar: Progress | None = None

            def progress(done: int, total: int) -> None:
                nonlocal bar
                if bar is None:
                    unit = {"extract": "images", "fit": "heads", "train": "steps"}[what]
                    bar = stack.enter_context(progress_bar(what, unit))
                bar(done, total)
                if done >= total:
                    stack.close()

            return progress

        yield begin


def _list_studies(as_json: bool) -> None:
    from featbank.pipeline import study_names, study_title

    found: list[dict[str, Any]] = []
    for name in study_names():
        try:
            file, title = study_title(name)
            found.append({"name": name, "title": title, "file": file})
        except FeatbankError as error:  # one that cannot be read hides no other
            found.append({"name": name, "title": None, "error": str(error)})
    if as_json:
        print_json({"studies": found})
        return
    lines = [(printable(one["name"]), one["title"] or f"cannot be read: {one['error']}") for one in found]
    print_table(("study", "title"), lines)
    typer.echo("\nfeatbank run NAME runs one")


def _print_costs(costs: list[ExperimentCost], trainings: Sequence[Training], as_json: bool) -> None:
    from featbank.training import recipe_for

    epochs = {
        one.name: recipe_for(one.network or "fine-tuning", one.recipe).epochs * one.repeats
        for one in trainings
    }
    if as_json:
        print_json(
            {
                "trainings": epochs,
                "banks": [
                    {
                        "experiments": one.experiments,
                        "fits": one.fits,
                        **one.plan.to_dict(),
                    }
                    for one in costs
                ],
            }
        )
        return
    for one in costs:
        plan = one.plan
        time_left = f", about {human_time(plan.duration_s)}" if plan.duration_s is not None else ""
        typer.echo(
            f"{', '.join(one.experiments)}: {plan.to_push} of {plan.rows} images to push{time_left}, "
            f"{human_bytes(plan.size_bytes)} to write ({human_bytes(plan.disk_free_bytes)} free), "
            f"{one.fits} heads to fit"
        )
    for training in trainings:
        typer.echo(f"{training.name}: {epochs[training.name]} epochs of {training.subject} to train")


def _print_json(result: StudyResult) -> None:
    print_json(
        {
            "study": result.study.name,
            "title": result.study.title,
            "question": result.study.question,
            "published": [
                {"label": one.label, "metric": one.metric, "value": one.value, "source": result.study.report}
                for one in result.study.figures
            ],
            "measured": result.measured,
            "claims": [asdict(one) for one in result.verdicts],
            "differs": result.differs,
            "curve": [one.to_dict() for one in result.points],
            "runs": {one.written.name: one.run.path for one in result.experiments},
            "reused": [one.written.name for one in result.experiments if one.reused],
            "trainings": {
                one.written.name: [
                    {"folder": done.folder, "scores": done.scores, "duration_s": done.duration_s}
                    for done in one.results
                ]
                for one in result.trainings
            },
            "pushed": result.pushed,
            "figures": result.figures,
            "reports": result.reports,
            "duration_s": result.duration_s,
        }
    )


def _print_result(result: StudyResult) -> None:
    from featbank.runs import answer_of

    study = result.study
    if study.question:
        typer.echo(f"\n{study.question}")
    for done in result.experiments:
        if len(result.experiments) > 1:
            typer.echo(f"\n{done.written.name}")
        print_scores(done.result)
        said = answer_of(done.result)
        if said is not None:
            typer.echo(f"\n{said}")
    trained = {one.written.name for one in result.trainings}
    rows = [
        (
            figure.label,
            _shown(figure.value, figure.what),
            _measured(found)
            + (" over seeds" if found["low"] is not None and found["experiment"] in trained else ""),
            _where(found),
        )
        for figure, found in zip(study.figures, result.measured, strict=True)
    ]
    if rows:
        typer.echo("")
        print_table(("", "published", "measured", "at"), rows, numeric=("published", "measured"))
        typer.echo(f"\npublished: {study.report}")
    for verdict in result.verdicts:
        word = {True: "yes", False: "NO", None: "not known"}[verdict.holds]
        typer.echo(f"{verdict.text}: {word} ({verdict.said})")
    if result.differs:
        typer.echo("\nwhere the two differ:")
        for one in result.differs:
            typer.echo(f"- {one}")
    typer.echo("")
    for done in result.experiments:
        typer.echo(f"{'run':<12}{done.run.path}{' (fitted before)' if done.reused else ''}")
    for training in result.trainings:
        for network in training.results:
            typer.echo(f"{'network':<12}{network.folder}{' (trained before)' if network.reused else ''}")
    for kind, path in result.figures.items():
        typer.echo(f"{kind:<12}{path}")
    for path in result.reports.values():
        typer.echo(f"{'report':<12}{path}")
    networks = [network for one in result.trainings for network in one.results]
    old = not result.pushed and all(one.reused for one in result.experiments)
    old = old and all(one.reused for one in networks)
    before = [*(["extracted", "fitted"] if result.experiments else []), *(["trained"] if networks else [])]
    again = f"; nothing was new: all of it was {' and '.join(before)} before" if old else ""
    typer.echo(f"{counted(result.pushed, 'image')} pushed, {human_time(result.duration_s)}{again}")


def _shown(value: float | None, what: str) -> str:
    if value is None:
        return ""
    return f"T={value:g}" if what == "temperature" else percent(value, 2)


def _measured(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "not measured"
    if found["low"] is None:
        return _shown(found["value"], found["what"])
    return f"{mean_text(found['value'], (found['low'], found['high']), 'top1', digits=2)} %"


def _where(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return str(found["experiment"])
    at = "" if found["temperature"] is None else f" T={found['temperature']:g}"
    return f"{found['experiment']}: {found['cut']}{at} {found['head']}, {size_words(found)}"
