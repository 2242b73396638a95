"""The page of a run: the heads it kept, its figures, and what it is about in words and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from featbank.errors import InvalidInputError, RunError
from featbank.inspection import Mistake, find_mistakes
from featbank.manifest import SPLITS, Manifest, RowStatus, printable
from featbank.metrics.catalogue import percent
from featbank.metrics.classification import confusion_cells
from featbank.plots import HistoryDisplay
from featbank.plots.chart import SPLIT_NAMES, Table, spelled
from featbank.plots.figures import suited
from featbank.report._close_up import Answers, Asked, Facet, cells_of, close_up, facets, with_room
from featbank.report._content import (
    Content,
    Figure,
    Histories,
    History,
    Sample,
    epochs_shown,
    figure_of,
    range_text,
    read_study,
    time_text,
    title_text,
    transform_text,
    value_text,
)
from featbank.report._source import RunSource
from featbank.report._svg import shown
from featbank.runs import Run, answer_of
from featbank.sampling import size_label, size_order, size_words
from featbank.sweep import Fit
from featbank.sweep.spec import untrained_words

__all__ = ["content_of_run", "head_facets", "kept_heads", "run_figures"]


def content_of_run(run: Run, source: RunSource) -> Content:
    """Return what the page of a run says; raises `RunError` if a file of it is damaged."""
    study = read_study(run.path)
    heads = kept_heads(run)
    told, left_out = read_answers(run, heads, source) if heads else ([], 0)
    numbers = {one.head.at for one in told}
    asked = head_facets(run, [one for one in heads if one.at in numbers])
    closely = close_up(told, run.classes, asked, source, left_out=left_out)
    if not heads:
        source.missing.append("No confusion matrix: the run kept no head; fit again with --save-heads best.")
    histories = run_histories(run, heads)
    pictures = samples(source)
    best, further = answer(run)
    manifest = source.manifest
    cost_figures, cost_tables = cost(run, source)
    return Content(
        of="run",
        name=run.name,
        title=(study.title if study else "") or f"{run.source['dataset']} · {run.source['backbone']}",
        question=(study.question if study else "") or question(run),
        answer=best,
        further=further,
        warnings=warnings(run),
        study=study,
        figures=run_figures(run),
        no_figure="There is no curve: every fit failed, or none was made. The notes below say what is known.",
        noun="head",
        listed="Kept heads",
        columns=COLUMNS,
        n_texts=3,
        kept=table_rows(heads, histories.n_epochs),
        n_kept=len(heads),
        left_out_in="the folder predictions of the run",
        histories=histories,
        closely=closely,
        data=None if manifest is None else images(run.source["dataset"], manifest),
        splits=None if manifest is None else splits(manifest),
        samples=pictures,
        n_classes=len(manifest.classes) if manifest else 0,
        cost_figures=cost_figures,
        cost_tables=cost_tables,
        cost_said="Cuts read in one pass share its time; heads trained together share theirs equally.",
        provenance=provenance(run, source),
        notes=notes(run, source),
        no_notes="None: no image was unreadable, no identical image stands on both sides of a split, no fit "
        "failed.",
    )


#: The table of kept heads has so many lines; how many are left out is said.
_MOST_LISTED = 200
#: Its columns, of which the first three are texts.
COLUMNS = ("Head", "Cut", "Kind", "Samples per class", "Validation", "Test", "Epochs", "Best epoch")


@dataclass(frozen=True)
class Kept:
    """One kept head.

    Parameters
    ----------
    at : int
        Its number on the page.
    entry : dict
        What `Run.heads` says of it.
    fit : Fit or None
        Its line of ``results.csv``.
    """

    at: int
    entry: dict[str, Any]
    fit: Fit | None

    @property
    def name(self) -> str:
        """Name of its files."""
        return str(self.entry["name"])

    @property
    def cut(self) -> str:
        """Its cut, with the temperature if there is one."""
        return spelled(self.entry["cut"], self.entry["temperature"])

    @property
    def named(self) -> str:
        """The head in words."""
        facts = self.entry
        return f"{printable(facts['head'])} on {self.cut}, {size_words(facts)}, repeat {facts['repeat']}"

    @property
    def figures(self) -> list[tuple[str, str]]:
        """What is known of how good it is, as (name, value)."""
        facts, fit = self.entry, self.fit
        found = [
            ("test accuracy", facts["top1"]),
            ("validation accuracy", facts["val_top1"]),
            ("training accuracy", fit.train_top1 if fit else None),
            ("test top-5", fit.top5 if fit else None),
            ("calibration error (test)", fit.ece if fit else None),
        ]
        return [(name, percent(value)) for name, value in found if value is not None]


def kept_heads(run: Run) -> list[Kept]:
    """Return the kept heads: the best, then the best of each other curve, then the rest, good ones first."""

    def merit(entry: dict[str, Any]) -> float:
        return -float(entry["val_top1"] or entry["top1"] or 0.0)

    entries = sorted(run.heads(), key=merit)
    if any(one["saved"] for one in entries):
        best = run.best_head()["name"]
        entries.sort(key=lambda one: one["name"] != best)
    firsts: dict[Any, str] = {}
    for one in entries:
        firsts.setdefault((one["cut"], one["head"], one["temperature"]), one["name"])
    leading = set(firsts.values())
    entries.sort(key=lambda one: one["name"] not in leading)
    fits = {fit.id: fit for fit in run.result().fits}
    return [
        Kept(
            at,
            one,
            fits.get(((one["cut"], one["head"], one["temperature"]), one["n_per_class"], one["repeat"])),
        )
        for at, one in enumerate(entries)
    ]


def _size(one: Kept) -> str:
    return size_label(one.entry)


def head_facets(run: Run, heads: Sequence[Kept]) -> list[Facet]:
    """Return what has to be chosen to name one of the kept heads of a run."""
    depth = {cut: at for at, cut in enumerate(run.result().cuts)}

    def place(one: Kept) -> tuple[int, float]:
        return depth.get(one.entry["cut"], len(depth)), one.entry["temperature"] or 0.0

    asked: list[Asked[Kept]] = [
        ("Cut", lambda one: one.cut, place),
        ("Head", lambda one: printable(one.entry["head"]), lambda one: 0),
        ("Samples per class", _size, lambda one: size_order(one.entry["n_per_class"])),
        ("Repeat", lambda one: f"{one.entry['repeat']}", lambda one: one.entry["repeat"]),
    ]
    return facets(heads, asked)


def table_rows(heads: Sequence[Kept], n_epochs: dict[str, int]) -> list[tuple[Kept, tuple[str, ...]]]:
    """Return the lines of the table of kept heads: three cells of text, then numbers."""
    lines: list[tuple[Kept, tuple[str, ...]]] = []
    for one in heads[:_MOST_LISTED]:
        facts, n = one.entry, n_epochs.get(one.name, 0)
        best = facts["best_epoch"]
        epochs = ("–", "–") if n < 2 else (f"{n}", "–" if best is None else f"{best}")
        shares = percent(facts["val_top1"]), percent(facts["top1"])
        lines.append((one, (one.name, one.cut, printable(facts["head"]), _size(one), *shares, *epochs)))
    return lines


def read_answers(run: Run, heads: Sequence[Kept], source: RunSource) -> tuple[list[Answers], int]:
    """Return the answers of as many heads as there is room for, in their order, and how many are left out.

    What cannot be read is said in `source.missing`.
    """
    return with_room(heads, lambda one: _read(run, one, source))


def _read(run: Run, head: Kept, source: RunSource) -> Answers | None:
    n_classes = len(run.classes)
    try:
        told = run.predictions(head.name)
        if not len(told.rows):
            return None
        found = confusion_cells(told.y_true, told.y_pred, n_classes)
    except (RunError, InvalidInputError) as error:
        _say(source, f"The answers of {printable(head.name)} are not shown: {error}.")
        return None
    mistakes: list[Mistake] = []
    if source.manifest is not None:
        try:
            mistakes = find_mistakes(told, source.manifest)
        except InvalidInputError as error:
            _say(source, f"No misclassified image is shown: {error}.")
    return Answers(head, told.split, cells_of(*found, n_classes), mistakes)


def _say(source: RunSource, said: str) -> None:
    if said not in source.missing:
        source.missing.append(said)


#: A page holds so many histories; how many are left out is said.
_MOST_HISTORIES = 60


def run_figures(run: Run) -> list[Figure]:
    """Return the figures a run's results allow, first the one that answers it; none if every fit failed."""
    shown = {name: one for name, one in suited(run).items() if one.on_page}
    one_size = len({point.n_per_class for point in run.result().points()}) == 1
    if one_size and len(shown) > 1:  # a curve of one size says nothing that the others do not
        shown.pop("curve", None)
    return [figure_of(name, one.from_run(run)) for name, one in shown.items()]


