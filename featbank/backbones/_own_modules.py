"""The torch modules of the networks that featbank trains itself."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from featbank.backbones.own_networks import ConvNetPlan, InceptionPlan, MiniVGGPlan

__all__ = ["ConvNet", "InceptionNet", "MiniVGG"]

_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU}
_POOLS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
#: Standard deviation of weights that are drawn from one normal distribution, whatever the layer.
_NORMAL_STD = 0.05


def _layer(layer: nn.Module, norm: nn.Module | None, activation: str) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict(layer=layer)
    if norm is not None:
        parts["norm"] = norm
    parts["activation"] = _ACTIVATIONS[activation]()
    return nn.Sequential(parts)


def _initialise(network: nn.Module, how: str) -> None:
    if how == "default":
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if how == "xavier":
                nn.init.xavier_uniform_(module.weight)
            elif how == "kaiming":
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            else:
                nn.init.normal_(module.weight, std=_NORMAL_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class ConvNet(nn.Sequential):
    """Convolutions, pools and fully connected layers in a row, called as the cuts are."""

    def __init__(self, plan: ConvNetPlan, n_classes: int) -> None:
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        width_in, n_pools, with_norm = 3, 0, plan.batch_norm != "none"
        for number, (width, kernel, window) in enumerate(
            zip(plan.widths, plan.kernels, plan.pools, strict=True), 1
        ):
            convolution = nn.Conv2d(width_in, width, kernel, padding=kernel // 2, bias=not with_norm)
            norm = nn.BatchNorm2d(width) if with_norm else None
            parts[f"conv{number}"] = _layer(convolution, norm, plan.activation)
            if window:
                n_pools += 1
                stride, padding = plan.pool_geometry(window)
                parts[f"pool{n_pools}"] = _POOLS[plan.pooling](window, stride, padding)
            if plan.conv_dropout and plan.conv_dropout[number - 1]:
                parts[f"dropout{number}"] = nn.Dropout(plan.conv_dropout[number - 1])
            width_in = width
        # At the network's own image size this changes nothing where the map is kept; as in torchvision's VGG
        # it lets other sizes through.
        side = 1 if plan.global_pool else plan.side_behind(plan.image_size)
        parts["avgpool"], parts["flatten"] = nn.AdaptiveAvgPool2d(side), nn.Flatten()
        width_in *= side * side
        for number, width in enumerate(plan.hidden, 1):
            norms = plan.batch_norm == "all"
            linear = nn.Linear(width_in, width, bias=not norms)
            parts[f"fc{number}"] = _layer(linear, nn.BatchNorm1d(width) if norms else None, plan.activation)
            if plan.dropout:
                parts[f"fc_dropout{number}"] = nn.Dropout(plan.dropout)
            width_in = width
        parts["logits"] = nn.Linear(width_in, n_classes)
        super().__init__(parts)
        _initialise(self, plan.initialisation)


class _Inception(nn.Module):
    """Four branches side by side, their channels joined; the 5x5 is one, as in the paper."""

    def __init__(self, width_in: int, widths: tuple[int, ...], activation: str) -> None:
        super().__init__()

        def convolution(before: int, after: int, kernel: int) -> nn.Sequential:
            weights = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
            return _layer(weights, nn.BatchNorm2d(after), activation)

        one, reduced_3, three, reduced_5, five, projected = widths
        self.branch1 = convolution(width_in, one, 1)
        self.branch3 = nn.Sequential(convolution(width_in, reduced_3, 1), convolution(reduced_3, three, 3))
        self.branch5 = nn.Sequential(convolution(width_in, reduced_5, 1), convolution(reduced_5, five, 5))
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), convolution(width_in, projected, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch3(x), self.branch5(x), self.branch_pool(x)], 1)


class InceptionNet(nn.Sequential):
    """Inception blocks with pools between them, a global average, dropout, the logits."""

    def __init__(self, plan: InceptionPlan, n_classes: int) -> None:
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        width_in = 3
        for number, widths in enumerate(plan.blocks, 1):
            parts[f"inception{number}"] = _Inception(width_in, widths, plan.activation)
            width_in = widths[0] + widths[2] + widths[4] + widths[5]
            if number < len(plan.blocks):
                parts[f"pool{number}"] = nn.MaxPool2d(3, 2, 1)
        parts["avgpool"], parts["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        parts["dropout"] = nn.Dropout(plan.dropout)
        parts["logits"] = nn.Linear(width_in, n_classes)
        super().__init__(parts)
        _initialise(self, plan.initialisation)


class MiniVGG(nn.Module):
    """VGG16's plan with the widths of `blocks`, batch norm, and two hidden layers."""

    def __init__(self, plan: MiniVGGPlan, n_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width_in = 3
        for width, depth in plan.blocks:
            for _ in range(depth):
                layers += [
                    nn.Conv2d(width_in, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                width_in = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        # Nothing at 32x32, where one position is left; lets other image sizes through, as VGG's own does.
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        (hidden,) = plan.hidden
        self.classifier = nn.Sequential(
            nn.Linear(width_in, hidden),
            nn.ReLU(),
            nn.Dropout(plan.dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(plan.dropout),
            nn.Linear(hidden, n_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (batch, 3, 32, 32) to logits (batch, n_classes)."""
        x = self.features(x)  # (batch, 128, 1, 1) for 32x32 images
        x = torch.flatten(self.avgpool(x), 1)  # (batch, 128)
        logits: Tensor = self.classifier(x)  # (batch, n_classes)
        return logits
