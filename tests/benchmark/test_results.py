"""Medians, spread and ratios are what the rounds say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from featbank.benchmark import BenchmarkResult, Round, Spread
from featbank.benchmark.results import floor_rate

ROUND = Round(
    decode_ips=400.0,
    forward_ips={"1 lane x 2 threads": 90.0, "2 lanes x 1 thread": 100.0},
    write_ips=50.0,
    read_ips=900.0,
    memmap_ips=1000.0,
    end_to_end_ips=72.0,
    plain_ips=24.0,
    setup_s=2.0,
    wait_s=9.0,
)


def result(
    *rounds: Round, device: str = "cpu", plain_workers: int | None = 1, compile_s: float | None = None
) -> BenchmarkResult:
    return BenchmarkResult(
        rounds=rounds,
        data="digits",
        backbone="minivgg",
        weights="random",
        cuts={"fc7": (256,)},
        row_bytes=512,
        macs=57_000_000,
        n_images=64,
        n_unreadable=0,
        image_size=32,
        batch_size=32,
        precision="float32",
        precision_errors={"fc7": 0.0},
        device=device,
        device_name="a processor",
        compile_s=compile_s,
        neighbours=1,
        threads=2,
        workers=2,
        plain_workers=plain_workers,
        plain_error=None if plain_workers is None else 1e-4,
        versions={"torch": "2"},
    )


def test_on_a_cpu_the_times_of_decoding_and_forward_add_up() -> None:
    one = result(ROUND)
    assert one.floor_ips.median == pytest.approx(1 / (1 / 100 + 1 / 400)) == 80
    assert one.ratio_to_floor.median == pytest.approx(0.9)


def test_on_a_card_the_slowest_stage_is_the_floor() -> None:
    one = result(ROUND, device="cuda:0")
    assert one.floor_ips.median == 50
    assert floor_rate(20, 100, 50, shared_cores=False) == 20
    assert floor_rate(200, 10, 50, shared_cores=False) == 10


def test_ratios_are_quotients_of_medians_and_their_spread_is_that_of_the_rounds() -> None:
    rounds = (
        ROUND,
        replace(ROUND, end_to_end_ips=36.0, plain_ips=10.0),
        replace(ROUND, end_to_end_ips=80.0, plain_ips=40.0),
    )
    ratio = result(*rounds).ratio_to_plain
    assert ratio == Spread(median=72 / 24, min=2.0, max=3.6)
    assert result(*rounds).end_to_end_ips == Spread(median=72.0, min=36.0, max=80.0)
    read = result(ROUND, replace(ROUND, read_ips=500.0)).read_ratio_to_memmap
    assert read == Spread(median=0.7, min=0.5, max=0.9)


def test_what_was_not_measured_is_null() -> None:
    found = result(replace(ROUND, plain_ips=None), plain_workers=None).to_dict()
    for name in ("plain_ips", "ratio_to_plain", "eager_wait_s"):
        assert found[name] is found[f"{name}_min"] is found[f"{name}_max"] is None
    assert found["plain_error"] is found["compile_s"] is None


def test_the_floor_is_taken_from_the_configuration_that_is_fastest_over_all_rounds() -> None:
    lucky = {"1 lane x 2 threads": 200.0, "2 lanes x 1 thread": 100.0}
    slow = {"1 lane x 2 threads": 50.0, "2 lanes x 1 thread": 80.0}
    one = result(ROUND, replace(ROUND, forward_ips=lucky), replace(ROUND, forward_ips=slow))
    assert one.forward_configuration == "2 lanes x 1 thread"
    assert one.forward_ips == Spread(100.0, 80.0, 100.0)
    # the second round's luck of the other configuration is in no floor
    assert one.floor_ips == Spread(1 / (1 / 100 + 1 / 400), 1 / (1 / 80 + 1 / 400), 1 / (1 / 100 + 1 / 400))
    assert one.ratio_to_floor.max == pytest.approx(72 * (1 / 80 + 1 / 400))
    assert one.to_dict()["forward_configurations_ips"] == {
        "1 lane x 2 threads": 90.0,
        "2 lanes x 1 thread": 100.0,
    }


def test_the_dictionary_is_flat_and_json() -> None:
    found = result(ROUND).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert (found["decode_ips"], found["decode_ips_min"], found["repeats"]) == (400.0, 400.0, 1)
    assert found["cuts"] == {"fc7": [256]}
    assert (found["forward_configuration"], found["neighbours"]) == ("2 lanes x 1 thread", 1)
    assert "rounds" not in found
