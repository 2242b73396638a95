"""The steps in their order, and the table at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from bench import Bench
from extractions import correctness, decoding, end_to_end, writing
from machine import ceilings, heads, machine, nvjpeg
from networks import GOALS, compiling, forward, variants


def table(bench: Bench) -> None:
    """Put what was measured beside the goals: the best of each network, then everything."""
    lines = [json.loads(line) for line in (bench.out / "results.jsonl").read_text().splitlines()]
    facts = {line["name"]: line["value"] for line in lines if "name" in line}
    rows = [f"{facts.get('card', 'card unknown')}; {facts.get('cores', '?')} cores"]
    rows += [_shown(facts.get("versions", "versions unknown")), ""]
    rows += [f"{'network':14} {'goal':>8} {'forward':>8} {'of goal':>8}  {'by':28} {'end to end':>10}  at"]
    for net, goal in GOALS.items():
        best, whole = (_best(lines, net, steps) for steps in ((5, 6), (9,)))
        part = f"{best['value'] / goal:8.2f}" if best else f"{'':8}"
        rows.append(f"{net:14} {goal:8,} {_named(net, best, 28)[0]} {part}  " + _named(net, best, 28)[1])
        rows[-1] += f" {_named(net, whole, 0)[0]:>10}  {_named(net, whole, 0)[1]}"
    rows += ["", f"{'step':4}  {'what':62} {'measured':>12}  {'review':14} unit"]
    for line in lines:
        if "name" in line:
            wrong = "   WRONG" if line.get("ok") is False else ""
            said = f"{_shown(line['value']):>12}  {_shown(line.get('goal', '')):14} {line.get('unit', '')}"
            rows.append(f"{line['step']:4}  {line['name']:62} {said}{wrong}")
        else:
            code = (
                ""
                if line["state"] == "done"
                else f", exit status {line['exit_code']}, of {line['limit_s']} s"
            )
            took = f"{line['wall_s']} s, {line['cpu_s']} s of the cores{code}"
            rows.append(f"{line['step']:4}  {line['ended']}: {line['state']} in {took}")
    text = "\n".join(map(str.rstrip, rows)) + "\n"
    (bench.out / "table.txt").write_text(text)
    print(text)  # noqa: T201


def _best(lines: Sequence[dict[str, Any]], net: str, steps: Sequence[int]) -> dict[str, Any] | None:
    """Return the line with the largest rate of a network in some steps."""
    found = [line for line in lines if line["step"] in steps and line.get("name", "").startswith(net)]
    rates = [line for line in found if isinstance(line["value"], float)]
    return max(rates, key=lambda line: line["value"], default=None)


def _named(net: str, line: dict[str, Any] | None, width: int) -> tuple[str, str]:
    """Return the rate and what follows the network's name."""
    if line is None:
        return f"{'-':>8}", f"{'not measured':{width}}"
    return f"{line['value']:8,.0f}", f"{line['name'].removeprefix(net).strip():{width}}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else f"{value:,}"


#: Name, what it does, seconds it may take; the number is the place.
STEPS: Sequence[tuple[str, Callable[[Bench], None], float]] = (
    ("machine and images", machine, 40),
    ("ceilings", ceilings, 25),
    ("correctness", correctness, 75),
    ("compile smoke", compiling, 60),
    ("decoding on the card", nvjpeg, 25),
    ("forward alone", forward, 60),
    ("compiled variants", variants, 60),
    ("decoding", decoding, 45),
    ("writer alone", writing, 30),
    ("end to end", end_to_end, 75),
    ("heads", heads, 30),
    ("table", table, 10),
)
