"""Importance scores against loops over the filters of ordinary modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prune_gym
from prune_gym import Architecture, importance
from prune_gym.scoring.importance import CRITERIA, Scores
from prune_gym.tasks import Task

PrunableLayer = dict[str, tuple[tuple[str, ...], Callable[[int], list[int]]]]
PerFilter = dict[str, list[float]]  # layer name -> one number per filter


def loop_taylor(module: nn.Module, images: Tensor, labels: Tensor) -> PerFilter:
    module.zero_grad()
    F.cross_entropy(module(images), labels, reduction="sum").backward()
    return {
        name: [
            (filter_.detach() * gradient).abs().sum().item()
            for filter_, gradient in zip(layer.weight, layer.weight.grad, strict=True)
        ]
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }


def loop_norm(module: nn.Module, order: int) -> PerFilter:
    return {
        name: [sum(abs(w) ** order for w in filter_.flatten().tolist()) ** (1 / order) for filter_ in layer.weight]
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }


def means(per_filter: PerFilter, filters: PrunableLayer, architecture: Architecture) -> list[np.ndarray]:
    """The mean over every unit's filters, from the scores of the network that is left; NaN for what is not."""
    result = []
    for group, kept in zip(architecture.graph.groups, architecture.kept, strict=True):
        layers, positions = filters[group.name]
        original = sorted(i for u in range(group.width) for i in positions(u))
        left = sorted(i for u in np.flatnonzero(kept) for i in positions(u))
        assert all(len(per_filter[layer]) == len(left) for layer in layers)
        assert len(original) == group.width * len(positions(0))
        scores = np.full(group.width, np.nan)
        for u in np.flatnonzero(kept):
            scores[u] = np.mean([per_filter[layer][left.index(i)] for layer in layers for i in positions(u)])
        result.append(scores)
    return result


def assert_scores(found: Scores, expected: list[np.ndarray], rtol: float) -> None:
    assert len(found) == len(expected)
    for scores, loop in zip(found, expected, strict=True):
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores, loop, rtol=rtol, atol=rtol * np.nanmax(loop))


# ------------------------------------------------------------------------------------------------ against loops


def test_taylor_is_the_loop_over_the_original_module(tiny_task: Task, tiny_filters: PrunableLayer) -> None:
    images, labels = tiny_task.calibration.images, tiny_task.calibration.labels
    expected = means(loop_taylor(copy.deepcopy(tiny_task.model), images, labels), tiny_filters, tiny_task.graph.full())
    found = importance("taylor")(tiny_task.model, tiny_task.graph, images, labels)
    assert [len(scores) for scores in found] == [8, 6, 6, 4, 10]
    assert_scores(found, expected, 1e-4)


def test_taylor_in_double_precision(tiny_task: Task, tiny_filters: PrunableLayer) -> None:
    model = copy.deepcopy(tiny_task.model).double()
    images, labels = tiny_task.calibration.images.double(), tiny_task.calibration.labels
    found = importance("taylor")(model, tiny_task.graph, images, labels)
    assert_scores(found, means(loop_taylor(model, images, labels), tiny_filters, tiny_task.graph.full()), 1e-11)


@pytest.mark.parametrize("criterion", ["taylor", "l1", "l2"])
def test_scores_of_pruned_networks_are_those_of_the_smaller_module(
    criterion: str,
    tiny_task: Task,
    tiny_filters: PrunableLayer,
    tiny_architectures: list[Architecture],
    shrink: Callable[[Task, Architecture], nn.Module],
) -> None:
    images, labels = tiny_task.calibration.images, tiny_task.calibration.labels
    for architecture in tiny_architectures:
        module = shrink(tiny_task, architecture)
        per_filter = loop_taylor(module, images, labels) if criterion == "taylor" else loop_norm(module, int(criterion[1]))
        found = importance(criterion)(tiny_task.model, tiny_task.graph, images, labels, architecture)
        assert_scores(found, means(per_filter, tiny_filters, architecture), 1e-4)
        for scores, kept in zip(found, architecture.kept, strict=True):
            np.testing.assert_array_equal(np.isnan(scores), ~kept)


