"""What a truncated network gives is what the whole network computes, and the latter stays as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from featbank import backbones
from featbank.backbones import Backbone, BackboneSpec, Preprocessing, get_spec, load_backbone, truncate
from featbank.backbones.families import build_on_meta
from featbank.errors import InvalidInputError, UnknownNameError

#: Images as small as the network allows keep the whole file quick.
_SIZES = {
    "vgg": 48,
    "alexnet": 96,
    "googlenet": 96,
    "inception": 107,
    "resnet": 64,
    "mobilenet": 64,
    "squeezenet": 96,
}


def _filled(spec: BackboneSpec) -> nn.Module:
    """Build with random weights of a sensible size, batch-norm statistics included, in no time."""
    module = build_on_meta(spec).to_empty(device="cpu")
    # A prime number of draws, used over and over: drawing the 140 million numbers of each VGG takes seconds.
    draws = torch.empty(100_003).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            tensor.zero_()
            continue
        tensor.copy_(draws.repeat(-(-tensor.numel() // len(draws)))[: tensor.numel()].view(tensor.shape))
        if tensor.ndim > 1:
            tensor.mul_(math.sqrt(6 / tensor[0].numel()))
        else:
            tensor.mul_(0.5 if name.endswith(("running_var", "weight")) else 0.1)
            tensor.add_(1.0 if name.endswith(("running_var", "weight")) else 0.0)
    return module.eval()


def _backbone(name: str, size: int) -> Backbone:
    spec = get_spec(name)
    return Backbone(spec, _filled(spec), "test", "0" * 64, Preprocessing(size, size), None)


def _caught(module: nn.Module, nodes: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """Run the untouched network and keep copies of what passes `nodes`."""
    found: dict[str, Tensor] = {}
    handles = []
    for node in nodes:
        if node == "flatten":
            # Not a module: its output is what the classifier gets.
            reader = module.fc if hasattr(module, "fc") else module.classifier
            assert isinstance(reader, nn.Module)
            handles.append(
                reader.register_forward_pre_hook(lambda m, args: found.update(flatten=args[0].clone()))
            )
        else:
            # A copy at once: the ReLU behind the node may overwrite it.
            handles.append(
                module.get_submodule(node).register_forward_hook(
                    lambda m, args, out, node=node: found.update({node: out.clone()})
                )
            )
    with torch.inference_mode():
        output = module(images)
    for handle in handles:
        handle.remove()
    if module.__class__.__name__ == "SqueezeNet":
        found["flatten"] = output
    return found


@pytest.fixture(autouse=True)
def fixture_one_thread() -> Iterator[None]:
    # On images this small, threads that wait for each other cost more than they save.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", backbones.names())
def test_every_cut_equals_what_a_hook_catches(name: str) -> None:
    spec = get_spec(name)
    size = 32 if name == "minivgg" else _SIZES[spec.family]
    backbone = _backbone(name, size)
    cuts = [cut for cut in spec.cuts if cut.derived_from is None]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    wanted = _caught(backbone.module, [cut.node for cut in cuts], images)
    network = truncate(backbone, [cut.name for cut in cuts])
    with torch.inference_mode():
        features = network(images)
    assert list(features) == [cut.name for cut in cuts]
    for cut in cuts:
        assert torch.equal(features[cut.name], wanted[cut.node]), cut.name
        assert features[cut.name].shape[1:] == network.cut_shapes[cut.name]
        assert features[cut.name].std() > 0, cut.name
        if size == spec.default_image_size:
            assert network.cut_macs[cut.name] == cut.macs
    # A hidden layer is read behind its ReLU.
    for hidden in {"fc6", "fc7"} & set(features):
        assert features[hidden].min() == 0


def test_vgg16_and_vgg16_bn_differ_in_the_node_of_one_cut() -> None:
    for name in ("vgg16", "vgg16_bn"):
        spec = get_spec(name)
        backbone = Backbone(spec, build_on_meta(spec), "test", "0" * 64, Preprocessing(224, 256), None)
        network = truncate(backbone, ["block3_pool", "block4_pool"])
        assert network.cut_shapes == {"block3_pool": (256, 28, 28), "block4_pool": (512, 14, 14)}
    # The same node in both: the fourth pool of one, the third of the other.
    shapes = {
        name: truncate(build_on_meta(get_spec(name)), ["features.23"]).cut_shapes["features.23"]
        for name in ("vgg16", "vgg16_bn")
    }
    assert shapes == {"vgg16": (512, 14, 14), "vgg16_bn": (256, 28, 28)}


@pytest.fixture(name="small")
def fixture_small() -> Backbone:
    return _backbone("minivgg", 32)


def _images(n: int = 2, size: int = 32) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(3))


def test_nothing_behind_the_deepest_cut_is_kept_or_computed(small: Backbone) -> None:
    network = truncate(small, ["block3_pool", "block1_pool"])
    kept = {name for name, _ in network.named_parameters()}
    assert kept
    assert all(name.startswith("graph.features.") for name in kept)
    # Three blocks of 3x3 convolutions and batch norms: 3-32-32, 32-64-64, 64-128-128-128.
    convolutions = (3 * 32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 2 * 128 * 128) * 9
    assert sum(one.numel() for one in network.parameters()) == convolutions + 2 * (2 * 32 + 2 * 64 + 3 * 128)
    assert network.macs == network.cut_macs["block3_pool"] == get_spec("minivgg").cut("block3_pool").macs
    calls: list[str] = []
    for name, part in network.named_modules():
        part.register_forward_hook(lambda m, args, out, name=name: calls.append(name))
    network(_images())
    assert "graph.features.23" in calls
    assert not [name for name in calls if name.startswith("graph.features.") and int(name.split(".")[2]) > 23]


def test_several_cuts_cost_one_pass(small: Backbone) -> None:
    network = truncate(small, ["fc7", "block2_pool", "logits", "block5_pool"])
    calls: list[str] = []
    for name, part in network.named_modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_hook(lambda m, args, out, name=name: calls.append(name))
    network(_images())
    assert len(calls) == len(set(calls)) == 13 + 3
    assert network.macs == network.cut_macs["logits"]


def test_outputs_come_in_the_order_asked_under_canonical_names(small: Backbone) -> None:
    network = truncate(small, ["softmax", "fc2", "pool1", "logits"])
    assert network.cuts == ("logits", "fc7", "block1_pool")
    assert list(network(_images())) == ["logits", "fc7", "block1_pool"]


def test_a_node_in_front_of_an_in_place_relu_is_not_overwritten() -> None:
    backbone = _backbone("alexnet", 96)
    images = _images(size=96)
    nodes = ["classifier.1", "classifier.2", "features.0", "features.1"]
    wanted = _caught(backbone.module, nodes, images)
    features = truncate(backbone.module, nodes, image_size=96)(images)
    assert wanted["classifier.1"].min() < 0
    assert wanted["features.0"].min() < 0
    for node in nodes:
        assert torch.equal(features[node], wanted[node]), node


class _InPlace(nn.Module):
    """Overwrites in all the ways there are."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b = nn.Conv2d(4, 4, 1)
        self.c = nn.Conv2d(4, 4, 1)
        self.d = nn.Conv2d(4, 4, 1)
        self.e = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x), inplace=True)
        x = F.relu(self.b(x), True)
        x = self.c(x).relu_()
        x = torch.relu_(self.d(x))
        x = self.e(x)
        return x.add_(1.0).mul_(2.0)


