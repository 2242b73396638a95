"""One network really compiled: the same features, under a name of their own, the same bits on resuming."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from featbank.backbones import TruncatedNetwork
from featbank.banks import Bank
from featbank.extraction import ExtractionResult, extract
from featbank.extraction.forward import cannot_compile, compile_network

pytestmark = pytest.mark.skipif(
    cannot_compile(torch.device("cpu")) is not None, reason=f"{cannot_compile(torch.device('cpu'))}"
)


def run(data: Path, cache: Path, *cuts: str, compile: str = "auto") -> ExtractionResult:
    settings = {"backbone": "minivgg", "weights": "random", "precision": "float32", "batch_size": 4}
    return extract(data, cuts=cuts, cache_dir=cache, compile=compile, **settings)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own, which are not ours to mend
def test_a_compiled_network_gives_the_same_features_under_another_name(
    photo_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compilations = []

    def counted(network: TruncatedNetwork) -> Callable[..., dict[str, torch.Tensor]]:
        compilations.append(network.cuts)
        return compile_network(network)

    monkeypatch.setattr("featbank.extraction.forward.compile_network", counted)
    data, cache = photo_folder(), tmp_path / "cache"
    compiled = Bank.open(run(data, cache, "block3_pool", "fc7", compile="on").bank)
    assert compilations == [("block3_pool", "fc7")]
    eager = Bank.open(run(data, cache, "block3_pool", "fc7", compile="off").bank)
    assert compiled.path != eager.path
    assert compiled.key.differences(eager.key) == {"precision": ("float32+compiled", "float32")}
    for cut in ("block3_pool", "fc7"):
        assert compiled.facts(cut)["precision_error"] < 1e-5
        np.testing.assert_allclose(compiled.features(cut), eager.features(cut), rtol=2e-3, atol=1e-4)

    # what was begun compiled goes on compiled, with nothing to profile, and ends in the same bytes
    lost = next((compiled.path / "fc7").glob("*.h5"))
    before = lost.read_bytes()
    shutil.rmtree(eager.path)
    lost.unlink()
    again = run(data, cache, "block3_pool", "fc7")
    assert again.bank == compiled.path
    assert again.pushed == 18
    assert lost.read_bytes() == before
    assert len(compilations) > 1
