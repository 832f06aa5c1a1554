"""Attention of all kinds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts import Net, conv, mean, parameter
from zoo.registry import network


@network("conv1 6: conv1 expand\nsqueeze 3\nconv2 5: conv2 fc2\nfc1 2")
def squeeze_and_excitation() -> nn.Module:
    """By 1x1 convolutions, and by linear layers."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x))
        x = torch.sigmoid(net.expand(F.relu(net.squeeze(net.pool(x))))) * x
        x = F.relu(net.conv2(x))
        n, c, _, _ = x.size()
        x = x * torch.sigmoid(net.fc2(F.relu(net.fc1(net.pool(x).view(n, c))))).view(n, c, 1, 1).expand_as(x)
        return net.head(net.pool(x).flatten(1))

    return Net(
        run, pool=nn.AdaptiveAvgPool2d(1), conv1=conv(3, 6), squeeze=conv(6, 3, 1), expand=conv(3, 6, 1), conv2=conv(6, 5),
        fc1=nn.Linear(5, 2), fc2=nn.Linear(2, 5), head=nn.Linear(5, 3),
    )  # fmt: skip


@network("conv1 6: conv1 mlp.2 mixed\nmlp.0 2\nconv2 5")
def channel_and_spatial_attention() -> nn.Module:
    """As in CBAM: the spatial map reads the mean and the maximum over the channels."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        pooled = net.mlp(F.adaptive_avg_pool2d(x, 1)) + net.mlp(F.adaptive_max_pool2d(x, 1))
        x = x * pooled.sigmoid()
        seen = torch.cat([x.mean(1, keepdim=True), x.max(dim=1, keepdim=True)[0]], 1)
        return net.head(mean(net.conv2(x * net.bn(net.map(seen)).sigmoid())))

    mlp = nn.Sequential(conv(6, 2, 1, bias=False), nn.ReLU(), conv(2, 6, 1, bias=False))
    return Net(
        run, conv1=conv(3, 6), mlp=mlp, map=conv(2, 1, 7, bias=False), bn=nn.BatchNorm2d(1), conv2=conv(6, 5),
        head=nn.Linear(5, 3),
    )  # fmt: skip


@network("conv1 7 mixed\nconv2 5")
def efficient_channel_attention() -> nn.Module:
    """As in ECA-Net: a convolution over neighbouring channels."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x))
        y = net.eca(F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return net.head(mean(net.conv2(x * y.sigmoid().expand_as(x))))

    return Net(run, conv1=conv(3, 7), eca=nn.Conv1d(1, 1, 3, padding=1, bias=False), conv2=conv(7, 5), head=nn.Linear(5, 3))


@network("conv1 6: conv1 out\ntheta 4: theta phi\ng 3")
def non_local() -> nn.Module:
    """Zeroed channels of theta and phi add nothing to their product."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x))
        n, _, h, w = x.shape
        theta = net.theta(x).view(n, 4, -1).permute(0, 2, 1)
        phi = F.max_pool2d(net.phi(x), 2).view(n, 4, -1)
        g = F.max_pool2d(net.g(x), 2).view(n, 3, -1).permute(0, 2, 1)
        y = torch.matmul(F.softmax(torch.matmul(theta, phi), dim=-1), g).permute(0, 2, 1).contiguous()
        x = net.bn(net.out(y.view(n, 3, h, w))) + x
        return net.head(mean(x))

    return Net(
        run, conv1=conv(3, 6), theta=conv(6, 4, 1), phi=conv(6, 4, 1), g=conv(6, 3, 1), out=conv(3, 6, 1), bn=nn.BatchNorm2d(6),
        head=nn.Linear(6, 3),
    )  # fmt: skip


@network("conv1 6: conv1 a b expand.0 expand.1 expand.2\nreduce 3\nconv2 5")
def selective_kernels() -> nn.Module:
    """As in SKNet: branches stacked, and a softmax over them for every channel."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        branches = torch.stack([net.a(x), net.b(x), x], dim=1)
        s = F.relu(net.reduce(branches.sum(dim=1).mean(-1).mean(-1)))
        weights = torch.softmax(torch.stack([expand(s) for expand in net.expand], 1), dim=1)
        return net.head(mean(net.conv2((branches * weights.unsqueeze(-1).unsqueeze(-1)).sum(1))))

    expand = nn.ModuleList(nn.Linear(3, 6) for _ in range(3))
    return Net(
        run, conv1=conv(3, 6), a=conv(6, 6), b=conv(6, 6, dilation=2, padding=2), reduce=nn.Linear(6, 3), expand=expand,
        conv2=conv(6, 5), head=nn.Linear(5, 3),
    )  # fmt: skip


@network("conv1 5\nradix 2 x8: radix fc2\nfc1 3\nlast 4")
def split_attention() -> nn.Module:
    """As in ResNeSt: radix 2 and two cardinal groups; four channels of each go with those of the others."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.radix(net.conv1(x)))
        n, c = x.shape[:2]
        parts = torch.split(x, c // 2, dim=1)
        gap = F.adaptive_avg_pool2d(sum(parts), 1)
        attention = net.fc2(F.relu(net.fc1(gap)))
        attention = attention.view(n, 2, 2, -1).transpose(1, 2)
        attention = F.softmax(attention, dim=1).reshape(n, -1).view(n, -1, 1, 1)
        x = sum(a * part for a, part in zip(torch.split(attention, c // 2, dim=1), parts, strict=True))
        return net.head(mean(net.last(x)))

    return Net(
        run, conv1=conv(3, 5), radix=conv(5, 8), fc1=conv(4, 3, 1), fc2=conv(3, 8, 1), last=conv(4, 4), head=nn.Linear(4, 3)
    )  # fmt: skip


@network("conv1 6: conv1 columns rows\nshared 3\nconv2 4", (3, 8, 6))
def coordinate_attention() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        _, _, h, w = x.size()
        along_h, along_w = net.pool_h(x), net.pool_w(x).permute(0, 1, 3, 2)
        y = F.hardswish(net.bn(net.shared(torch.cat([along_h, along_w], dim=2))))
        along_h, along_w = torch.split(y, [h, w], dim=2)
        return net.head(mean(net.conv2(x * net.columns(along_w.permute(0, 1, 3, 2)).sigmoid() * net.rows(along_h).sigmoid())))

    return Net(
        run, conv1=conv(3, 6), pool_h=nn.AdaptiveAvgPool2d((None, 1)), pool_w=nn.AdaptiveAvgPool2d((1, None)),
        shared=conv(6, 3, 1), bn=nn.BatchNorm2d(3), rows=conv(3, 6, 1), columns=conv(3, 6, 1), conv2=conv(6, 4),
        head=nn.Linear(4, 3),
    )  # fmt: skip


@network("patches 6: patches mha.out_proj mlp.2 mixed\nmha.in_proj_weight 3 x6 mixed\nmlp.0 7", (3, 8, 8))
def vision_transformer() -> nn.Module:
    """Patches, a class token, positions and attention of two heads: a channel of one head goes with that of the other."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([net.token.expand(len(x), -1, -1), x], 1) + net.position
        y = net.norm1(x)
        x = x + net.mha(y, y, y, need_weights=False)[0]
        x = x + net.mlp(net.norm2(x))
        return net.head(x[:, 0])

    return Net(
        run, patches=nn.Conv2d(3, 6, 4, 4), token=parameter(1, 1, 6), position=parameter(1, 5, 6), norm1=nn.LayerNorm(6),
        mha=nn.MultiheadAttention(6, 2, batch_first=True), norm2=nn.LayerNorm(6),
        mlp=nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 6)), head=nn.Linear(6, 3),
    )  # fmt: skip


