"""The page of trainings: one network, or those of a study side by side."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from featbank.errors import RunError
from featbank.manifest import SPLITS, printable
from featbank.metrics.catalogue import percent
from featbank.plots import Display, HistoryDisplay
from featbank.plots.chart import (
    SPLIT_NAMES,
    Chart,
    Entry,
    Look,
    Point,
    Series,
    Table,
    linear_axis,
    percent_axis,
    plain,
    reached,
)
from featbank.plots.heads import ARROW_KEYS, epoch_axis, thinned_epochs
from featbank.report._close_up import Answers, Asked, cells_of, close_up, facets, with_room
from featbank.report._content import (
    Content,
    Figure,
    Histories,
    History,
    Study,
    epochs_shown,
    figure_of,
    range_text,
    read_study,
    time_text,
    title_text,
    transform_text,
)
from featbank.training import TrainResult
from featbank.training.train import read_training

__all__ = ["Network", "content_of_trainings"]

#: A page has so many networks at most.
_MOST = 60


@dataclass(frozen=True)
class Network:
    """A trained network on the page.

    Parameters
    ----------
    at : int
        Its number there.
    label : str
        What its study calls it, or what it is.
    result : TrainResult
    seeded : bool
        Whether there is another with the same label, so that its seed is part of its name.
    """

    at: int
    label: str
    result: TrainResult
    seeded: bool = False

    @property
    def seed(self) -> int:
        """What its random numbers began with."""
        return self.result.recipe.random_state

    @property
    def named(self) -> str:
        """The network in words."""
        return f"{printable(self.label)}, seed {self.seed}" if self.seeded else printable(self.label)

    @property
    def judged(self) -> str:
        """Which images say how good it is: test images, where there are some."""
        return next(one for one in ("test", "val", "train") if one == "train" or self._has(one))

    def _has(self, split: str) -> bool:
        return f"{split}_top1" in self.result.scores

    def score(self, name: str) -> float | None:
        """Return a score of the weights that were kept; of the training images, of the last epoch."""
        last = self.result.history[-1] if name.startswith("train_") else {}
        return {**last, **self.result.scores}.get(name)

    @property
    def judged_by(self) -> tuple[str, str, int]:
        """Those images: their split, their name, and how many there are."""
        split, result = self.judged, self.result
        counted = sum(result.n_per_class) if split == "train" else int(result.confusion.sum())
        return split, result.dataset, result.n_images.get(split, counted)

    @property
    def top1(self) -> float:
        """Accuracy on the images that it is judged by."""
        return self.score(f"{self.judged}_top1") or 0.0

    @property
    def figures(self) -> list[tuple[str, str]]:
        """What is known of how good it is, as (name, value)."""
        found = [
            (f"{SPLIT_NAMES[split]} {said}", self.score(f"{split}_{kind}"))
            for split in ("test", "val", "train")
            for kind, said in (("top1", "accuracy"), ("top5", "top-5"))
            if kind == "top1" or len(self.result.classes) > 5
        ]
        found.append(("blurred test accuracy", self.score("blurred_top1")))
        return [(name, percent(value, 2)) for name, value in found if value is not None]


class _CoursesDisplay(Display):
    """Accuracy of several networks per epoch, and over the time that it took."""

    page_title = "Accuracy while training"

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = networks
        self.of = networks[0].judged
        labels = list(dict.fromkeys(one.label for one in networks))
        self._looks = {label: Look(plain(at), dash=at // 7) for at, label in enumerate(labels)}
        self._accuracies = [
            [100 * entry.get(f"{self.of}_top1", float("nan")) for entry in one.result.history]
            for one in networks
        ]
        lengths = [len(one) for one in self._accuracies]
        #: Which epochs are shown (from 0): of too many only some, and the last of each network.
        _, self._epochs = thinned_epochs(
            max(lengths), epochs_shown(len(networks)), [one - 1 for one in lengths]
        )

    def charts(self) -> list[Chart]:
        label = f"Top-1 accuracy, {SPLIT_NAMES[self.of]} images (%)"
        by_epoch, by_time, ends = [], [], []
        unit, seconds = _unit(max(one.result.duration_s for one in self.networks))
        for one, values in zip(self.networks, self._accuracies, strict=True):
            look = self._looks[one.label]
            passed = list(itertools.accumulate(entry["duration_s"] for entry in one.result.history))
            mine = [at for at in self._epochs if at < len(values)]
            by_epoch.append(Series(one.named, tuple(Point(at + 1.0, values[at]) for at in mine), look))
            points = tuple(Point(passed[at] / seconds, values[at]) for at in mine)
            by_time.append(Series(one.named, points, look))
            said = (one.named, f"{values[-1]:.1f} %", f"{_counted(len(values))}; {time_text(passed[-1])}")
            end = Point(passed[-1] / seconds, values[-1], said=said)
            ends.append(Series(one.named, (end,), Look(look.color, dash=None, marker=0)))
        upright = percent_axis(label, reached(by_epoch))
        names = ", ".join(one.named for one in self.networks)
        epochs = max(len(one.result.history) for one in self.networks)
        longest = max(one.points[-1].x for one in by_time)
        return [
            Chart(
                f"Line chart of accuracy per epoch of {names}. {ARROW_KEYS}",
                epoch_axis(epochs),
                upright,
                tuple(by_epoch),
                by_row=True,
            ),
            Chart(
                f"Line chart of accuracy against time of training of {names}",
                linear_axis(f"Time of training ({unit})", [0.0, longest]),
                upright,
                (*by_time, *ends),
            ),
        ]

    def legend(self) -> list[Entry]:
        n = len(self.networks)
        entries = [Entry("Network")]
        for label, look in self._looks.items():
            mine = [at for at, one in enumerate(self.networks) if one.label == label]
            entries.append(Entry(printable(label), look, (*mine, *(n + at for at in mine))))
        return entries

    def caption(self) -> str:
        seeds = ", a line for each seed" if any(one.seeded for one in self.networks) else ""
        seeds += (
            "; some of many epochs are shown" if len(self._epochs) < max(map(len, self._accuracies)) else ""
        )
        return f"{len(self.networks)} networks{seeds}. A time is that of the machine it was trained on."

    def table(self) -> Table:
        rows = [
            (f"{at + 1}", *(percent(one[at] / 100) if at < len(one) else "–" for one in self._accuracies))
            for at in self._epochs
        ]
        return Table(("Epoch", *(one.named for one in self.networks)), tuple(rows), 0)


def _cells_of(confusion: NDArray[np.int64]) -> list[list[int]]:
    true, pred = np.nonzero(confusion)
    return cells_of(true, pred, confusion[true, pred], len(confusion))


def _counted(n_epochs: int) -> str:
    return f"{n_epochs} epoch{'s' if n_epochs > 1 else ''}"


def _unit(seconds: float) -> tuple[str, float]:
    return ("h", 3600.0) if seconds >= 7200 else ("min", 60.0) if seconds >= 120 else ("s", 1.0)


def content_of_trainings(folder: Path) -> Content:
    """Return what the page of a training says; those of its study that lie beside it are in it too.

    Raises
    ------
    RunError
        If a file of it is damaged.
    """
    first = read_training(folder)
    study = read_study(folder)
    networks, notes, elsewhere = _networks(folder, first, study)
    ranked = sorted(networks, key=lambda one: -one.top1)
    several = len(networks) > 1
    answered = [one for one in ranked if one.result.confusion.size]
    told, left_out = with_room(
        answered, lambda one: Answers(one, one.judged, _cells_of(one.result.confusion), [])
    )
    asked: list[Asked[Network]] = [
        ("Network", lambda one: printable(one.label), lambda one: one.at),
        ("Seed", lambda one: f"{one.seed}", lambda one: one.seed),
    ]
    if told:
        notes.append(
            "Which images a network took for which is not kept of a training: 'featbank predict NETWORK "
            "IMAGE...' says what it takes an image for."
        )
    if len(answered) < len(networks):
        notes.append("No confusion of networks for which there were no images outside train.")
    notes.append("Training accuracy is measured while training, on augmented images and changing weights.")
    if several and not any(one.seeded for one in networks):
        notes.append("One seed each: how much of a difference is chance is not known.")
    dataset = first.dataset or folder.name
    total = sum(one.result.duration_s for one in networks)
    per_epoch = [entry["duration_s"] for one in networks for entry in one.result.history]
    return Content(
        of="training",
        name=folder.name,
        title=_title(study, networks[0], dataset, elsewhere),
        question=(study.question if study else "") or _question(networks, first.dataset),
        answer=_answer(ranked),
        further="",
        warnings=[],
        study=study,
        figures=_figures(networks),
        no_figure="There is no course: the network was trained for one epoch.",
        noun="network",
        listed="Networks",
        **_table(networks),
        n_kept=len(networks),
        left_out_in="training.json of each",
        histories=_histories(ranked) if several else Histories((), {}, 0),
        closely=close_up(told, first.classes, facets(answered[: len(told)], asked), left_out=left_out),
        data=_data(first, dataset),
        splits=_splits(first),
        samples=(),
        n_classes=len(first.classes),
        cost_figures=[
            ("network" if len(networks) == 1 else "networks", f"{len(networks)}"),
            ("epoch" if len(per_epoch) == 1 else "epochs", f"{len(per_epoch)}"),
            ("training", time_text(total)),
            ("median epoch", time_text(statistics.median(per_epoch))),
        ],
        cost_tables=[("Training", _times(networks))],
        cost_said="An epoch is a pass over all training images and the measuring after it.",
        provenance=_provenance(networks),
        notes=notes,
        no_notes="None.",
    )


def _title(study: Study | None, network: Network, dataset: str, elsewhere: set[str]) -> str:
    """Return the study's; with its images, where it has trainings on others, whose page is another."""
    if not (study and study.title):
        return f"{dataset} · {network.label}"
    return f"{study.title} · {dataset}" if elsewhere - {dataset} else study.title