def run_histories(run: Run, heads: Sequence[Kept]) -> Histories:
    """Return the histories of kept heads, as many as the page has room for."""
    known = run.histories()
    n_epochs = {name: len(one.get("train_loss", [])) for name, one in known.items()}
    # one that was solved in one step has nothing to follow
    trained = [one for one in heads if n_epochs.get(one.name, 0) > 1]
    drawn = trained[:_MOST_HISTORIES]
    most = epochs_shown(len(drawn))
    lines = []
    for one in drawn:
        best = one.entry["best_epoch"]
        name = printable(one.name)
        display = HistoryDisplay(known[one.name], best_epoch=best, most_epochs=most, title=name)
        display.page_title = name
        lines.append(History(one.at, figure_of(f"history-{one.at}", display, small=True)))
    return Histories(tuple(lines), n_epochs, len(trained) - len(drawn))


#: Sample thumbnails: at most so many, one of each class, and their longer side in pixels.
_MOST_SAMPLES, _SIDE = 40, 112
_MOST_FAILED = 10


def question(run: Run) -> str:
    """Return what a run asks, read from what was varied."""
    points = run.result().points()
    dataset, backbone = run.source["dataset"], run.source["backbone"]
    n_cuts = len({one.cut for one in points})
    heads = {one.head for one in points}
    temperatures = {one.temperature for one in points} - {None}
    sizes = {one.n_per_class for one in points}
    many = ", and how many labelled images does it take" if len(sizes) > 1 else ""
    if len(temperatures) > 1:
        return (
            f"At which softmax temperature do the class probabilities of {backbone} recognise {dataset} best?"
        )
    if n_cuts > 1:
        return f"At which cut do the features of {backbone} recognise {dataset} best{many}?"
    if len(heads) > 1:
        return f"Which head on the features of {backbone} recognises {dataset} best{many}?"
    return f"How well do the features of {backbone} recognise {dataset}{many}?"


