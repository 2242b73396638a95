"""Arguments that functions share: written once, shown by each, refused alike."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Any

import pytest

import featbank
from featbank.fitting import fit_heads


@pytest.mark.parametrize(
    ("name", "kind"),
    [("extract", "ExtractionSettings"), ("run_sweep", "SweepSettings"), ("fit_heads", "SweepSettings")],
)
def test_a_function_shows_every_field_and_the_settings_explain_it(name: str, kind: str) -> None:
    settings = getattr(featbank, kind)
    options = [one.name for one in fields(settings) if one.init]
    shown = list(inspect.signature(getattr(featbank, name)).parameters)
    assert shown[1] == "settings"
    assert shown[-len(options) :] == options
    documented = re.findall(r"^    (\w.*) : ", settings.__doc__, re.MULTILINE)
    assert set(options) <= set(", ".join(documented).split(", "))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeat": 3}, "fit_heads() got an unexpected option 'repeat'; known: 'repeats', "),
        ({"settings": {"repeats": 3}}, "fit_heads() got settings={'repeats': 3}; give SweepSettings, or its"),
    ],
)
def test_what_are_no_settings(tmp_path: Any, options: dict[str, Any], message: str) -> None:
    (tmp_path / "banks").mkdir()
    bank = featbank.banks.Bank.__new__(featbank.banks.Bank)  # never looked at
    with pytest.raises(TypeError) as caught:
        fit_heads(bank, **options)
    assert str(caught.value).startswith(message)


def test_options_replace_those_of_the_settings() -> None:
    from featbank._registry import with_options

    settings = featbank.SweepSettings(heads=["ncm"], repeats=2)
    changed = with_options(featbank.SweepSettings, settings, {"repeats": 3}, "run_sweep")
    assert (changed.heads, changed.repeats, settings.repeats) == (["ncm"], 3, 2)
