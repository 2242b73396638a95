"""Where banks and runs live when nobody says otherwise."""

from __future__ import annotations

from featbank._cache import banks_folder, cache_folder, runs_folder


def test_what_is_said_goes_before_the_environment_and_that_before_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATBANK_CACHE", str(tmp_path / "environment"))
    assert cache_folder(tmp_path / "said") == tmp_path / "said"
    assert cache_folder("said") == tmp_path / "said"
    assert cache_folder() == tmp_path / "environment"
    monkeypatch.setenv("FEATBANK_CACHE", "")
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("FEATBANK_CACHE")
    assert cache_folder() == tmp_path / "cache"


def test_banks_and_runs_stand_side_by_side_and_nothing_is_made(tmp_path):
    assert banks_folder(tmp_path / "c") == tmp_path / "c" / "banks"
    assert runs_folder(tmp_path / "c") == tmp_path / "c" / "runs"
    assert not (tmp_path / "c").exists()