def test_functional_in_place_calls_overwrite_nothing() -> None:
    torch.manual_seed(0)
    module = _InPlace().eval()
    nodes = ["a", "b", "c", "d", "e"]
    images = _images(size=8)
    wanted = _caught(module, nodes, images)
    network = truncate(module, [*nodes, "mul_"], image_size=8)
    with torch.no_grad():
        features = network(images)
        assert torch.equal(features["mul_"], module(images))
    for node in nodes:
        assert wanted[node].min() < 0
        assert torch.equal(features[node], wanted[node]), node


def test_the_callers_module_stays_as_it_was() -> None:
    module = _filled(get_spec("squeezenet1_1")).train()
    module.get_submodule("features.3").eval()
    modes = {name: part.training for name, part in module.named_modules()}
    flags = {name: part.inplace for name, part in module.named_modules() if hasattr(part, "inplace")}
    parameters = dict(module.named_parameters())
    before = {name: one.clone() for name, one in module.state_dict().items()}
    assert any(flags.values())
    network = truncate(module, ["features.5"], image_size=64)
    assert not network.training
    network.to(torch.float16)
    network.train()
    assert not any(part.training for part in network.modules())
    assert {name: part.training for name, part in module.named_modules()} == modes
    assert {n: part.inplace for n, part in module.named_modules() if hasattr(part, "inplace")} == flags
    assert all(one is parameters[name] and one.requires_grad for name, one in module.named_parameters())
    assert all(
        one.dtype == torch.float32 and torch.equal(one, before[n]) for n, one in module.state_dict().items()
    )
    assert not any(one.requires_grad for one in network.parameters())


