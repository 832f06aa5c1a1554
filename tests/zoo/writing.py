"""Networks written in unusual ways."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts import Net, conv, mean, parameter
from zoo.registry import network


@network("conv1 6: conv1 again")
def used_twice() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x))
        return net.head(mean(F.relu(net.again(F.relu(net.again(x))))))

    return Net(run, conv1=conv(3, 6), again=conv(6, 6), head=nn.Linear(6, 3))


@network("kernel 6\nsecond 5")
def functional() -> nn.Module:
    """Raw parameters, named as one likes, and a lambda that reads them from the network."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.conv2d(x, net.kernel, net.offset, padding=1)
        x = F.batch_norm(x, net.seen_mean, net.seen_var, eps=1e-3)
        x = F.conv2d(x.relu_(), net.second["weight"])
        return F.linear(x.mean([-1, -2]), net.matrix)

    net = Net(
        run, kernel=parameter(6, 3, 3, 3), offset=parameter(6), second=nn.ParameterDict({"weight": parameter(5, 6, 1, 1)}),
        matrix=parameter(4, 5),
    )  # fmt: skip
    net.register_buffer("seen_mean", torch.zeros(6))
    net.register_buffer("seen_var", torch.ones(6), persistent=False)
    return net


@network("conv1 5\nconv2 6\nkernel 4")
def lambdas() -> nn.Module:
    """Functions in attributes that hold the network itself, and hooks that change what passes."""

    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(mean(net.last(net.middle(net.first(x)))))

    net = Net(run, conv1=conv(3, 5), conv2=conv(5, 6), kernel=parameter(4, 6, 3, 3), head=nn.Linear(4, 3))
    net.first = lambda x: F.relu(net.conv1(x))
    net.middle = functools.partial(net.conv2.forward)
    net.last = lambda x: F.conv2d(x, net.kernel)
    net.conv2.register_forward_hook(lambda module, args, output: output * 2)
    net.conv1.register_forward_hook(lambda module, args, output: F.elu(output) - net.conv1.bias.view(-1, 1, 1))
    return net


@network("encoder 5")
def shared_weights() -> nn.Module:
    """The decoder is the encoder, transposed."""

    def run(net: Net, x: Tensor) -> Tensor:
        return F.conv_transpose2d(F.relu(net.encoder(x)), net.decoder.weight, padding=1)

    net = Net(run, encoder=conv(3, 5), decoder=conv(3, 5, bias=False))
    net.decoder.weight = net.encoder.weight
    return net


