"""What a forward pass writes to: by the schemas of its operators, and by what PyTorch counts when it runs."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn
from zoo import Net, conv, mean

from prune_gym import ChannelGraph, trace
from prune_gym.scoring import evaluation
from prune_gym.scoring.aliasing import renew, written_tensors
from prune_gym.scoring.candidates import Candidates
from prune_gym.scoring.evaluation import Evaluator, Split
from prune_gym.scoring.folding import fold
from prune_gym.surgery.slicing import named_tensors

Forward = Callable[[Net, Tensor], Tensor]


def writer(forward: Forward) -> nn.Module:
    """A network of two layers whose forward pass writes to some of its three buffers."""
    net = Net(forward, first=conv(3, 6), norm=nn.BatchNorm2d(6), last=nn.Linear(6, 4))
    net.register_buffer("calls", torch.zeros(1))
    net.register_buffer("table", torch.zeros(2, 6))
    net.register_buffer("other", torch.ones(6))
    return zoo.prepare(net)


def counter(net: Net, x: Tensor) -> Tensor:
    net.calls += 1
    return net.last(mean(net.first(x)) * net.calls)


def through_views(net: Net, x: Tensor) -> Tensor:
    y = mean(net.first(x))
    net.table[1].view(2, 3)[0].add_(0.5)
    return net.last(y + net.table.sum(0))


def through_a_list_of_views(net: Net, x: Tensor) -> Tensor:
    y = mean(net.first(x))
    _, second = net.table.unbind(0)
    second.mul_(2).add_(1)
    return net.last(y + net.table.sum(0))


def through_dropout(net: Net, x: Tensor) -> Tensor:
    y = mean(net.first(x))
    F.dropout(net.other, 0.5, net.training).mul_(1.5)
    return net.last(y * net.other)


def the_last_output(net: Net, x: Tensor) -> Tensor:
    y = mean(net.first(x))
    out = net.last(y + net.table[0])
    net.table[0].copy_(y[0])
    return out


def statistics_of_the_batch(net: Net, x: Tensor) -> Tensor:
    y = F.batch_norm(net.first(x), net.norm.running_mean, net.norm.running_var, training=True)
    return net.last(mean(y) + net.norm.running_mean)


def the_statistics_of_a_norm(net: Net, x: Tensor) -> Tensor:
    net.norm.running_mean[:3].mul_(0.5)  # through a view, so that the norm still reads the buffer itself
    return net.last(mean(net.norm(net.first(x))))


WRITERS: dict[Forward, set[str]] = {
    counter: {"calls"},
    through_views: {"table"},
    through_a_list_of_views: {"table"},
    through_dropout: {"other"},
    the_last_output: {"table"},
    statistics_of_the_batch: {"norm.running_mean", "norm.running_var"},
    the_statistics_of_a_norm: {"norm.running_mean"},
}


def images_for(n: int = 12) -> Tensor:
    return torch.randn(n, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def changed(model: nn.Module, graph: ChannelGraph, inputs: list[Tensor]) -> set[str]:
    """The tensors that a run of the program did write to: their values, or PyTorch's counter of writes."""
    tensors = {name: tensor.detach().clone() for name, tensor in named_tensors(model, graph).items()}
    counts = {name: tensor._version for name, tensor in tensors.items()}
    with torch.no_grad():
        graph.program.at(graph.full().mask).run(tensors, inputs)
    before = named_tensors(model, graph)
    return {name for name, tensor in tensors.items() if tensor._version != counts[name] or not tensor.equal(before[name])}


@pytest.mark.parametrize("forward", WRITERS)
def test_what_is_written_is_found(forward: Forward) -> None:
    model, images = writer(forward), images_for()
    graph = trace(model, images[:2])
    assert written_tensors(graph.program) == WRITERS[forward] == changed(model, graph, [images])


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_nothing_else_is(name: str) -> None:
    """And so nothing is copied when an ordinary network is scored."""
    model, inputs = zoo.built(name), zoo.inputs(zoo.NETWORKS[name].shapes)
    graph = trace(model, *inputs) if len(inputs) == 1 else trace(model, tuple(inputs))
    assert written_tensors(graph.program) == changed(model, graph, inputs)


def test_only_what_is_written_is_copied() -> None:
    tensors = {"a": torch.zeros(2), "b": torch.zeros(2)}
    renewed = renew(tensors, frozenset(["b", "gone"]))
    assert renewed["a"] is tensors["a"]
    assert renewed["b"] is not tensors["b"]
    assert renewed.keys() == tensors.keys()


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("forward", WRITERS)
def test_every_pass_starts_from_the_same_tensors(forward: Forward, everywhere: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever architectures were scored before, and however the images are batched: one image by one, that is what a copy of
    the model says which never saw another."""
    if everywhere:
        monkeypatch.setattr(evaluation, "MASKED_ON", ("cpu", "cuda"))
    model, images = writer(forward), images_for()
    graph = trace(model, images[:2])
    with torch.no_grad():
        fresh = torch.cat([copy.deepcopy(model)(image[None]) for image in images])
    split = Split(images, fresh.argmax(1))
    before = {name: tensor.clone() for name, tensor in named_tensors(model, graph).items()}
    scorer = Evaluator(Candidates(graph, named_tensors(model, graph)), split, batch_size=1)
    small = zoo.random_architecture(graph, 0)
    first = [scorer.accuracy(graph.full()), scorer.accuracy(small)]
    assert first[0] == 1
    assert [scorer.accuracy(graph.full()), scorer.accuracy(small), scorer.accuracy(graph.full())] == [*first, first[0]]
    assert all(tensor.equal(before[name]) for name, tensor in named_tensors(model, graph).items())


def test_norms_whose_statistics_change_are_not_folded() -> None:
    model, images = writer(the_statistics_of_a_norm), images_for()
    graph = trace(model, images[:2])
    inference = fold(graph, named_tensors(model, graph))
    assert "aten.batch_norm.default" in [node.op for node in inference.program.nodes]
    with torch.no_grad():
        found = inference.program.at(graph.full().mask).run(renew(inference.tensors, inference.written), [images])
        expected = copy.deepcopy(model)(images)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
