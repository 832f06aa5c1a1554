"""DenseNet-121 for small images (Huang et al. 2017, "Densely connected convolutional networks")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1 convolution to 4 * growth, norm, ReLU, 3x3 convolution to growth; joined to its own input.

    (N, inputs, H, W) -> (N, inputs + growth, H, W).
    """

    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.act(self.norm1(x)))
        return torch.cat([x, self.conv2(self.act(self.norm2(y)))], 1)


class DenseNet(nn.Module):
    """A 3x3 convolution of stride 1, then dense blocks with transitions that halve channels and resolution between them.

    (N, in_channels, H, W) -> (N, num_classes). A transition is a norm, a 1x1 convolution and a 2x2 average pool, with no
    activation in it.

    Args:
        depths: layers of every dense block.
        growth: channels that a layer adds; the stem has twice as many.
    """

    def __init__(self, depths: Sequence[int], growth: int, num_classes: int, in_channels: int):
        super().__init__()
        width = 2 * growth
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.blocks = nn.Sequential()
        for i, depth in enumerate(depths):
            if i > 0:
                conv = nn.Conv2d(width, width // 2, 1, bias=False)
                self.blocks.append(nn.Sequential(nn.BatchNorm2d(width), conv, nn.AvgPool2d(2)))
                width //= 2
            self.blocks.append(nn.Sequential(*(DenseLayer(width + growth * j, growth) for j in range(depth))))
            width += growth * depth
        self.head = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.head(self.blocks(self.stem(x))))


def densenet121(num_classes: int, in_channels: int) -> DenseNet:
    return DenseNet((6, 12, 24, 16), 32, num_classes, in_channels)
