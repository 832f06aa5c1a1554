"""Compensation against an independent restatement: explicit unfolding, and least squares by LAPACK on stacked equations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo import Net, conv, mean, random_architecture, relative_error

from prune_gym import Architecture, ChannelGraph, compact, trace
from prune_gym.scoring import compensation, weight_matrix
from prune_gym.scoring.compensation import Compensation, SolvingCost, compensate_sequentially
from prune_gym.surgery.slicing import named_tensors, scatter_tensors, slice_tensors
from prune_gym.tasks import Task

RIDGE = compensation.RIDGE


def module_with(model: nn.Module, graph: ChannelGraph, architecture: Architecture, small: dict[str, Tensor]) -> nn.Module:
    """The pruned network with these tensors."""
    whole = scatter_tensors(named_tensors(model, graph), small, graph.units, architecture)
    return compact(model, graph, architecture, form="program", weights=whole).eval()


def inputs_of(model: nn.Module, images: Tensor, names: list[str]) -> dict[str, Tensor]:
    """What the layers of these names are given, by hooks."""
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0].detach()}))
        for name in names
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return seen


def rows_by_hand(layer: nn.Module, x: Tensor, group: int) -> np.ndarray:
    """The vectors that one group of a layer multiplies, (places, columns)."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2).numpy()
    assert isinstance(layer, nn.Conv2d)
    part = x.chunk(layer.groups, 1)[group]
    unfolded = F.unfold(part, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
    return unfolded.transpose(1, 2).flatten(0, 1).numpy()


def corrected_by_hand(
    weights: np.ndarray, rows: np.ndarray, keep: np.ndarray, ridge: float, constant: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the kept columns, and a constant, that minimise the mean squared error of the outputs plus ``ridge`` times the
    squared change: one least-squares problem, an equation for every place and one for every unknown."""
    kept = np.hstack([rows[:, keep], np.ones((len(rows), 1))]) if constant else rows[:, keep]
    lost = rows[:, ~keep] @ weights[:, ~keep].T
    stacked = np.vstack([kept / np.sqrt(len(rows)), np.sqrt(ridge) * np.eye(kept.shape[1])])
    wanted = np.vstack([lost / np.sqrt(len(rows)), np.zeros((kept.shape[1], weights.shape[0]))])
    change = np.linalg.lstsq(stacked, wanted, rcond=None)[0].T
    columns = int(keep.sum())
    return weights[:, keep] + change[:, :columns], change[:, columns:].sum(1)


# what reads the units of which group of the tiny network, what takes the constant, and its sign
READERS = {
    "inner": (("stem",), ("norm_inner.running_mean", -1)),
    "outer": (("inner",), ("norm_outer.running_mean", -1)),
    "expand": (("stem",), ("norm_expand.running_mean", -1)),
    "grouped": (("expand",), ("grouped.bias", 1)),
    "hidden": (("grouped",), ("hidden.bias", 1)),
    "classifier": (("hidden",), ("classifier.bias", 1)),
}


def double(task: Task) -> tuple[nn.Module, ChannelGraph, Tensor]:
    model, images = copy.deepcopy(task.model).double().eval(), task.train.images[:60].double()
    return model, trace(model, images[:1]), images


def check_tiny(task: Task, architecture: Architecture) -> None:
    model, graph, images = double(task)
    architecture = graph.architecture(list(architecture.kept))
    small = Compensation(graph, named_tensors(model, graph), images).compensate(architecture)
    cut = slice_tensors(named_tensors(model, graph), graph.units, architecture)
    seen, expected = inputs_of(model, images, list(READERS)), dict(cut)
    for name, (_, (constant, sign)) in READERS.items():
        layer: Any = model.get_submodule(name)
        groups = getattr(layer, "groups", 1)
        owners = graph.units[f"{name}.weight"][1]
        assert owners is not None
        keep = np.repeat(architecture.mask[owners], layer.weight[0, 0].numel())
        if keep.all():
            continue
        output_owners = graph.units[f"{name}.weight"][0]
        outputs = np.ones(len(layer.weight), bool) if output_owners is None else architecture.mask[output_owners]
        everything = [rows_by_hand(layer, seen[name], group) for group in range(groups)]
        ridge = RIDGE * np.mean([np.square(rows).mean() for rows in everything])
        weights, constants = [], []
        for group, rows in enumerate(everything):
            mine = layer.weight.detach().flatten(1).numpy().reshape(groups, -1, rows.shape[1])[group]
            mine = mine[outputs.reshape(groups, -1)[group]]
            corrected, offset = corrected_by_hand(mine, rows, keep, ridge, constant=True)
            weights.append(corrected)
            constants.append(offset)
        expected[f"{name}.weight"] = torch.from_numpy(np.vstack(weights)).reshape(cut[f"{name}.weight"].shape)
        expected[constant] = cut[constant] + sign * torch.from_numpy(np.concatenate(constants))
    assert small.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(small[name], tensor.detach(), rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("number", range(1, 7))
def test_all_consumers_of_a_network_against_explicit_unfolding(
    tiny_task: Task, tiny_architectures: list[Architecture], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_matrix, "ROWS_PER_COLUMN", 10**6)  # all places count
    check_tiny(tiny_task, tiny_architectures[number])


def chained(first: nn.Module, second: nn.Module, *rest: nn.Module) -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(first, nn.ReLU(), second, *rest)
    return zoo.prepare(model), torch.randn(40, 3, 9, 9, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize(
    "second",
    [
        nn.Conv2d(6, 5, 3, stride=2),
        nn.Conv2d(6, 5, (3, 1), padding=(1, 0), dilation=(2, 1)),
        nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(6, 5, 1, bias=False),
    ],
    ids=["stride", "dilation", "groups", "without a bias"],
)
def test_every_kind_of_convolution(second: nn.Conv2d, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_matrix, "ROWS_PER_COLUMN", 10**6)
    head = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second.out_channels, 4))
    model, images = chained(nn.Conv2d(3, 6, 3, padding=1), second, *head)
    graph = trace(model, images[:1])
    kept = [np.ones(group.width, bool) for group in graph.groups]
    kept[0][0] = False
    architecture = graph.architecture(kept)
    small = Compensation(graph, named_tensors(model, graph), images).compensate(architecture)
    seen = inputs_of(model, images, ["2"])["2"]
    keep = np.repeat(architecture.mask[graph.units["2.weight"][1]], second.weight[0, 0].numel())  # type: ignore[index]
    everything = [rows_by_hand(second, seen, group) for group in range(second.groups)]
    ridge = RIDGE * np.mean([np.square(rows).mean() for rows in everything])
    by_group = second.weight.detach().flatten(1).numpy().reshape(second.groups, -1, len(keep))
    expected = [
        corrected_by_hand(weights, rows, keep, ridge, constant=second.bias is not None)
        for weights, rows in zip(by_group, everything, strict=True)
    ]
    corrected = np.vstack([weights for weights, _ in expected])
    torch.testing.assert_close(small["2.weight"].flatten(1), torch.from_numpy(corrected), rtol=1e-9, atol=1e-9)
    if second.bias is not None:
        offset = torch.from_numpy(np.concatenate([constant for _, constant in expected]))
        torch.testing.assert_close(small["2.bias"], second.bias.detach() + offset, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------ what it is for


def twins() -> tuple[nn.Module, Tensor]:
    """A network in which channel 1 of a layer is twice channel 0, and channel 2 a constant."""
    model = zoo.prepare(
        Net(
            lambda net, x: net.head(mean(net.last(net.norm(net.second(net.first(x).relu()))).relu())),
            first=conv(3, 4), second=conv(4, 6, bias=False), norm=nn.BatchNorm2d(6), last=conv(6, 5), head=nn.Linear(5, 3),
        )
    )  # fmt: skip
    with torch.no_grad():
        model.first.weight[1], model.first.bias[1] = 2 * model.first.weight[0], 2 * model.first.bias[0]
        model.first.weight[2], model.first.bias[2] = 0, 3.0
    return model, torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("lost", [[1], [2], [1, 2]])
@pytest.mark.parametrize("sequential", [False, True])
def test_what_others_can_say_is_not_lost(lost: list[int], sequential: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiples of other channels go without a trace; a constant leaves one at the borders alone, where images are padded."""
    monkeypatch.setattr(compensation, "RIDGE", 1e-12)
    model, images = twins()
    graph = trace(model, images[:1])
    kept = [np.ones(group.width, bool) for group in graph.groups]
    kept[0][lost] = False
    architecture, tensors = graph.architecture(kept), named_tensors(model, graph)
    if sequential:
        small = compensate_sequentially(graph, tensors, images, architecture)
    else:
        small = Compensation(graph, tensors, images).compensate(architecture)
    cut = module_with(model, graph, architecture, slice_tensors(tensors, graph.units, architecture))
    with torch.no_grad():
        error = relative_error(module_with(model, graph, architecture, small)(images), model(images))
        assert error < (1e-6 if 2 not in lost else 0.6 * relative_error(cut(images), model(images)))


def outputs(model: nn.Module, images: list[Tensor]) -> Tensor:
    with torch.no_grad():
        found = model(*images)
    leaves = [found] if isinstance(found, Tensor) else zoo.tensors_in(found)
    return torch.cat([leaf.flatten().double() for leaf in leaves if isinstance(leaf, Tensor)])


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_every_network_of_the_zoo(name: str) -> None:
    """Nothing changes where nothing was removed; elsewhere tensors keep their shapes and the others of the cut network."""
    entry = zoo.NETWORKS[name]
    if len(entry.shapes) > 1:
        pytest.skip("calibration images are one tensor")
    model, (images,) = zoo.built(name), zoo.inputs(entry.shapes, 6)
    graph = trace(model, images)
    tensors = named_tensors(model, graph)
    found = Compensation(graph, tensors, images)
    same = found.compensate(graph.full())
    assert all(torch.equal(same[key], tensors[key]) for key in tensors)
    architecture = random_architecture(graph, 0)
    cut = slice_tensors(tensors, graph.units, architecture)
    may_change = {matrix.consumer.weight for matrix in found.matrices} | {
        key for matrix in found.matrices for key in matrix.consumer.constants
    }
    for small in (found.compensate(architecture), compensate_sequentially(graph, tensors, images, architecture)):
        assert {key: tensor.shape for key, tensor in small.items()} == {key: tensor.shape for key, tensor in cut.items()}
        assert all(torch.equal(small[key], cut[key]) for key in cut if key not in may_change)
        assert all(torch.isfinite(tensor).all() for tensor in small.values() if tensor.is_floating_point())
        outputs(module_with(model, graph, architecture, small), [images])


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from(zoo.KINDS), st.integers(0, 4), st.integers(0, 3)), max_size=5),
    st.booleans(),
    st.integers(0, 99),
)
def test_masked_and_small_corrections_are_the_same(recipe: list[tuple[str, int, int]], flatten: bool, seed: int) -> None:
    model, (images,) = zoo.prepare(zoo.random_network(recipe, flatten), seed), zoo.inputs(((3, 4, 4),), 8)
    graph = trace(model, images)
    base = random_architecture(graph, seed, 0.2)
    architectures = []
    for number in (1, 2, 3):
        drawn = random_architecture(graph, seed + number, 0.4).kept
        architectures.append(graph.architecture([a & b if (a & b).any() else a for a, b in zip(base.kept, drawn, strict=True)]))
    tensors = named_tensors(model, graph)
    found = Compensation(graph, tensors, images, base)
    masks = np.stack([architecture.mask for architecture in architectures])
    for at_once in (2, 64):  # in two batches, and in one
        with patch.object(compensation, "MASKS_AT_ONCE", at_once):
            corrections = list(found.compensate_masked(masks))
        for architecture, corrected in zip(architectures, corrections, strict=True):
            whole = {**tensors, **corrected}
            for name, tensor in found.compensate(architecture).items():
                assert relative_error(slice_tensors(whole, graph.units, architecture)[name], tensor) < 1e-7, name


