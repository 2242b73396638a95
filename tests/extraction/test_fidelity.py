"""float32 is what torchvision's own network and transform give, on real photographs with real weights."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

from featbank.banks import Bank
from featbank.extraction import extract

#: Cut -> module of torchvision's network to read; its average pooling is a function, not a module.
CUTS = {
    "features.6": "features.6",
    "features.17": "features.17",
    "avgpool": "features",
    "logits": "classifier",
}


@pytest.mark.slow
@pytest.mark.shared
def test_float32_agrees_with_hooks_in_the_untouched_network(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "caltech101-32"
    weights = shared / "weights" / "mobilenet_v2-imagenet1k.safetensors"
    done = extract(
        data,
        backbone="mobilenet_v2",
        weights=weights,
        cuts=list(CUTS),
        precision="float32",
        dtype="float32",
        limit=24,
        cache_dir=tmp_path,
    )
    bank = Bank.open(done.bank)
    network = mobilenet_v2()
    network.load_state_dict(load_file(weights))
    network.eval()
    seen: dict[str, torch.Tensor] = {}
    for cut, name in CUTS.items():
        network.get_submodule(name).register_forward_hook(
            lambda module, args, out, cut=cut: seen.__setitem__(cut, out.clone())
        )
    transform = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    apart = dict.fromkeys(CUTS, 0.0)
    for row, name in enumerate(bank.manifest.ids):
        with Image.open(data / os.fsdecode(name)) as image, torch.inference_mode():
            network(transform(image.convert("RGB"))[None])
        seen["avgpool"] = seen["avgpool"].mean(dim=(2, 3))
        for cut in CUTS:
            exact = seen[cut][0].numpy().ravel()
            found = bank.features(cut, [row])[0].ravel()
            apart[cut] = max(apart[cut], float(np.linalg.norm(found - exact) / np.linalg.norm(exact)))
    assert max(apart.values()) <= 1e-5, apart