def test_a_pruned_network_traced_anew_scores_the_same(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    images, labels = tiny_task.calibration.images, tiny_task.calibration.labels
    architecture = tiny_architectures[3]
    network = prune_gym.compact(tiny_task.model, tiny_task.graph, architecture, form="program")
    anew = importance("taylor")(network, prune_gym.trace(network, images[:1]), images, labels)
    before = importance("taylor")(tiny_task.model, tiny_task.graph, images, labels, architecture)
    for scores, of_kept in zip(anew, before, strict=True):
        np.testing.assert_allclose(scores, of_kept[~np.isnan(of_kept)], rtol=1e-5)


def test_norms_of_coarse_numbers_are_summed_finely(tiny_task: Task) -> None:
    """Sums in bfloat16 itself, of 8 bits, would be equal for many filters."""
    model = copy.deepcopy(tiny_task.model).bfloat16()
    found = importance("l1")(model, tiny_task.graph, tiny_task.train.images, tiny_task.train.labels)[-1]
    expected = [sum(abs(w) for w in row) for row in model.hidden.weight.tolist()]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


class Upwards(nn.Module):
    """Transposed convolutions with groups: in the weight of ``up`` an index of dimension 1 is one filter of every group,
    and in that of ``wide``, which is depthwise, an index of dimension 0 is two filters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.up = nn.ConvTranspose2d(4, 6, 2, groups=2)
        self.wide = nn.ConvTranspose2d(6, 12, 2, groups=6)
        self.last = nn.Linear(12 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.wide(self.up(self.first(x)).relu()).relu().flatten(1))

    def filter_of(self, layer: str, channel: int) -> tuple[slice, int]:
        """Where in the layer's weight the filter of an output channel is."""
        groups, per_group, inputs = {"up": (2, 3, 2), "wide": (6, 2, 1)}[layer]
        group, position = divmod(channel, per_group)
        assert 0 <= group < groups
        return slice(group * inputs, (group + 1) * inputs), position


@pytest.mark.parametrize("criterion", ["taylor", "l1", "l2"])
def test_transposed_convolutions_with_groups(criterion: str) -> None:
    model = Upwards().double()
    images = torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1])
    graph = prune_gym.trace(model, images)
    found = dict(zip([group.name for group in graph.groups], importance(criterion)(model, graph, images, labels), strict=True))
    F.cross_entropy(model(images), labels, reduction="sum").backward()

    def score(layer: str, channel: int) -> float:
        weight: Tensor = model.get_parameter(f"{layer}.weight")
        index = model.filter_of(layer, channel)
        if criterion == "taylor":
            return (weight * weight.grad)[index].abs().sum().item()  # type: ignore[operator]
        return weight[index].detach().norm(int(criterion[1])).item()

    # channel c of up goes with c + 3, its twin in the other group, and with the two channels of wide made from each
    assert set(found) == {"first", "up"}
    for unit in range(3):
        filters = [("up", unit), ("up", unit + 3)]
        filters += [("wide", 2 * unit + i) for i in (0, 1)] + [("wide", 2 * (unit + 3) + i) for i in (0, 1)]
        assert found["up"][unit] == pytest.approx(np.mean([score(*filter_) for filter_ in filters]), rel=1e-10)


