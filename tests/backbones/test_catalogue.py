"""The tables say what the networks are: each node, shape and count is checked against torchvision."""

from __future__ import annotations

import subprocess
import sys

import pytest

from featbank import backbones
from featbank.backbones import BackboneSpec, Cut, cut_table, get_spec
from featbank.backbones.catalogue import measure
from featbank.backbones.families import build_on_meta
from featbank.errors import InvalidInputError, UnknownNameError


def test_tables_need_no_torch() -> None:
    code = (
        "import sys; from featbank import backbones as b; "
        "[b.cut_table(n) for n in b.names()]; "
        "loaded = [m for m in ('torch', 'torchvision', 'PIL', 'numpy') if m in sys.modules]; "
        "sys.exit(repr(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_resolve() -> None:
    for name in backbones.__all__:
        assert getattr(backbones, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'truncat'"):
        backbones.truncat  # noqa: B018


def test_the_promised_backbones_are_there() -> None:
    promised = {f"vgg{depth}{bn}" for depth in (11, 13, 16, 19) for bn in ("", "_bn")}
    promised |= {f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}
    promised |= {
        "alexnet",
        "googlenet",
        "inception_v3",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "mobilenet_v3_large",
    }
    promised |= {"squeezenet1_0", "squeezenet1_1", "minivgg"}
    assert set(backbones.names()) == promised


@pytest.mark.slow
@pytest.mark.parametrize("name", backbones.names())
def test_shapes_and_multiply_adds_are_those_of_the_network(name: str) -> None:
    spec = get_spec(name)
    measured = measure(spec, spec.default_image_size)
    assert measured == {c.name: (c.shape, c.macs) for c in spec.cuts if c.derived_from is None}
    module = build_on_meta(spec)
    assert sum(one.numel() for one in module.parameters()) == spec.n_parameters
    assert module.get_parameter(spec.head_key).shape[0] == spec.n_classes == spec.cut("logits").shape[0]


@pytest.mark.parametrize("name", [one for one in backbones.names() if one != "minivgg"])
def test_facts_agree_with_torchvisions_own(name: str) -> None:
    from torchvision import models

    spec = get_spec(name)
    entry = models.get_model_weights(name).DEFAULT
    macs = spec.cut("logits").macs
    assert macs is not None
    assert macs / 1e9 == pytest.approx(entry.meta["_ops"], abs=6e-4)
    assert spec.default_image_size == entry.transforms().crop_size[0]
    assert spec.min_image_size == entry.meta["min_size"][0]


def test_multiply_adds_of_vgg16_are_the_known_ones() -> None:
    # Counted by hand from the layer sizes: 3x3 convolutions at 224, 112, 56, 28 and 14 pixels.
    rows = {row.name: row for row in cut_table("vgg16")}
    known = (1.936, 4.711, 9.335, 13.959, 15.347, 15.449, 15.466, 15.470)
    assert tuple(round(row.macs / 1e9, 3) for row in list(rows.values())[:8]) == known
    assert rows["block3_pool"].row_bytes == 401_408
    assert rows["fc7"].row_bytes == 8_192
    assert rows["logits"].row_bytes == 4_000
    assert rows["softmax"].row_bytes == 0
    assert rows["softmax"].node == "softmax(logits / T)"


def test_a_node_means_nothing_without_its_backbone() -> None:
    assert get_spec("vgg16").cut("features.23").name == "block4_pool"
    assert get_spec("vgg16_bn").cut("features.23").name == "block3_pool"
    with pytest.raises(UnknownNameError):
        get_spec("vgg19_bn").cut("features.23")


@pytest.mark.parametrize(
    ("backbone", "alias", "name"),
    [
        ("vgg16", "pool4", "block4_pool"),
        ("vgg16", "conv-4", "block4_pool"),
        ("vgg16", "fc1", "fc6"),
        ("vgg16", "fc2", "fc7"),
        ("vgg16", "fc8", "logits"),
        ("minivgg", "fc2", "fc7"),
        ("vgg16", "predictions", "softmax"),
        ("alexnet", "prob", "softmax"),
        ("resnet50", "conv4_block6_out", "layer3"),
        ("resnet152", "conv4_block36_out", "layer3"),
        ("resnet18", "res5", "layer4"),
        ("inception_v3", "mixed10", "Mixed_7c"),
        ("mobilenet_v2", "out_relu", "features"),
    ],
)
def test_aliases(backbone: str, alias: str, name: str) -> None:
    assert get_spec(backbone).cut(alias).name == name


def test_pooled_cuts_are_vectors() -> None:
    # Node avgpool of a ResNet is 2048x1x1; the cut of that name is the vector.
    assert get_spec("resnet50").cut("avgpool").node == "flatten"
    assert get_spec("resnet50").cut("avgpool").shape == (2048,)
    assert get_spec("mobilenet_v2").cut("avgpool").shape == (1280,)
    assert get_spec("inception_v3").cut("avgpool").shape == (2048,)


def test_unknown_cut() -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_spec("vgg16").cut("blok4_pool")
    assert str(caught.value) == (
        "unknown cut 'blok4_pool' of backbone 'vgg16'; known: 'block4_pool', 'block5_pool', 'block3_pool', "
        "'block2_pool', 'block1_pool' and 4 more"
    )
    with pytest.raises(UnknownNameError, match=r"known: 'predictions', 'block1_pool'"):
        get_spec("vgg16").cut("predictoins")


def test_unknown_backbone() -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_spec("vgg61")
    assert str(caught.value) == (
        "unknown backbone 'vgg61'; known: 'vgg19', 'vgg16', 'vgg13', 'vgg11', 'vgg19_bn' and 76 more"
    )


def test_resolve_keeps_the_order_and_takes_each_cut_once() -> None:
    spec = get_spec("vgg16")
    assert [cut.name for cut in spec.resolve(["softmax", "pool3", "fc8", "fc7"])] == [
        "logits",
        "block3_pool",
        "fc7",
    ]
    with pytest.raises(
        InvalidInputError, match=r"cuts='fc7' is a string; pass a list of names, e.g. \['fc7'\]"
    ):
        spec.resolve("fc7")
    with pytest.raises(InvalidInputError, match="no cut of backbone 'vgg16' asked for"):
        spec.resolve([])


def test_two_cuts_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="backbone 'b' has two cuts called 'pool1'; rename one"):
        BackboneSpec("b", "b", (Cut("a", "x", (1,), ("pool1",)), Cut("pool1", "y", (1,))), 8)


def test_cut_table_at_another_size() -> None:
    rows = {row.name: row for row in cut_table("mobilenet_v2", 128)}
    assert rows["features"].shape == (1280, 4, 4)
    assert rows["avgpool"].shape == (1280,)
    assert rows["softmax"].shape == (1000,)
    assert rows["features"].macs < get_spec("mobilenet_v2").cut("features").macs / 3  # type: ignore[operator]
    assert rows["features"].row_bytes == 2 * 1280 * 4 * 4


@pytest.mark.parametrize("size", [16, 0, -1])
def test_too_small_an_image(size: int) -> None:
    with pytest.raises(InvalidInputError) as caught:
        cut_table("vgg16", size)
    assert str(caught.value) == (
        f"image_size={size} is too small for 'vgg16': its pools leave nothing of less than 32 pixels; "
        "use image_size >= 32"
    )


def test_image_size_is_a_number() -> None:
    with pytest.raises(InvalidInputError, match="image_size='128' is not a number of pixels"):
        cut_table("vgg16", "128")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", backbones.names())
def test_the_smallest_size_passes(name: str) -> None:
    spec = get_spec(name)
    assert measure(spec, max(spec.min_image_size, 1))


@pytest.mark.slow
def test_a_network_without_a_table_goes_by_nodes() -> None:
    spec = get_spec("densenet121")
    assert "features.denseblock3" in spec.cut_names
    assert spec.cut_names[-2:] == ("logits", "softmax")
    assert spec.cut("logits").node == "classifier"
    assert spec.n_parameters == 7_978_856
    cut = spec.cut("features.norm5")
    assert (cut.node, cut.shape) == ("features.norm5", (1024, 7, 7))
    # A node that is in no table, two levels further down.
    assert spec.cut("features.denseblock1.denselayer2.conv1").shape == (128, 56, 56)
    with pytest.raises(UnknownNameError) as caught:
        spec.cut("features.norm6")
    assert str(caught.value) == (
        "unknown cut 'features.norm6' of backbone 'densenet121'; known: 'features.norm5', 'features.norm0', "
        "'features.relu0', 'features.pool0', 'features.conv0' and 436 more"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["vit_b_16", "regnet_x_400mf", "swin_t", "efficientnet_b0", "shufflenet_v2_x0_5"]
)
def test_other_designs_can_be_tabulated(name: str) -> None:
    from torchvision import models

    spec = get_spec(name)
    entry = models.get_model_weights(name).DEFAULT
    assert spec.n_parameters == entry.meta["num_params"]
    assert spec.cut("logits").macs / 1e9 == pytest.approx(entry.meta["_ops"], abs=6e-4)  # type: ignore[operator]
    assert all(cut.shape for cut in spec.cuts)


def test_a_node_that_is_no_feature_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="is not one float tensor per image"):
        get_spec("vit_b_16").cut("class_token")
