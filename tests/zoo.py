"""Odd networks, small enough that what belongs together in them can be written down by hand, and ways to look at the outcome.

The groups of a network are given as text, one per line: the name (of its first layer), the number of units, and where it is
not one filter of one layer per unit, ``x`` and the filters per unit, a colon and the layers. ``mixed`` ends the line of a
group that is normalised or reduced across its channels.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import prune_gym
from prune_gym import Architecture, ChannelGraph
from prune_gym.graph.program import leaves

Shape = tuple[int, ...]
Group = tuple[str, int, int, tuple[str, ...], bool]  # name, units, filters per unit, layers, mixed


@dataclass(frozen=True)
class Entry:
    name: str
    build: Callable[[], nn.Module]
    shapes: tuple[Shape, ...]  # of the inputs, without the batch
    groups: tuple[Group, ...]


NETWORKS: dict[str, Entry] = {}


def network(groups: str, *shapes: Shape) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Enter a function that builds a network into the zoo."""

    def enter(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        expected = tuple(_group(line) for line in groups.strip().splitlines())
        NETWORKS[build.__name__] = Entry(build.__name__, build, shapes or ((3, 8, 8),), expected)
        return build

    return enter


def _group(line: str) -> Group:
    left, _, right = line.partition(":")
    name, width, *per_unit = left.split()
    layers = [word for word in right.split() if word != "mixed"] or [name.partition("#")[0]]
    filters = next((int(word[1:]) for word in per_unit if word.startswith("x")), len(layers))
    return name, int(width), filters, tuple(layers), "mixed" in line.split()


def groups_of(graph: ChannelGraph) -> tuple[Group, ...]:
    return tuple((g.name, g.width, g.filters_per_unit, g.layers, g.mixed) for g in graph.groups)


# ------------------------------------------------------------------------------------------------ looking at networks


def prepare(model: nn.Module, seed: int = 0) -> nn.Module:
    """Double precision, evaluation mode, and no parameter or statistic at a value that hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.rand(tensor.shape, dtype=tensor.dtype, generator=generator)
            if tensor.ndim < 2 or "var" in name:
                tensor.copy_(0.5 + noise if tensor.ndim == 1 and "mean" not in name and "bias" not in name else noise - 0.5)
            else:
                tensor.copy_((noise - 0.5) * (12 / max(tensor[0].numel(), 1)) ** 0.5)
    return model


def inputs(shapes: tuple[Shape, ...], n: int = 2, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, *shape, dtype=torch.float64, generator=generator) for shape in shapes]


@functools.cache
def built(name: str) -> nn.Module:
    """A network of the zoo; not to be changed."""
    torch.manual_seed(0)
    return prepare(NETWORKS[name].build())


def random_architecture(graph: ChannelGraph, seed: int, fraction: float = 0.3) -> Architecture:
    """Without ``fraction`` of every group's units, at least one where there are two, and one is always left."""
    rng = np.random.default_rng(seed)
    kept = []
    for group in graph.groups:
        n_removed = min(group.width - 1, max(1, round(fraction * group.width)))
        kept.append(rng.permutation(group.width) >= n_removed)
    return graph.architecture(kept)


def tensors_in(output: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(output) if isinstance(leaf, Tensor)]


def relative_error(output: Any, reference: Any) -> float:
    """The largest difference of any element of any tensor, over the largest element of the reference."""
    a, b = tensors_in(output), tensors_in(reference)
    assert [x.shape for x in a] == [x.shape for x in b]
    assert all(torch.isfinite(x).all() for x in b)
    return max(float((x - y).detach().abs().max() / y.detach().abs().max().clamp_min(1e-30)) for x, y in zip(a, b, strict=True))


def macs(model: nn.Module, images: list[Tensor]) -> int:
    """Multiply-accumulates for one image, as PyTorch counts them (with gradients, lest it take attention in one piece)."""
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model(*(x[:1] for x in images))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# --------------------------------------------------------------------------------------------------------- parts


class Net(nn.Module):
    """Members by name, and a function of the network and its inputs as its forward pass."""

    def __init__(self, run: Callable[..., Any], **members: Any):
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)
        self.run = run

    def forward(self, *images: Tensor) -> Any:
        return self.run(self, *images)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, **options})


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


