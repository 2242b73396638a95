"""``featbank doctor``: what there is, and the line that brings what is not; it fails for nothing."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pip writes of featbank, with a package in one extra that nobody has."""
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    lines = ["Metadata-Version: 2.4", "Name: featbank", "Version: 0.1.0", "Requires-Dist: torch>=2.10"]
    for extra, needs in {**extras, "moon": ["moon-rock>=1.0"]}.items():
        for need in needs:
            name, _, marker = need.partition(";")
            condition = f"({marker.strip()}) and " if marker else ""
            lines.append(f"Requires-Dist: {name.strip()}; {condition}extra == '{extra}'")
    (tmp_path / "featbank-0.1.0.dist-info").mkdir()
    (tmp_path / "featbank-0.1.0.dist-info" / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    return sorted(set(extras) - {"dev", "docs"})


def test_it_says_what_there_is_and_makes_nothing(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, installed: list[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth").touch()
    (tmp_path / "hf" / "hub" / "models--facebook--dinov2-base").mkdir(parents=True)
    facts = call("doctor", "--json", "--cache-dir", tmp_path / "none").json
    assert not (tmp_path / "none").exists()
    assert facts["cache"] | {"free_bytes": 0} == {
        "path": str(tmp_path / "none"),
        "exists": False,
        "writable": True,
        "free_bytes": 0,
        "banks": 0,
        "runs": 0,
        "bucket": None,
        "error": None,
    }
    assert facts["weights"]["torchvision"]["files"] == ["resnet18-f37072fd.pth"]
    assert facts["weights"]["hub"]["models"] == ["facebook/dinov2-base"]
    assert [one["device"] for one in facts["devices"]] == ["cpu"]
    assert 1 <= facts["usable_cores"] <= facts["cores"]
    assert [one["extra"] for one in facts["extras"]] == sorted([*installed, "moon"])
    said = call("doctor", "--cache-dir", tmp_path / "none").out
    assert "             moon: moon-rock missing; pip install 'featbank[moon]'\n" in said
    there = [one["extra"] for one in facts["extras"] if not one["missing"]]
    assert f"extras       there: {', '.join(there)}\n" in said
    assert "torchvision, " in said
    assert "not there yet" in said
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no"))
    said = call("doctor", "--cache-dir", tmp_path / "none").out
    assert ": none; fetched when first asked for, without a network give --weights FILE\n" in said


def test_a_cache_in_a_bucket_and_one_that_is_nowhere(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    said = call("doctor", "--cache-dir", "memory://doctor/cache").out
    assert "             memory://doctor/cache/banks: 0 banks\n" in said
    assert "0 banks" not in said.split("memory://")[0]
    monkeypatch.setenv("FEATBANK_CACHE", "moon://crater")
    done = call("doctor")
    assert done.code == 0, done.err
    assert "cache        cannot be used: 'moon://crater' is at an address of a kind" in done.out
    assert call("doctor", "--json").json["cache"]["error"].startswith("'moon://crater' is at an address")
    monkeypatch.setenv("FEATBANK_CACHE", "memory://doctor")
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert "memory://doctor/banks: cannot be used: " in call("doctor").out


def test_a_torch_that_cannot_be_imported_is_told(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    done = call("doctor")
    assert done.code == 0
    said = done.out
    assert "torch        cannot be used: import of torch halted" in said
    assert "pip install" in said
