"""The CIFAR family of ResNets (He et al. 2016, "Deep residual learning for image recognition", section 4.2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from prune_gym.models.layers import ConvNorm

DEPTHS = (20, 32, 44, 56, 110)  # 6 n + 2 layers, with n blocks in each of three stages


class PadShortcut(nn.Module):
    """Option A of the paper, a shortcut without parameters: every second pixel, and zeros as the channels that are missing.

    (N, inputs, H, W) -> (N, outputs, H / 2, W / 2). The input's channels lie in the middle, half of the zeros on either
    side: where the width doubles, that is ``outputs // 4`` on both.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut around them, ReLU after the addition.

    (N, inputs, H, W) -> (N, outputs, H / stride, W / stride). The shortcut is the identity where the stride is 1; where it
    is 2, option "A" (:class:`PadShortcut`) or "B" (1x1 convolution and batch norm).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, option: str):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            padded = option == "A"
            self.shortcut = PadShortcut(inputs, outputs) if padded else ConvNorm(inputs, outputs, 1, stride=2, act=None)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Sequential):
    """A 3x3 convolution and stages of basic blocks; every stage but the first halves the resolution.

    (N, in_channels, size, size) -> (N, num_classes).

    Args:
        widths: channels of every stage; the first is also that of the stem.
        depth: blocks per stage.
        option: the shortcut where the stride is 2, "A" or "B"; see :class:`BasicBlock`.
        size: side of the images; what is left of it after the last stage is averaged away.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depth: int,
        num_classes: int,
        in_channels: int,
        *,
        option: str = "B",
        size: int = 32,
    ):
        width = widths[0]
        modules: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(in_channels, width, 3, 1, 1, bias=False),
            "bn1": nn.BatchNorm2d(width),
            "relu": nn.ReLU(),
        }
        for i, outputs in enumerate(widths):
            blocks = modules[f"layer{i + 1}"] = nn.Sequential()
            for j in range(depth):
                blocks.append(BasicBlock(width, outputs, 2 if i > 0 and j == 0 else 1, option))
                width = outputs
        pool = nn.AvgPool2d(size >> (len(widths) - 1))
        super().__init__(OrderedDict(modules, pool=pool, flatten=nn.Flatten(), linear=nn.Linear(width, num_classes)))


def resnet(depth: int, option: str, num_classes: int, in_channels: int) -> ResNet:
    """``depth`` is one of :data:`DEPTHS`; for 32x32 images."""
    return ResNet((16, 32, 64), (depth - 2) // 6, num_classes, in_channels, option=option)


def digits_resnet(num_classes: int, in_channels: int) -> ResNet:
    """Three blocks, two of them with a convolution as their shortcut, for 8x8 images."""
    return ResNet((16, 48, 96), 1, num_classes, in_channels, size=8)