def answer(run: Run) -> tuple[Markup, str]:
    """Return what came out, with the figure of the best set off, and what it says of labels."""
    result = run.result()
    found = answer_of(result)
    if found is None:
        known = result.points()
        why = "was scored on test or validation images" if known else "succeeded"
        return shown(f"No fit of this run {why}."), ""
    before, figure, after = found.best.partition(found.accuracy)
    best = Markup("{}<strong>{}</strong>{}").format(before, figure, after)
    return best, " ".join(one for one in (found.labels, found.doubling) if one)


def images(dataset: str, manifest: Manifest) -> str:
    """Return what the images are and how many."""
    return f"{dataset}: {len(manifest):,} images of {len(manifest.classes)} classes."


def splits(manifest: Manifest) -> Table:
    """Return images per split: in all, readable, and per class."""
    rows = []
    for at, name in enumerate(SPLITS):
        mask = manifest.splits == at
        if not mask.any():
            continue
        labels = manifest.labels[mask & (manifest.labels >= 0)]
        counts = np.bincount(labels, minlength=len(manifest.classes))
        low, high = (int(counts.min()), int(counts.max())) if len(counts) else (0, 0)
        unread = int((manifest.statuses[mask] != RowStatus.OK).sum())
        spelt = SPLIT_NAMES.get(name, "in no split").capitalize()
        rows.append((spelt, f"{int(mask.sum()):,}", range_text(low, high), f"{unread}"))
    total = len(manifest)
    unread = int((manifest.statuses != RowStatus.OK).sum())
    rows.append(("All", f"{total:,}", "", f"{unread}"))
    return Table(("Split", "Images", "Per class", "Unreadable"), tuple(rows), 1)


def samples(source: RunSource) -> list[Sample]:
    """Return one training image per class, of classes evenly spread if there are many."""
    manifest = source.manifest
    if manifest is None:
        return []
    n = len(manifest.classes)
    chosen = sorted({int(one) for one in np.linspace(0, n - 1, min(n, _MOST_SAMPLES))}) if n else []
    found = []
    ready = manifest.statuses == RowStatus.OK
    for label in chosen:
        rows = np.flatnonzero(ready & (manifest.labels == label))
        trained = rows[manifest.splits[rows] == SPLITS.index("train")]
        for row in (trained if len(trained) else rows)[:1].tolist():
            picture = source.picture(row, _SIDE)
            if picture is not None:
                found.append(Sample(printable(manifest.classes[label]), picture))
    return found


