"""Checkpoints of trainers and self-supervised methods: the backbone is found by its names and shapes."""

from __future__ import annotations

import argparse
import copy
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models

from featbank.backbones import load_backbone, truncate
from featbank.banks import Bank
from featbank.errors import MissingWeightsError, WeightsError
from featbank.extraction import extract

NAME = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small torchvision network whose numbers are its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return models.get_model(NAME, weights=None).eval()


def other(network: nn.Module) -> nn.Module:
    """The same network with other numbers, such as a momentum encoder has."""
    made = copy.deepcopy(network)
    for one in made.parameters():
        one.data *= 0.9
    return made


class Holder(nn.Module):
    """A training module that holds networks under names."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def headless(network: nn.Module) -> nn.Module:
    made = copy.deepcopy(network)
    made.fc = nn.Identity()
    return made


def projected(network: nn.Module) -> nn.Module:
    made = copy.deepcopy(network)
    made.fc = nn.Sequential(nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 16))
    return made


def under(prefix: str, module: nn.Module) -> dict[str, Any]:
    return {prefix + name: one for name, one in module.state_dict().items()}


def trained(module: nn.Module) -> dict[str, Any]:
    """What an optimiser adds to a checkpoint."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for one in module.parameters():
        one.grad = torch.zeros_like(one)
    optimizer.step()
    return {
        "epoch": 3,
        "best": 0.5,
        "optimizer": optimizer.state_dict(),
        "arch": NAME,
        "lr_scheduler": {"last_epoch": 3},
    }


def lightning(module: nn.Module) -> dict[str, Any]:
    return {
        "epoch": 3,
        "global_step": 10,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": module.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best": torch.tensor(0.5)}},
        "optimizer_states": [torch.optim.SGD(module.parameters(), lr=0.1).state_dict()],
        "hyper_parameters": {"lr": 0.1},
    }


def byol(online: nn.Module, target: nn.Module) -> nn.Module:
    return Holder(
        net=online,
        online_encoder=Holder(net=online, projector=nn.Linear(3, 3)),
        target_encoder=Holder(net=target, projector=nn.Linear(3, 3)),
    )


#: How a checkpoint is made of the network; each holds all of it.
WHOLE = {
    "DataParallel": lambda one: nn.DataParallel(one).state_dict(),
    "compiled": lambda one: torch.compile(one).state_dict(),
    "DataParallel of compiled": lambda one: nn.DataParallel(torch.compile(one)).state_dict(),
    "compiled inside": lambda one: {
        k.replace("stage2.", "stage2._orig_mod."): v for k, v in one.state_dict().items()
    },
    "FSDP": lambda one: under("_fsdp_wrapped_module.", one),
    "torchvision's references": lambda one: {
        "model": nn.DataParallel(one).state_dict(),
        **trained(one),
        "args": argparse.Namespace(lr=0.1),
    },
    "torchvision's references, EMA": lambda one: {
        "model_ema": {"n_averaged": torch.tensor(3), **under("module.", one)}
    },
    "ImageNet example": lambda one: {"state_dict": nn.DataParallel(one).state_dict(), **trained(one)},
    "Lightning": lambda one: lightning(Holder(model=one)),
    "Lightning of compiled": lambda one: lightning(Holder(net=torch.compile(one))),
    "Lightning of DataParallel of compiled": lambda one: lightning(
        Holder(model=nn.DataParallel(torch.compile(one)))
    ),
    "Lightning, one network twice": lambda one: lightning(
        Holder(model=one, backbone=one, probe=nn.Linear(3, 3))
    ),
    "a network of one's own": lambda one: {"params": under("a.b.trunk.", one)},
    "DeepSpeed": lambda one: {"module": one.state_dict(), "dp_world_size": 2},
    "half of the names": lambda one: {"net": {"weights": under("network.", one)}, "note": "x"},
    "averaged": lambda one: torch.optim.swa_utils.AveragedModel(one).state_dict(),
}
#: Without the classifier.
HEADLESS = {
    "no classifier": lambda one: headless(one).state_dict(),
    "MoCo": lambda one: {
        "state_dict": {
            **under("module.encoder_q.", projected(one)),
            **under("module.encoder_k.", projected(other(one))),
            "module.queue": torch.zeros(4, 9),
        },
        **trained(one),
    },
    "MoCo v3": lambda one: {
        "state_dict": {
            **under("module.base_encoder.", projected(one)),
            **under("module.momentum_encoder.", projected(other(one))),
            "module.predictor.0.weight": torch.zeros(3),
        }
    },
    "SimSiam": lambda one: {
        "state_dict": {
            **under("module.encoder.", projected(one)),
            "module.predictor.0.weight": torch.zeros(3, 3),
        },
        **trained(one),
    },
    "SwAV": lambda one: under(
        "module.",
        Holder(
            **dict(headless(one).named_children()),
            projection_head=nn.Linear(3, 3),
            prototypes=nn.Linear(3, 2),
        ),
    ),
    "BYOL": lambda one: byol(headless(one), headless(other(one))).state_dict(),
    "Barlow Twins": lambda one: {
        "model": under("module.backbone.", headless(one)) | {"module.projector.0.weight": torch.zeros(3)},
        "epoch": 1,
    },
    "lightly's SimCLR": lambda one: lightning(
        Holder(backbone=nn.Sequential(*list(one.children())[:-1]), projection_head=nn.Linear(3, 3))
    ),
    "a sequence": lambda one: nn.Sequential(*list(one.children())[:-1]).state_dict(),
    "VISSL": lambda one: {
        "classy_state_dict": {
            "base_model": {"model": {"trunk": under("_feature_blocks.", headless(one)), "heads": {}}}
        },
        "phase_idx": 3,
    },
    "a detector": lambda one: {
        "model": {**under("backbone.body.", headless(one)), "rpn.head.conv.weight": torch.zeros(3)}
    },
    "a linear probe": lambda one: {
        "state_dict": {**under("feature_extractor.", headless(one)), "fc.weight": torch.zeros(5, 9)}
    },
}


