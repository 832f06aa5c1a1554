"""Norms, and weights that are computed."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from zoo.parts import Net, conv, mean, parameter
from zoo.registry import network


@network("conv1 6 mixed\nconv2 3 x2 mixed\nconv3 5\nfc 4 mixed")
def group_norms() -> nn.Module:
    """One group, two groups, and a group per channel, which mixes nothing."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.gn1(net.conv1(x)))
        x = F.relu(net.gn2(net.conv2(x)))
        x = F.relu(net.gn3(net.conv3(x)))
        return net.head(net.gn4(net.fc(mean(x))))

    return Net(
        run, conv1=conv(3, 6), gn1=nn.GroupNorm(1, 6), conv2=conv(6, 6), gn2=nn.GroupNorm(2, 6), conv3=conv(6, 5),
        gn3=nn.GroupNorm(5, 5, affine=False), fc=nn.Linear(5, 4), gn4=nn.GroupNorm(1, 4), head=nn.Linear(4, 3),
    )  # fmt: skip


@network("stem 6: stem depthwise project mixed\nexpand 8\nconv3 5 mixed")
def convnext() -> nn.Module:
    """Layer norm with the channels last, a scale per channel, and a layer norm over channels and space."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.stem(x)
        y = net.norm(net.depthwise(x).permute(0, 2, 3, 1))
        y = net.project(F.gelu(net.expand(y))).permute(0, 3, 1, 2)
        x = x + net.gamma * y
        return net.head(mean(net.norm2(net.conv3(x))))

    return Net(
        run, stem=nn.Conv2d(3, 6, 2, 2), depthwise=conv(6, 6, 3, groups=6), norm=nn.LayerNorm(6), expand=nn.Linear(6, 8),
        project=nn.Linear(8, 6), gamma=parameter(6, 1, 1), conv3=conv(6, 5), norm2=nn.LayerNorm([5, 4, 4]),
        head=nn.Linear(5, 3),
    )  # fmt: skip


@network("conv1 5\nconv2 6\nconv3 4")
def instance_norms() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.in1(net.conv1(x)))
        x = F.relu(net.in2(net.conv2(x)))
        return net.head(mean(net.in3(net.conv3(x)) ** 2))

    return Net(
        run, conv1=conv(3, 5), in1=nn.InstanceNorm2d(5, affine=True), conv2=conv(5, 6),
        in2=nn.InstanceNorm2d(6, affine=True, track_running_stats=True), conv3=conv(6, 4), in3=nn.InstanceNorm2d(4),
        head=nn.Linear(4, 3),
    )  # fmt: skip


@network("conv1 6 mixed\nconv2 5\nconv3 4\nconv4 6 mixed\nconv5 6")
def norms_by_hand() -> nn.Module:
    """RMS norm, a unit norm over the channels, one over space, standardisation, and response normalisation."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)
        x = F.normalize(net.conv2(x), dim=1)
        x = net.conv3(x)
        x = (x - x.mean((2, 3), keepdim=True)) / torch.sqrt(x.var((2, 3), keepdim=True) + 1e-5)
        x = net.conv4(F.relu(x))
        x = net.grn(x * (x.norm(p=2, dim=(2, 3), keepdim=True) / (x.norm(dim=(2, 3), keepdim=True).mean(1, True) + 1e-6)))
        return net.head(mean(net.conv5(x)))

    return Net(
        run, conv1=conv(3, 6), conv2=conv(6, 5), conv3=conv(5, 4), conv4=conv(4, 6), grn=nn.BatchNorm2d(6), conv5=conv(6, 6),
        head=nn.Linear(6, 3),
    )  # fmt: skip


@network("a 5\nb 4 mixed\nc 6 mixed\nd 3 mixed\nlast 4")
def sums_over_channels() -> nn.Module:
    """Zeros add nothing, so where removed channels are zero a sum does not mix. Those of b are a half times a scale, of which
    there is one for all of them; those of c get written into zeros; the mean of d counts them."""

    def run(net: Net, x: Tensor) -> Tensor:
        a = F.leaky_relu(net.bn(net.a(x))).sum(1)
        b = (torch.sigmoid(net.b(x)) * net.scale).sum(1)
        c = torch.zeros(len(x), 6, 8, 8, dtype=x.dtype)
        c[:, :, 1:] = torch.sigmoid(net.c(x))[:, :, 1:]
        d = F.max_pool2d(net.d(x).relu(), 3, 1, 1).mean(1)
        return net.head(mean(net.last(torch.stack([a, b, c.sum(1), d], 1))))

    return Net(
        run, a=conv(3, 5), bn=nn.BatchNorm2d(5), b=conv(3, 4), scale=parameter(1), c=conv(3, 6), d=conv(3, 3), last=conv(4, 4),
        head=nn.Linear(4, 3),
    )  # fmt: skip


