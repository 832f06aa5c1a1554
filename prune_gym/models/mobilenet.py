"""MobileNetV3-Large for small images (Howard et al. 2019, "Searching for MobileNetV3").

Not torchvision's variant: every block has a skip, the activation follows the addition, and squeeze-and-excitation has a
batch norm inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from prune_gym.models.layers import ConvNorm

R, H = nn.ReLU, nn.Hardswish


class Row(NamedTuple):
    """A block, as a row of the paper's table 1."""

    kernel: int
    expanded: int
    outputs: int
    act: type[nn.Module]
    squeeze: bool
    stride: int


LARGE = (
    Row(3, 16, 16, R, False, 1),
    Row(3, 64, 24, R, False, 2),
    Row(3, 72, 24, R, False, 1),
    Row(5, 72, 40, R, True, 2),
    Row(5, 120, 40, R, True, 1),
    Row(5, 120, 40, R, True, 1),
    Row(3, 240, 80, H, False, 2),
    Row(3, 200, 80, H, False, 1),
    Row(3, 184, 80, H, False, 1),
    Row(3, 184, 80, H, False, 1),
    Row(3, 480, 112, H, True, 1),
    Row(3, 672, 112, H, True, 1),
    Row(5, 672, 160, H, True, 2),
    Row(5, 672, 160, H, True, 1),
    Row(5, 960, 160, H, True, 1),
)


class SqueezeExcitation(nn.Module):
    """Scales every channel by a number in [0, 1] that depends on the means of all channels: (N, width, H, W) -> the same."""

    def __init__(self, width: int):
        super().__init__()
        squeezed = max(width // 4, 8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = ConvNorm(width, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, width, 1, bias=False)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.reduce(self.pool(x))))


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, depthwise convolution, perhaps squeeze-and-excitation, 1x1 convolution to fewer.

    (N, inputs, H, W) -> (N, row.outputs, H / stride, W / stride). The skip that is added is the identity where the shape
    stays, a 1x1 convolution where only the width changes, and a depthwise and a 1x1 convolution where the stride is 2. The
    activation follows the addition.
    """

    def __init__(self, inputs: int, row: Row):
        super().__init__()
        kernel, expanded, outputs, act, squeeze, stride = row
        self.expand = ConvNorm(inputs, expanded, 1, act=act)
        self.depthwise = ConvNorm(expanded, expanded, kernel, stride=stride, groups=expanded, act=act)
        self.squeeze = SqueezeExcitation(expanded) if squeeze else nn.Identity()
        self.project = ConvNorm(expanded, outputs, 1, act=None)
        self.skip: nn.Module = nn.Identity()
        if stride == 2:
            depthwise = ConvNorm(inputs, inputs, stride=2, groups=inputs, act=None)
            self.skip = nn.Sequential(depthwise, ConvNorm(inputs, outputs, 1, bias=True, act=None))
        elif inputs != outputs:
            self.skip = ConvNorm(inputs, outputs, 1, act=None)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.project(self.squeeze(self.depthwise(self.expand(x)))) + self.skip(x))


class MobileNetV3(nn.Module):
    """A 3x3 convolution, inverted residuals, a 1x1 convolution, and two linear layers.

    (N, in_channels, H, W) -> (N, num_classes).

    Args:
        stem: channels of the first convolution.
        rows: the inverted residuals.
        head: channels of the last convolution, and width of the hidden linear layer.
        stride: that of the first convolution.
    """

    def __init__(
        self,
        stem: int,
        rows: Sequence[Row],
        head: tuple[int, int],
        num_classes: int,
        in_channels: int,
        *,
        stride: int = 2,
        dropout: float = 0.2,
    ):
        super().__init__()
        self.stem = ConvNorm(in_channels, stem, stride=stride, act=nn.Hardswish)
        self.blocks = nn.Sequential()
        width = stem
        for row in rows:
            self.blocks.append(InvertedResidual(width, row))
            width = row.outputs
        last, hidden = head
        self.head = nn.Sequential(ConvNorm(width, last, 1, act=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Sequential(
            nn.Linear(last, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.Hardswish(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.head(self.blocks(self.stem(x))))


def mobilenet_v3_large(num_classes: int, in_channels: int) -> MobileNetV3:
    """For 32x32 images."""
    return MobileNetV3(16, LARGE, (960, 1280), num_classes, in_channels)


def digits_mobilenet(num_classes: int, in_channels: int) -> MobileNetV3:
    """Three inverted residuals with squeeze-and-excitation, the first of stride 2, for 8x8 images."""
    rows = (Row(3, 48, 48, H, True, 2), Row(3, 144, 48, H, True, 1), Row(3, 144, 48, H, True, 1))
    return MobileNetV3(16, rows, (192, 128), num_classes, in_channels, stride=1)
