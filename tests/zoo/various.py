"""What fits nowhere else."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts import Net, conv, mean, parameter
from zoo.registry import NETWORKS, Entry, network


@network("conv1 4 x2\nconv2 3 x2\nlast 5")
def maxout() -> nn.Module:
    """The larger of two neighbours, and of two halves."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x).view(-1, 4, 2, 8, 8).max(2)[0]
        x = net.conv2(x).unflatten(1, (2, 3)).amax(1)
        return net.head(mean(net.last(x)))

    return Net(run, conv1=conv(3, 8), conv2=conv(4, 6), last=conv(3, 5), head=nn.Linear(5, 3))


NETWORKS["maxout"] = Entry("maxout", maxout, ((3, 8, 8),), tuple((*g[:4], False) for g in NETWORKS["maxout"].groups))


@network("conv1 5 x2\nfc 4 x2")
def gated_linear_units() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(F.glu(net.fc(mean(F.glu(net.conv1(x), dim=1)))))

    return Net(run, conv1=conv(3, 10), fc=nn.Linear(5, 8), head=nn.Linear(4, 3))


@network("fc 5 x16\nup1 4\nup2 6", (7,))
def generator() -> nn.Module:
    """From a vector to an image: every channel of the first is sixteen outputs of a linear layer."""

    def run(net: Net, z: Tensor) -> Tensor:
        x = F.relu(net.bn(net.fc(z).view(-1, 5, 4, 4)))
        x = F.relu(net.up1(x))
        return torch.tanh(net.out(net.up2(nn.Unflatten(1, (4,))(x))))

    return Net(
        run, fc=nn.Linear(7, 80), bn=nn.BatchNorm2d(5), up1=nn.ConvTranspose2d(5, 4, 4, 2, 1), up2=conv(4, 6), out=conv(6, 3)
    )  # fmt: skip


@network("patches 6: patches blocks.0.0\nblocks.0.1 6: blocks.0.1 blocks.1.0\nblocks.1.1 6")
def mixer_of_convolutions() -> nn.Module:
    """As in ConvMixer: depthwise convolutions in a residual, then pointwise ones outside of it."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.gelu(net.patches(x))
        for depthwise, pointwise in net.blocks:
            x = F.gelu(pointwise(F.gelu(depthwise(x)) + x))
        return net.head(x.flatten(2).mean(-1))

    blocks = nn.ModuleList(nn.ModuleList([conv(6, 6, groups=6), conv(6, 6, 1)]) for _ in range(2))
    return Net(run, patches=nn.Conv2d(3, 6, 2, 2), blocks=blocks, head=nn.Linear(6, 3))


@network("patches 6: patches channels.2 mixed\ntokens.0 5\nchannels.0 7")
def mixer_of_linear_layers() -> nn.Module:
    """As in MLP-Mixer: linear layers over places, for every channel, and over channels, for every place."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.patches(x).flatten(2).transpose(1, 2)
        x = x + net.tokens(net.norm(x).transpose(1, 2)).transpose(1, 2)
        return net.head((x + net.channels(x)).mean(1))

    return Net(
        run, patches=nn.Conv2d(3, 6, 2, 2), norm=nn.LayerNorm(6), head=nn.Linear(6, 3),
        tokens=nn.Sequential(nn.Linear(16, 5), nn.GELU(), nn.Linear(5, 16)),
        channels=nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 6)),
    )  # fmt: skip


@network("tokens.0 5\ntokens.2 7\nlast 4")
def three_sizes_in_one_product() -> nn.Module:
    """Channels times tokens times tokens: a cost is at most a product of two widths, so the channels stay."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.patches(x)
        return net.head(mean(net.last(net.tokens(x.flatten(2)).unflatten(2, (4, 4)))))

    tokens = nn.Sequential(nn.Linear(16, 5), nn.GELU(), nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 16))
    return Net(run, patches=nn.Conv2d(3, 6, 2, 2), tokens=tokens, last=conv(6, 4), head=nn.Linear(4, 3))


@network("conv1 4\nconv2 3\nlast 5")
def pyramid_pooling() -> nn.Module:
    """Poolings of several sizes, one after the other and side by side, and a flatten of all of them."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x))
        y = F.max_pool2d(x, 5, 1, 2)
        x = F.relu(net.conv2(torch.cat([x, y, F.max_pool2d(y, 5, 1, 2)], 1)))
        x = torch.cat([x, *(F.interpolate(F.adaptive_avg_pool2d(x, n), (8, 8), mode="bilinear") for n in (1, 2))], 1)
        x = net.last(x)
        return net.head(torch.cat([F.adaptive_max_pool2d(x, n).view(len(x), -1) for n in (1, 2)], 1))

    return Net(run, conv1=conv(3, 4), conv2=conv(12, 3), last=conv(9, 5), head=nn.Linear(25, 3))


