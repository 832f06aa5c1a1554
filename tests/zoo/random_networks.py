"""Random networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts import conv


class Block(nn.Module):
    """One of many things that networks do to (N, channels, H, W); ``outputs`` is how many channels it makes of them. ``a`` and
    ``b`` are small numbers that say how exactly."""

    def __init__(self, kind: str, channels: int, a: int, b: int):
        super().__init__()
        self.kind, self.a, self.outputs = kind, a, channels
        even = channels % 2 == 0
        match kind:
            case "conv":
                self.outputs = 2 + a
                self.conv = conv(channels, self.outputs, 1 + 2 * (b % 2), bias=b < 2)
            case "depthwise":
                self.outputs = channels * (1 + a % 2)
                self.conv = conv(channels, self.outputs, groups=channels)
            case "grouped":
                self.outputs = 2 + 2 * (a // 2)
                self.conv = conv(channels, self.outputs, groups=2 if even else 1)
            case "transposed":
                self.outputs = channels * (1 + a % 2)
                groups = (1, channels, 2 if even else 1)[b % 3]
                self.conv = nn.ConvTranspose2d(channels, self.outputs, 3, padding=1, groups=groups)
            case "residual":
                self.conv, self.bn, self.out = conv(channels, 2 + a), nn.BatchNorm2d(2 + a), conv(2 + a, channels, 1)
            case "concat":
                self.outputs = channels + 2 + a
                self.conv = conv(channels, 2 + a)
            case "excite":
                self.conv, self.out = conv(channels, 2 + a, 1), conv(2 + a, channels, 1)
            case "map":
                self.conv = conv(channels, 1)
            case "split":
                self.first = max(1, min(a, channels - 1))
                self.conv = conv(self.first, self.first if b % 2 else 3)
                self.outputs = channels - self.first + self.conv.out_channels
            case "pad":
                self.outputs = channels + a + b
                self.conv = conv(channels, self.outputs)
            case "glu":
                self.conv = conv(channels, 2 * channels)
            case "norm":
                norms = [
                    nn.BatchNorm2d(channels), nn.BatchNorm2d(channels, affine=False), nn.InstanceNorm2d(channels, affine=True),
                    nn.GroupNorm(channels, channels), nn.GroupNorm(1, channels), nn.GroupNorm(2 if even else 1, channels),
                    nn.LayerNorm(channels),
                ]  # fmt: skip
                self.norm = norms[(a + 4 * b) % len(norms)]
            case "shuffle":
                self.groups = 2 if even else 1
            case "pixels":
                self.conv = conv(channels, 4 * (1 + a))
                self.outputs = 1 + a

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        match self.kind:
            case "residual":
                return F.relu(x + self.out(F.relu(self.bn(self.conv(x)))))
            case "concat":
                return torch.cat([self.conv(x), x] if self.a % 2 else [x, self.conv(x)], 1)
            case "excite":
                return x * torch.sigmoid(self.out(F.relu(self.conv(F.adaptive_avg_pool2d(x, 1)))))
            case "map":
                return x * torch.sigmoid(self.conv(x))
            case "split":
                first, rest = x[:, : self.first], x[:, self.first :]
                return torch.cat([rest, self.conv(first)], 1)
            case "pad":
                return self.conv(x) + F.pad(x, (0, 0, 0, 0, self.a, self.outputs - c - self.a))
            case "glu":
                return F.glu(self.conv(x), 1)
            case "norm" if isinstance(self.norm, nn.LayerNorm):
                return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            case "norm":
                return self.norm(x)
            case "shuffle":
                return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
            case "pixels":
                return F.avg_pool2d(F.pixel_shuffle(self.conv(x), 2), 2)
        return F.relu(self.conv(x))


KINDS = (
    "conv", "depthwise", "grouped", "transposed", "residual", "concat", "excite", "map", "split", "pad", "glu", "norm", "shuffle",
    "pixels",
)  # fmt: skip


def random_network(recipe: list[tuple[str, int, int]], flatten: bool) -> nn.Module:
    """A stem, blocks by kind and two numbers, and a classifier on the mean or on all places."""
    blocks = nn.Sequential(Block("conv", 3, 4, 0))
    for kind, a, b in recipe:
        blocks.append(Block(kind, blocks[-1].outputs, a, b))
    outputs = blocks[-1].outputs
    ends = [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * outputs, 3)]
    return nn.Sequential(blocks, *(ends if flatten else [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, 3)]))
