"""Backbones made of modules: traced or read by hooks, through extract, fit, predict and repair."""

from __future__ import annotations

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from featbank.backbones import Backbone, Preprocessing, largest_activation, truncate
from featbank.banks import Bank
from featbank.datasets import decode_image, open_dataset
from featbank.errors import InvalidInputError, MissingWeightsError, UnknownNameError, WeightsError
from featbank.extraction import ExtractionSettings, extract
from featbank.extraction.repairing import repair_bank
from featbank.fitting import fit_heads
from featbank.prediction import RunClassifier, predict

PREPROCESSING = {"image_size": 16, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x)) + x


class Branching(nn.Module):
    """torch.fx cannot trace it; it works in place, uses one part twice, and counts who runs."""

    def __init__(self, *, branch: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.twice = nn.ReLU()
        self.blocks = nn.ModuleList([Block(6), Block(6), Block(6)])
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout()
        self.head = nn.Linear(6, 4)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.stem(x))
        if not self.branch or x.sum() > -1:
            for block in self.blocks:
                x = block(x)
                x.mul_(0.5)  # overwrites what the block gave
        x = self.twice(self.norm(x))
        return self.head(self.drop(x.mean((2, 3))))


def module(seed: int = 0, **options: Any) -> Branching:
    torch.manual_seed(seed)
    made = Branching(**options)
    made.norm.running_mean = torch.rand(6)
    return made


def made(net: nn.Module, name: str = "mine") -> Backbone:
    return Backbone.from_module(net, name=name, preprocessing=PREPROCESSING)


def images(n: int = 3) -> Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_cuts_are_paths_where_torch_fx_does_not_trace() -> None:
    backbone = made(module())
    spec = backbone.spec
    assert spec.hooked
    assert spec.cut_names == (
        "stem",
        *(f"blocks.{one}" for one in range(3)),
        "norm",
        "drop",
        "logits",
        "softmax",
    )
    assert spec.cut("blocks.1").shape == (6, 8, 8)
    assert spec.cut("stem").macs == 6 * 27 * 64
    assert spec.cut("blocks.0").macs == 6 * 27 * 64 + 6 * 54 * 64
    assert spec.cut("logits").macs == 6 * 27 * 64 + 3 * 6 * 54 * 64 + 24
    assert spec.cut("blocks.2.conv").shape == (6, 8, 8)  # any other path is a cut too
    with pytest.raises(UnknownNameError, match=r"^unknown cut 'block.1' of backbone 'mine'; known: 'block"):
        spec.cut("block.1")
    with pytest.raises(InvalidInputError, match=r"^cut 'twice' of 'mine' runs 2 times in one pass; choose"):
        spec.cut("twice")
    network = truncate(backbone, ["logits", "blocks.1"])
    assert not network.is_traced
    assert network.cut_shapes == {"logits": (4,), "blocks.1": (6, 8, 8)}
    assert network.cut_macs == {cut: spec.cut(cut).macs for cut in network.cuts}
    assert network.macs == spec.cut("logits").macs
    assert largest_activation(backbone) == 6 * 8 * 8


def test_the_same_features_as_caught_in_the_whole_network() -> None:
    net = module().eval()
    backbone = made(net)
    cuts = ["logits", "stem", "blocks.0", "blocks.2", "blocks.1.conv", "norm"]
    network = truncate(backbone, cuts)
    caught: dict[str, Tensor] = {}
    parts = dict(net.named_modules())
    for cut in cuts[1:]:
        # a copy at once: the module works in place
        parts[cut].register_forward_hook(lambda _, given, out, cut=cut: caught.update({cut: out.clone()}))
    for part in net.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False
    with torch.inference_mode():
        caught["logits"] = net(images())
        for one in (network, copy.deepcopy(network)):  # a second device gets a copy
            features = one(images())
            assert list(features) == cuts
            assert all(torch.equal(features[cut], caught[cut]) for cut in cuts)


