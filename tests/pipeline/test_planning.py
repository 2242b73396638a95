"""What the command line overrides, and which experiments share a bank."""

from __future__ import annotations

import pytest

from featbank.errors import InvalidInputError, UnknownNameError
from featbank.pipeline import load_study
from featbank.pipeline.planning import plan_experiments


@pytest.fixture
def depth():
    return load_study("caltech256_depth")


@pytest.fixture
def backbones():
    return load_study("backbones_mnist")


def names(groups):
    return [[one.run.name for one in group.experiments] for group in groups]


def test_experiments_of_one_bank_take_one_pass(depth):
    (group,) = plan_experiments(depth)
    assert group.cuts == ("block3_pool", "block4_pool", "block5_pool", "fc7")
    assert names([group]) == [["block3_pool", "block4_pool", "block5_pool", "baseline"]]
    assert plan_experiments(depth, only=["baseline"])[0].cuts == ("fc7",)
    assert plan_experiments(load_study("mini_digits"), only=["temperature"])[0].cuts == ("logits",)
    assert names(plan_experiments(load_study("caltech256_samples"))) == [["plain"], ["normalised"]]


def test_another_backbone_has_its_own_weights(depth):
    (group,) = plan_experiments(depth, backbone="minivgg")
    assert (group.first.backbone.name, group.first.backbone.weights) == ("minivgg", None)
    assert group.experiments[0].written.backbone.name == "vgg16"
    assert plan_experiments(depth, backbone="vgg16")[0].first.backbone.weights == "IMAGENET1K_V1"
    with pytest.raises(UnknownNameError, match="unknown cut 'block3_pool' of backbone 'resnet18'"):
        plan_experiments(depth, backbone="resnet18")
    with pytest.raises(UnknownNameError, match="unknown backbone 'vgg61'; known: 'vgg19', 'vgg16'"):
        plan_experiments(depth, backbone="vgg61")


def test_experiments_that_become_the_same_are_run_once(backbones):
    groups = plan_experiments(backbones, backbone="resnet18", only=["inception_v3", "resnet50"])
    assert names(groups) == [["inception_v3"]]


def test_weights_for_all_or_for_one(backbones, depth):
    def weights(*given):
        return [group.first.backbone.weights for group in plan_experiments(backbones, weights=given)]

    assert weights("random") == ["random"] * 3
    assert weights("resnet50=a.pth") == ["IMAGENET1K_V1", "IMAGENET1K_V1", "a.pth"]
    assert weights("random", "vgg16=a.pth") == ["a.pth", "random", "random"]
    assert plan_experiments(depth, weights=["a.pth"])[0].first.backbone.weights == "a.pth"
    with pytest.raises(InvalidInputError) as one_file:
        weights("a.pth")
    assert str(one_file.value) == (
        "--weights 'a.pth' is one file, and the study has 3 backbones; write --weights vgg16=a.pth and the "
        "same for inception_v3, resnet50"
    )
    with pytest.raises(UnknownNameError) as other:
        weights("resnet5=a.pth")
    assert str(other.value) == (
        "--weights 'resnet5=a.pth' is for the backbone 'resnet5'; the study has 'resnet50', 'vgg16', "
        "'inception_v3'"
    )


def test_a_file_is_not_for_minivgg_whose_weights_come_along():
    groups = plan_experiments(load_study("mini_backbones"), weights=["m.safetensors"])
    assert [(one.first.backbone.name, one.first.backbone.weights) for one in groups] == [
        ("mobilenet_v2", "m.safetensors"),
        ("minivgg", None),
    ]


@pytest.mark.parametrize("option", ["backbone", "test_data"])
def test_what_is_for_experiments_is_refused_where_only_trainings_are_run(option):
    with pytest.raises(InvalidInputError, match=r"'minivgg' is for experiments, and only trainings are run"):
        plan_experiments(load_study("cifar10_own_net"), **{option: "minivgg"})
