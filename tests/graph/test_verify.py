"""Verification: it accepts every network of the zoo, and names the module of one whose program is wrong."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn
from zoo import Net, conv, mean

from prune_gym import ChannelGraph, trace
from prune_gym.graph.program import Node
from prune_gym.graph.verify import VerificationError, _same, verify


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_every_network_of_the_zoo(name: str) -> None:
    model, entry = zoo.built(name), zoo.NETWORKS[name]
    for n in (1, 3):
        verify(model, trace(model, zoo.inputs(entry.shapes)), zoo.inputs(entry.shapes, n))


class Inner(nn.Module):
    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def between(function: Any) -> nn.Module:
    """A network with a module in its middle that does as it is told."""
    return zoo.prepare(nn.Sequential(conv(3, 5), nn.Sequential(nn.ReLU(), Inner(function)), conv(5, 4), nn.Tanh())).float()


def flawed(graph: ChannelGraph, op: str, change: Any) -> ChannelGraph:
    """The graph with one of its nodes changed."""
    nodes = [
        Node(node.op, change(node.args), node.kwargs, node.outputs) if node.op == op else node for node in graph.program.nodes
    ]
    assert nodes != list(graph.program.nodes)
    return replace(graph, program=replace(graph.program, nodes=tuple(nodes)))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_wrong_number_is_found_and_named(n: int) -> None:
    model, x = between(lambda x: x * 3.0), torch.randn(n, 3, 6, 6)
    graph = trace(model, x)
    verify(model, graph, x)
    wrong = flawed(graph, "aten.mul.Tensor", lambda args: [args[0], args[1] * 1.001])
    with pytest.raises(VerificationError, match=rf"for a batch of {n}: the first module whose output differs is '1.1'"):
        verify(model, wrong, x)


def test_a_module_may_return_the_image_that_a_later_one_writes_to() -> None:
    model, x = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True), conv(3, 4)).eval(), torch.randn(2, 3, 6, 6)
    graph = trace(model, x)
    verify(model, graph, x)
    wrong = flawed(graph, "aten.convolution.default", lambda args: [*args[:2], None, *args[3:]])
    with pytest.raises(VerificationError, match=r"the first module whose output differs is '2'"):
        verify(model, wrong, x)


def test_what_is_only_wrong_at_another_batch_size_is_found() -> None:
    """A branch that the sizes of a trace do not tell apart."""
    model, x = between(lambda x: x + 1 if len(x) == 4 else x), torch.randn(3, 3, 6, 6)
    graph = trace(model, x)
    verify(model, graph, x[:2])
    with pytest.raises(VerificationError, match=r"for a batch of 4: the first module whose output differs is '1.1'"):
        verify(model, graph, x)


def test_the_model_itself_is_named_where_no_module_differs() -> None:
    net = zoo.prepare(Net(lambda net, x: mean(net.a(x)) * 7, a=conv(3, 4)))
    x = torch.randn(2, 3, 4, 4).double()
    wrong = flawed(trace(net, x), "aten.mul.Tensor", lambda args: [args[0], 8])
    with pytest.raises(VerificationError, match="differs is the model itself, outside of all its modules"):
        verify(net, wrong, x)


def test_an_output_that_is_changed_in_place_later_is_compared_as_it_was() -> None:
    net = zoo.prepare(Net(lambda net, x: mean(net.b(net.a(x).relu_().mul_(2))), a=conv(3, 4), b=conv(4, 4)))
    x = torch.randn(2, 3, 4, 4).double()
    wrong = flawed(trace(net, x), "aten.mul_.Tensor", lambda args: [args[0], 3])
    with pytest.raises(VerificationError, match="differs is 'b'"):
        verify(net, wrong, x)


def test_state_that_changes_the_path_is_named() -> None:
    """A module that is only called from the second forward pass on."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.calls = conv(3, 4), nn.ReLU(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.b(self.a(x)) if self.calls > 1 else self.a(x)

    model, x = zoo.prepare(Late()), torch.randn(2, 3, 4, 4).double()
    graph = trace(model, x)
    model(x)
    with pytest.raises(VerificationError, match="it calls module 'b' where '' was called in the trace"):
        verify(model, graph, x)


def test_the_model_is_left_alone() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.drop = conv(3, 4), nn.Dropout(0.5)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            x.mul_(2)
            return self.drop(self.conv(x)) * self.calls + torch.nn.functional.dropout(x.mean(), 0.5, True)

    model, x = Counts().train(), torch.randn(2, 3, 4, 4)
    graph = trace(model, x)
    state, before = torch.get_rng_state(), x.clone()
    verify(model, graph, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before)
    assert model.calls.item() == 0
    assert model.training
    assert not model.conv._forward_hooks


def test_a_model_that_cannot_be_copied_deeply() -> None:
    model = between(torch.relu)
    model.lock = threading.Lock()
    x = torch.randn(2, 3, 8, 8)
    verify(model, trace(model, x), x)


def test_inputs_that_were_not_traced() -> None:
    model = zoo.prepare(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))
    graph = trace(model, torch.ones(1, 3, 2, 2).double())
    with pytest.raises(ValueError, match=r"input 0: expected a tensor of shape \(any, 3, 2, 2\), as traced, got \(1, 3, 4, 1\)"):
        verify(model, graph, torch.ones(1, 3, 4, 1).double())
    with pytest.raises(TypeError, match="example_input: expected a tensor"):
        verify(model, graph, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"inputs: expected at least one image, got \(0, 3, 2, 2\)"):
        verify(model, graph, torch.ones(0, 3, 2, 2).double())


def test_models_and_graphs_that_do_not_fit() -> None:
    model, x = between(torch.relu), torch.randn(2, 3, 8, 8)
    graph = trace(model, x)
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got NoneType"):
        verify(None, graph, x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"graph: expected the ChannelGraph of the model, from prune_gym\.trace, got str"):
        verify(model, "graph", x)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"model: expected the network that the graph was traced from, but '0\.bias' has shape None"
    ):
        verify(conv(3, 5), graph, x)
    for wrong in (x.double(), x.long()):
        with pytest.raises(
            ValueError, match=rf"inputs: expected tensors that the model takes, got {wrong.dtype} of shape \(2, 3"
        ):
            verify(model, graph, wrong)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 4.1e-10), (torch.float32, 7.1e-5), (torch.float16, 1.58e-2)])
def test_the_tolerance(dtype: torch.dtype, bound: float) -> None:
    x = torch.tensor([2.0, 1.0], dtype=dtype)
    near, far = (x + torch.tensor([0, 2 * factor * bound]).to(dtype) for factor in (0.9, 1.1))
    assert _same(near, x)
    assert not _same(far, x)


def test_infinite_and_undefined_numbers_are_compared_by_place() -> None:
    a = torch.tensor([1.0, math.inf, math.nan])
    assert _same(a.clone(), a)
    assert not _same(torch.tensor([1.0, -math.inf, math.nan]), a)
    assert not _same(torch.tensor([1.0, math.inf, 1.0]), a)
    assert not _same(torch.ones(3, dtype=torch.float64), torch.ones(3))
    assert not _same(torch.ones(3, 1), torch.ones(1, 3))
    assert not _same(torch.tensor([1, 2]), torch.tensor([1, 3]))
    assert _same(2, 2)
    assert not _same(2, 2.0)
