"""GoogLeNet for small images (Szegedy et al. 2015, "Going deeper with convolutions"), with batch norm as in its successors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from prune_gym.models.layers import ConvNorm


class Widths(NamedTuple):
    """Channels of the convolutions of an inception module, in the order of the paper's table 1."""

    one: int
    reduce3: int
    three: int
    reduce5: int
    five: int
    pool: int

    @property
    def outputs(self) -> int:
        return self.one + self.three + self.five + self.pool


# a max-pool of stride 2 lies between the stages
STAGES = (
    (Widths(64, 96, 128, 16, 32, 32), Widths(128, 128, 192, 32, 96, 64)),
    (
        Widths(192, 96, 208, 16, 48, 64),
        Widths(160, 112, 224, 24, 64, 64),
        Widths(128, 128, 256, 24, 64, 64),
        Widths(112, 144, 288, 32, 64, 64),
        Widths(256, 160, 320, 32, 128, 128),
    ),
    (Widths(256, 160, 320, 32, 128, 128), Widths(384, 192, 384, 48, 128, 128)),
)


class Inception(nn.Module):
    """Four branches side by side; two 3x3 convolutions stand in for the 5x5 one.

    (N, inputs, H, W) -> (N, widths.outputs, H, W): the channels of the 1x1, 3x3, 5x5 and pooling branches, in this order.
    """

    def __init__(self, inputs: int, widths: Widths):
        super().__init__()
        one, reduce3, three, reduce5, five, pool = widths
        self.one = ConvNorm(inputs, one, 1, bias=True)
        self.three = nn.Sequential(ConvNorm(inputs, reduce3, 1, bias=True), ConvNorm(reduce3, three, bias=True))
        self.five = nn.Sequential(
            ConvNorm(inputs, reduce5, 1, bias=True), ConvNorm(reduce5, five, bias=True), ConvNorm(five, five, bias=True)
        )
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvNorm(inputs, pool, 1, bias=True))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


class GoogLeNet(nn.Module):
    """Three 3x3 convolutions of stride 1, then stages of inception modules with a 3x3 max-pool of stride 2 before each.

    (N, in_channels, H, W) -> (N, num_classes). It has no auxiliary heads.
    """

    def __init__(self, stem: Sequence[int], stages: Sequence[Sequence[Widths]], num_classes: int, in_channels: int):
        super().__init__()
        self.stem = nn.Sequential()
        width = in_channels
        for outputs in stem:
            self.stem.append(ConvNorm(width, outputs))
            width = outputs
        self.stages = nn.Sequential()
        for modules in stages:
            stage = nn.Sequential(nn.MaxPool2d(3, 2, 1))
            for widths in modules:
                stage.append(Inception(width, widths))
                width = widths.outputs
            self.stages.append(stage)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Dropout2d(0.4), nn.Flatten())
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.head(self.stages(self.stem(x))))


def googlenet(num_classes: int, in_channels: int) -> GoogLeNet:
    return GoogLeNet((64, 64, 192), STAGES, num_classes, in_channels)
