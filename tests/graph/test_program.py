"""Programs: lists of calls over named tensors that run at any width, and the networks made of them."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections import namedtuple
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import random_architecture, relative_error

import prune_gym
from prune_gym import PrunedNetwork, load_pruned, save_pruned, trace
from prune_gym.graph.program import (
    BatchSize,
    Count,
    FloatType,
    Named,
    Node,
    Program,
    Training,
    Value,
    is_kept,
    leaves,
    map_argument,
    operator,
)
from prune_gym.surgery.admission import is_admitted

compact = partial(prune_gym.compact, form="program")
KEPT = np.array([True, False, True])


def chain(length: int) -> Program:
    """x + 1, ``length`` times."""
    nodes = [Node("aten.add.Scalar", [Value(i), 1], {}, i + 1) for i in range(length)]
    return Program(1, tuple(nodes), Value(length))


# ------------------------------------------------------------------------------------------------ arguments


def test_arguments_are_nests() -> None:
    Pair = namedtuple("Pair", ["a", "b"])
    nest = [1, (2, [3]), {"x": 4, "y": Pair(5, (6,))}]
    assert list(leaves(nest)) == [1, 2, 3, 4, 5, 6]
    doubled = map_argument(lambda leaf: leaf * 2, nest)
    assert doubled == [2, (4, [6]), {"x": 8, "y": Pair(10, (12,))}]
    assert type(doubled[2]["y"]) is Pair
    assert nest[0] == 1
    assert map_argument(str, 3) == "3"
    assert list(leaves("ab")) == ["ab"]


def test_counts_of_kept_units() -> None:
    units = np.array([0, 1, 1, 2, -1, -1])
    assert is_kept(units, KEPT).tolist() == [True, False, False, True, True, True]
    assert Count(units).at(KEPT) == 4
    assert Count(units).at(~KEPT) == 4
    assert Count(units).at(np.ones(3, bool)) == 6
    assert Count(units[:0]).at(KEPT) == 0
    assert Count(units, per_image=True).at(KEPT) == BatchSize(4)


def test_operators_by_name() -> None:
    assert operator("aten.relu.default") is torch.ops.aten.relu.default
    with pytest.raises(AttributeError):
        operator("aten.no_such_operator.default")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("aten.convolution.default", True),
        ("aten.add_.Tensor", True),
        ("aten.batch_norm.default", True),
        ("aten.unflatten.int", True),
        ("aten.linalg_qr.default", False),
        ("aten.add.NoSuchOverload", False),
        ("aten.no_such_operator.default", False),
        ("prims.add.default", False),
        ("os.system", False),
        ("aten.relu", False),
        ("", False),
    ],
)
def test_which_operators_a_file_may_name(name: str, known: bool) -> None:
    assert is_admitted(name) == known


# ------------------------------------------------------------------------------------------------ programs


def test_a_program_runs() -> None:
    nodes = (
        Node("aten.mul.Tensor", [Value(0), Named("scale")], {}, 2),
        Node("aten.split_with_sizes.default", [Value(2), [1, 2], 1], {}, (3, 4)),
        Node("aten.sum.dim_IntList", [Value(4), [1]], {"keepdim": True}, 5),
        Node("aten.cat.default", [[Value(3), Value(5), Value(1)], 1], {}, 6),
    )
    program = Program(2, nodes, {"all": Value(6), "parts": [Value(3), (None, "text", Named("scale"))]})
    x, y, scale = torch.tensor([[1.0, 2, 3], [4, 5, 6]]), torch.zeros(2, 1), torch.tensor([1.0, 10, 100])
    output = program.run({"scale": scale}, [x, y])
    assert output["all"].tolist() == [[1, 320, 0], [4, 650, 0]]
    assert output["parts"][0].tolist() == [[1], [4]]
    assert output["parts"][1] == (None, "text", scale)


def test_counts_batches_and_modes_are_filled_in() -> None:
    nodes = (
        Node("aten.zeros.default", [[BatchSize(), Count(np.array([0, 1, 1, 2, -1, -1]))]], {"dtype": torch.float64}, 1),
        Node("aten.add.Tensor", [Value(1), Value(0)], {}, 2),
        Node("aten.reshape.default", [Value(2), [BatchSize(2), -1]], {}, 3),
        Node("aten.dropout.default", [Value(3), 1.0, Training()], {}, 4),
    )
    program = Program(1, nodes, Value(4))
    at = program.at(KEPT)
    assert at.nodes[0].args == [[BatchSize(), 4]]
    assert isinstance(program.nodes[0].args[0][1], Count)
    assert all(a is b for a, b in zip(at.nodes[1:], program.nodes[1:], strict=True))
    for n in (1, 3):
        x = torch.arange(4.0 * n).view(n, 4)
        output = at.run({}, [x])
        assert output.dtype == torch.float64
        assert output.tolist() == x.view(2 * n, 2).tolist()
        assert at.run({}, [x], training=True).count_nonzero() == 0


def test_sizes_with_an_offset_and_the_type_of_the_network() -> None:
    nodes = (
        Node("aten.ones.default", [[BatchSize(3, -2)]], {"dtype": FloatType()}, 1),
        Node("aten.new_full.default", [Value(0), [BatchSize(1, 1)], BatchSize(2)], {"dtype": FloatType()}, 2),
    )
    program = Program(1, nodes, [Value(1), Value(2), BatchSize(2, 5)])
    for n, dtype in ((2, torch.float64), (5, torch.float16)):
        a, b, size = program.run({}, [torch.ones(n, dtype=dtype)])
        assert a.shape == (3 * n - 2,)
        assert b.tolist() == [2 * n] * (n + 1)
        assert a.dtype is b.dtype is dtype
        assert size == 2 * n + 5
    a, _, _ = program.run({"table": torch.arange(3), "weight": torch.ones(1).double()}, [torch.ones(2, dtype=torch.int64)])
    assert a.dtype is torch.float64  # of the first tensor of the network that has such a type


def test_inputs_are_checked() -> None:
    nodes = (Node("aten.add.Tensor", [Value(0), Value(1)], {}, 2),)
    program = Program(2, nodes, Value(2), ((None, 3, None), (None, 1, 4)), torch.float32)
    for twin in (program, pickle.loads(pickle.dumps(program)), program.at(KEPT)):
        assert twin.run({}, [torch.ones(2, 3, 4), torch.ones(2, 1, 4)]).shape == (2, 3, 4)
        for a, b, message in (
            (
                torch.ones(2, 4, 4),
                torch.ones(2, 1, 4),
                r"input 0: expected a tensor of shape \(any, 3, any\), as traced, got \(2, 4, 4\)",
            ),
            (torch.ones(2, 3, 4), torch.ones(2, 1, 1), r"input 1: expected a tensor of shape \(any, 1, 4\)"),
            (torch.ones(2, 3), torch.ones(2, 1, 4), r"input 0: expected a tensor of shape"),
            (torch.ones(2, 3, 4, 1), torch.ones(2, 1, 4), r"input 0: expected a tensor of shape"),
            (torch.ones(2, 3, 4), torch.ones(1, 1, 4), r"input 1: expected as many images as in input 0, 2, got 1"),
            (torch.ones(2, 3, 4), torch.ones(2, 1, 4).half(), r"input 1: expected torch.float32, as traced, got torch.float16"),
        ):
            with pytest.raises(ValueError, match=message):
                twin.run({}, [a, b])
    assert program.run({}, [torch.ones(2, 3, 4), torch.ones(2, 1, 4).long()]).shape == (2, 3, 4)


def test_a_changed_program_runs_what_it_says() -> None:
    """Whatever way it is made from another one, it does not run the other's calls."""
    nodes = (Node("aten.expand.default", [Value(0), [BatchSize(), Count(np.array([0, 1, 2]))]], {}, 1),)
    program = Program(1, nodes, Value(1))
    x = torch.zeros(2, 1)
    narrow = program.at(KEPT)
    assert narrow.run({}, [x]).shape == (2, 2)
    assert program.at(np.ones(3, bool)).run({}, [x]).shape == (2, 3)
    assert narrow.at(np.ones(3, bool)).run({}, [x]).shape == (2, 2)  # it is filled in already
    doubled = replace(narrow, nodes=(Node("aten.cat.default", [[Value(0), Value(0)], 1], {}, 1),))
    assert doubled.run({}, [x]).shape == (2, 2)
    assert doubled.run({}, [x + 1]).tolist() == [[1, 1], [1, 1]]
    assert replace(narrow, output=Value(0)).run({}, [x]).shape == (2, 1)


