"""Values beyond float16: refused, stored in float32, or clipped; always counted, never silent."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featbank.backbones import TruncatedNetwork
from featbank.banks import Bank
from featbank.engines._ray import called
from featbank.errors import FeatureOverflowError, InvalidInputError
from featbank.extraction import extract
from featbank.extraction.settings import as_stored
from featbank.extraction.storing import CutOverflowError

Folder = Callable[..., Path]


def run(data: Path, cache: Path, **options: Any) -> Any:
    options = {
        "cuts": ("block5_pool", "fc7"),
        "weights": "random",
        "precision": "float32",
        "batch_size": 4,
        **options,
    }
    return extract(data, backbone="minivgg", cache_dir=cache, **options)


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch, batch_by_batch: None) -> Callable[..., None]:
    """Multiply what comes out at ``fc7``, from the given forward on."""
    forward = TruncatedNetwork.forward

    def scale(factor: float, begin: int = 0) -> None:
        count = [0]

        def scaling(self: TruncatedNetwork, batch: torch.Tensor) -> dict[str, torch.Tensor]:
            values = forward(self, batch)
            if batch.device.type != "meta":
                count[0] += 1
                if count[0] > begin and "fc7" in values:
                    values["fc7"] = values["fc7"] * factor
            return values

        monkeypatch.setattr(TruncatedNetwork, "forward", scaling)

    return scale


def factor_for(data: Path, cache: Path) -> float:
    """So large that some values of ``fc7`` overflow, and not all."""
    values = Bank.open(run(data, cache / "plain", dtype="float32").bank).features("fc7")
    high = np.unique(values[values > np.quantile(values[values > 0], 0.8)].astype(np.float64))
    gap = int(np.argmax(np.diff(high) / high[1:]))  # the limit falls where no value is near
    return float(65504 / ((high[gap] + high[gap + 1]) / 2))


def test_an_overflow_is_an_error_that_says_what_to_do(
    photo_folder: Folder, tmp_path: Path, scaled: Callable[..., None]
) -> None:
    scaled(1e7)
    with pytest.raises(FeatureOverflowError) as caught:
        run(photo_folder(), tmp_path / "cache")
    assert str(caught.value).endswith(
        "float16 ends at 6.55e+04; this shard was not stored: use --on-overflow float32 (this cut alone), "
        "--dtype float32, or --on-overflow clip"
    )


@pytest.mark.slow
def test_a_cut_that_overflows_is_stored_in_float32_all_of_it(
    photo_folder: Folder, tmp_path: Path, scaled: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    data = photo_folder()
    want = Bank.open(run(data, tmp_path / "want", dtype="float32").bank).features("fc7")
    scaled(1e7, begin=2)  # two shards are stored in float16 by then
    result = run(data, tmp_path / "cache", on_overflow="float32")
    bank = Bank.open(result.bank)
    assert (bank["fc7"].dtype, bank["block5_pool"].dtype) == (np.float32, np.float16)
    assert (result.rows, result.pushed, result.skipped) == (18, 18, 0)
    assert bank.verify().findings == []
    np.testing.assert_array_equal(bank.features("fc7"), want * np.float32(1e7))
    assert (
        "'fc7' is stored in float32, all of it, what was there in float16 is extracted again" in caplog.text
    )
    assert bank.facts("fc7")["on_overflow"] == "float32"
    assert "on_overflow" not in bank.facts("block5_pool")
    assert bank.facts("fc7")["max_abs"] == float(np.abs(bank.features("fc7")).max()) > 65504


@pytest.mark.slow
def test_a_cut_that_was_widened_stays_wide(
    photo_folder: Folder, tmp_path: Path, scaled: Callable[..., None], save_photo: Callable[..., None]
) -> None:
    data = photo_folder()
    scaled(1e7)
    run(data, tmp_path / "cache", on_overflow="float32")
    save_photo(data / "blue" / "new.png", seed=9)
    result = run(data, tmp_path / "cache")  # the policy is error: no value of a float32 cut is an overflow
    assert (result.pushed, result.skipped) == (1, 18)
    bank = Bank.open(result.bank)
    assert bank["fc7"].dtype == np.float32
    assert bank.facts("fc7")["on_overflow"] == "float32"
    assert np.isfinite(bank.features("fc7")).all()


@pytest.mark.slow
def test_clipped_values_are_counted_exactly_told_and_in_a_bank_of_their_own(
    photo_folder: Folder, tmp_path: Path, scaled: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    data = photo_folder()
    factor = factor_for(data, tmp_path)
    plain = run(data, tmp_path / "cache").bank
    scaled(factor)
    exact = Bank.open(run(data, tmp_path / "exact", dtype="float32").bank).features("fc7")
    over = exact > 65504
    assert not ((exact > 65488) & ~over).any()  # these would be rounded to the limit
    result = run(data, tmp_path / "cache", on_overflow="clip")
    bank = Bank.open(result.bank)
    assert result.bank != plain
    assert bank.key.dtype == "float16-clip"
    facts = bank.facts("fc7")
    assert (facts["n_clipped"], facts["n_clipped_rows"]) == (int(over.sum()), int(over.any(axis=1).sum()))
    assert (facts["max_abs"], facts["n_nonfinite"]) == (65504, 0)
    assert bank.facts("block5_pool")["n_clipped"] == 0
    np.testing.assert_array_equal(bank.features("fc7"), np.clip(exact, None, 65504).astype(np.float16))
    assert (
        f"cut 'fc7': {over.sum()} values in {over.any(axis=1).sum()} of 18 images are beyond float16 and "
        "were clipped to +-65504; they are not what the network gave"
    ) in caplog.text


@pytest.mark.slow
def test_an_interrupted_run_that_clips_counts_all_of_it(
    photo_folder: Folder, tmp_path: Path, scaled: Callable[..., None]
) -> None:
    data = photo_folder()
    scaled(factor_for(data, tmp_path))
    whole = Bank.open(run(data, tmp_path / "whole", on_overflow="clip").bank).facts("fc7")

    def interrupt(done: int, total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "cache", on_overflow="clip", progress=interrupt)
    resumed = run(data, tmp_path / "cache", on_overflow="clip")
    assert 0 < resumed.pushed < 18
    facts = Bank.open(resumed.bank).facts("fc7")
    its_own = {"duration_s": 0, "passes": ""}
    assert {**facts, **its_own} == {**whole, **its_own}
    assert facts["n_clipped"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "clip", "error"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_finite_number_is_an_error_under_every_policy(
    photo_folder: Folder, tmp_path: Path, scaled: Callable[..., None], policy: str, value: float
) -> None:
    scaled(value)
    with pytest.raises(FeatureOverflowError, match="it is not finite"):
        run(photo_folder(n_per_class=2), tmp_path / "cache", on_overflow=policy)


def test_a_policy_that_does_not_exist(photo_folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        run(photo_folder(n_per_class=2), tmp_path / "cache", on_overflow="ignore")
    assert str(caught.value) == "on_overflow='ignore' is not one of error, float32, clip"


def test_what_a_bank_would_give_back() -> None:
    values = np.float32([[0.1, -70000, 70000]])
    np.testing.assert_array_equal(as_stored(values, "fc7", "float32"), values)
    np.testing.assert_array_equal(as_stored(values, "logits", "float16"), values)
    np.testing.assert_array_equal(as_stored(values, "fc7", "float16", cut_dtype="float32"), values)
    clipped = as_stored(values, "fc7", "float16-clip")
    np.testing.assert_array_equal(clipped, np.float32([[np.float16(0.1), -65504, 65504]]))
    with pytest.raises(
        FeatureOverflowError, match=r"'fc7' of an image reaches 7e\+04, float16 ends at 6.55e\+04"
    ):
        as_stored(values, "fc7", "float16")
    for dtype in ("float16", "float16-clip", "float32"):
        with pytest.raises(FeatureOverflowError):
            as_stored(np.float32([[np.nan]]), "fc7", dtype)


@pytest.mark.slow
@pytest.mark.usefixtures("batch_by_batch")
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("stop_after", [4, 12, 16])
def test_bytes_depend_on_neither_workers_nor_where_a_run_stopped(
    photo_folder: Folder, tmp_path: Path, workers: int, stop_after: int
) -> None:
    data = photo_folder()
    whole = run(data, tmp_path / "whole", workers=1).bank

    def interrupt(done: int, total: int) -> None:
        if done >= stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "cache", workers=workers, progress=interrupt)
    resumed = run(data, tmp_path / "cache", workers=4 - workers)
    assert resumed.pushed < 18

    def files(bank: Path) -> dict[str, bytes]:
        return {str(one.relative_to(bank)): one.read_bytes() for one in sorted(bank.rglob("*.h5"))}

    assert files(resumed.bank) == files(whole)


def test_it_arrives_from_other_processes_as_it_is() -> None:
    def overflow(_: object) -> None:
        raise CutOverflowError("'fc7' reaches 7e4; use --dtype float32", "fc7")

    kind, _, error, _ = called(overflow, pickle.dumps(None))
    assert (kind, type(error), error.cut) == ("error", CutOverflowError, "fc7")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.cut) == (CutOverflowError, str(error), "fc7")