@network("conv1 5\nweight 4\nfc 6")
def convolution_by_hand() -> nn.Module:
    """Patches, a matrix product, and einsum."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x))
        x = (net.weight.view(4, -1) @ F.unfold(x, 3, padding=1)).view(-1, 4, 8, 8)
        x = torch.einsum("nchw,oc->nohw", F.relu(x), net.fc.weight) + net.fc.bias[None, :, None, None]
        return torch.tensordot(mean(x), net.matrix, dims=([1], [0]))

    return Net(run, conv1=conv(3, 5), weight=parameter(4, 5, 3, 3), fc=nn.Linear(4, 6), matrix=parameter(6, 3))


@network("conv1 5\nconv2 6\nconv3 4: conv3 conv4\nconv5 5")
def places() -> nn.Module:
    """What works on places leaves the channels alone: learned positions, rolls, grids, Fourier transforms, folds."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x) + net.position
        x = torch.roll(x, (1, -1), (2, 3)).flip(-1).rot90(1, (2, 3))
        x = net.conv2(torch.fft.irfft2(torch.fft.rfft2(x) * torch.view_as_complex(net.spectrum)))
        theta = net.locate(mean(x)).view(-1, 2, 3)
        x = F.grid_sample(net.conv3(x), F.affine_grid(theta, [len(x), 4, 8, 8], align_corners=False), align_corners=False)
        x = x + net.embedding(torch.arange(8)).t()[None, :, :, None]
        x = net.conv4(F.adaptive_avg_pool2d(x.sort(dim=2)[0], (4, 4))) + x[:, :, :4, ::2][:, :, torch.tensor([3, 0, 1, 2])]
        return net.head(mean(net.conv5(x.unfold(2, 2, 2).sum(-1))))

    return Net(
        run, conv1=conv(3, 5), position=parameter(1, 5, 8, 8), conv2=conv(5, 6), spectrum=parameter(8, 5, 2),
        locate=nn.Linear(6, 6), conv3=conv(6, 4), embedding=nn.Embedding(8, 4), conv4=conv(4, 4), conv5=conv(4, 5),
        head=nn.Linear(5, 3),
    )  # fmt: skip


@network("conv2 4\nconv3 5 mixed")
def channels_that_stay() -> nn.Module:
    """Those of conv1 are permuted by a table, rolled, sorted and shifted: nothing rectangular could be removed."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)[:, torch.tensor([3, 0, 5, 1, 2, 4])]
        x = torch.roll(x, 1, 1) + x.sort(1)[0] + x.gather(1, torch.zeros_like(x, dtype=torch.long)) + x.cumprod(1)
        x = net.conv2(x)
        x = net.conv3(x)
        return net.head(mean(x) + x.amax(1).mean((1, 2))[:, None])

    return Net(run, conv1=conv(3, 6), conv2=conv(6, 4), conv3=conv(4, 5), head=nn.Linear(5, 3))


@network("conv1 5\nconv2 6", (2, 12))
def causal() -> nn.Module:
    """As in temporal convolutional networks: padded on both sides, cut on the right; the last step makes the output."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x)[:, :, :-2].contiguous())
        return net.head(net.conv2(F.pad(x, (4, 0)))[:, :, -1])

    return Net(run, conv1=nn.Conv1d(2, 5, 3, padding=2), conv2=nn.Conv1d(5, 6, 3, dilation=2), head=nn.Linear(6, 3))


@network("conv1 5\nconv2 6")
def blurred() -> nn.Module:
    """A fixed filter in a buffer, made for all channels by expanding one."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x))
        x = F.conv2d(F.pad(x, [1, 1, 1, 1], "reflect"), net.filter, stride=2, groups=x.shape[1])
        x = F.conv2d(x, net.small.expand(5, 1, 3, 3), groups=5) + F.conv2d(x, net.small.repeat(5, 1, 1, 1), groups=5)
        return net.head(mean(net.conv2(x)))

    net = Net(run, conv1=conv(3, 5), conv2=conv(5, 6, 1), head=nn.Linear(6, 3))
    net.register_buffer("filter", torch.ones(5, 1, 3, 3) / 9)
    net.register_buffer("small", torch.ones(1, 1, 3, 3), persistent=False)
    return net


@network("conv1 5\nconv2 4: conv2 first")
def cosine_head() -> nn.Module:
    def run(net: Net, x: Tensor) -> Any:
        x = mean(net.conv2(F.relu(net.conv1(x))))
        cosine = F.linear(F.normalize(x), F.normalize(net.classes))
        return cosine, F.cosine_similarity(x, net.first(x)), torch.cdist(x, net.classes)

    return Net(run, conv1=conv(3, 5), conv2=conv(5, 4), classes=parameter(3, 4), first=nn.Linear(4, 4, bias=False))


@network("conv1 5", (3, 8, 8))
def bound_to_the_image() -> nn.Module:
    """Added to the image and to the output: neither can lose a channel."""

    def run(net: Net, x: Tensor) -> Any:
        y = net.like_the_image(x) + x
        z = net.conv1(y)
        return net.out(z) + y, net.out(z)

    return Net(run, like_the_image=conv(3, 3), conv1=conv(3, 5), out=conv(5, 3))


@network("conv1 5\nconv2 6 mixed\nlast 4")
def attention_gate() -> nn.Module:
    """One map for all channels, from their softmax; broadcasting it binds its one channel, not theirs."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        y = net.conv2(x)
        gate = net.psi(F.relu(y)).sigmoid() * torch.logsumexp(y, 1, keepdim=True)
        return net.head(mean(net.last(x * gate + gate.repeat(1, 5, 1, 1) + gate.expand(-1, 5, -1, -1))))

    return Net(run, conv1=conv(3, 5), conv2=conv(5, 6), psi=conv(6, 1), last=conv(5, 4), head=nn.Linear(4, 3))