def test_several_threads_push_through_one_network_at_once() -> None:
    network = truncate(made(module()), ["stem", "blocks.2"])
    batches = [images(2) * number for number in range(1, 33)]
    with ThreadPoolExecutor(4) as threads, torch.inference_mode():
        alone = [network(one) for one in batches]

        def push(one: Tensor) -> dict[str, Tensor]:
            with torch.inference_mode():
                return network(one)

        together = list(threads.map(push, batches))
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one[cut], other[cut]) for cut in one)


class Remembering(nn.Module):
    """Keeps a tensor of this pass in the module, and takes long enough for others to come between."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        self.skip = self.conv(x)
        if x.sum() < -1e9:  # torch.fx cannot trace it
            return x
        time.sleep(0.002)
        return self.pool(self.skip)


def test_threads_do_not_share_what_a_module_keeps() -> None:
    network = truncate(made(Remembering()), ["pool"])
    batches = [images(2) * number for number in range(1, 17)]
    with ThreadPoolExecutor(4) as threads, torch.no_grad():
        alone = [network(one)["pool"] for one in batches]
        together = list(threads.map(lambda one: network(one)["pool"].detach(), batches))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    # copies of the threads go with their network
    doubled = network.double()(batches[0].double())["pool"]
    torch.testing.assert_close(doubled.float(), alone[0])


class Noisy(nn.Module):
    def __init__(self, *, is_traced: bool) -> None:
        super().__init__()
        self.conv, self.is_traced = nn.Conv2d(3, 4, 3), is_traced

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_traced and x.sum() < -1e9:
            return x
        return nn.functional.dropout(self.conv(x), training=True)


@pytest.mark.parametrize("is_traced", [True, False])
def test_a_module_that_draws_random_numbers_is_refused(is_traced: bool) -> None:
    with pytest.raises(InvalidInputError, match=r"^'mine' draws random numbers \(aten\.[a-z_.]+\) in eval"):
        made(Noisy(is_traced=is_traced))


def test_nothing_behind_the_deepest_cut_runs() -> None:
    ran: list[str] = []
    net = module()
    for path, part in net.named_modules():
        part.register_forward_hook(lambda _, given, out, path=path: ran.append(path))  # the copy has it too
    network = truncate(made(net), ["blocks.0.conv", "stem"])
    ran.clear()
    network(images())
    assert ran == ["stem", "twice", "blocks.0.conv"]


def test_the_callers_module_is_untouched() -> None:
    net = module().train()
    net.head.eval()
    calls: list[int] = []
    net.stem.register_forward_hook(lambda *given: calls.append(1))
    before = {name: one.clone() for name, one in net.state_dict().items()}
    modes = {name: part.training for name, part in net.named_modules()}
    hooks = {name: dict(part._forward_hooks) for name, part in net.named_modules()}
    for one in (net, made(net)):
        truncate(one, ["blocks.1", "head"], image_size=16)(images())
        for cut in ("nothing", "twice"):
            with pytest.raises((UnknownNameError, InvalidInputError)):
                truncate(one, [cut], image_size=16)
    assert {name: part.training for name, part in net.named_modules()} == modes
    assert {name: dict(part._forward_hooks) for name, part in net.named_modules()} == hooks
    assert all(part.inplace for part in net.modules() if isinstance(part, nn.ReLU) and part is not net.twice)
    assert all(one.requires_grad for one in net.parameters())
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
    # a pass that ends in an error leaves nothing behind either
    network = truncate(made(net), ["blocks.1"])
    with pytest.raises(RuntimeError):
        network(torch.rand(1, 5, 16, 16))
    assert network(images())["blocks.1"].shape == (3, 6, 8, 8)
    assert net(images()).requires_grad


def test_a_backbone_does_not_change_when_its_module_is_trained_on() -> None:
    net = module()
    backbone = made(net)
    with torch.no_grad():
        net.stem.weight.add_(1)
    assert not torch.equal(backbone.module.get_parameter("stem.weight"), net.stem.weight)


def test_a_module_that_is_traced_has_nodes() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(784, 5))
    backbone = made(net)
    assert not backbone.spec.hooked
    assert backbone.spec.cut_names == ("0", "1", "2", "logits", "softmax")
    features = truncate(backbone, ["0", "logits"])(images())
    torch.testing.assert_close(features["0"], net[0](images()))
    torch.testing.assert_close(features["logits"], net(images()))
    maps = made(nn.Sequential(nn.Conv2d(3, 4, 3)), "maps").spec
    assert maps.cut_names == ("output",)  # no vector, so no logits
    assert maps.cut("output").shape == (4, 14, 14)


def test_other_numbers_and_other_architectures_are_other_weights() -> None:
    digests = {made(module()).weights_sha256}
    assert {made(module().train().half().float()).weights_sha256} != digests
    assert made(module().train()).weights_sha256 in digests
    digests |= {made(module(1)).weights_sha256, made(module(branch=False)).weights_sha256}
    gelu = module()
    gelu.twice = nn.GELU()
    assert made(gelu).weights_sha256 not in digests

    class Functional(nn.Module):
        def __init__(self, act: Any) -> None:
            super().__init__()
            self.fc, self.act = nn.Linear(768, 2), act

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.fc(x.flatten(1)))

    first = Functional(torch.relu)
    second = Functional(torch.sigmoid)
    second.load_state_dict(first.state_dict())
    assert made(first).weights_sha256 != made(second).weights_sha256


class Flexible(nn.Module):
    """Wraps a layer of torch and a setting; traced or not."""

    def __init__(self, layer: nn.Module, scale: Any = 2, *, is_traced: bool = True) -> None:
        super().__init__()
        self.layer, self.scale, self.is_traced = layer, scale, is_traced

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)[:, :, :64]
        if not self.is_traced and x.sum() < -1e9:
            return x
        return self.after(self.layer(x))

    def after(self, x: Any) -> Tensor:
        return (x[0] if isinstance(x, tuple) else x) * self.scale


class Attending(nn.Module):
    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(64, n_heads)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)[:, :, :64]
        return self.attend(x, x, x)[0]


class Shifted(Flexible):
    def after(self, x: Any) -> Tensor:
        return x + self.scale


class Lowered(Flexible):
    def after(self, x: Any) -> Tensor:
        return x - self.scale


def encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(64, 4, 32, batch_first=True, **options)


def renamed(kind: type) -> type:
    return type("Same", (kind,), {"__module__": "same"})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: encoder(), lambda: encoder(norm_first=True)),
        (lambda: encoder(), lambda: encoder(activation="gelu")),
        (lambda: Attending(4), lambda: Attending(8)),
        (lambda: Flexible(nn.Identity(), torch.ones(64)), lambda: Flexible(nn.Identity(), torch.zeros(64))),
        (
            lambda: Flexible(nn.Linear(64, 3), 2, is_traced=False),
            lambda: Flexible(nn.Linear(64, 3), 3, is_traced=False),
        ),
        (
            lambda: renamed(Shifted)(nn.Linear(64, 3), is_traced=False),
            lambda: renamed(Lowered)(nn.Linear(64, 3), is_traced=False),
        ),
    ],
    ids=["norm_first", "activation", "heads", "tensor", "setting", "code"],
)
def test_modules_that_compute_other_numbers_have_other_digests(one: Any, other: Any) -> None:
    def digest(build: Any) -> str:
        torch.manual_seed(0)
        net = build()
        net = net if hasattr(net, "after") or isinstance(net, Attending) else Flexible(net)
        return made(net).weights_sha256

    assert digest(one) == digest(one)
    assert digest(one) != digest(other)


@pytest.mark.parametrize(
    ("name", "preprocessing", "said"),
    [
        ("vgg16", PREPROCESSING, "name='vgg16' is that of a backbone of torchvision; choose another"),
        (
            "densenet121",
            PREPROCESSING,
            "name='densenet121' is that of a backbone",
        ),
        ("a/b", PREPROCESSING, "name='a/b' cannot name a bank"),
        ("mine", {"mean": [0, 0, 0]}, "says no image_size; pass dict(image_size=32, mean="),
        ("mine", {"image_size": 16, "mode_": 1}, "preprocessing has no 'mode_'; known: 'mode', "),
        ("mine", {"image_size": 16, "std": [0, 1, 1]}, "no std of 0 or less"),
        ("mine", Preprocessing(16, 16, interpolation="bicubic"), None),
    ],
)
def test_what_is_refused(name: str, preprocessing: Any, said: str | None) -> None:
    if said is None:
        assert Backbone.from_module(module(), name=name, preprocessing=preprocessing)
        return
    with pytest.raises(InvalidInputError) as caught:
        Backbone.from_module(module(), name=name, preprocessing=preprocessing)
    assert said in str(caught.value)


def test_classes_are_those_of_the_logits() -> None:
    with pytest.raises(InvalidInputError, match=r"^2 class_names for 4 logits of 'mine'$"):
        Backbone.from_module(module(), name="mine", preprocessing=PREPROCESSING, class_names=["a", "b"])
    with pytest.raises(InvalidInputError, match=r"^module='vgg16' is no torch.nn.Module$"):
        Backbone.from_module("vgg16", name="mine", preprocessing=PREPROCESSING)  # type: ignore[arg-type]


def test_settings_take_a_backbone_and_no_module() -> None:
    with pytest.raises(InvalidInputError, match=r"^backbone=Branching is neither a name nor a Backbone; "):
        ExtractionSettings(backbone=module(), cuts=["stem"])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"^weights='x.pth': backbone 'mine' has its weights"):
        ExtractionSettings(backbone=made(module()), cuts=["stem"], weights="x.pth")


def test_a_module_of_ones_own_from_extract_to_predict(tmp_path: Path) -> None:
    backbone = made(module())
    options: dict[str, Any] = {"cuts": ["blocks.1", "logits"], "limit": 60, "cache_dir": tmp_path}
    options |= {"split": "0.6,0.2,0.2", "precision": "float32"}
    result = extract("digits", backbone=backbone, **options)
    assert (result.pushed, result.bank.name[:5]) == (60, "mine-")
    again = extract("digits", backbone=made(module()), **options)
    assert (again.pushed, again.bank) == (0, result.bank)
    bank = Bank.open(result.bank)
    assert bank.provenance["weights"] == f"module:{Branching.__module__}.Branching"
    digits = open_dataset("digits")
    row = bank.manifest.ids[7]
    pixels = decode_image(digits.read(digits.ids.index(row)))
    photo = tmp_path / "photo.png"
    Image.fromarray(np.asarray(pixels)).save(photo)

    quick: dict[str, Any] = {"heads": ["logreg"], "repeats": 1, "samples_per_class": 1, "cache_dir": tmp_path}
    assert fit_heads(bank, cuts=["softmax"], **quick).run.heads()
    fitted = fit_heads(bank, cuts=["blocks.1"], **quick)
    (answer,) = predict(fitted.run, [photo], backbone=made(module()), cache_dir=tmp_path)
    assert answer.error is None
    classifier = RunClassifier(fitted.run, backbone=backbone)
    features = classifier.features(classifier.pixels(photo)[None])
    np.testing.assert_allclose(features[0], bank["blocks.1"][7].reshape(-1).astype(np.float32), rtol=2e-3)

    said = r"^backbone 'mine' was made of a module, '.*Branching', which only its owner can build: pass b"
    with pytest.raises(MissingWeightsError, match=said):
        predict(fitted.run, [photo], cache_dir=tmp_path)
    for other in (made(module(1)), made(module(branch=False)), made(module(), "yours")):
        with pytest.raises(
            WeightsError,
            match=r"^run '.*' was made with 'mine', weights 'module:.*; give the same backbone w",
        ):
            predict(fitted.run, [photo], backbone=other, cache_dir=tmp_path)

    (shard,) = (result.bank / "blocks.1").glob("*.h5")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(MissingWeightsError, match=said):
        repair_bank(result.bank)
    with pytest.raises(InvalidInputError, match=r"cannot be repaired here, .*: weights_sha256 was '"):
        repair_bank(result.bank, backbone=made(module(1)))
    assert repair_bank(result.bank, backbone=made(module())).report.ok
    assert shard.read_bytes() == whole
