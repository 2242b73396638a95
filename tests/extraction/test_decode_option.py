"""Decoding on the device is asked for, is another bank, and goes the whole way: extraction, repair, bench."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featbank.banks import Bank
from featbank.benchmark import run_benchmark
from featbank.cli import main
from featbank.datasets.decode_pool import decoder_name
from featbank.errors import InvalidInputError
from featbank.extraction import choosing, extract, repair_bank
from featbank.extraction.jpeg_decoder import open_jpeg_decoder

CUT = "block1_pool"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve smooth JPEGs of two classes, and one PNG."""
    for number in range(12):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((60, 50), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.jpg", quality=90)
    image.save(tmp_path / "photos" / "a" / "other.png")
    return tmp_path / "photos"


@pytest.fixture
def _cuda_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the CPU stand for a device that decodes: all is as there, but for streams and nvJPEG."""

    def choose(decode: str, device: torch.device) -> object:
        if decode == "cpu":
            return None
        decoder = open_jpeg_decoder(device)
        decoder.name = f"nvjpeg-{decoder.name}"
        return decoder

    monkeypatch.setattr(choosing, "choose_jpeg_decoder", choose)


def run(folder: Path, cache: Path, **options: object) -> Bank:
    settings = {"backbone": "minivgg", "weights": "random", "cuts": [CUT], "batch_size": 8, "workers": 2}
    return Bank.open(extract(folder, cache_dir=cache, device="cpu", **{**settings, **options}).bank)


@pytest.mark.slow
@pytest.mark.usefixtures("_cuda_is_the_cpu")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_is_another_bank_of_nearly_the_same_features(photos, tmp_path, precision) -> None:
    plain = run(photos, tmp_path / "cache", precision=precision, compile="off")
    device = run(photos, tmp_path / "cache", precision=precision, compile="off", decode="cuda")
    assert plain.path != device.path
    assert plain.key.decoder == decoder_name()
    assert device.key.decoder.startswith("nvjpeg-")
    assert device.manifest.ids == plain.manifest.ids
    assert device.manifest.statuses.tolist() == plain.manifest.statuses.tolist()
    wanted, found = plain[CUT].read(range(13)), device[CUT].read(range(13))
    distance = np.linalg.norm((found - wanted).astype(np.float64)) / np.linalg.norm(wanted.astype(np.float64))
    assert distance < 0.01
    again = extract(
        photos, backbone="minivgg", weights="random", cuts=[CUT], batch_size=8, workers=2,
        cache_dir=tmp_path / "cache", device="cpu", precision=precision, compile="off", decode="cuda",
    )  # fmt: skip
    assert (again.pushed, again.bank) == (0, device.path)


def test_it_needs_a_device_that_can(photos, tmp_path, capsys) -> None:
    with pytest.raises(InvalidInputError, match="decode='cuda' needs a CUDA device, and the device is 'cpu'"):
        run(photos, tmp_path / "cache", decode="cuda")
    with pytest.raises(InvalidInputError, match="decode='gpu' is not one of cpu, cuda"):
        run(photos, tmp_path / "cache", decode="gpu")
    with pytest.raises(SystemExit) as ended:
        main(["extract", str(photos), "--cut", CUT, "--device", "cpu", "--decode", "cuda"])
    assert ended.value.code == 2
    assert "use decode='cpu'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("_cuda_is_the_cpu")
def test_a_bank_is_repaired_by_the_decoder_that_made_it(photos, tmp_path, monkeypatch) -> None:
    bank = run(photos, tmp_path / "cache", precision="float32", compile="off", decode="cuda")
    shard = next((bank.path / CUT).glob("*.h5"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-50])
    with pytest.raises(InvalidInputError, match=r"decoder was 'nvjpeg-.*', is 'pillow-"):
        repair_bank(bank.path, data=photos, device="cpu")
    opened = choosing.choose_jpeg_decoder
    monkeypatch.setattr(choosing, "choose_jpeg_decoder", lambda *_: opened("cuda", torch.device("cpu")))
    assert repair_bank(bank.path, data=photos, device="cpu").report.ok
    assert next((bank.path / CUT).glob("*.h5")).read_bytes() == whole


@pytest.mark.slow
@pytest.mark.usefixtures("_cuda_is_the_cpu")
def test_a_benchmark_measures_it(photos) -> None:
    result = run_benchmark(
        photos, backbone="minivgg", cuts=[CUT], weights="random", repeats=1, batch_size=40, workers=2,
        device="cpu", precision="float32", compile="off", decode="cuda",
    )  # fmt: skip
    assert result.n_images == 13
    assert result.versions["decoder"].startswith("nvjpeg-")