def test_truncating_takes_no_second_copy_of_the_weights(small: Backbone) -> None:
    network = truncate(small, ["logits"])
    mine = {one.data_ptr() for one in network.parameters()}
    assert mine == {one.data_ptr() for one in small.module.parameters()}


class _Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.frozen = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if x.sum() > 0 else self.frozen(x)


def test_a_failed_trace_leaves_the_mode_alone() -> None:
    module = _Branching().train()
    module.frozen.eval()
    assert truncate(module, ["conv"], image_size=8).cut_shapes == {"conv": (4, 6, 6)}  # read by hooks
    with pytest.raises(UnknownNameError, match=r"^unknown module path 'cnov' of '_Branching'; known: 'conv'"):
        truncate(module, ["cnov"])
    assert module.training
    assert module.conv.training
    assert not module.frozen.training


def test_an_unknown_node_of_a_module(small: Backbone) -> None:
    module = small.module.train()
    with pytest.raises(UnknownNameError) as caught:
        truncate(module, ["features.99"])
    assert str(caught.value).startswith("unknown node 'features.99' of 'MiniVGG'; known: 'features.9', ")
    assert str(caught.value).endswith("more")
    assert module.training


def test_an_unknown_cut_of_a_backbone(small: Backbone) -> None:
    with pytest.raises(
        UnknownNameError, match="unknown cut 'fc9' of backbone 'minivgg'; known: 'fc7', 'fc6'"
    ):
        truncate(small, ["fc9"])


def test_bad_requests(small: Backbone) -> None:
    with pytest.raises(InvalidInputError, match="cuts='fc7' is a string"):
        truncate(small, "fc7")
    with pytest.raises(InvalidInputError, match="cuts='conv' is a string"):
        truncate(small.module, "conv")
    with pytest.raises(InvalidInputError, match="no node of 'MiniVGG' asked for; name at least one"):
        truncate(small.module, [])
    with pytest.raises(InvalidInputError, match="images of 8x8 pixels do not pass through 'minivgg'"):
        truncate(small, ["fc7"], image_size=8)


def test_transform_input_is_part_of_the_truncated_network() -> None:
    # Published Inception weights expect [-1, 1]; the first nodes turn ImageNet's normalisation into that.
    backbone = load_backbone("googlenet", weights="random", image_size=64)
    network = truncate(backbone, ["maxpool1"])
    with torch.inference_mode():
        grey = network(backbone.preprocessing.normalise(torch.full((1, 64, 64, 3), 128, dtype=torch.uint8)))
        backbone.module.transform_input = False  # type: ignore[assignment]
        plain = truncate(backbone, ["maxpool1"])(torch.full((1, 3, 64, 64), 2 * 128 / 255 - 1))
    torch.testing.assert_close(grey["maxpool1"], plain["maxpool1"])
    assert get_spec("googlenet").transform_input


def test_features_do_not_depend_on_the_rest_of_the_batch(small: Backbone) -> None:
    network = truncate(small, ["fc7"]).train()
    with torch.inference_mode():
        together = network(_images(4))["fc7"]
        alone = network(_images(4)[:1])["fc7"]
    torch.testing.assert_close(together[:1], alone)


def test_a_network_without_a_table() -> None:
    spec = get_spec("shufflenet_v2_x0_5")
    backbone = Backbone(spec, _filled(spec), "test", "0" * 64, Preprocessing(64, 64), None)
    images = _images(size=64)
    wanted = _caught(backbone.module, ["stage3", "fc", "stage2.1"], images)
    with torch.inference_mode():
        features = truncate(backbone, ["logits", "stage3", "stage2.1"])(images)
    assert list(features) == ["logits", "stage3", "stage2.1"]
    assert torch.equal(features["logits"], wanted["fc"])
    assert torch.equal(features["stage3"], wanted["stage3"])
