"""What tests share: a cache folder of their own, and a small task that needs no training."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

import hypothesis
import pytest
import torch
from torch import Tensor, nn

import prune_gym
from prune_gym.data.splits import Split
from prune_gym.graph.channel_graph import Architecture
from prune_gym.tasks import Task

# the same examples in every run, however slow the machine is
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("fixed")


def pytest_configure(config: pytest.Config) -> None:
    """Base networks go to a folder of this session, so that no test reads what an earlier one or a user left behind. One
    thread: the networks are small, and two processes with two threads each would wait for each other."""
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
    if not os.environ.get("PRUNE_GYM_CACHE"):
        folder = tempfile.TemporaryDirectory(prefix="prune_gym_tests_")
        os.environ["PRUNE_GYM_CACHE"] = folder.name
        config.add_cleanup(folder.cleanup)
        config.add_cleanup(lambda: os.environ.pop("PRUNE_GYM_CACHE", None))


class TinyNet(nn.Module):
    """(N, 1, 12, 12) -> (N, 5). A residual stream, a depthwise and a grouped convolution, and a flatten of area 9.

    Its groups, in forward order, with their widths and filters per unit:

    - ``stem`` 8, 2: the stem and the second convolution of the block add up
    - ``inner`` 6, 1
    - ``expand`` 6, 4: the depthwise convolution goes with it, and the grouped one ties channel c to c + 6
    - ``grouped`` 4, 2: what its two halves make goes together
    - ``hidden`` 10, 1
    """

    def __init__(self, stream: int = 8, inner: int = 6, expanded: int = 12, grouped: int = 8, hidden: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(1, stream, 3, padding=1, bias=False)
        self.norm_stem = nn.BatchNorm2d(stream)
        self.inner = nn.Conv2d(stream, inner, 3, padding=1, bias=False)
        self.norm_inner = nn.BatchNorm2d(inner)
        self.outer = nn.Conv2d(inner, stream, 3, padding=1, bias=False)
        self.norm_outer = nn.BatchNorm2d(stream)
        self.expand = nn.Conv2d(stream, expanded, 1, bias=False)
        self.norm_expand = nn.BatchNorm2d(expanded)
        self.depthwise = nn.Conv2d(expanded, expanded, 3, stride=2, padding=1, groups=expanded, bias=False)
        self.norm_depthwise = nn.BatchNorm2d(expanded)
        self.grouped = nn.Conv2d(expanded, grouped, 3, padding=1, groups=2)
        self.norm_grouped = nn.BatchNorm2d(grouped)
        self.hidden = nn.Linear(9 * grouped, hidden)
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(hidden, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_stem(self.stem(x)).relu()
        x = (x + self.norm_outer(self.outer(self.norm_inner(self.inner(x)).relu()))).relu()
        x = self.norm_expand(self.expand(x)).relu()
        x = self.norm_depthwise(self.depthwise(x)).relu()
        x = nn.functional.max_pool2d(self.norm_grouped(self.grouped(x)).relu(), 2)
        return self.classifier(self.dropout(self.hidden(x.flatten(1)).relu()))


# The filters that unit u of each group holds: layers, and the indices of the filters in each of them.
TINY_FILTERS: dict[str, tuple[tuple[str, ...], Callable[[int], list[int]]]] = {
    "stem": (("stem", "outer"), lambda u: [u]),
    "inner": (("inner",), lambda u: [u]),
    "expand": (("expand", "depthwise"), lambda u: [u, u + 6]),
    "grouped": (("grouped",), lambda u: [u, u + 4]),
    "hidden": (("hidden",), lambda u: [u]),
}


def make_tiny_task(images: int = 320) -> Task:
    """A task of a :class:`TinyNet` with random weights. Four labels of five are what the network itself says, so that
    accuracy falls as it is pruned."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TinyNet()
        data = torch.randn(images, 1, 12, 12, generator=generator)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
            norm.momentum = 1.0
        with torch.no_grad():
            model(data)  # statistics for the norms
            for norm in norms:
                norm.momentum = 0.1
            logits = model.eval()(data)
            model.classifier.bias -= logits.mean(0)  # so that all classes occur
            labels = (logits - logits.mean(0)).argmax(1)
    labels[::5] = torch.randint(0, 5, labels[::5].shape, generator=generator)
    train, val, test = (Split(x, y) for x, y in zip(data.split([120, 120, 80]), labels.split([120, 120, 80]), strict=True))
    return Task("tiny", model, train, val, test)


@pytest.fixture(scope="session")
def tiny_task() -> Task:
    """The task of :func:`make_tiny_task`; no test may change it."""
    return make_tiny_task()


@pytest.fixture
def own_tiny_task() -> Task:
    """The same for one test alone, to do with as it likes."""
    return make_tiny_task()


@pytest.fixture(scope="session")
def tiny_filters() -> dict[str, tuple[tuple[str, ...], Callable[[int], list[int]]]]:
    return TINY_FILTERS


@pytest.fixture(scope="session")
def shrink() -> Callable[[Task, Architecture], nn.Module]:
    """A :class:`TinyNet` built at the widths of an architecture, with the weights of the compact network: an ordinary module
    that shares no code with the pruning core's programs."""

    def shrink(task: Task, architecture: Architecture) -> nn.Module:
        stream, inner, expanded, grouped, hidden = architecture.widths.tolist()
        module = TinyNet(stream, inner, 2 * expanded, 2 * grouped, hidden)
        module.load_state_dict(prune_gym.compact(task.model, task.graph, architecture, form="program").state_dict())
        return module.eval()

    return shrink


@pytest.fixture(scope="session")
def tiny_architectures(tiny_task: Task) -> list[Architecture]:
    """The full network, five random architectures of falling size, and the smallest one."""
    generator = torch.Generator().manual_seed(2)
    graph = tiny_task.graph
    found = [graph.full()]
    for share in (0.9, 0.7, 0.5, 0.4, 0.2, 0.0):
        kept = [(torch.rand(group.width, generator=generator) < share).numpy() for group in graph.groups]
        for array in kept:
            array[int(torch.randint(len(array), (), generator=generator))] = True
        found.append(graph.architecture(kept))
    return found
