"""``featbank demo``: what it asks for; the whole of it takes too long for a test."""

from __future__ import annotations

from functools import partial

import pytest

import featbank.extraction
import featbank.fitting
from featbank.runs import open_run


@pytest.fixture
def asked(monkeypatch):
    """Let the demo run on a few digits and sizes; collects what it asked for."""
    calls = []
    extract, fit_heads = featbank.extraction.extract, featbank.fitting.fit_heads

    def few_digits(*args, **options):
        calls.append(options)
        return extract(*args, **{**options, "limit": 340, "weights": "random", "split": "32,1,1"})

    def few_fits(*args, **options):
        calls.append(options)
        quick = {"head_params": {one: {"max_epochs": 2} for one in options["heads"]}}
        return fit_heads(*args, **{**options, **quick, "samples_per_class": "1,2", "repeats": 1})

    monkeypatch.setattr("featbank.extraction.extract", partial(few_digits))
    monkeypatch.setattr("featbank.fitting.fit_heads", partial(few_fits))
    return calls


@pytest.mark.slow
def test_what_it_asks_for(call, tmp_path, asked):
    done = call("demo", "--cache-dir", tmp_path)
    assert done.code == 0
    extraction, depth, warm = asked
    pools = tuple(f"block{number}_pool" for number in range(1, 6))
    assert (extraction["backbone"], tuple(extraction["cuts"])) == ("minivgg", (*pools, "logits"))
    assert (depth["cuts"], depth["heads"]) == (pools, ("softmax", "mlp"))
    assert (warm["cuts"], warm["temperatures"]) == (("softmax",), (0.5, 1.0, 1.5, 2.0, 4.0))
    assert [(one["samples_per_class"], one["repeats"]) for one in (depth, warm)] == [("4..32", 5)] * 2
    *_, summary, _, curve, onward = done.out.splitlines()
    assert summary.startswith("340 images pushed, 30 heads fitted in ")
    assert onward.startswith("next: featbank report ")
    assert onward.endswith(f"-demo-depth --cache-dir {tmp_path}")
    assert curve.startswith(f"the curve: {tmp_path}/runs/")
    assert curve.endswith("/figures/curve.png")


@pytest.mark.slow
def test_json(call, tmp_path, asked):
    found = call("demo", "--cache-dir", tmp_path, "--json").json
    assert len(found["curve"]) == 30
    assert [open_run(path).facts["name"] for path in found["runs"]] == ["demo-depth", "demo-temperature"]
    assert set(found["figures"]) == {"curve", "cuts", "confusion", "history", "temperature", "times"}
    assert 0 < found["duration_s"] < 600


@pytest.mark.slow
def test_a_second_demo_fits_nothing_again(tmp_path, capsys):
    from featbank.cli.demo import _fitted

    kept = featbank.extraction.extract(
        "digits",
        backbone="minivgg",
        cuts=["fc7"],
        weights="random",
        limit=340,
        split="32,1,1",
        cache_dir=tmp_path,
    )
    bank, options = featbank.open_bank(kept.bank), {"cuts": ("fc7",), "heads": ("ncm",)}
    first = _fitted(bank, "demo", str(tmp_path), options)
    again = _fitted(bank, "demo", str(tmp_path), options)
    assert (again.run.path, again.n_resumed, first.n_resumed) == (first.run.path, len(first.result.fits), 0)
    assert again.figures == first.figures
    assert f"fitted before, in run {first.run.name}" in capsys.readouterr().err
    other = _fitted(bank, "demo", str(tmp_path), {**options, "heads": ("knn",)})
    assert other.run.path != first.run.path