def provenance(run: Run, source: RunSource) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return where the numbers come from, as groups of (name, value)."""
    facts = run.source
    came = facts.get("provenance") or {}
    key = [
        ("Backbone", facts["backbone"]),
        ("Weights", _said(facts["weights"])),
        ("SHA-256 of the weights", facts["weights_sha256"]),
        ("Transform", transform_text(facts["transform"])),
        ("Input size", f"{facts['image_size']} × {facts['image_size']} pixels"),
        ("Precision", f"{facts['precision']}, stored as {facts['dtype']}"),
        ("Batch size", _said(facts["batch_size"])),
    ]
    if source.bank is not None:
        key.append(("Decoder", source.bank.key.decoder))
    key.append(("Digest of the key", facts["key_digest"]))
    ran = [
        ("Run", run.name),
        ("Made", run.facts["created"]),
        ("Command", run.facts.get("command") or "–"),
        ("Images from", _said(came.get("location"))),
        ("Bank", facts["bank"]),
    ]
    ran += [
        (title_text(name), value_text(value))
        for name, value in run.facts["parameters"].items()
        if value is not None and value_text(value) != "{}"
    ]
    versions = [(name, _said(value)) for name, value in (run.facts.get("versions") or {}).items()]
    extracted = [(name, _said(value)) for name, value in (came.get("versions") or {}).items()]
    groups = [("Key of the bank", key), ("Run", ran), ("Versions, fitting", versions)]
    return [*groups, ("Versions, extraction", extracted)] if extracted else groups


def _said(value: object) -> str:
    return "–" if value is None else str(value)


def cost(run: Run, source: RunSource) -> tuple[list[tuple[str, str]], list[tuple[str, Table]]]:
    """Return what the run cost: key figures, and tables of the extraction and of the fits."""
    fits = run.result().fits
    figures, tables = [], []
    info = source.info()
    if info is not None and source.manifest is not None:
        ready = source.manifest.statuses == RowStatus.OK
        pushed = len(np.unique(source.manifest.digests[ready], axis=0))
        seconds = max((float(cut.facts.get("duration_s") or 0) for cut in info.cuts), default=0.0)
        figures += [("images pushed, once each", f"{pushed:,}"), ("bank on disk", _bytes(info.size_bytes))]
        figures.append(("extraction", time_text(seconds)))
        depth = {name: at for at, name in enumerate(run.result().cuts)}
        rows = tuple(
            (
                printable(cut.name),
                " × ".join(map(str, cut.shape)) or "1",
                cut.dtype,
                f"{cut.rows_stored:,}",
                _bytes(cut.size_bytes),
                time_text(cut.facts["duration_s"]) if "duration_s" in cut.facts else "–",
                percent(cut.facts.get("precision_error"), 2),
            )
            for cut in sorted(info.cuts, key=lambda one: depth.get(one.name, len(depth)))
        )
        columns = ("Cut", "Shape", "Stored as", "Rows", "Size", "Time of the pass", "Precision error")
        tables.append(("Extraction", Table(columns, rows, 3)))
    total = sum(one.duration_s for one in fits)
    figures += [("fit" if len(fits) == 1 else "fits", f"{len(fits):,}"), ("fitting", time_text(total))]
    groups: dict[Any, list[Any]] = {}
    for one in fits:
        groups.setdefault(one.key, []).append(one)
    fitted = tuple(
        (
            spelled(cut, temperature),
            printable(head),
            f"{len(members)}",
            f"{sum(one.status == 'failed' for one in members)}",
            time_text(sum(one.duration_s for one in members)),
            time_text(sum(one.duration_s for one in members) / len(members)),
        )
        for (cut, head, temperature), members in groups.items()
    )
    tables.append(("Fitting", Table(("Cut", "Head", "Fits", "Failed", "Time", "Time per fit"), fitted, 2)))
    return figures, tables


def warnings(run: Run) -> list[str]:
    """Return what must be known before anything is read off the page."""
    found = []
    if untrained := run.facts.get("untrained"):
        found.append(f"{untrained_words(untrained)}.")
    if run.source["weights"] == "random":
        found.append("The weights of the backbone are random: these figures say nothing of a pretrained one.")
    if run.facts["status"] != "finished":
        found.append("The run was interrupted: the page shows what it came to.")
    failed = run.result().failed
    if failed:
        found.append(f"{len(failed)} of {len(run.result().fits)} fits failed; the notes say why.")
    return found


def notes(run: Run, source: RunSource) -> list[str]:
    """Return everything else that has to be known to read the page."""
    above = warnings(run)
    found = [str(one) for one in run.facts["notes"] if f"{one}." not in above]
    found += run.result().resolution()
    failed = run.result().failed
    for one in failed[:_MOST_FAILED]:
        what = f"{one.head} on {spelled(one.cut, one.temperature)}"
        found.append(f"Failed: {what}, {size_words(vars(one))}, repeat {one.repeat}: {one.message}")
    if len(failed) > _MOST_FAILED:
        found.append(f"{len(failed) - _MOST_FAILED} more fits failed; results.csv names them.")
    if source.bank is not None:
        found += _quarantined(source)
    return found + source.remarks()


def _quarantined(source: RunSource) -> list[str]:
    records = source.bank.quarantine() if source.bank is not None else []
    if not records:
        return []
    shown_ids = ", ".join(f"{one.printable_id} ({one.reason})" for one in records[:5])
    more = f" and {len(records) - 5} more" if len(records) > 5 else ""
    plural = "image" if len(records) == 1 else "images"
    return [f"{len(records)} {plural} could not be read and took no part: {shown_ids}{more}."]


def _bytes(size: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"