def _networks(
    folder: Path, first: TrainResult, study: Study | None
) -> tuple[list[Network], list[str], set[str]]:
    """Return the trainings of a study, in its order; notes on those that are not there or do not compare.

    Last come the images of those that do not.
    """
    places = dict(study.trainings) if study else {}
    if not any(folder.name in folders for folders in places.values()):
        places = {_label(first): [folder.name]}
    lead = Network(0, next(label for label, names in places.items() if folder.name in names), first)
    networks: list[Network] = []
    notes, elsewhere = list[str](), set[str]()
    for label, names in places.items():
        for name in names:
            if len(networks) == _MOST:
                notes.append(f"The page has room for {_MOST} networks, and the study has more.")
                return networks, notes, elsewhere
            try:
                result = first if name == folder.name else read_training(folder.parent / name)
            except RunError as error:
                notes.append(f"{printable(label)} is not shown: {error}.")
                continue
            if result.classes != first.classes:
                elsewhere.add(result.dataset)
                notes.append(f"{printable(label)} is not shown: it tells other classes apart.")
                continue
            one = Network(len(networks), label, result, len(names) > 1)
            if one.judged_by != lead.judged_by and not _same_data(one.result, first):
                elsewhere.add(result.dataset)
                notes.append(
                    f"{printable(label)} is not shown: it is judged by {_images(one)}, and {lead.named} by "
                    f"{_images(lead)}."
                )
                continue
            networks.append(one)
    return networks, notes, elsewhere


