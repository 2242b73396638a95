"""The layers behind a cut: what they give of its features is what the whole network gives."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from featbank.backbones import Backbone, cut_tail, load_backbone, truncate
from featbank.backbones.tail import map_before
from featbank.errors import InvalidInputError, UnknownNameError


def random_backbone(name: str, image_size: int | None = None) -> Backbone:
    logging.getLogger("featbank").setLevel(logging.ERROR)
    backbone = load_backbone(name, weights="random", image_size=image_size)
    for one in backbone.module.parameters():
        if one.ndim == 2 and not one.any():  # torchvision's ViTs start with logits of zero
            nn.init.normal_(one.data, std=0.1)
    return backbone


def assert_exact(backbone: Backbone, cut: str) -> None:
    size = backbone.preprocessing.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = truncate(backbone, [cut, "logits"])(images)
        expected = backbone.module(images)
    tail = cut_tail(backbone, cut)
    assert tail.shape == tuple(found[tail.cut].shape[1:])
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(tail.logits(found[tail.cut].flatten(1)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "cut"),
    [("minivgg", "block3_pool"), ("resnet18", "layer3"), ("mobilenet_v2", "features.17")],
)
def test_the_untrained_tail_is_the_network(name: str, cut: str) -> None:
    assert_exact(random_backbone(name, 32 if name == "minivgg" else 64), cut)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("vgg16", "block5_pool"),
        ("vit_b_16", "encoder.layers.encoder_layer_9.add_1"),
        ("googlenet", "inception4e"),
        ("densenet121", "features.denseblock3"),
        ("swin_t", "features.6"),
        ("convnext_tiny", "features.6"),
    ],
)
def test_the_untrained_tail_of_large_networks_is_the_network(name: str, cut: str) -> None:
    assert_exact(random_backbone(name), cut)


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.later, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.inner(x)
        return self.fc(self.norm(self.later(x)).mean(dim=(2, 3)))


@pytest.fixture
def skipping() -> Backbone:
    return Backbone.from_module(Skipping(), name="skipping", preprocessing={"image_size": 8})


def test_a_cut_that_does_not_separate_the_graph_is_refused(skipping: Backbone) -> None:
    with pytest.raises(InvalidInputError, match=r"^cut 'inner' does not separate 'skipping': 'stem' goes "):
        cut_tail(skipping, "inner")
    assert_exact(skipping, "stem")
    assert_exact(skipping, "add")


def test_what_is_trained(skipping: Backbone) -> None:
    tail = cut_tail(skipping, "stem")
    both = ["inner.weight", "inner.bias", "later.weight", "later.bias"]
    assert tail.trained("all") == tail.trained(2) == both
    assert tail.trained("last-conv") == tail.trained(1) == both[2:]
    statistics = [f"norm.{one}" for one in ("running_mean", "running_var", "weight", "bias")]
    assert tail.trained(1, batch_norm=True) == [*both[2:], *statistics]
    with pytest.raises(InvalidInputError, match=r"^train=3: 2 layers with weights lie behind 'stem' of"):
        tail.trained(3)
    with pytest.raises(InvalidInputError, match=r"^train='last-conv': no convolution lies behind 'fc6' of"):
        cut_tail(random_backbone("minivgg"), "fc6").trained("last-conv")


def test_the_body_shares_numbers_until_it_is_given_its_own(skipping: Backbone) -> None:
    before = {name: one.clone() for name, one in skipping.module.state_dict().items()}
    body = cut_tail(skipping, "stem").body()
    later = body.get_parameter("later.weight")
    assert later.data_ptr() == skipping.module.get_parameter("later.weight").data_ptr()
    later.data = later.data + 1
    assert all(torch.equal(one, before[name]) for name, one in skipping.module.state_dict().items())


@pytest.mark.parametrize(
    ("name", "cut", "said"),
    [
        ("resnet18", "avgpool", "behind 'avgpool' of 'resnet18' no layer with weights lies but the last"),
        ("resnet18", "layer4", "take --head softmax, or --cut layer3"),
        ("minivgg", "softmax", "behind 'softmax' of 'minivgg' no layer"),
        ("minivgg", "logits", "behind 'logits' of 'minivgg' no layer"),
        ("minivgg", "block3_pool:gap", "is pooled, and the layers behind 'block3_pool' take what it was"),
        ("squeezenet1_1", "features", "does not end in a linear layer"),
    ],
)
def test_cuts_without_a_tail(name: str, cut: str, said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        cut_tail(random_backbone(name), cut)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_without_logits_and_one_without_a_graph() -> None:
    class Untraceable(Skipping):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if float(x.sum()) > -1e9 else x

    preprocessing = {"image_size": 8}
    hooked = Backbone.from_module(Untraceable(), name="untraceable", preprocessing=preprocessing)
    with pytest.raises(
        InvalidInputError, match=r"^torch\.fx cannot trace 'untraceable', and a tail is a part"
    ):
        cut_tail(hooked, "stem")
    maps = Backbone.from_module(nn.Sequential(nn.Conv2d(3, 4, 3)), name="maps", preprocessing=preprocessing)
    with pytest.raises(InvalidInputError, match=r"^'maps' gives no logits, so no tail leads there"):
        cut_tail(maps, maps.spec.cut_names[0])
    with pytest.raises(UnknownNameError, match="unknown cut 'nowhere'"):
        cut_tail(hooked, "nowhere")


@pytest.mark.parametrize(
    ("cut", "where"), [("avgpool", "features"), ("features.13", "features.13"), ("features:gap", "features")]
)
def test_the_map_before_a_cut_leads_to_its_features(cut: str, where: str) -> None:
    backbone = random_backbone("mobilenet_v2", 64)
    name, layers = map_before(backbone, cut)
    assert name == where
    with torch.inference_mode():
        found = truncate(backbone, [where, "avgpool"])(torch.randn(2, 3, 64, 64))
        expected = found[where] if cut == where else found["avgpool"]
        torch.testing.assert_close(layers(found[where]), expected)


def test_where_no_map_is_near() -> None:
    backbone = random_backbone("vit_b_16")
    with pytest.raises(
        InvalidInputError, match=r"^no map of 'vit_b_16' lies shortly before 'encoder\.ln', so"
    ):
        map_before(backbone, "encoder.ln")
    with pytest.raises(InvalidInputError, match=r"is no map and no mean of one"):
        map_before(random_backbone("minivgg"), "fc7:gap")