# ------------------------------------------------------------------------------------- chains, sums, concatenations


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


# ------------------------------------------------------------------------------------- taking channels apart


@network("conv1 4 x2\nconv2 5")
def halves_added() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        a, b = net.conv1(x).chunk(2, dim=1)
        return net.head(mean(net.conv2(F.relu(a + b))))

    return Net(run, conv1=conv(3, 8), conv2=conv(4, 5), head=nn.Linear(5, 3))


@network("conv1 4\nconv1#2 4: conv1\na 3\nb 5")
def halves_to_different_layers() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        a, b = torch.split(F.relu(net.conv1(x)), [4, 4], 1)
        return net.head(mean(torch.cat([net.a(a), net.b(b)], 1)))

    return Net(run, conv1=conv(3, 8), a=conv(4, 3), b=conv(4, 5), head=nn.Linear(8, 3))


@network("conv1 3\nconv1#2 5: conv1\nb 6")
def a_part_passes_through() -> nn.Module:
    """As in CSPNet: one part goes around the layer."""

    def run(net: Net, x: Tensor) -> Tensor:
        a, b = net.conv1(x).split([3, 5], 1)
        return net.head(mean(torch.cat([net.b(b), a], dim=1)))

    return Net(run, conv1=conv(3, 8), b=conv(5, 6), head=nn.Linear(9, 3))


@network("conv1 4\nconv1#2 4: conv1\nlast 5")
def halves_swapped() -> nn.Module:
    """Both halves go the same way, but none may become empty."""

    def run(net: Net, x: Tensor) -> Tensor:
        a, b = net.conv1(x).chunk(2, 1)
        return net.head(mean(net.last(torch.cat([b, a], 1))))

    return Net(run, conv1=conv(3, 8), last=conv(8, 5), head=nn.Linear(5, 3))


@network("stem 3\nstem#2 3: stem\nstem#3 3: stem k1\nk2 3\nlast 5")
def hierarchical_split() -> nn.Module:
    """As in Res2Net: every part is added to what became of the one before it; the first goes around."""

    def run(net: Net, x: Tensor) -> Tensor:
        a, b, c = torch.split(net.stem(x), 3, 1)
        b = F.relu(net.k1(b))
        c = F.relu(net.k2(c + b))
        return net.head(mean(net.last(torch.cat([a, b, c], 1))))

    return Net(run, stem=conv(3, 9), k1=conv(3, 3), k2=conv(3, 3), last=conv(9, 5), head=nn.Linear(5, 3))


@network("primary 4: primary cheap\nlast 6")
def ghost() -> nn.Module:
    """As in GhostNet: cheap copies of the channels, and a slice that keeps all of them."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.primary(x))
        x = torch.cat([x, F.relu(net.cheap(x))], 1)[:, :8, :, :]
        return net.head(mean(net.last(x)))

    return Net(run, primary=conv(3, 4), cheap=conv(4, 4, groups=4), last=conv(8, 6), head=nn.Linear(6, 3))


@network("conv1 5\nconv1#2 3: conv1\nfew 4\nall_of_them 5")
def channels_sliced() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x))
        return net.head(mean(torch.cat([net.few(x[:, :5]), net.all_of_them(x)], 1)))

    return Net(run, conv1=conv(3, 8), few=conv(5, 4), all_of_them=conv(8, 5), head=nn.Linear(9, 3))


@network("conv1 5\nconv2 4")
def every_second_channel() -> nn.Module:
    """A step through channels leaves them all."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.all(net.conv1(x))
        return net.head(mean(net.conv2(x[:, ::2]) + net.conv2(x[:, 1::2])))

    return Net(run, conv1=conv(3, 5), all=conv(5, 6), conv2=conv(3, 4), head=nn.Linear(4, 3))


