"""Networks as other people write them."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.parts import Net, conv, mean, parameter
from zoo.registry import network


@network("stem 5\na.wide 4: a.wide a.out b.out\na.wide#2 4: a.wide\na.inner 6\na.out 2\nb.inner 6\nb.out 2")
def dual_path() -> nn.Module:
    """As in DPN: the first channels are a residual stream, the rest of every block is appended."""

    class Path(nn.Module):
        def __init__(self, inputs: int, wide: bool):
            super().__init__()
            self.wide = conv(inputs, 8, 1) if wide else None
            self.inner, self.out = conv(inputs, 6), conv(6, 6, 1)

        def forward(self, x: Any) -> tuple[Tensor, Tensor]:
            both = torch.cat(x, 1) if isinstance(x, tuple) else x
            if self.wide is not None:
                wide = self.wide(both)
                x = wide[:, :4], wide[:, 4:]
            y = self.out(F.relu(self.inner(both)))
            return x[0] + y[:, :4], torch.cat([x[1], y[:, 4:]], 1)

    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(mean(torch.cat(net.b(net.a(net.stem(x))), 1)))

    return Net(run, stem=conv(3, 5), a=Path(5, True), b=Path(10, False), head=nn.Linear(12, 3))


@network("local 5\nproject 6: project attend.2 mixed\nattend.0 7\nback 5\nfuse 4")
def tokens_of_patches() -> nn.Module:
    """As in MobileViT: views that fold the batch, the channels and the rows of patches into one dimension, and back."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.local(x)
        y = net.project(x)
        n, c, h, w = y.shape
        y = y.reshape(n * c * (h // 2), 2, w // 2, 2).transpose(1, 2)
        y = y.reshape(n, c, h * w // 4, 4).transpose(1, 3).reshape(n * 4, h * w // 4, c)
        y = y + net.attend(net.norm(y))
        y = y.contiguous().view(n, 4, h * w // 4, -1).transpose(1, 3).reshape(n * c * (h // 2), w // 2, 2, 2)
        y = y.transpose(1, 2).reshape(n, c, h, w)
        return net.head(mean(net.fuse(torch.cat((x, net.back(y)), 1))))

    return Net(
        run, local=conv(3, 5), project=conv(5, 6, 1), norm=nn.LayerNorm(6), back=conv(6, 5, 1), fuse=conv(10, 4),
        attend=nn.Sequential(nn.Linear(6, 7), nn.SiLU(), nn.Linear(7, 6)), head=nn.Linear(4, 3),
    )  # fmt: skip


@network("a 5\nb 6", (3, 16, 16))
def space_to_depth() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        for layer, size in ((net.a, 4), (net.b, 2)):
            n, c, h, w = x.size()
            x = x.view(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4).contiguous()
            x = F.relu(layer(x.view(n, c * size**2, h // size, w // size)))
        return net.head(mean(x))

    return Net(run, a=conv(48, 5), b=conv(20, 6), head=nn.Linear(6, 3))


@network("a 5\nb 6")
def coordinates() -> nn.Module:
    """As in CoordConv: the places are three more channels."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.a(x))
        n, _, h, w = x.shape
        xs = torch.arange(w, device=x.device, dtype=x.dtype).view(1, 1, 1, w).expand(n, 1, h, w) / (w - 1)
        ys = torch.arange(h, device=x.device, dtype=x.dtype).view(1, 1, h, 1).repeat(n, 1, 1, w) / (h - 1)
        radius = torch.sqrt((xs - 0.5) ** 2 + (ys - torch.tensor(0.5, device=x.device)) ** 2)
        return net.head(mean(net.b(torch.cat([x, xs * 2 - 1, ys.type_as(x), radius.to(x.device)], 1))))

    return Net(run, a=conv(3, 5), b=conv(8, 6), head=nn.Linear(6, 3))


@network("a 5\nb 6", (4, 3, 8, 8))
def frames_of_a_video() -> nn.Module:
    """Every frame goes through the convolutions as an image of its own, and costs."""

    def run(net: Net, x: Tensor) -> Tensor:
        n, frames, c, h, w = x.shape
        x = F.avg_pool2d(F.relu(net.bn(net.a(x.view(n * frames, c, h, w)))), 2)
        return net.head(mean(net.b(x)).view(n, frames, -1).max(dim=1)[0])

    return Net(run, a=conv(3, 5), bn=nn.BatchNorm2d(5), b=conv(5, 6), head=nn.Linear(6, 3))


@network("conv1 6 mixed")
def triplet_attention() -> nn.Module:
    """Channels and rows change places, so that a convolution and a norm run along the channels."""

    def gate(layer: nn.Module, x: Tensor) -> Tensor:
        seen = torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), 1)
        return x * torch.sigmoid(layer(seen))

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        y = gate(net.rows, x.transpose(1, 2).contiguous()).transpose(1, 2)
        z = gate(net.columns, x.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)
        return net.head(mean(x + y + z))

    rows, columns = (nn.Sequential(conv(2, 1, 7, bias=False), nn.BatchNorm2d(1)) for _ in range(2))
    return Net(run, conv1=conv(3, 6), rows=rows, columns=columns, head=nn.Linear(6, 3))


@network("extract 5\nout 4", (3, 8, 8), (3, 5, 5))
def correlation() -> nn.Module:
    """As in siamese trackers: the one image is the filter for the other, channel by channel, in one convolution."""

    def run(net: Net, x: Tensor, z: Tensor) -> Tensor:
        x, z = net.extract(x), net.extract(z)[:, :, 1:4, 1:4]
        n, c, h, w = x.shape
        y = F.conv2d(x.reshape(1, n * c, h, w), z.reshape(n * c, 1, 3, 3), groups=n * c).view(n, c, h - 2, w - 2)
        return net.head(mean(net.out(y)))

    return Net(run, extract=conv(3, 5), out=conv(5, 4), head=nn.Linear(4, 3))


@network("out 4", (3, 8, 8), (3, 5, 5))
def correlation_of_bound_channels() -> nn.Module:
    """The same, where the channels are part of the output: there are as many groups as images times channels."""

    def run(net: Net, x: Tensor, z: Tensor) -> Any:
        x, z = net.extract(x), net.extract(z)
        n, c, h, w = x.shape
        y = F.conv2d(x.reshape(1, n * c, h, w), z.reshape(n * c, 1, 5, 5), groups=n * c).view(n, c, h - 4, w - 4)
        return net.head(mean(net.out(y))), z

    return Net(run, extract=conv(3, 5), out=conv(5, 4), head=nn.Linear(4, 3))


@network("a 5")
def outer_product() -> nn.Module:
    """Every channel of the one times every channel of the other, as a vector: one of the two stays."""

    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(torch.einsum("nchw,ndhw->ncd", net.a(x), net.b(x)).flatten(1))

    return Net(run, a=conv(3, 5), b=conv(3, 4), head=nn.Linear(20, 3))


@network("conv1 2 x12: conv1 span\nreduce 4\nlast 5")
def involution() -> nn.Module:
    """A filter per place, made from the image, the same for all channels of one of two groups."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        n, _, h, w = x.shape
        filters = net.span(F.relu(net.reduce(x))).view(n, 2, 9, h, w).unsqueeze(2)
        patches = F.unfold(x, 3, padding=1).view(n, 2, 3, 9, h, w)
        return net.head(mean(net.last((filters * patches).sum(dim=3).view(n, 6, h, w))))

    return Net(
        run, conv1=conv(3, 6), reduce=conv(6, 4, 1), span=conv(4, 18, 1), last=conv(6, 5), head=nn.Linear(5, 3)
    )  # fmt: skip


@network("patches 6\nqkv 3 x6\nproject 5 mixed")
def shifted_windows() -> nn.Module:
    """As in Swin: attention within windows, and a bias for it that is looked up."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = torch.roll(net.patches(x).permute(0, 2, 3, 1), (-1, -1), (1, 2))
        n, h, w, c = x.shape
        x = x.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4, c)
        q, k, v = net.qkv(x).reshape(-1, 4, 3, 2, 3).permute(2, 0, 3, 1, 4)
        bias = net.table[net.index.view(-1)].view(4, 4, -1).permute(2, 0, 1)
        attention = (q * 3**-0.5) @ k.transpose(-2, -1) + bias.unsqueeze(0)
        x = net.project((attention.softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, 6))
        x = x.view(n, h // 2, w // 2, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).contiguous().view(n, h, w, -1)
        return net.head(net.norm(x).mean((1, 2)))

    net = Net(
        run, patches=nn.Conv2d(3, 6, 2, 2), qkv=nn.Linear(6, 18), table=parameter(9, 2), project=nn.Linear(6, 5),
        norm=nn.LayerNorm(5), head=nn.Linear(5, 3),
    )  # fmt: skip
    net.register_buffer("index", torch.arange(16).view(4, 4) % 9)
    return net


@network("conv1 5 mixed\nconv2 6")
def scaled_standardisation() -> nn.Module:
    """As in normaliser-free networks; and weights that are rounded, with a gradient straight through."""

    def run(net: Net, x: Tensor) -> Tensor:
        w = net.conv2.weight
        step = net.conv1.weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 7
        rounded = torch.round(net.conv1.weight / step.clamp(min=1e-8)) * step
        x = F.gelu(F.conv2d(x, (rounded - net.conv1.weight).detach() + net.conv1.weight, padding=1)) * 1.7
        var, centre = torch.var_mean(w, dim=[1, 2, 3], keepdim=True, unbiased=False)
        scale = torch.rsqrt(torch.maximum(var * w[0].numel(), torch.tensor(1e-4).to(var))) * net.gain
        return net.head(mean(F.conv2d(x, w * scale - centre * scale, net.conv2.bias)) * net.skip)

    return Net(
        run, conv1=conv(3, 5, bias=False), conv2=conv(5, 6), gain=parameter(6, 1, 1, 1), skip=nn.Parameter(torch.ones(())),
        head=nn.Linear(6, 3),
    )  # fmt: skip


@network("conv1 5\nconv2 6\nmix 4 x4: mix\nlast 4")
def compiled_and_checkpointed() -> nn.Module:
    """A scripted function, one with a gradient of its own, checkpoints, and a fold that undoes an unfold."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = _swish(net.conv1(x))
        x = _MySwish.apply(checkpoint(lambda x: net.conv2(x) + 1, x, use_reentrant=False))
        patches = net.mix(F.unfold(x, 2, stride=2).transpose(1, 2)).transpose(1, 2)
        return net.head(mean(net.last(F.fold(patches, (8, 8), 2, stride=2))))

    return Net(
        run, conv1=conv(3, 5), conv2=conv(5, 6), mix=nn.Linear(24, 16), last=conv(4, 4), head=nn.Linear(4, 3)
    )  # fmt: skip


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scripts are on their way out, and still in many networks
    _swish = torch.jit.script(_swish)


class _MySwish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = x.sigmoid()
        return gradient * (gate * (1 + x * (1 - gate)))
