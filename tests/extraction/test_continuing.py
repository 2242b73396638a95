"""What is left to auto never splits a bank: what it was begun with is gone on with, in whatever mood."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featbank.backbones import TruncatedNetwork
from featbank.banks import Bank, BankStore
from featbank.extraction import ExtractionResult, choosing, extract
from featbank.extraction.forward import CompileEstimate, Forward

Folder = Callable[..., Path]
SavePhoto = Callable[..., None]


def run(data: Path, cache: Path, *cuts: str, **options: Any) -> ExtractionResult:
    fixed: dict[str, Any] = {
        "backbone": "minivgg",
        "cuts": cuts or ("fc7",),
        "cache_dir": cache,
        "workers": 1,
    }
    return extract(data, **fixed | options)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make this machine another one, or give it another mood."""

    def become(*, native: tuple[str, ...] = ("float32",), repays: bool = False, cache: int = 1 << 40) -> None:
        monkeypatch.setattr(choosing, "native_precisions", lambda device: native)
        monkeypatch.setattr(choosing, "cannot_compile", lambda device: None)
        monkeypatch.setattr(choosing, "_LEAST_BATCHES", 0)
        estimate = CompileEstimate(1.0, 0.1 if repays else 0.99, 0.5 if repays else 1e9)
        monkeypatch.setattr(Forward, "estimate_compile", lambda self, images, cuts: estimate)
        monkeypatch.setattr(CompileEstimate, "repays", lambda self, n_batches: repays)
        # by the clock, too: what stands in for the compiler below is no faster
        monkeypatch.setattr(choosing.Chooser, "_timed_s", lambda self, compiled: 0.1 if compiled else 1.0)
        monkeypatch.setattr(choosing, "_CACHE_BYTES", cache)

    def eager(network: TruncatedNetwork) -> TruncatedNetwork:
        return network

    monkeypatch.setattr("featbank.extraction.forward.compile_network", eager)
    return become


MACHINES: dict[str, dict[str, Any]] = {
    "plain": {},
    "in a mood to compile": {"repays": True},
    "with bfloat16": {"native": ("bfloat16", "float32")},
    "with bfloat16, in a mood to compile": {"native": ("bfloat16", "float32"), "repays": True},
    "with a small cache": {"cache": 32 * 32 * 32 * 4 * 4},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "later"),
    [
        ("plain", "in a mood to compile"),
        ("in a mood to compile", "plain"),
        ("plain", "with bfloat16, in a mood to compile"),
        ("with bfloat16, in a mood to compile", "plain"),
        ("with bfloat16", "with a small cache"),
        ("with a small cache", "with bfloat16"),
    ],
)
def test_another_machine_or_mood_continues_the_bank(
    photo_folder: Folder,
    tmp_path: Path,
    save_photo: SavePhoto,
    machine: Callable[..., None],
    first: str,
    later: str,
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    machine(**MACHINES[first])
    begun = run(data, cache, limit=9)
    machine(**MACHINES[later])
    assert run(data, cache, limit=9).pushed == 0
    save_photo(data / "red" / "added.png", seed=5, channel=2)
    whole = run(data, cache)
    assert (whole.bank, whole.rows, whole.pushed) == (begun.bank, 19, 10)
    cut = run(data, cache, "block5_pool")
    assert (cut.bank, cut.pushed) == (begun.bank, 19)
    assert Bank.open(cut.bank).cuts == ("block5_pool", "fc7")
    assert len(BankStore(cache / "banks").paths()) == 1


@pytest.mark.slow
def test_what_is_given_explicitly_is_a_bank_of_its_own_and_told(
    photo_folder: Folder, tmp_path: Path, machine: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    machine()
    plain = run(data, cache).bank
    for options, said in (
        ({"precision": "bfloat16"}, "its precision was float32, is bfloat16"),
        ({"compile": "on"}, "is float32+compiled"),
        ({"batch_size": 3}, "is 3"),
        ({"dtype": "float32"}, "its dtype was float16, is float32"),
    ):
        caplog.clear()
        made = run(data, cache, **options)  # type: ignore[arg-type]
        assert made.bank != plain
        assert "a new bank: no row of" in caplog.text
        assert said in caplog.text
    # each is continued by what fits it, and by nothing else
    for options in (
        {"precision": "bfloat16"},
        {"compile": "on"},
        {"batch_size": 3},
        {"dtype": "float32"},
        {},
    ):
        assert run(data, cache, **options).pushed == 0  # type: ignore[arg-type]
    assert len(BankStore(cache / "banks").paths()) == 5


@pytest.mark.slow
def test_of_several_the_one_with_most_of_what_is_asked_is_continued(
    photo_folder: Folder, tmp_path: Path, machine: Callable[..., None]
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    machine()
    one = run(data, cache, "fc7", batch_size=3)
    other = run(data, cache, "block5_pool", batch_size=5)
    for cut, bank in (("fc7", one.bank), ("block5_pool", other.bank), ("fc7", one.bank)):
        found = run(data, cache, cut)
        assert (found.bank, found.pushed) == (bank, 0)


@pytest.mark.slow
def test_a_bank_that_cannot_be_computed_here_is_still_read(
    photo_folder: Folder,
    tmp_path: Path,
    save_photo: SavePhoto,
    machine: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    machine(repays=True)
    compiled = run(data, cache)
    assert Bank.open(compiled.bank).key.precision == "float32+compiled"
    machine()
    monkeypatch.setattr(choosing, "cannot_compile", lambda device: "there is no C++ compiler")
    again = run(data, cache)
    assert (again.bank, again.pushed) == (compiled.bank, 0)
    save_photo(data / "red" / "added.png", seed=5, channel=2)
    caplog.clear()
    other = run(data, cache)
    assert (other.pushed, Bank.open(other.bank).key.precision) == (19, "float32")
    assert f"bank photos/{compiled.bank.name} cannot be continued here: there is no C++" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_how_far_bfloat16_is_off_is_said_once_for_each_bank(
    photo_folder: Folder,
    tmp_path: Path,
    save_photo: SavePhoto,
    machine: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    precision: str,
) -> None:
    data, cache = photo_folder(), tmp_path / "cache"
    caplog.set_level(logging.WARNING, "featbank")
    machine(native=("bfloat16", "float32"))
    monkeypatch.setattr(choosing, "ERROR_LIMIT", 1e-6)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, cache, "fc7", "logits", precision=precision, progress=interrupt)
    assert caplog.text.count("bfloat16 changes the features of") == 1
    caplog.clear()
    first = run(data, cache, "fc7", "logits", precision=precision)
    save_photo(data / "red" / "added.png", seed=5, channel=2)
    for cuts in (("fc7", "logits"), ("fc7",), ("logits",)):
        assert run(data, cache, *cuts, precision=precision).bank == first.bank
    if precision == "auto":
        assert run(data, cache, "block5_pool").bank == first.bank
    assert "bfloat16" not in caplog.text