def test_a_factory_lands_where_the_images_are() -> None:
    nodes = (Node("aten.ones.default", [[BatchSize(), 2]], {}, 1), Node("aten.mul.Tensor", [Value(1), Value(0)], {}, 2))
    assert Program(1, nodes, Value(2)).run({}, [torch.ones(3, 1, device="meta")]).shape == (3, 2)


def test_values_are_dropped_after_their_last_use() -> None:
    """A chain of twenty calls holds two of its values at a time."""

    class Watch(TorchDispatchMode):
        seen: list[Any]
        most = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            self.seen.append(weakref.ref(result))
            self.most = max(self.most, sum(ref() is not None for ref in self.seen))
            return result

    watch = Watch()
    watch.seen = []
    x = torch.zeros(3)
    with watch:
        output = chain(20).run({}, [x])
    assert output.tolist() == [20, 20, 20]
    assert len(watch.seen) == 20
    assert watch.most <= 2


def test_a_value_that_is_the_output_is_kept() -> None:
    nodes = (Node("aten.add.Scalar", [Value(0), 1], {}, 1), Node("aten.mul.Scalar", [Value(1), 2], {}, 2))
    a, b, c = Program(1, nodes, [Value(1), Value(2), Value(0)]).run({}, [torch.zeros(2)])
    assert (a.tolist(), b.tolist(), c.tolist()) == ([1, 1], [2, 2], [0, 0])


