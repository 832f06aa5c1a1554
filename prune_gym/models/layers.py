"""The block that all families are built from."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


class ConvNorm(nn.Sequential):
    """Convolution, batch norm, activation: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride), rounded up.

    The padding is ``kernel // 2``. Modules are called ``conv``, ``norm`` and, unless ``act`` is None, ``act``.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        act: type[nn.Module] | None = nn.ReLU,
    ):
        modules: dict[str, nn.Module] = {
            "conv": nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias),
            "norm": nn.BatchNorm2d(outputs),
        }
        if act is not None:
            modules["act"] = act()
        super().__init__(OrderedDict(modules))
