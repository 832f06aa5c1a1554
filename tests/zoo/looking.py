"""Preparing networks, running them, and comparing what they compute."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import prune_gym
from prune_gym import Architecture, ChannelGraph
from prune_gym.graph.program import leaves
from zoo.registry import NETWORKS, Shape


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
    """Multiply-accumulates for one image, as PyTorch counts them (with gradients, and by the plain kernel, lest it take attention
    in one piece, which it does not count on every machine)."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*(x[:1] for x in images))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


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