def same(loaded: nn.Module, network: nn.Module) -> bool:
    wanted = {k: v for k, v in network.state_dict().items() if k[:3] != "fc."}
    found = loaded.state_dict()
    return all(torch.equal(found[name], one) for name, one in wanted.items())


@pytest.mark.slow
@pytest.mark.parametrize("how", WHOLE)
def test_the_whole_network_is_found(network: nn.Module, tmp_path: Path, how: str) -> None:
    path = tmp_path / "w.pth.tar"
    torch.save(WHOLE[how](copy.deepcopy(network)), path)
    backbone = load_backbone(NAME, weights=path)
    assert same(backbone.module, network)
    assert torch.equal(backbone.module.fc.weight, network.fc.weight)
    assert backbone.absent == frozenset()
    assert truncate(backbone, ["fc"], image_size=64).cuts


@pytest.mark.slow
@pytest.mark.parametrize("how", HEADLESS)
def test_a_network_without_its_classifier(network: nn.Module, tmp_path: Path, how: str, caplog: Any) -> None:
    path = tmp_path / "w.ckpt"
    torch.save(HEADLESS[how](copy.deepcopy(network)), path)
    backbone = load_backbone(NAME, weights=path)
    assert same(backbone.module, network)
    assert backbone.absent == {"fc.weight", "fc.bias"}
    assert backbone.class_names is None
    (said,) = [one for one in caplog.messages if "has no classifier" in one]
    assert "has no classifier of 'shufflenet" not in said