def _same_data(one: TrainResult, other: TrainResult) -> bool:
    """Say whether two networks saw the same images in the same splits; older versions named neither."""
    return "data" in one.facts and one.facts["data"] == other.facts.get("data")


def _images(one: Network) -> str:
    split, dataset, n = one.judged_by
    return f"{n:,} {SPLIT_NAMES[split]} images{f' of {printable(dataset)}' if dataset else ''}"


def _label(result: TrainResult) -> str:
    network = result.facts.get("network")
    said = network if isinstance(network, dict) else {}
    return str(said.get("name") or said.get("backbone") or result.folder.name)


def _question(networks: Sequence[Network], dataset: str) -> str:
    what = printable(dataset) or "its images"
    if len({one.label for one in networks}) > 1:
        return f"Which of these networks recognises {what} best?"
    return f"How well does {printable(networks[0].label)} recognise {what} when it is trained on them?"


def _answer(ranked: Sequence[Network]) -> Markup:
    best = ranked[0]
    top5 = best.score(f"{best.judged}_top5")
    more = f" (top-5 {percent(top5, 2)})" if top5 is not None and len(best.result.classes) > 5 else ""
    said = Markup("{} gets <strong>{}</strong> of the {} images right{}").format(
        best.named, percent(best.top1, 2), SPLIT_NAMES[best.judged], more
    )
    kept, n_epochs = best.result.best_epoch, len(best.result.history)
    after = (
        f", after {_counted(n_epochs)}" if kept in (0, n_epochs) else f", after epoch {kept} of {n_epochs}"
    )
    if len(ranked) == 1:
        return Markup("{}{}.").format(said, after)
    second = ranked[1]
    return Markup("{}, the most of {} networks{}; the next, {}, gets {}.").format(
        said, len(ranked), after, second.named, percent(second.top1, 2)
    )


def _figures(networks: Sequence[Network]) -> list[Figure]:
    if len(networks) > 1:
        return [figure_of("courses", _CoursesDisplay(networks), small=True)]
    return [_history(one, 1, "history") for one in networks if len(one.result.history) > 1]


def _history(one: Network, n_histories: int, key: str) -> Figure:
    display = HistoryDisplay.from_training(one.result, most_epochs=epochs_shown(n_histories), title=one.named)
    display.page_title = one.named if n_histories > 1 else "How it was trained"
    return figure_of(key, display, small=True)


def _histories(ranked: Sequence[Network]) -> Histories:
    drawn = [one for one in ranked if len(one.result.history) > 1]
    lines = [History(one.at, _history(one, len(drawn), f"history-{one.at}")) for one in drawn]
    return Histories(tuple(lines), {}, 0)


