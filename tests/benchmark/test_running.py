"""A benchmark measures everything, on the same images, and leaves nothing behind. No time is asserted."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from featbank.backbones import TruncatedNetwork
from featbank.benchmark import run_benchmark, running
from featbank.benchmark.results import SPREADS, floor_rate
from featbank.cli.bench import bench
from featbank.errors import InvalidInputError, UnknownNameError

Folder = Callable[..., Path]

#: What issue 3 asks `featbank bench --json` for.
WANTED = [
    "decode_ips",
    "forward_ips",
    "write_ips",
    "read_ips",
    "read_ratio_to_memmap",
    "end_to_end_ips",
    "floor_ips",
    "plain_ips",
    "ratio_to_floor",
    "ratio_to_plain",
    "compile_s",
    "device_name",
    "threads",
    "precision",
    "versions",
]


@pytest.mark.slow
def test_every_rate_is_measured_and_the_ratios_follow(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    cache = tmp_path / "new" / "cache"
    result = run_benchmark(
        "digits",
        backbone="minivgg",
        cuts=["block4_pool", "softmax"],
        weights="random",
        precision="float32",
        limit=64,
        repeats=2,
        baseline=True,
        plain_workers=0,
        neighbours=1,
        cache_dir=cache,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert list(cache.iterdir()) == []
    assert seen == [(number, 13) for number in range(1, 14)]
    assert (len(result.rounds), result.n_images, result.n_unreadable) == (2, 64, 0)
    assert dict(result.cuts) == {"block4_pool": (128, 2, 2), "logits": (10,)}
    assert result.row_bytes == 128 * 4 * 2 + 10 * 4
    found = result.to_dict()
    assert set(WANTED) <= set(found)
    for name in set(SPREADS) - {"eager_wait_s"}:
        low, median, high = (found[f"{name}_min"], found[name], found[f"{name}_max"])
        assert 0 < low <= high < math.inf, name
        if not name.startswith(("ratio", "floor", "read_ratio")):
            assert low <= median <= high, name
    assert found["compile_s"] is None
    assert found["neighbours"] == 1
    assert found["forward_ips"] == max(found["forward_configurations_ips"].values())
    assert found["floor_ips"] == pytest.approx(1 / (1 / found["forward_ips"] + 1 / found["decode_ips"]))
    assert found["ratio_to_floor"] == found["end_to_end_ips"] / found["floor_ips"]
    assert found["ratio_to_plain"] == found["end_to_end_ips"] / found["plain_ips"]
    assert found["read_ratio_to_memmap"] == found["read_ips"] / found["memmap_ips"]
    # the plain script did the same work
    assert 0 < found["plain_error"] < 1e-3
    for one in result.rounds:
        assert one.wait_s > one.setup_s
        forward_ips = one.forward_ips[result.forward_configuration]
        floor = floor_rate(one.decode_ips, forward_ips, one.write_ips, shared_cores=True)
        assert found["floor_ips_min"] <= floor <= found["floor_ips_max"]


@pytest.mark.slow
def test_images_that_cannot_be_read_are_left_out_of_every_rate(
    photo_folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = photo_folder(n_per_class=5)
    (data / "green" / "002.png").write_bytes(b"no image")
    (data / "red" / "copy.png").write_bytes((data / "red" / "001.png").read_bytes())
    result = run_benchmark(
        data,
        backbone="minivgg",
        cuts=["block2_pool"],
        weights="random",
        precision="float32",
        repeats=1,
        batch_size=4,
        baseline=True,
        plain_workers=0,
        cache_dir=tmp_path / "cache",
    )
    assert (result.n_images, result.n_unreadable) == (14, 1)
    assert result.plain_error is not None
    assert result.plain_error < 1e-3  # rows still stand beside each other
    # what the first extraction said is not said again by the others
    assert len([one for one in caplog.records if "RANDOM" in one.message]) == 1
    assert logging.getLogger("featbank.extraction").getEffectiveLevel() == logging.WARNING


@pytest.mark.slow
def test_each_round_pushes_every_image_once_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pushed: list[int] = []
    forward = TruncatedNetwork.forward

    def counting(self: TruncatedNetwork, batch: object) -> object:
        if batch.device.type != "meta":  # type: ignore[attr-defined]
            pushed.append(len(batch))  # type: ignore[arg-type]
        return forward(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(TruncatedNetwork, "forward", counting)
    monkeypatch.setattr(running, "_HELD_BYTES", 1)  # what is in memory stands for all there is
    settings = {"backbone": "minivgg", "cuts": ["fc7"], "weights": "random", "precision": "float32"}
    result = run_benchmark("digits", **settings, limit=24, batch_size=8, repeats=2, cache_dir=tmp_path)
    # 24 images are three batches: once to warm up; then in each round the extraction's and, for each
    # configuration of the forward pass, two to warm up each lane, and all timed
    lanes = [lanes for lanes, _ in running._configurations(torch.device("cpu")).values()]
    assert pushed == [8] * (3 + 2 * (3 + 2 * sum(lanes) + 3 * len(lanes)))
    assert result.plain_ips is result.ratio_to_plain is result.plain_error is None


@pytest.mark.slow
def test_a_compiler_that_slows_a_network_down_is_not_in_the_floor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in for the compiler and for the clock: a pass takes a second, a compiled one two."""
    compiled: list[int] = []

    def compiler(network: TruncatedNetwork) -> Callable[[torch.Tensor], object]:
        def push(batch: torch.Tensor) -> object:
            compiled.append(len(batch))
            return network(batch)

        return push

    def time_forward(
        push: Callable[[object], None], batches: list[object], *_: object, **__: object
    ) -> float:
        compiled.clear()
        push(batches[0])
        return 2.0 if compiled else 1.0

    monkeypatch.setattr("featbank.extraction.forward.cannot_compile", lambda device: None)
    monkeypatch.setattr("featbank.extraction.forward.compile_network", compiler)
    monkeypatch.setattr(running.stages, "compile_network", compiler)
    monkeypatch.setattr(running.stages, "time_forward", time_forward)
    settings = {"backbone": "minivgg", "cuts": ["fc7"], "weights": "random", "precision": "float32"}
    result = run_benchmark(
        "digits", **settings, compile="on", limit=8, batch_size=8, repeats=1, workers=1, cache_dir=tmp_path
    )
    *names, eager = result.to_dict()["forward_configurations_ips"]
    assert eager == result.forward_configuration == f"{names[-1]}, not compiled"
    assert result.precision == "float32+compiled"
    assert result.forward_ips.median == 8.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 0}, "repeats=0 must be at least 1"),
        ({"plain_workers": -1}, "plain_workers=-1 must be 0 or more"),
        ({"neighbours": -1}, "neighbours=-1 must be 0 or more"),
        ({"workers": 0}, "workers=0 must be at least 1"),
        ({"precision": "int8"}, "precision='int8' is not one of auto, float32, bfloat16, float16"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^{message}$"):
        run_benchmark(backbone="minivgg", cuts=["fc7"], limit=8, **options)  # type: ignore[arg-type]


def test_an_unknown_cut_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="block6_pool"):
        run_benchmark(backbone="minivgg", cuts=["block6_pool"], cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_without_one_readable_image_is_refused(photo_folder: Folder, tmp_path: Path) -> None:
    data = photo_folder(n_per_class=2)
    for number, path in enumerate(sorted(data.glob("*/*.png"))):
        path.write_bytes(b"no image %d" % number)
    with pytest.raises(InvalidInputError, match="none of the 6 images of 'photos' could be read"):
        run_benchmark(data, backbone="minivgg", cuts=["fc7"], precision="float32", cache_dir=tmp_path / "c")


def command(*arguments: str) -> str:
    app = typer.Typer()
    app.command("bench")(bench)
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.slow
def test_the_command_prints_one_json_object(tmp_path: Path) -> None:
    options = ("--weights", "random", "--limit", "10", "--repeats", "1", "--cache-dir", str(tmp_path))
    options += ("--neighbours", "1")
    found = json.loads(command("--json", *options))
    assert set(WANTED) <= set(found)
    assert found["cuts"] == {"fc7": [256]}  # the last one before the logits
    assert (found["n_images"], found["plain_ips"], found["neighbours"]) == (10, None, 1)


@pytest.mark.slow
def test_the_command_prints_a_table(tmp_path: Path) -> None:
    options = ("--weights", "random", "--limit", "10", "--repeats", "1", "--cache-dir", str(tmp_path))
    printed = command("--baseline", "--plain-workers", "0", "--cut", "block1_pool,block5_pool", *options)
    stages = ("decode", "forward", "write", "read", "numpy.memmap", "end to end", "floor", "plain script")
    lines = printed.splitlines()
    for stage in stages:
        assert any(line.startswith(stage) for line in lines), stage
    assert "block1_pool 32x16x16, block5_pool 128x1x1" in lines[0]
    assert "10 images of digits" in lines[1]
    assert any(line.startswith("end to end / plain") for line in lines)
