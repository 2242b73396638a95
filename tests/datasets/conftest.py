"""Decoders that misbehave, for the tests of the processes they run in."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
# Modules beside the tests, which the tests import by name; so do the decoding processes.
sys.path.insert(0, str(HERE))


@pytest.fixture(name="odd")
def fixture_odd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    marker = tmp_path / "markers"
    marker.mkdir()
    monkeypatch.setenv("ODD_MARKER", str(marker))
    import odd_decoders

    return odd_decoders
