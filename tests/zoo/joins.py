"""Chains, sums and concatenations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts import Net, conv, mean
from zoo.registry import network


@network("conv1 6\nconv2 7\nfc1 9")
def plain() -> nn.Module:
    """Batch norm with and without statistics, pooling, and a flatten of a 4x4 area."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(net.bn1(net.conv1(x))), 2)
        x = F.relu(net.bn2(net.conv2(x)))
        return net.fc2(F.relu(net.bn3(net.fc1(x.flatten(1)))))

    return Net(
        run, conv1=conv(3, 6), bn1=nn.BatchNorm2d(6), conv2=conv(6, 7, bias=False), bn2=nn.BatchNorm2d(7, affine=False),
        fc1=nn.Linear(7 * 16, 9), bn3=nn.BatchNorm1d(9), fc2=nn.Linear(9, 4),
    )  # fmt: skip


@network("conv1 4\nconv2 5\nfc1 6", (1, 28, 28))
def lenet_with_hard_coded_view() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.tanh(net.conv1(x)), 2)
        x = F.max_pool2d(torch.tanh(net.conv2(x)), 2)
        return net.fc2(torch.tanh(net.fc1(x.view(-1, 5 * 5 * 5))))

    return Net(run, conv1=conv(1, 4, 5), conv2=nn.Conv2d(4, 5, 5), fc1=nn.Linear(125, 6), fc2=nn.Linear(6, 3))


@network("stem 6\na.0 4\na.1 6: a.1 down b.1\nb.0 5")
def residual() -> nn.Module:
    """Two blocks, the shortcut of the first a convolution."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        x = F.relu(net.a(x) + net.down(x))
        y = net.b(x)
        y += x
        return net.head(mean(y))

    def block(width: int) -> nn.Module:
        return nn.Sequential(conv(6, width), conv(width, 6))

    return Net(run, stem=conv(3, 6), down=conv(6, 6, 1), a=block(4), b=block(5), head=nn.Linear(6, 4))


@network("stem 4\ndense1 3\ndense2 5")
def dense_with_input() -> nn.Module:
    """Every layer reads all before it, the image too."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = torch.cat([x, net.stem(x)], 1)
        x = torch.cat([net.dense1(F.relu(net.bn1(x))), x], 1)
        x = torch.cat([x, net.dense2(F.relu(net.bn2(x)))], 1)
        return net.head(mean(x))

    return Net(
        run, stem=conv(3, 4), bn1=nn.BatchNorm2d(7), dense1=conv(7, 3), bn2=nn.BatchNorm2d(10), dense2=conv(10, 5),
        head=nn.Linear(15, 4),
    )  # fmt: skip


@network("down1 4\ndown2 6\nmid 8\nup2 6\ndec2 5\nup1 4\ndec1 3", (3, 16, 16))
def unet() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        a = F.relu(net.down1(x))
        b = F.relu(net.down2(a))
        c = F.relu(net.mid(b))
        b = F.relu(net.dec2(torch.cat([net.up2(c), b], 1)))
        a = F.relu(net.dec1(torch.cat([a, net.up1(b)], 1)))
        return net.head(a)

    return Net(
        run, down1=conv(3, 4), down2=conv(4, 6, stride=2), mid=conv(6, 8, stride=2), up2=nn.ConvTranspose2d(8, 6, 2, 2),
        dec2=conv(12, 5), up1=nn.ConvTranspose2d(5, 4, 2, 2, bias=False), dec1=conv(8, 3), head=conv(3, 2, 1),
    )  # fmt: skip


@network("a 5: a d\nb 6: b c")
def segnet() -> nn.Module:
    """What was the largest on the way down says where values go on the way up."""

    def run(net: Net, x: Tensor) -> Tensor:
        x, first = F.max_pool2d(F.relu(net.a(x)), 2, return_indices=True)
        x, second = net.pool(F.relu(net.b(x)))
        x = net.unpool(net.c(x), second)
        return net.out(F.max_unpool2d(net.d(x), first, 2))

    return Net(
        run, a=conv(3, 5), b=conv(5, 6), pool=nn.MaxPool2d(2, return_indices=True), unpool=nn.MaxUnpool2d(2), c=conv(6, 6),
        d=conv(6, 5), out=conv(5, 2),
    )  # fmt: skip


@network("down1 4\ndown2 6\ndec 5", (3, 13, 13))
def unet_with_crop_and_interpolation() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        a = net.down1(x)
        b = F.relu(net.down2(F.max_pool2d(a, 2, ceil_mode=True)))
        b = F.interpolate(b, scale_factor=2, mode="bilinear", align_corners=True)[:, :, : a.shape[2], : a.shape[3]]
        return net.head(net.dec(torch.cat((b, F.leaky_relu(a)), 1)))

    return Net(run, down1=conv(3, 4), down2=conv(4, 6), dec=conv(10, 5), head=conv(5, 2))


@network("c2 6\nc3 7\nlateral2 5: lateral2 lateral3 smooth")
def feature_pyramid() -> nn.Module:
    """Two outputs in a dict, from heads that share their weights."""

    def run(net: Net, x: Tensor) -> Any:
        a = F.relu(net.c2(x))
        b = F.relu(net.c3(a))
        low = net.lateral2(a)
        high = net.lateral3(b)
        both = net.smooth(low + F.interpolate(high, size=low.shape[-2:], mode="nearest")) + low
        return {"maps": [net.head(both), net.head(high)], "size": 2}

    return Net(
        run, c2=conv(3, 6), c3=conv(6, 7, stride=2), lateral2=conv(6, 5, 1), lateral3=conv(7, 5, 1), smooth=conv(5, 5),
        head=conv(5, 2, 1),
    )  # fmt: skip


@network("stem 4: stem high fuse_up high2\nlow 6\nlow2 6: low2 fuse_down", (3, 16, 16))
def high_resolution() -> nn.Module:
    """As in HRNet: two resolutions that exchange what they know."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        a, b = x + net.high(x), net.low(x)
        a, b = a + F.interpolate(net.fuse_up(b), scale_factor=2, mode="nearest"), net.low2(b) + net.fuse_down(a)
        return net.head(torch.cat([mean(net.high2(a) + a), mean(b)], 1))

    return Net(
        run, stem=conv(3, 4), high=conv(4, 4), low=conv(4, 6, stride=2), fuse_up=conv(6, 4, 1), low2=conv(6, 6),
        fuse_down=conv(4, 6, stride=2), high2=conv(4, 4), head=nn.Linear(10, 3),
    )  # fmt: skip


@network("conv1 6: conv1 conv3 conv1x1\nlast 5")
def reparametrised() -> nn.Module:
    """As in RepVGG: three branches, one of them a norm of the identity."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        return net.head(mean(net.last(F.relu(net.bn3(net.conv3(x)) + net.bn1(net.conv1x1(x)) + net.bn0(x)))))

    return Net(
        run, conv1=conv(3, 6), conv3=conv(6, 6), bn3=nn.BatchNorm2d(6), conv1x1=conv(6, 6, 1), bn1=nn.BatchNorm2d(6),
        bn0=nn.BatchNorm2d(6), last=conv(6, 5), head=nn.Linear(5, 3),
    )  # fmt: skip