@pytest.mark.slow
def test_cuts_behind_an_absent_classifier_are_refused(network: nn.Module, tmp_path: Path) -> None:
    torch.save(headless(network).state_dict(), tmp_path / "w.ckpt")
    backbone = load_backbone(NAME, weights=tmp_path / "w.ckpt")
    features = truncate(backbone, ["mean"], image_size=64)(torch.ones(1, 3, 64, 64))["mean"]
    with torch.inference_mode():
        wanted = truncate(network, ["mean"], image_size=64)(torch.ones(1, 3, 64, 64))["mean"]
    assert torch.equal(features, wanted)
    with pytest.raises(WeightsError) as caught:
        truncate(backbone, ["mean", "fc"], image_size=64)
    assert str(caught.value) == (
        "weights 'w.ckpt' have no 'fc.bias', which 'logits' of 'shufflenet_v2_x0_5' needs: ask for cuts "
        "before the classifier, or give weights that have one"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix", [".pth", ".pt", ".pth.tar", ".ckpt", ".bin", ".tar", ".model", ".weights", ".t7", ""]
)
def test_any_suffix_will_do(network: nn.Module, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(network.state_dict(), path)
    assert same(load_backbone(NAME, weights=str(path)).module, network)


def test_safetensors_have_prefixes_too(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(
        {f"module.backbone.{k}": v for k, v in network.state_dict().items()} | {"head.weight": torch.ones(3)},
        path,
    )
    assert same(load_backbone(NAME, weights=path).module, network)


def test_a_folder_is_read_if_it_says_which_file(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="is a folder with no weights files; name the file"):
        load_backbone(NAME, weights=tmp_path)
    save_file(network.state_dict(), tmp_path / "b.safetensors")
    (tmp_path / "README.md").write_text("weights")
    assert same(load_backbone(NAME, weights=tmp_path).module, network)
    torch.save(other(network).state_dict(), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"2 weights files; name the file: 'a.pth', 'b.safetensors'"):
        load_backbone(NAME, weights=tmp_path)
    save_file(other(network).state_dict(), tmp_path / "model.safetensors")  # as Hugging Face calls it
    assert same(load_backbone(NAME, weights=tmp_path).module, other(network))
    (tmp_path / "a.pth").unlink()
    (tmp_path / "b.safetensors").rename(tmp_path / "pytorch_model.bin")  # both ways that it has
    assert same(load_backbone(NAME, weights=tmp_path).module, other(network))


def in_shards(network: nn.Module, folder: Path) -> dict[str, str]:
    """Write the weights as three safetensors files and the index of them; return what the index says."""
    state = network.state_dict()
    where = {
        name: f"model-{at * 3 // len(state) + 1:05}-of-00003.safetensors" for at, name in enumerate(state)
    }
    for file in set(where.values()):
        save_file({name: one for name, one in state.items() if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": where})
    )
    return where


@pytest.mark.parametrize("name", ["", "model.safetensors.index.json"])
def test_weights_in_several_files_are_one(network: nn.Module, tmp_path: Path, name: str) -> None:
    where = in_shards(network, tmp_path)
    loaded = load_backbone(NAME, weights=tmp_path / name)
    assert same(loaded.module, network)
    assert sorted(Path(one).name for one in loaded.weights_files) == sorted(set(where.values()))
    last = tmp_path / "model-00003-of-00003.safetensors"
    changed = {key: one * 0.5 for key, one in load_file(last).items() if one.is_floating_point()}
    save_file(load_file(last) | changed, last)  # any of them is part of the key
    assert load_backbone(NAME, weights=tmp_path / name).weights_sha256 != loaded.weights_sha256


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("[]", "is no index of safetensors files"),
        ('{"weight_map": {}}', "is no index of safetensors files"),
        ('{"weight_map": {"a": "../model-00001-of-00003.safetensors"}}', "is no index of safetensors files"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "is no index of safetensors files"),
        ('{"weight_map": {"a": 3}}', "is no index of safetensors files"),
        ("[" * 100_000, "is no index of safetensors files"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "names 'gone.safetensors', which is not beside it"),
        ('{"weight_map": {"a": "model-00001-of-00003.safetensors"}}', "does not say"),
    ],
)
def test_an_index_that_is_wrong_is_refused(network: nn.Module, tmp_path: Path, index: str, said: str) -> None:
    in_shards(network, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises((WeightsError, MissingWeightsError), match=said):
        load_backbone(NAME, weights=tmp_path)


def test_a_tensor_that_no_shard_holds_is_told(network: nn.Module, tmp_path: Path) -> None:
    where = in_shards(network, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": where | {"more": next(iter(where.values()))}})
    )
    with pytest.raises(WeightsError, match="lists 'more', which its files do not hold"):
        load_backbone(NAME, weights=tmp_path)


def dino(network: nn.Module) -> dict[str, Any]:
    return {
        "student": under("module.backbone.", headless(network))
        | {"module.head.last_layer.weight_g": torch.ones(3)},
        "teacher": under("backbone.", headless(other(network))) | {"head.last_layer.weight_g": torch.ones(3)},
        "args": argparse.Namespace(arch=NAME),
        "epoch": 3,
    }


@pytest.mark.slow
def test_student_and_teacher_are_for_the_user_to_choose(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "dino.pth"
    torch.save(dino(network), path)
    with pytest.raises(WeightsError) as caught:
        load_backbone(NAME, weights=path)
    assert str(caught.value) == (
        f"weights file {str(path)!r} holds 2 networks that fit 'shufflenet_v2_x0_5': choose with --weights "
        "dino.pth#student.backbone, dino.pth#teacher.backbone"
    )
    student = load_backbone(NAME, weights=f"{path}#student")
    teacher = load_backbone(NAME, weights=Path(f"{path}#teacher.backbone"))
    assert same(student.module, network)
    assert same(teacher.module, other(network))
    assert student.weights == "dino.pth#student"
    assert len({student.weights_sha256, teacher.weights_sha256}) == 2
    for wrong in ("head", "teach", ""):
        with pytest.raises(
            WeightsError, match=rf"holds 2 networks that fit .*, and none at '{wrong}': choose"
        ):
            load_backbone(NAME, weights=f"{path}#{wrong}")
    with pytest.raises(WeightsError, match="and more than one at 'backbone': choose"):
        load_backbone(NAME, weights=f"{path}#backbone")


@pytest.mark.slow
def test_of_two_encoders_the_one_that_leads_is_taken_and_that_is_said(
    network: nn.Module, tmp_path: Path, caplog: Any
) -> None:
    path = tmp_path / "moco.pth.tar"
    torch.save(HEADLESS["MoCo"](copy.deepcopy(network)), path)
    usual = load_backbone(NAME, weights=path)
    assert (
        "holds 2 networks that fit; taken is 'state_dict.encoder_q', not 'state_dict.encoder_k' "
        "(FILE#state_dict.encoder_k takes that)"
    ) in caplog.text
    named = load_backbone(NAME, weights=f"{path}#module.encoder_q")
    momentum = load_backbone(NAME, weights=f"{path}#encoder_k")
    assert same(momentum.module, other(network))
    assert usual.weights_sha256 == named.weights_sha256 != momentum.weights_sha256


@pytest.mark.slow
def test_a_file_whose_name_has_a_hash_sign(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "run#3.pth"
    torch.save(network.state_dict(), path)
    assert load_backbone(NAME, weights=path).weights == "run#3.pth"
    assert same(load_backbone(NAME, weights=f"{path}#").module, network)


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [10, 1001])
def test_a_classifier_of_another_number_of_classes(
    network: nn.Module, tmp_path: Path, n_classes: int
) -> None:
    tuned = copy.deepcopy(network)
    tuned.fc = nn.Linear(1024, n_classes)
    torch.save({"state_dict": under("model.", tuned)}, tmp_path / "w.ckpt")
    backbone = load_backbone(NAME, weights=tmp_path / "w.ckpt")
    assert torch.equal(backbone.module.fc.weight, tuned.fc.weight)
    assert backbone.class_names is None
    tuned.fc = nn.Linear(77, n_classes)
    torch.save({"state_dict": under("model.", tuned)}, tmp_path / "w.ckpt")
    assert load_backbone(NAME, weights=tmp_path / "w.ckpt").absent == {"fc.weight"}


@pytest.mark.slow
def test_another_network_does_not_pass_for_this_one(tmp_path: Path) -> None:
    """ResNet34's tensors are ResNet18's and more; VGG's classifier is not what makes a VGG."""
    torch.save({"state_dict": under("encoder.", models.resnet34())}, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        load_backbone("resnet18", weights=tmp_path / "w.pth")
    assert "do not fit 'resnet18': under 'state_dict.encoder' " in str(caught.value)
    assert str(caught.value).endswith("; they fit 'resnet34': use --backbone resnet34")


@pytest.mark.slow
def test_a_mapping_inside_itself_and_deep_ones(network: nn.Module, tmp_path: Path) -> None:
    loop: dict[str, Any] = {"x": torch.zeros(3)}
    loop["self"] = loop
    torch.save(loop, tmp_path / "loop.pth")
    with pytest.raises(WeightsError, match="do not fit"):
        load_backbone(NAME, weights=tmp_path / "loop.pth")
    deep: Any = network.state_dict()
    for _ in range(50):
        deep = OrderedDict(a=deep)
    torch.save(deep, tmp_path / "deep.pth")
    with pytest.raises(WeightsError, match=r"holds no tensor \('a'\) instead of a state dict"):
        load_backbone(NAME, weights=tmp_path / "deep.pth")


@pytest.mark.slow
def test_layouts_have_versions_below_a_prefix_too(tmp_path: Path) -> None:
    """MNASNet changes its own layout by the version that its file says."""
    made = models.mnasnet0_5()
    torch.save({"state_dict": nn.DataParallel(made).state_dict()}, tmp_path / "w.pth")
    loaded = load_backbone("mnasnet0_5", weights=tmp_path / "w.pth").module
    assert all(torch.equal(one, loaded.state_dict()[name]) for name, one in made.state_dict().items())


@pytest.mark.slow
def test_a_bank_of_each_network_of_one_file(tmp_path: Path) -> None:
    network = load_backbone("minivgg").module
    torch.save({"student": network.state_dict(), "teacher": other(network).state_dict()}, tmp_path / "w.pth")
    options: dict[str, Any] = {
        "backbone": "minivgg",
        "cuts": ["block5_pool"],
        "limit": 20,
        "cache_dir": tmp_path,
    }
    banks = [
        extract("digits", weights=f"{tmp_path}/w.pth#{one}", **options).bank for one in ("student", "teacher")
    ]
    assert banks[0] != banks[1]
    provenance = Bank.open(banks[1]).provenance
    assert (provenance["weights"], provenance["weights_path"]) == (
        "w.pth#teacher",
        f"{tmp_path}/w.pth#teacher",
    )
    again = load_backbone("minivgg", weights=provenance["weights_path"])
    assert again.weights_sha256 == Bank.open(banks[1]).key.weights_sha256
    bare = {k: v for k, v in network.state_dict().items() if k.startswith("features.")}
    torch.save(bare, tmp_path / "features.pth")
    options["weights"] = tmp_path / "features.pth"
    assert extract("digits", **options).pushed == 20
    with pytest.raises(WeightsError, match=r"have no 'classifier.0.bias', which 'fc7' of 'minivgg' needs"):
        extract("digits", **options | {"cuts": ["fc7"]})
