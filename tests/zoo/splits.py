"""Channels taken apart, in groups and shuffled, and shortcuts without weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts import Net, conv, mean
from zoo.registry import network


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


@network("conv1 5\nconv1#2 3: conv1\nlast 5")
def slices_swapped() -> nn.Module:
    """The same by slices, which nothing but their bounds tells apart."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        return net.head(mean(net.last(torch.cat([x[:, 5:], x[:, :5]], 1))))

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
