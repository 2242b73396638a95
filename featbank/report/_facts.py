"""What a run is about, in words and numbers: question, answer, data, provenance, cost, warnings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from featbank.manifest import SPLITS, Manifest, RowStatus, printable
from featbank.plots.chart import Table, percent, spelled
from featbank.report._source import Picture, RunSource
from featbank.report._svg import shown
from featbank.runs import Run, answer_of
from featbank.sampling import size_words
from featbank.sweep.spec import untrained_words

__all__ = [
    "Sample",
    "answer",
    "cost",
    "images",
    "notes",
    "provenance",
    "question",
    "samples",
    "splits",
    "time_text",
    "title_text",
    "transform_text",
    "value_text",
    "warnings",
]

#: Sample thumbnails: at most so many, one of each class, and their longer side in pixels.
_MOST_SAMPLES, _SIDE = 40, 112
_MOST_FAILED = 10


@dataclass(frozen=True)
class Sample:
    """A training image of one class."""

    name: str
    picture: Picture


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
        spelt = {"val": "validation", "none": "in no split", "train": "training"}.get(name, name)
        each = f"{low}" if low == high else f"{low} – {high}"
        rows.append((spelt.capitalize(), f"{int(mask.sum()):,}", each, f"{unread}"))
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
        if value not in (None, {})
    ]
    versions = [(name, _said(value)) for name, value in (run.facts.get("versions") or {}).items()]
    extracted = [(name, _said(value)) for name, value in (came.get("versions") or {}).items()]
    groups = [("Key of the bank", key), ("Run", ran), ("Versions, fitting", versions)]
    return [*groups, ("Versions, extraction", extracted)] if extracted else groups


def _said(value: object) -> str:
    return "–" if value is None else str(value)


def title_text(name: str) -> str:
    """Return the name of a parameter as a page has it."""
    return name.replace("_", " ").capitalize()


def value_text(value: Any) -> str:
    """Return the value of a parameter as a page has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = {name: one for name, one in value.items() if one not in (None, {})}
    if isinstance(value, list):
        return ", ".join(map(value_text, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def transform_text(transform: dict[str, Any]) -> str:
    """Return several parameters in one line."""
    return "; ".join(f"{name.replace('_', ' ')} {value_text(value)}" for name, value in transform.items())


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
    figures += [("fits", f"{len(fits):,}"), ("fitting", time_text(total))]
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


def time_text(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