def test_the_base_is_what_is_made_up_for(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    """A network that was pruned and trained: its own compact form, taken for an original network, has the same corrections."""
    model, graph, images = double(tiny_task)
    base = graph.architecture(list(tiny_architectures[1].kept))
    smaller = graph.architecture([a & b for a, b in zip(base.kept, tiny_architectures[2].kept, strict=True)])
    found = Compensation(graph, named_tensors(model, graph), images, base).compensate(smaller)
    network = compact(model, graph, base, form="program")
    own = trace(network, images[:1])
    kept = [keep[was] for keep, was in zip(smaller.kept, base.kept, strict=True)]
    expected = Compensation(own, named_tensors(network, own), images).compensate(own.architecture(kept))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-9)


def test_nothing_comes_back(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    model, graph, images = double(tiny_task)
    base, tensors = graph.architecture(list(tiny_architectures[2].kept)), named_tensors(model, graph)
    found = Compensation(graph, tensors, images, base)
    with pytest.raises(ValueError, match="architecture: expected one that keeps no unit which its base does not have"):
        found.compensate(graph.full())
    with pytest.raises(ValueError, match="architecture: expected one that keeps no unit which its base does not have"):
        compensate_sequentially(graph, tensors, images, graph.full(), base)


def test_compensate_as_users_call_it(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    model, graph, images = double(tiny_task)
    architecture = graph.architecture(list(tiny_architectures[2].kept))
    small = compensation.compensate(model, graph, architecture, images)
    assert type(small) is type(model)
    expected = module_with(
        model, graph, architecture, compensate_sequentially(graph, named_tensors(model, graph), images, architecture)
    )
    with torch.no_grad():
        assert relative_error(small.eval()(images), expected(images)) < 1e-12
    small(images).sum().backward()  # it can be trained
    with pytest.raises(ValueError, match="images: expected what the model takes"):
        compensation.compensate(model, graph, architecture, images[:, :, :, :3].repeat(1, 2, 1, 1))
    with pytest.raises(TypeError, match="images: expected a tensor"):
        compensation.compensate(model, graph, architecture, images[:0])
    with pytest.raises(TypeError, match="architecture: expected an Architecture"):
        compensation.compensate(model, graph, [1], images)  # type: ignore[arg-type]


def test_sequentially_is_nearer_than_at_once_and_both_are_nearer_than_cutting(tiny_task: Task) -> None:
    model, graph, images = double(tiny_task)
    tensors = named_tensors(model, graph)
    errors = np.zeros(3)
    for seed in range(8):
        architecture = random_architecture(graph, seed, 0.3)
        variants = (
            slice_tensors(tensors, graph.units, architecture),
            Compensation(graph, tensors, images).compensate(architecture),
            compensate_sequentially(graph, tensors, images, architecture),
        )
        with torch.no_grad():
            wanted = model(images)
            errors += [
                float((module_with(model, graph, architecture, small)(images) - wanted).square().mean()) for small in variants
            ]
    assert errors[2] < errors[1] < errors[0]


# ------------------------------------------------------------------------------------------------ wide layers


def test_wide_layers_predict_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """One prediction of the removed channels from the kept ones serves all places of the kernel."""
    monkeypatch.setattr(weight_matrix, "ROWS_PER_COLUMN", 10**6)
    monkeypatch.setattr(weight_matrix, "MAX_COLUMNS", 10)
    model, images = chained(nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 81, 4))
    graph = trace(model, images[:1])
    kept = [np.ones(group.width, bool) for group in graph.groups]
    kept[0][:2] = kept[1][3] = False
    small = Compensation(graph, named_tensors(model, graph), images).compensate(graph.architecture(kept))
    for name, layer, group, area in (("2", model[2], 0, 9), ("4", model[4], 1, 81)):
        x = inputs_of(model, images, [name])[name].detach()
        pixels = (x if name == "2" else x.unflatten(1, (5, 9, 9))).movedim(1, -1).flatten(0, -2).numpy()
        keep = kept[group]
        stacked = np.hstack([pixels[:, keep], np.ones((len(pixels), 1))])
        gram = stacked.T @ stacked / len(pixels) + RIDGE * np.square(pixels).mean() * np.eye(stacked.shape[1])
        prediction = np.linalg.solve(
            gram, stacked.T @ pixels[:, ~keep] / len(pixels)
        ).T  # of removed channels, (removed, kept + 1)
        weights = layer.weight.detach().numpy().reshape(len(layer.weight), -1, area)
        weights = weights if name == "4" else weights[kept[1]]
        corrected = weights[:, keep] + np.einsum("ora,rk->oka", weights[:, ~keep], prediction[:, :-1])
        torch.testing.assert_close(
            small[f"{name}.weight"].reshape(corrected.shape), torch.from_numpy(corrected), rtol=1e-8, atol=1e-9
        )
        offset = np.einsum("ora,r->o", weights[:, ~keep], prediction[:, -1])
        bias = layer.bias.detach().numpy() if name == "4" else layer.bias.detach().numpy()[kept[1]]
        torch.testing.assert_close(small[f"{name}.bias"], torch.from_numpy(bias + offset), rtol=1e-8, atol=1e-9)


def test_memory_is_bounded_for_vgg19() -> None:
    from prune_gym import models

    model = models.create("vgg19", num_classes=10).eval()
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    cost = SolvingCost(graph)
    sizes = [matrix.consumer.groups * len(matrix.columns) ** 2 for matrix in cost._matrices]
    assert len(sizes) > 15
    assert sum(sizes) * 4 < 250e6  # bytes; with patches alone they would take 900 MB


def test_a_draw_of_places_is_enough(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    model, graph, images = double(tiny_task)
    tensors, architecture = named_tensors(model, graph), random_architecture(graph, 3, 0.3)
    monkeypatch.setattr(weight_matrix, "ROWS_PER_COLUMN", 10**6)
    everything = Compensation(graph, tensors, images).compensate(architecture)
    monkeypatch.setattr(weight_matrix, "ROWS_PER_COLUMN", 50)
    some = Compensation(graph, tensors, images).compensate(architecture)
    again = Compensation(graph, tensors, images).compensate(architecture)
    assert all(torch.equal(some[name], again[name]) for name in some)
    changes = [
        (everything[name] - some[name]).norm() / everything[name].norm() for name in some if some[name].is_floating_point()
    ]
    assert 0 < max(changes) < 0.2


# ------------------------------------------------------------------------------------------------ optimal brain surgeon


def test_removal_errors_are_what_is_left_after_the_best_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    """By least squares for every unit on its own, on a network with two consumers of one group."""
    monkeypatch.setattr(weight_matrix, "ROWS_PER_COLUMN", 10**6)
    monkeypatch.setattr(compensation, "RIDGE", 1e-9)

    def run(net: Any, x: Tensor) -> Tensor:
        y = net.first(x).relu()
        return net.head(mean(net.norm(net.a(y)) + net.b(y)))

    model = zoo.prepare(
        Net(run, first=conv(3, 5), a=conv(5, 4), norm=nn.BatchNorm2d(4), b=conv(5, 4, 1), head=nn.Linear(4, 3))
    )  # fmt: skip
    images = torch.randn(20, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    graph = trace(model, images[:1])
    tensors = named_tensors(model, graph)
    errors = Compensation(graph, tensors, images).removal_errors(graph.full(), tensors)
    seen = inputs_of(model, images, ["a", "b"])
    scale = (model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()).detach().numpy()[:, None]
    for unit in range(5):
        expected = 0.0
        for name, factor in (("a", scale), ("b", 1.0)):
            layer = model.get_submodule(name)
            rows, weights = rows_by_hand(layer, seen[name], 0), factor * layer.weight.detach().flatten(1).numpy()
            keep = np.repeat(np.arange(5) != unit, weights.shape[1] // 5)
            corrected, constant = corrected_by_hand(weights, rows, keep, 1e-12, constant=True)
            left = rows @ weights.T - rows[:, keep] @ corrected.T - constant
            expected += np.square(left).mean(0).sum() / np.square(rows @ weights.T).mean(0).sum()
        assert errors[unit] == pytest.approx(expected, rel=1e-4)


def test_removed_units_have_no_error_and_others_are_read(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    model, graph, images = double(tiny_task)
    architecture = graph.architecture(list(tiny_architectures[2].kept))
    found = Compensation(graph, named_tensors(model, graph), images)
    errors = found.removal_errors(architecture, found.compensate(architecture))
    assert found.is_read.all()
    assert (errors[~architecture.mask] == 0).all()
    assert (errors[architecture.mask] > 0).all()


def test_a_twin_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compensation, "RIDGE", 1e-6)
    model, images = twins()
    graph = trace(model, images[:1])
    tensors = named_tensors(model, graph)
    errors = Compensation(graph, tensors, images).removal_errors(graph.full(), tensors)[:4]
    assert errors[[0, 1]].max() < 1e-2 * errors[3]


# ------------------------------------------------------------------------------------------------ what it costs


def test_multiplications_by_hand() -> None:
    model, _ = chained(nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(5 * 49, 4))
    graph = trace(model, torch.zeros(1, 3, 9, 9).double())
    kept = [np.ones(group.width, bool) for group in graph.groups]
    kept[0][:2] = False
    cost, architecture = SolvingCost(graph), graph.architecture(kept)
    stay, go = 4 * 9 + 1, 2 * 9  # the constant stays
    assert cost.compensating(architecture, graph.full()) == stay**3 // 6 + 5 * stay * (stay + go)
    assert cost.compensating(architecture, architecture) == 0
    last = 5 * 49 + 1
    assert cost.removal_errors(architecture) == stay**3 // 2 + 5 * stay**2 + last**3 // 2 + 4 * last**2


@pytest.mark.parametrize("make", [Compensation, compensate_sequentially], ids=["at once", "sequentially"])
def test_the_network_is_left_alone(tiny_task: Task, make: Callable[..., Any]) -> None:
    model, graph, images = double(tiny_task)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    architecture = random_architecture(graph, 0)
    found = make(graph, named_tensors(model, graph), images, *([architecture] if make is compensate_sequentially else []))
    if isinstance(found, Compensation):
        found.compensate(architecture)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_networks_in_half_precision_are_corrected_too() -> None:
    """Gram matrices in their own type would have a ridge that leaves nothing to correct."""
    model, images = chained(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 6, 3, padding=1), nn.Flatten(), nn.Linear(486, 4)
    )
    model, images = model.bfloat16(), images.bfloat16()
    graph = trace(model, images[:1])
    tensors = named_tensors(model, graph)
    architecture = graph.architecture([np.arange(group.width) >= group.width // 4 for group in graph.groups])
    program = graph.program.at(architecture.mask)
    errors = []
    with torch.no_grad():
        expected = model(images).float()
        cut = slice_tensors(tensors, graph.units, architecture)
        once = Compensation(graph, tensors, images).compensate(architecture)
        for small in (cut, once, compensate_sequentially(graph, tensors, images, architecture)):
            assert all(small[name].dtype == tensor.dtype for name, tensor in tensors.items())
            errors.append(float((program.run(dict(small), [images]).float() - expected).square().mean()))
    assert max(errors[1:]) < 0.8 * errors[0]