@network("conv1 5\nconv2 4")
def one_channel_selected() -> nn.Module:
    """The third channel stays, the others go as they like."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        return net.head(mean(net.conv2(x) * torch.sigmoid(x[:, 2]).unsqueeze(1)))

    return Net(run, conv1=conv(3, 6), conv2=conv(6, 4), head=nn.Linear(4, 3))


@network("conv1 3\nconv1#2 2: conv1\nconv1#3 3: conv1\nconv2 4", (2, 3, 4, 4))
def shifted_in_time() -> nn.Module:
    """As in the temporal shift module: parts of the channels are written into an empty tensor, one place further."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        out = torch.zeros_like(x)
        out[:, :3, :-1] = x[:, :3, 1:]
        out[:, 3:5, 1:] = x[:, 3:5, :-1]
        out[:, 5:] = x[:, 5:]
        return net.head(net.conv2(out).mean((2, 3, 4)))

    return Net(run, conv1=nn.Conv3d(2, 8, 3, padding=1), conv2=nn.Conv3d(8, 4, 1), head=nn.Linear(4, 3))


# ------------------------------------------------------------------------------------------------ groups and shuffles


@network("conv1 4 x2\ngrouped 3 x2\nlast 5")
def grouped() -> nn.Module:
    """Two groups: channel i goes with channel i of the other group, on both sides."""

    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(mean(net.last(F.relu(net.grouped(F.relu(net.conv1(x)))))))

    return Net(run, conv1=conv(3, 8), grouped=conv(8, 6, groups=2), last=conv(6, 5), head=nn.Linear(5, 3))


@network("conv1 5 x3: conv1 depthwise\nlast 4")
def depthwise_with_multiplier() -> nn.Module:
    """Every channel becomes two."""

    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(mean(net.last(F.relu6(net.bn(net.depthwise(F.relu6(net.conv1(x))))))))

    return Net(
        run, conv1=conv(3, 5), depthwise=conv(5, 10, groups=5), bn=nn.BatchNorm2d(10), last=conv(10, 4), head=nn.Linear(4, 3)
    )  # fmt: skip


@network("last 4")
def depthwise_on_the_image() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(mean(net.last(net.depthwise(x))))

    return Net(run, depthwise=conv(3, 6, groups=3), last=conv(6, 4), head=nn.Linear(4, 3))


@network("conv1 4 x2\nup 3 x2\nlast 5")
def transposed_grouped() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(mean(net.last(F.relu(net.up(F.relu(net.conv1(x)))))))

    up = nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1, groups=2)
    return Net(run, conv1=conv(3, 8), up=up, last=conv(6, 5), head=nn.Linear(5, 3))


@network("conv1 5 x3: conv1 up\nlast 4")
def transposed_depthwise() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(mean(net.last(F.relu(net.up(F.relu(net.conv1(x)))))))

    up = nn.ConvTranspose2d(5, 10, 2, 2, groups=5)
    return Net(run, conv1=conv(3, 5), up=up, last=conv(10, 4), head=nn.Linear(4, 3))