@network("patches 6\nfc 5")
def all_tokens_flattened() -> nn.Module:
    """Places and channels in one dimension: it is the channels that can go."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([x, net.token.expand(len(x), -1, -1)], 1) + net.position
        return net.head(F.relu(net.fc(x.flatten(1))))

    return Net(
        run, patches=nn.Conv2d(3, 6, 4, 4), token=parameter(1, 1, 6), position=parameter(1, 5, 6), fc=nn.Linear(30, 5),
        head=nn.Linear(5, 3),
    )  # fmt: skip


@network("conv1 6: conv1 project\nqkv 4 x6")
def attention_over_positions() -> nn.Module:
    """Heads made by views, the products by einsum and by scaled_dot_product_attention."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        q, k, v = net.qkv(x).view(len(x), 3, 2, 4, 64).unbind(1)
        y = torch.einsum("nhcp,nhcq->nhpq", q, k).softmax(-1)
        y = torch.einsum("nhpq,nhcq->nhcp", y, v)
        y = y + F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
        return net.head(mean(x + net.project(y.reshape(len(x), 8, 8, 8))))

    return Net(run, conv1=conv(3, 6), qkv=conv(6, 24, 1), project=conv(8, 6, 1), head=nn.Linear(6, 3))


@network("conv1 6\nconv2 5 mixed\nlast 4")
def attention_over_channels() -> nn.Module:
    """As in DANet: both sides of the product are channels."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        y = net.conv2(x).flatten(2)
        y = torch.bmm(torch.softmax(torch.bmm(y, y.transpose(1, 2)) / 64, -1), y).view(-1, 5, 8, 8)
        return net.head(mean(net.last(y)))

    return Net(run, conv1=conv(3, 6), conv2=conv(6, 5), last=conv(5, 4), head=nn.Linear(4, 3))


@network("conv1 6 mixed\nconv2 4")
def a_product_per_channel() -> nn.Module:
    """Every channel is a matrix of its own, multiplied with itself."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = torch.sigmoid(net.conv1(x))
        return net.head(mean(net.conv2(x @ x.transpose(2, 3)) * torch.softmax(x, 1).sum(1, keepdim=True)))

    return Net(run, conv1=conv(3, 6), conv2=conv(6, 4), head=nn.Linear(4, 3))
