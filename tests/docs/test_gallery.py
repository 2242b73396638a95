"""The gallery has a script for every figure and picture that featbank draws; `make docs` runs them."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from featbank import inspection
from featbank.plots import FIGURES

SCRIPTS = sorted((Path(__file__).parents[2] / "docs" / "gallery").glob("plot_*.py"))
#: Functions that return a display: what they draw.
MADE_BY = {"occlude": "OcclusionDisplay", "activation_map": "CamDisplay"}


def names_in(script: Path) -> set[str]:
    tree = ast.parse(script.read_text())
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return found | {MADE_BY[one] for one in found & MADE_BY.keys()}


def test_every_figure_has_a_script() -> None:
    shown = set().union(*map(names_in, SCRIPTS))
    displays = {FIGURES.get(name).__name__ for name in FIGURES}
    displays |= {name for name in inspection.__all__ if name.endswith("Display")}
    assert len(displays) >= 14
    assert displays - shown == set()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda one: one.stem)
def test_a_script_calls_what_there_is(script: Path) -> None:
    """Without running it: its keywords are parameters of what it calls."""
    import featbank

    tree = ast.parse(script.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("featbank."):
            found: object = featbank
            for part in ast.unparse(node.func).split(".")[1:]:
                if part.endswith("()") or not hasattr(found, part):
                    break
                found = getattr(found, part)
            else:
                known = inspect.signature(found).parameters
                assert {one.arg for one in node.keywords} <= set(known), ast.unparse(node.func)
