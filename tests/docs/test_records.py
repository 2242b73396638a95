"""Numbers that were measured stand in ``docs/records``; a page that says others is found here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
RECORDS = {path.stem: json.loads(path.read_text()) for path in sorted((DOCS / "records").glob("*.json"))}
CURVES = [name for name, one in RECORDS.items() if "curve" in one]
TABLES = [name for name, one in RECORDS.items() if "tables" in one]


def cells(line: str) -> str:
    """Return a line of a table, of Markdown or a terminal, as words."""
    return " ".join(line.replace("|", " ").replace("`", "").replace("± ", "±").split())


def lines(page: str) -> list[str]:
    return [cells(line) for line in (DOCS / page).read_text().splitlines()]


def told(point: dict[str, Any]) -> str:
    mean = f"{100 * point['top1_mean']:.1f}"
    if point["top1_low"] is None:
        return mean
    return f"{mean} ±{50 * (point['top1_high'] - point['top1_low']):.1f}"


@pytest.mark.parametrize("name", CURVES)
def test_a_table_of_accuracies_is_that_of_its_record(name: str) -> None:
    record = RECORDS[name]
    curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for point in record["curve"]:
        curves.setdefault((point["cut"], point["head"]), []).append(point)
    several = len({cut for cut, _ in curves}) > 1
    for (cut, head), points in curves.items():
        wanted = " ".join(map(told, points))
        begins = f"{cut} {head}" if several else head
        assert any(
            re.fullmatch(rf"{re.escape(begins)}\b.*{re.escape(wanted)}", line)
            for line in lines(record["page"])
        ), f"{record['page']} has no line of {begins} with {wanted}"
    if record.get("answer_told"):
        text = " ".join((DOCS / record["page"]).read_text().split())
        assert record["answer"] in text


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_that_of_its_record(name: str) -> None:
    record = RECORDS[name]
    said = lines(record["page"])
    for table in record["tables"]:
        wanted = [cells(" ".join(row)) for row in (table["columns"], *table["rows"])]
        at = [place for place, line in enumerate(said) if line == wanted[0]]
        assert at, f"{record['page']} has no table with the columns {wanted[0]}"
        assert said[at[0] + 2 : at[0] + 1 + len(wanted)] == wanted[1:]


def test_a_comparison_is_that_of_its_record() -> None:
    record = RECORDS["which-cut"]
    said = lines(record["page"])
    for one in record["compared"]:
        half, difference = 50 * (one["high"] - one["low"]), one["difference"]
        wanted = f"{one['cut']} {one['head']} {100 * one['mean']:.1f} ±{half:.1f} {100 * one['rank']:.1f} "
        if difference:
            mean, low, high = (f"{100 * value:+.1f}" for value in difference.values())
            wanted += f"{mean} [{low}, {high}] "
        assert any(line.startswith(wanted) for line in said), wanted


def test_the_readme_says_what_the_demo_gives() -> None:
    record = RECORDS["demo"]
    text = " ".join((DOCS / record["page"]).read_text().split())
    best, worst = (
        next(
            round(100 * one["top1_mean"])
            for one in record["points"]
            if (one["cut"], one["head"], one["n_per_class"]) == (cut, "softmax", 32)
        )
        for cut in ("block3_pool", "block5_pool")
    )
    assert f"a softmax head reaches {best} % on `block3_pool`, but {worst} % on `block5_pool`" in text


def test_the_studies_say_what_the_runs_said() -> None:
    record = RECORDS["studies-mini"]
    rows = lines(record["page"])
    depth = [
        f"{100 * one['top1_mean']:.1f}"
        for one in record["studies"]["mini_digits"]["curve"]
        if one["experiment"] == "depth" and one["n_per_class"] == 32
    ]
    assert any(line.startswith("mini_digits:") and f"{', '.join(depth)} %" in line for line in rows)
    samples = record["studies"]["mini_samples"]
    gains = re.findall(r"\+\d+\.\d", samples["claims"][0]["said"])
    measured = f"{100 * samples['measured'][0]['value']:.1f} % (val) at 16"
    (row,) = (line for line in rows if line.startswith("mini_samples:"))
    assert measured in row
    assert ", ".join(gains) in row
    clear = re.findall(r"\d+\.\d %", samples["claims"][1]["said"])
    assert any(" against ".join(clear) in line for line in rows)


def test_what_was_seen_of_networks_from_scratch_is_in_the_record() -> None:
    scores = {
        f"{100 * value:.{digits}f}"
        for one in RECORDS["networks-h100"]["trainings"]
        for score in one["scores"].values()
        for value in (score if isinstance(score, list) else [score])
        if isinstance(value, float)
        for digits in (1, 2)
    }
    seen = [
        line.split("|")[3] for line in (DOCS / "networks.md").read_text().splitlines() if line.count("|") > 3
    ]
    numbers = [one for cell in seen for one in re.findall(r"\d+\.\d+", cell)]
    assert len(numbers) > 30
    assert [one for one in numbers if one not in scores] == []