class Tied(nn.Module):
    """One matrix W (5, 7), used as the weight of a linear layer, and transposed as that of the next one: row i of W is filter i
    of the first layer, column j is filter j of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 7)
        self.inner = nn.Linear(7, 5, bias=False)
        self.last = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(self.enter(x.flatten(1)).relu()).relu()
        return self.last(F.linear(hidden, self.inner.weight.t()).relu())


@pytest.mark.parametrize("criterion", ["taylor", "l1", "l2"])
def test_tied_weights_count_in_both_directions(criterion: str) -> None:
    """The columns of W are filters of the second layer and inputs of the first, so each goes with a filter of ``enter``."""
    torch.manual_seed(0)
    model = Tied().double()
    images, labels = torch.randn(4, 6, 1, 1, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    graph = prune_gym.trace(model, images)
    found = dict(zip([group.name for group in graph.groups], importance(criterion)(model, graph, images, labels), strict=True))
    F.cross_entropy(model(images), labels, reduction="sum").backward()

    def score(layer: nn.Linear, index: tuple[slice | int, ...]) -> float:
        if criterion == "taylor":
            return (layer.weight * layer.weight.grad)[index].abs().sum().item()
        return layer.weight[index].detach().norm(int(criterion[1])).item()

    expected_rows = [score(model.inner, (i,)) for i in range(5)]
    expected_columns = [(score(model.enter, (j,)) + score(model.inner, (slice(None), j))) / 2 for j in range(7)]
    assert {name: len(scores) for name, scores in found.items()} == {"enter": 7, "inner": 5}
    np.testing.assert_allclose(found["inner"], expected_rows, rtol=1e-10)
    np.testing.assert_allclose(found["enter"], expected_columns, rtol=1e-10)


# ------------------------------------------------------------------------------------------------ batch norm scales


class Joined(nn.Module):
    """Two convolutions side by side; ``norm`` is behind both, ``again`` behind the second alone."""

    def __init__(self, scales: bool = True):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 2, 3)
        self.again, self.norm = nn.BatchNorm2d(2), nn.BatchNorm2d(5, affine=scales)
        self.last = nn.Linear(5 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.cat([self.one(x), self.again(self.two(x))], 1)).flatten(1))


def test_bn_scale_is_the_mean_over_the_norms_behind_a_unit() -> None:
    model, images, labels = Joined(), torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    graph = prune_gym.trace(model, images)
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0]))
        model.again.weight.copy_(torch.tensor([6.0, -8.0]))
    one, two = importance("bn_scale")(model, graph, images, labels)
    assert one.tolist() == [1, 2, 3]
    assert two.tolist() == [(4 + 6) / 2, (5 + 8) / 2]
    kept = graph.architecture([np.array([True, False, True]), np.array([False, True])])
    one, two = importance("bn_scale")(model, graph, images, labels, kept)
    np.testing.assert_array_equal(one, [1, np.nan, 3])
    np.testing.assert_array_equal(two, [np.nan, 6.5])


def test_bn_scale_needs_a_norm_behind_every_group(tiny_task: Task) -> None:
    images, labels = tiny_task.train.images, tiny_task.train.labels
    with pytest.raises(ValueError, match=r"'bn_scale' needs a batch norm with a scale behind every group; 'hidden' has none"):
        importance("bn_scale")(tiny_task.model, tiny_task.graph, images, labels)
    model = Joined(scales=False)
    with pytest.raises(ValueError, match="'one' has none"):
        importance("bn_scale")(model, prune_gym.trace(model, images[:, :, :4, :4]), images, labels)


# ------------------------------------------------------------------------------------------------ random


def test_random_scores_come_from_the_seed(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    arguments = tiny_task.model, tiny_task.graph, tiny_task.train.images, tiny_task.train.labels
    first, again, other = (np.concatenate(importance("random", seed)(*arguments)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    np.testing.assert_array_equal(np.concatenate(importance("random")(*arguments)), np.random.default_rng(0).random(34))
    np.testing.assert_array_equal(first, np.random.default_rng(3).random(34))
    assert len(set(first)) == len(first)
    pruned = np.concatenate(importance("random", 3)(*arguments, tiny_architectures[2]))
    np.testing.assert_array_equal(pruned, np.where(tiny_architectures[2].mask, first, np.nan))


# ------------------------------------------------------------------------------------------------ side effects


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name != "bn_scale"])
def test_nothing_is_touched_and_the_mode_does_not_matter(criterion: str, own_tiny_task: Task) -> None:
    model, graph = own_tiny_task.model, own_tiny_task.graph
    images, labels = own_tiny_task.calibration.images, own_tiny_task.calibration.labels
    expected = importance(criterion)(model, graph, images, labels)
    model.train()
    model.stem.weight.grad = torch.full_like(model.stem.weight, 7.0)
    model.inner.weight.requires_grad_(False)
    before, images_before = copy.deepcopy(model.state_dict()), images.clone()
    random_state = torch.random.get_rng_state()
    with torch.no_grad():
        found = importance(criterion)(model, graph, images, labels)
    for scores, in_evaluation_mode in zip(found, expected, strict=True):
        np.testing.assert_array_equal(scores, in_evaluation_mode)
    assert model.training
    assert all(module.training for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert (model.stem.weight.grad == 7).all()
    assert all(p.grad is None for name, p in model.named_parameters() if name != "stem.weight")
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["inner.weight"]
    assert torch.equal(images, images_before)
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_buffers_that_a_forward_pass_writes_are_left_as_they_are(tiny_task: Task) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = copy.deepcopy(tiny_task.model)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.inner(x) * self.calls

    model, images, labels = Counting().eval(), tiny_task.calibration.images, tiny_task.calibration.labels
    graph = prune_gym.trace(model, images)
    first, again = (importance("taylor")(model, graph, images, labels) for _ in range(2))
    assert model.calls.item() == 0
    expected = importance("taylor")(tiny_task.model, tiny_task.graph, images, labels)
    for scores, second, inner in zip(first, again, expected, strict=True):
        np.testing.assert_array_equal(scores, second)
        np.testing.assert_allclose(scores, inner, rtol=1e-6)  # of the first call, that multiplies by one


def test_images_made_in_inference_mode(tiny_task: Task) -> None:
    images, labels = tiny_task.calibration.images, tiny_task.calibration.labels
    expected = importance("taylor")(tiny_task.model, tiny_task.graph, images, labels)
    with torch.inference_mode():
        inferred = images.clone(), labels.clone()
        found = importance("taylor")(tiny_task.model, tiny_task.graph, *inferred)
    for scores, outside in zip(found, expected, strict=True):
        np.testing.assert_array_equal(scores, outside)


@pytest.mark.parametrize("criterion", ["l1", "l2", "random"])
def test_only_taylor_reads_the_images(criterion: str, tiny_task: Task) -> None:
    empty = torch.zeros(0, 1, 12, 12), torch.zeros(0, dtype=torch.int64)
    without = importance(criterion)(tiny_task.model, tiny_task.graph, *empty)
    with_images = importance(criterion)(tiny_task.model, tiny_task.graph, tiny_task.train.images, tiny_task.train.labels)
    for a, b in zip(without, with_images, strict=True):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------------------------------ errors


def test_unknown_criterion() -> None:
    with pytest.raises(ValueError, match=r"importance: expected one of taylor, .*; got 'tailor'\. Did you mean 'taylor'\?"):
        importance("tailor")


def test_another_architecture(tiny_task: Task) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(400, 2))
    other = prune_gym.trace(model, tiny_task.train.images).full()
    arguments = tiny_task.model, tiny_task.graph, tiny_task.train.images, tiny_task.train.labels
    for criterion in CRITERIA[:3]:
        with pytest.raises(ValueError, match="architecture: expected one of this graph, got one of another"):
            importance(criterion)(*arguments, other)
        with pytest.raises(TypeError, match="architecture: expected an Architecture, got ndarray"):
            importance(criterion)(*arguments, other.mask)  # type: ignore[arg-type]


def test_another_model(tiny_task: Task) -> None:
    with pytest.raises(ValueError, match="model: expected the network that the graph was traced from"):
        importance("l1")(nn.Conv2d(1, 8, 3), tiny_task.graph, tiny_task.train.images, tiny_task.train.labels)


def refused(images: Any, labels: Any, error: type[Exception], message: str, task: Task) -> None:
    with pytest.raises(error, match=message):
        importance("taylor")(task.model, task.graph, images, labels)


def test_images_that_the_model_cannot_take_are_refused(tiny_task: Task) -> None:
    images, labels = tiny_task.calibration.images, tiny_task.calibration.labels
    for wrong, got in ((images.numpy(), "ndarray"), ((images * 255).byte(), "torch.uint8"), (None, "NoneType")):
        refused(wrong, labels, TypeError, rf"images: expected a floating-point tensor \(N, C, H, W\) .*, got {got}", tiny_task)
    for wrong in (images.repeat(1, 3, 1, 1), images[..., :5], images.double(), images[:, 0], images.to("meta")):
        on = labels.to(wrong.device)
        message = rf"images: expected what the model takes, got {wrong.dtype} \({', '.join(map(str, wrong.shape))}\) on"
        refused(wrong, on, ValueError, message, tiny_task)
    refused(images[:0], labels[:0], ValueError, r"images: expected at least one image .*, got shape \(0, 1, 12, 12\)", tiny_task)
    for bad in (np.nan, np.inf):
        broken = images.clone()
        broken[7, 0, 2, 1] = bad
        refused(broken, labels, ValueError, r"images: expected finite numbers as pixels, .* in image 7\.", tiny_task)


def test_labels_that_are_no_classes_are_refused(tiny_task: Task) -> None:
    images, labels = tiny_task.calibration.images, tiny_task.calibration.labels
    for wrong, got in ((labels.float(), "torch.float32"), (labels.int(), "torch.int32"), (labels.tolist(), "list")):
        refused(images, wrong, TypeError, rf"labels: expected an int64 tensor \(N,\), .*, got {got}", tiny_task)
    for wrong, shape in ((labels[:99], r"\(99,\)"), (labels[:, None], r"\(100, 1\)")):
        refused(images, wrong, ValueError, rf"labels: expected one for each of 100 images, got shape {shape}", tiny_task)
    for wrong, got in ((labels + 1, r"1 \.\. 5"), (labels - 1, r"-1 \.\. 3"), (labels - 100, r"-100 \.\. -96")):
        refused(images, wrong, ValueError, rf"labels: expected classes 0 \.\. 4, .*, got {got}\.", tiny_task)


def test_a_model_with_several_outputs_is_refused(tiny_task: Task) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_task.model

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.inner(x), x.mean((2, 3))

    model, images = Two(), tiny_task.calibration.images
    with pytest.raises(TypeError, match=r"model: expected one tensor of logits \(N, classes\) as its output, got tuple"):
        importance("taylor")(model, prune_gym.trace(model, images), images, tiny_task.calibration.labels)


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (1.5, ValueError), (None, TypeError), ("0", TypeError)])
def test_seeds_are_integers(seed: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"seed: expected an integer >= 0, got {seed!r}"):
        importance("random", seed)  # type: ignore[arg-type]
