"""The torch module of minivgg."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MiniVGG"]


class MiniVGG(nn.Module):
    """VGG16's plan with the widths of `blocks`, batch norm, and two hidden layers of `hidden` units."""

    def __init__(self, blocks: tuple[tuple[int, int], ...], hidden: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width_in = 3
        for width, depth in blocks:
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
        self.classifier = nn.Sequential(
            nn.Linear(width_in, hidden),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (batch, 3, 32, 32) to logits (batch, num_classes)."""
        x = self.features(x)  # (batch, 128, 1, 1) for 32x32 images
        x = torch.flatten(self.avgpool(x), 1)  # (batch, 128)
        logits: Tensor = self.classifier(x)  # (batch, num_classes)
        return logits