def test_a_program_pickles_and_copies() -> None:
    program = chain(3)
    program.run({}, [torch.zeros(1)])  # which resolves the callables
    for twin in (pickle.loads(pickle.dumps(program)), copy.deepcopy(program)):
        assert twin == program
        assert twin.run({}, [torch.zeros(1)]).item() == 3


# ------------------------------------------------------------------------------------------------ networks


def network() -> PrunedNetwork:
    nodes = (
        Node("aten.mul.Tensor", [Value(0), Named("body.0.weight")], {}, 1),
        Node("aten.add.Tensor", [Value(1), Named("body.0.shift")], {}, 2),
        Node("aten.dropout.default", [Value(2), 1.0, Training()], {}, 3),
        Node("aten.add.Tensor", [Value(3), Named("offset")], {}, 4),
    )
    parameters = {"body.0.weight": nn.Parameter(torch.tensor(2.0)), "offset": nn.Parameter(torch.tensor(1.0))}
    buffers = {"body.0.shift": torch.tensor(3.0), "body.0.count": torch.tensor(0)}
    return PrunedNetwork(Program(1, nodes, Value(4)), parameters, buffers, transient={"body.0.count"})


def test_names_are_those_of_modules() -> None:
    net = network()
    assert set(net.state_dict()) == {"body.0.weight", "body.0.shift", "offset"}
    assert {name for name, _ in net.named_parameters()} == {"body.0.weight", "offset"}
    assert {name for name, _ in net.named_buffers()} == {"body.0.shift", "body.0.count"}
    assert net.body[0].weight is net.get_parameter("body.0.weight")
    assert "weight=()" in repr(net)


def test_the_mode_and_the_state_are_read_when_it_runs() -> None:
    net = network().eval()
    assert net(torch.tensor(5.0)).item() == 2 * 5 + 3 + 1
    assert net.train()(torch.tensor(5.0)).item() == 0 + 1
    net.eval().load_state_dict(
        {"body.0.weight": torch.tensor(1.0), "body.0.shift": torch.tensor(0.0), "offset": torch.tensor(0.0)}
    )
    assert net(torch.tensor(5.0)).item() == 5
    net.offset = nn.Parameter(torch.tensor(10.0))
    assert net(torch.tensor(5.0)).item() == 15
    with torch.no_grad():
        swapped = torch.func.functional_call(net, {"offset": torch.tensor(100.0)}, (torch.tensor(5.0),))
    assert swapped.item() == 105


def test_replicas_read_their_own_tensors() -> None:
    """As data parallelism makes them: modules copied one by one, with other tensors in them."""
    net = network().eval()
    replica = net._replicate_for_data_parallel()
    for name, child in net.named_children():
        replica._modules[name] = child
    replica.offset = torch.tensor(7.0)
    assert replica(torch.tensor(5.0)).item() == 2 * 5 + 3 + 7
    assert net(torch.tensor(5.0)).item() == 2 * 5 + 3 + 1


def test_copies_share_nothing() -> None:
    net = network().eval()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        net.offset.fill_(50)
    assert twin(torch.tensor(5.0)).item() == 14


@pytest.mark.parametrize("count", [0, 2])
def test_the_number_of_inputs_is_checked(count: int) -> None:
    with pytest.raises(TypeError, match=rf"Expected 1 input tensors, got {count}"):
        network()(*[torch.zeros(1)] * count)


@torch.no_grad()
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_programs_of_the_zoo_name_only_known_operators(name: str, tmp_path: Path) -> None:
    """So that every network that can be traced can be saved and loaded."""
    model, images = zoo.built(name), zoo.inputs(zoo.NETWORKS[name].shapes)
    graph = trace(model, images)
    small = compact(model, graph, random_architecture(graph, 0), form="program")
    assert not any(isinstance(leaf, Count) for node in small.program.nodes for leaf in node.arguments())
    save_pruned(tmp_path / "network", small)
    loaded = load_pruned(tmp_path / "network")
    assert relative_error(zoo.tensors_in(loaded(*images)), zoo.tensors_in(small(*images))) == 0


def test_a_program_is_shared_by_all_widths() -> None:
    """The graph's program is not used up by filling it in."""
    model, images = zoo.built("shuffle_with_groups"), zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    first = compact(model, graph, random_architecture(graph, 0), form="program")(*images)
    compact(model, graph, graph.full(), form="program")
    again = compact(model, graph, random_architecture(graph, 0), form="program")(*images)
    assert isinstance(first, Tensor)
    assert torch.equal(first, again)


def test_modules_may_be_called_like_the_attributes_of_a_pruned_network() -> None:
    class Clashing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU())
            self._names = nn.Linear(24, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._names(self.program(x).flatten(1))

    model, images = Clashing().eval(), torch.randn(5, 1, 2, 2)
    graph = trace(model, images[:1])
    network = compact(model, graph, graph.full(), form="program")
    assert torch.allclose(network(images), model(images))
    assert network.state_dict().keys() == model.state_dict().keys()