@network("conv1 4 x4: conv1 g2\ng1 2 x8: g1 depthwise\nlast 5")
def shuffle_with_groups() -> nn.Module:
    """As in ShuffleNet: channel 2 j + i behind the shuffle is channel 4 i + j before it, and its groups are 0-3 and 4-7."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x))
        y = F.relu(net.g1(x))
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return net.head(mean(net.last(x + net.g2(net.depthwise(y)))))

    return Net(
        run, conv1=conv(3, 8), g1=conv(8, 8, 1, groups=2), depthwise=conv(8, 8, groups=8), g2=conv(8, 8, 1, groups=2),
        last=conv(8, 5), head=nn.Linear(5, 3),
    )  # fmt: skip


@network("conv1 4 x2\nlast 5")
def shuffle_the_other_way_round() -> nn.Module:
    """A view as (channels per group, groups): here it is the first part that is pruned."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x))
        n, c, h, w = x.shape
        x = x.reshape(n, c // 2, 2, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)
        return net.head(mean(net.last(x)))

    return Net(run, conv1=conv(3, 8), last=conv(8, 5), head=nn.Linear(5, 3))


@network("conv1 2 x4\nconv2 6 x4\nlast 5")
def both_shuffles() -> nn.Module:
    """One view wants its last part pruned, one its first."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.channel_shuffle(F.relu(net.conv1(x)), 2).view(-1, 2, 4, 8, 8)
        x = net.conv2(x.transpose(1, 2).reshape(-1, 8, 8, 8)).view(-1, 6, 2, 2, 8, 8)
        x = x.permute(0, 1, 4, 2, 5, 3).reshape(-1, 6, 16, 16)
        return net.head(mean(net.last(x)))

    return Net(run, conv1=conv(3, 8), conv2=conv(8, 24), last=conv(6, 5), head=nn.Linear(5, 3))


@network("conv1 4 x2\nconv2 5\nlast 6")
def shuffle_of_halves() -> nn.Module:
    """As in the first ShuffleNetV2: neighbouring channels go to different halves, by a view across the batch."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        n, c, h, w = x.shape
        x = x.reshape(n * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)
        y = torch.cat([x[0], net.conv2(x[1])], 1)
        return net.head(mean(net.last(y)))

    return Net(run, conv1=conv(3, 8), conv2=conv(4, 5), last=conv(9, 6), head=nn.Linear(6, 3))


@network("conv1 3 x4\nconv2 2 x4\nlast 5")
def pixel_shuffles() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.pixel_shuffle(F.relu(net.conv1(x)), 2)
        x = F.pixel_shuffle(net.conv2(F.pixel_unshuffle(x, 2)), 2)
        return net.head(mean(net.last(x)))

    return Net(run, conv1=conv(3, 12), conv2=conv(12, 8), last=conv(2, 5), head=nn.Linear(5, 3))


# -------------------------------------------------------------------------------------------- shortcuts without weights


def _option_a(shortcut: Callable[[Tensor], Tensor]) -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv1(x))
        x = F.relu(net.b(F.relu(net.a(x))) + shortcut(x))
        return net.head(mean(net.last(x)))

    return Net(run, conv1=conv(3, 4), a=conv(4, 5, stride=2), b=conv(5, 8), last=conv(8, 6), head=nn.Linear(6, 3))


@network("conv1 4: conv1 b\na 5\nb 4\nlast 6")
def padded_shortcut() -> nn.Module:
    return _option_a(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0))


@network("conv1 4: conv1 b\na 5\nb 4\nlast 6")
def shortcut_with_zeros_behind() -> nn.Module:
    return _option_a(lambda x: torch.cat([F.avg_pool2d(x, 2), torch.zeros(len(x), 4, 4, 4, dtype=x.dtype)], 1))


@network("conv1 4: conv1 b\na 5\nb 4\nlast 6")
def shortcut_with_new_zeros() -> nn.Module:
    return _option_a(lambda x: torch.cat([x.new_zeros(x.shape[0], 4, 4, 4), x[..., ::2, ::2]], 1))


@network("conv1 4 x3: conv1 b\na 5\nlast 6")
def shortcut_with_zeros_from_itself() -> nn.Module:
    """x.mul(0) has the channels of x."""
    return _option_a(lambda x: torch.cat([x[:, :, ::2, ::2], x[:, :, ::2, ::2].mul(0)], 1))


# -------------------------------------------------------------------------------------------------- ways to write it


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


# ------------------------------------------------------------------------------------------------------------ norms


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


# ------------------------------------------------------------------------------------------------- computed weights


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


# -------------------------------------------------------------------------------------------------------- attention


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


# ----------------------------------------------------------------------------------------------------- everything else


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


# --------------------------------------------------------------------------------------- as other people write them


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


# -------------------------------------------------------------------------------------------------- random networks


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


def chain(*widths: int) -> prune_gym.PrunedNetwork:
    """Convolutions of these widths one behind the other, for images (N, 3, 8, 8) of 4 classes."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4)).eval()
    graph = prune_gym.trace(model, torch.zeros(1, 3, 8, 8))
    return prune_gym.compact(model, graph, graph.full(), form="program")


def images(shape: tuple[int, ...], n: int) -> torch.Tensor:
    """Random images (n, *shape), the same for the same n."""
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(n))