@network("conv1 5 mixed\nconv2 6")
def local_response_norm() -> nn.Module:
    """Divides by the neighbouring channels: removing one changes who is next to whom."""

    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(mean(net.conv2(F.local_response_norm(net.conv1(x), 3, alpha=0.5))))

    return Net(run, conv1=conv(3, 5), conv2=conv(5, 6), head=nn.Linear(6, 3))


@network("conv1 5 mixed\nconv2 6\nconv3 4\nconv4 5")
def parametrized() -> nn.Module:
    """Weight norm divides by the norm of a filter, zero if it is zeroed; spectral norm by one number for all; and a weight of
    low rank in the sum with the fixed one is a product of two parameters."""

    class LowRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = parameter(5, 2), parameter(2, 4)

        def forward(self, weight: Tensor) -> Tensor:
            return weight + (self.a @ self.b)[:, :, None, None]

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x))
        x = F.relu(net.conv2(x))
        return net.head(mean(net.conv4(F.relu(net.conv3(x)))))

    net = Net(
        run, conv1=parametrizations.weight_norm(conv(3, 5)), conv2=parametrizations.spectral_norm(conv(5, 6)),
        conv3=conv(6, 4), conv4=conv(4, 5, 1), head=parametrizations.weight_norm(nn.Linear(5, 3), dim=None),
    )  # fmt: skip
    parametrize.register_parametrization(net.conv4, "weight", LowRank())
    return net


@network("conv1 5 mixed\nconv2 6\nconv3 4\nconv4 5")
def parametrized_by_hooks() -> nn.Module:
    """The same ideas as PyTorch wrote them before: a hook computes the weight; and pruning masks."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x))
        x = F.relu(net.conv2(x))
        return net.head(mean(net.conv4(F.relu(net.conv3(x)))))

    net = Net(run, conv1=conv(3, 5), conv2=conv(5, 6), conv3=conv(6, 4), conv4=conv(4, 5, 1), head=nn.Linear(5, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(net.conv1)
    nn.utils.spectral_norm(net.conv2)
    prune.random_unstructured(net.conv3, "weight", 0.4)
    return net


@network("conv1 5 mixed\nconv2 6\nconv3 4")
def standardised_weights() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        for layer in (net.conv1, net.conv2):
            w = layer.weight
            w = w - w.mean(dim=(1, 2, 3), keepdim=True)
            w = w / (w.reshape(w.size(0), -1).std(dim=1).view(-1, 1, 1, 1) + 1e-5)
            x = F.relu(F.conv2d(x, w, layer.bias, layer.stride, layer.padding))
        return net.head(mean(net.conv3(x)))

    return Net(run, conv1=conv(3, 5), conv2=conv(5, 6), conv3=conv(6, 4), head=nn.Linear(4, 3))


@network("conv1 5 mixed\nconv2 6 mixed\nconv3 4 mixed")
def divisions_by_zero() -> nn.Module:
    """Filters over their norms, maps over their sums, and the inverse of a scale: none of these can be zeroed."""

    def run(net: Net, x: Tensor) -> Tensor:
        w = net.conv1.weight
        x = F.conv2d(x, w / w.norm(p=2, dim=(1, 2, 3), keepdim=True), padding=1)
        x = net.conv2(x).square()
        x = net.conv3(x / x.sum((2, 3), keepdim=True))
        return net.head(mean(x) * (1 / net.scale))

    return Net(run, conv1=conv(3, 5), conv2=conv(5, 6), conv3=conv(6, 4), scale=parameter(4), head=nn.Linear(4, 3))


@network("conv1 5 mixed\nkernel 4 mixed")
def weights_that_are_never_zero() -> nn.Module:
    """exp(0) is one, so a zeroed slice of the kernel is none: its channels cannot be masked, on neither side."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.conv2d(torch.sigmoid(net.conv1(x)), torch.exp(net.kernel))
        return net.head(mean(x)) * x.sum((1, 2, 3)).sigmoid()[:, None]

    return Net(run, conv1=conv(3, 5), kernel=parameter(4, 5, 3, 3), head=nn.Linear(4, 3))


@network("fc 5\nattend 3 mixed\nkernels 6\nlast 4")
def dynamic_convolution() -> nn.Module:
    """Kernels mixed for every image, which then is a group of its own in one convolution over the batch."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x))
        n, c, h, w = x.shape
        attention = torch.softmax(net.attend(F.relu(net.fc(mean(x)))), 1)
        kernels = (attention @ net.kernels.view(3, -1)).view(n * 6, c, 3, 3)
        x = F.conv2d(x.view(1, n * c, h, w), kernels, padding=1, groups=n).view(n, 6, h, w)
        return net.head(mean(net.last(F.relu(x))))

    return Net(
        run, conv1=conv(3, 4), fc=nn.Linear(4, 5), attend=nn.Linear(5, 3), kernels=parameter(3, 6, 4, 3, 3), last=conv(6, 4),
        head=nn.Linear(4, 3),
    )  # fmt: skip
