"""The plain script computes the whole network, and sees at its hooks what featbank keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featbank.backbones import load_backbone, truncate
from featbank.benchmark._plain import PlainScript, _watched
from featbank.datasets import Dataset, decode_image, open_dataset

Folder = Callable[..., Path]


def features_of(plain: PlainScript, cuts: list[str]) -> dict[str, np.ndarray]:
    batches = list(plain.features())
    return {cut: np.concatenate([one for name, _, one in batches if name == cut]) for cut in cuts}


def expected(backbone_name: str, cuts: list[str], dataset: Dataset, indices: list[int]) -> dict[str, Tensor]:
    backbone = load_backbone(backbone_name, weights="random")
    geometry = backbone.preprocessing.apply_geometry
    images = np.stack([geometry(decode_image(dataset.read(index))) for index in indices])
    with torch.inference_mode():
        found: dict[str, Tensor] = truncate(backbone, cuts)(
            backbone.preprocessing.normalise(torch.from_numpy(images))
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cuts"),
    [
        ("minivgg", ["block3_pool", "fc6"]),
        ("resnet18", ["avgpool", "layer4"]),
        # an in-place ReLU follows this node
        ("shufflenet_v2_x0_5", ["conv1.1"]),
    ],
)
def test_hooks_see_what_the_truncated_network_gives(name: str, cuts: list[str], photo_folder: Folder) -> None:
    dataset = open_dataset(photo_folder(n_per_class=1))
    indices = [2, 0, 1]
    backbone = load_backbone(name, weights="random")
    plain = PlainScript(backbone, cuts, dataset, indices, device=torch.device("cpu"), batch_size=2, workers=0)
    plain.warm_up()
    assert {len(found) for found in features_of(plain, cuts).values()} == {2}  # one batch
    assert plain.run() > 0
    wanted = expected(name, cuts, dataset, indices)
    for cut, found in features_of(plain, cuts).items():
        torch.testing.assert_close(torch.from_numpy(found), wanted[cut], rtol=1e-3, atol=1e-4)
    plain.clear()
    assert list(plain.features()) == []


@pytest.mark.slow
def test_a_loading_process_gives_the_same(photo_folder: Folder) -> None:
    dataset = open_dataset(photo_folder(n_per_class=1))
    found = []
    for workers in (0, 1):
        plain = PlainScript(
            load_backbone("minivgg", weights="random"),
            ["fc7"],
            dataset,
            [0, 1, 2],
            device=torch.device("cpu"),
            batch_size=2,
            workers=workers,
        )
        plain.run()
        found.append(features_of(plain, ["fc7"])["fc7"])
    np.testing.assert_array_equal(*found)


class _Two(nn.Module):
    """A sum between modules, and ReLUs that overwrite."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Linear(3, 2)

    def forward(self, batch: Tensor) -> Tensor:
        summed = self.relu(self.first(batch)) + batch
        passed: Tensor = self.last(self.relu(summed))
        return passed


@pytest.mark.parametrize("nodes", [("first", "last"), ("first", "add"), ("relu_1", "last")])
def test_what_is_kept_is_not_overwritten_and_the_whole_network_runs(nodes: tuple[str, str]) -> None:
    module = _Two().eval()
    kept: dict[str, Tensor] = {}
    watched = _watched(
        module, {node: node for node in nodes}, lambda cut, output: kept.update({cut: output.clone()})
    )
    batch = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = watched(batch)
        first = nn.functional.linear(batch, module.first.weight, module.first.bias)
        summed = first.relu() + batch
        wanted = {"first": first, "add": summed, "relu_1": summed.relu()}
        wanted["last"] = nn.functional.linear(summed.relu(), module.last.weight, module.last.bias)
    assert set(kept) == set(nodes)
    for node in nodes:
        torch.testing.assert_close(kept[node], wanted[node])
    torch.testing.assert_close(output, wanted["last"])