@network("conv1 5\nconv2 6 mixed")
def unregistered_tensors() -> nn.Module:
    """Tensors that the network holds without registering them, and numbers made in its forward pass. A mask does not zero the
    former, so what is multiplied with the last of them must not be masked."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu((x - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / torch.tensor(0.5))
        x = F.conv2d(net.conv1(x) * net.scale, net.blur, padding=1, groups=5)
        ramp = torch.arange(8, dtype=x.dtype) + torch.linspace(0, 1, 8)
        x = net.conv2(x + ramp) + torch.full((1,), 0.5, dtype=x.dtype)
        return net.head(mean(x)) + torch.ones(3, dtype=x.dtype) + torch.sigmoid(mean(x)) @ net.table

    return Net(
        run, conv1=conv(3, 5), conv2=conv(5, 6), head=nn.Linear(6, 3), table=torch.rand(6, 3, dtype=torch.float64),
        scale=torch.rand(5, 1, 1, dtype=torch.float64), blur=torch.rand(5, 1, 3, 3, dtype=torch.float64),
    )  # fmt: skip


@network("conv1 5\nconv2 4: conv2 condition mixed", (3, 8, 8), (2, 8, 8), (6,))
def several_inputs() -> nn.Module:
    """Two images and a vector, and outputs in a tuple."""

    def run(net: Net, x: Tensor, y: Tensor, z: Tensor) -> Any:
        x = F.relu(net.conv1(torch.cat([x, y], 1)))
        x = F.relu(net.conv2(x) + net.condition(z)[:, :, None, None])
        return net.head(mean(x)), (x.amax((1, 2, 3)), None)

    return Net(run, conv1=conv(5, 5), conv2=conv(5, 4), condition=nn.Linear(6, 4), head=nn.Linear(4, 3))


@network("conv1 5\nconv2 6")
def in_place() -> nn.Module:
    """In-place operators, on the image too."""

    def run(net: Net, x: Tensor) -> Tensor:
        x.sub_(0.5).div_(2)
        x = net.conv1(x).mul_(2)
        x += 1
        x[:, :, 0].zero_()
        x.data.clamp_(max=3)
        x.relu_()
        return net.head(mean(net.bn(net.conv2(x)).add_(1).sigmoid_()))

    return Net(run, conv1=conv(3, 5), conv2=conv(5, 6), bn=nn.BatchNorm2d(6), head=nn.Linear(6, 3))


@network("conv1 5\nconv2 6\nconv3 7", (3, 32))
def one_dimensional() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(net.bn1(net.conv1(x))), 2)
        x = F.avg_pool1d(F.relu(net.bn2(net.conv2(x))), 2)
        x = F.adaptive_max_pool1d(F.interpolate(net.conv3(x), scale_factor=2, mode="linear"), 2)
        return net.head(x.flatten(1))

    return Net(
        run, conv1=nn.Conv1d(3, 5, 3, bias=False), bn1=nn.BatchNorm1d(5), conv2=nn.Conv1d(5, 6, 3, padding="same"),
        bn2=nn.BatchNorm1d(6, track_running_stats=False), conv3=nn.Conv1d(6, 7, 1), head=nn.Linear(14, 3),
    )  # fmt: skip


@network("conv1 5\nconv2 6\nup 4", (2, 4, 8, 8))
def three_dimensional() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(net.bn(net.conv1(x))), 2)
        x = net.up(F.avg_pool3d(net.conv2(x), (1, 2, 2)))
        return net.head(F.adaptive_avg_pool3d(x, (1, 2, 1)).flatten(1))

    return Net(
        run, conv1=nn.Conv3d(2, 5, 3, padding=1), bn=nn.BatchNorm3d(5), conv2=nn.Conv3d(5, 6, 1),
        up=nn.ConvTranspose3d(6, 4, 2, 2), head=nn.Linear(8, 3),
    )  # fmt: skip


@network("conv1 5\nconv2 6\nconv3 4\nconv4 7\nconv5 5")
def paddings_and_poolings() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.max_pool2d(net.conv1(x), 3, 1, ceil_mode=True)
        x = F.lp_pool2d(net.conv2(F.pad(x, (1, 1, 1, 1), mode="replicate")).relu(), 2, 2)
        x = F.adaptive_max_pool2d(net.conv3(x), (None, 3))
        x = F.interpolate(net.conv4(F.pad(x, (0, 1, -1, 2), value=1.5)), (6, 5), mode="bicubic")
        x = net.conv5(x)
        a, b = F.adaptive_avg_pool2d(x, (1, 1)), F.adaptive_max_pool2d(x, 1)
        return net.head(torch.cat([a, b], 1).squeeze(-1).squeeze(-1))

    return Net(
        run, conv1=conv(3, 5, padding_mode="reflect"), conv2=conv(5, 6, padding_mode="circular"), conv3=conv(6, 4, dilation=2),
        conv4=conv(4, 7, 1), conv5=conv(7, 5), head=nn.Linear(10, 3),
    )  # fmt: skip


@network("conv1 6: conv1 conv2 conv3\nfc 7")
def activations() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.prelu(net.conv1(x)) + F.prelu(net.one(net.conv1(x)) * 0, torch.tensor([0.1], dtype=x.dtype))
        x = F.mish(x) + F.hardswish(x) * F.silu(x) - F.softplus(x) / 3 + F.gelu(x) + F.logsigmoid(x) + F.hardsigmoid(x)
        x = torch.where(net.conv2(x) > 0, x.clamp(-2, 2), torch.exp(-x.abs()))
        x = torch.maximum(net.conv3(x), F.selu(x)) + torch.max(x, -x) + F.rrelu(x) + F.threshold(x, 0.1, 0.2) + F.hardtanh(x)
        x = F.dropout2d(F.dropout(F.alpha_dropout(x, 0.1, net.training), training=net.training), 0.3, net.training)
        return net.head(net.drop(net.fc(mean(x))))

    return Net(
        run, conv1=conv(3, 6), prelu=nn.PReLU(6), one=nn.PReLU(), conv2=conv(6, 6), conv3=conv(6, 6), fc=nn.Linear(6, 7),
        drop=nn.Dropout(0.2), head=nn.Linear(7, 3),
    )  # fmt: skip