def _table(networks: Sequence[Network]) -> dict[str, Any]:
    """Return the table of networks: columns nobody has a value for are left out."""
    columns: list[tuple[str, Any]] = [
        ("Training accuracy", lambda one: _share(one, "train_top1")),
        ("Validation", lambda one: _share(one, "val_top1")),
        ("Test", lambda one: _share(one, "test_top1")),
        ("Test top-5", lambda one: _share(one, "test_top5")),
        ("Blurred test", lambda one: _share(one, "blurred_top1")),
        ("Epochs", lambda one: f"{len(one.result.history)}"),
        ("Kept epoch", lambda one: f"{one.result.best_epoch}"),
        ("Seconds per epoch", lambda one: f"{_median_s(one):.3g}"),
    ]
    cells = {name: [value(one) for one in networks] for name, value in columns}
    kept = {name: values for name, values in cells.items() if set(values) != {"–"}}
    lines = [
        (one, (one.named, _kind(one.result), *(values[at] for values in kept.values())))
        for at, one in enumerate(networks)
    ]
    return {"columns": ("Network", "Kind", *kept), "n_texts": 2, "kept": lines}


def _share(one: Network, name: str) -> str:
    return percent(one.score(name), 2)


def _median_s(one: Network) -> float:
    return statistics.median(entry["duration_s"] for entry in one.result.history)


def _kind(result: TrainResult) -> str:
    network = result.facts.get("network")
    if isinstance(network, dict) and "backbone" in network:
        return printable(f"{network['backbone']} trained further, {network.get('unfreeze', 'all')}")
    return printable(_label(result))


def _data(result: TrainResult, dataset: str) -> str:
    n = sum(result.n_images.values()) or sum(result.n_per_class)
    what = "images" if result.n_images else "training images"
    return f"{printable(dataset)}: {n:,} {what} of {len(result.classes)} classes."


def _splits(result: TrainResult) -> Table:
    counts = {"train": sum(result.n_per_class), **result.n_images}
    of_rows = {"train": result.n_per_class}
    if result.confusion.size:
        judged = "test" if "test_top1" in result.scores else "val"
        of_rows[judged] = tuple(int(one) for one in result.confusion.sum(axis=1))
        counts.setdefault(judged, sum(of_rows[judged]))
    rows = []
    for split in (one for one in SPLITS if one in counts):
        each = of_rows.get(split, ())
        span = range_text(min(each), max(each)) if each else "–"
        rows.append((SPLIT_NAMES[split].capitalize(), f"{counts[split]:,}", span))
    return Table(("Split", "Images", "Per class"), tuple(rows), 1)


def _times(networks: Sequence[Network]) -> Table:
    rows = []
    for one in networks:
        times = [entry["duration_s"] for entry in one.result.history]
        spread = (
            time_text(value) for value in (statistics.median(times), min(times), max(times), sum(times))
        )
        rows.append((one.named, f"{len(times)}", *spread))
    return Table(("Network", "Epochs", "Median epoch", "Fastest", "Slowest", "In all"), tuple(rows), 1)


def _provenance(networks: Sequence[Network]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return where the numbers come from: what all networks have in common once, then what each has alone."""
    facts = [_origin(one.result) for one in networks]
    common = {} if len(facts) == 1 else _in_all([named for named, _ in facts])
    recipes = [recipe for _, recipe in facts]
    shared = {} if len(facts) == 1 else _in_all(recipes)
    groups = []
    if shared or common:
        said = {**common, "Recipe": transform_text(shared)} if shared else common
        groups.append(("All of them", list(said.items())))
    for one, (named, recipe) in zip(networks, facts, strict=True):
        mine = {name: value for name, value in named.items() if name not in common}
        own = {name: value for name, value in recipe.items() if name not in shared}
        groups.append((one.named, [*mine.items(), *([("Recipe", transform_text(own))] if own else [])]))
    return groups


def _in_all(several: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what each of several mappings has with the same value."""
    return {
        name: value
        for name, value in several[0].items()
        if all(name in one and one[name] == value for one in several)
    }


def _origin(result: TrainResult) -> tuple[dict[str, str], dict[str, Any]]:
    """Return what a network is and came from, and its recipe."""
    network = result.facts.get("network")
    said = dict(network) if isinstance(network, dict) else {}
    params = said.pop("params", {})
    found = {"Folder": printable(result.folder.name)}
    found |= {title_text(name): printable(str(value)) for name, value in said.items()}
    if isinstance(params, dict) and params:
        found["Plan"] = transform_text(params)
    found["SHA-256 of the weights"] = result.sha256
    found["Digest of the data"] = printable(str(result.facts.get("data", "–")))
    if result.versions:
        found["Versions"] = ", ".join(f"{name} {value}" for name, value in result.versions.items())
    return found, {name: value for name, value in asdict(result.recipe).items() if value != ""}
