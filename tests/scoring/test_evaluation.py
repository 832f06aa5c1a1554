"""Accuracies and costs against ordinary modules, and how often a network is run for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prune_gym
from prune_gym import Architecture
from prune_gym.data.splits import Split
from prune_gym.graph.program import Program
from prune_gym.scoring.candidates import Candidates
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.surgery.slicing import named_tensors
from prune_gym.tasks import Task
from prune_gym.training import train as training

Shrink = Callable[[Task, Architecture], nn.Module]


def evaluator(task: Task, batch_size: int = 256) -> Evaluator:
    return Evaluator(Candidates(task.graph, named_tensors(task.model, task.graph)), task.val, batch_size)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes of all runs of any program."""
    sizes: list[int] = []
    run = Program.run

    def counted(self: Program, tensors: dict[str, Tensor], inputs: list[Tensor], training: bool = False) -> Tensor:
        sizes.append(len(inputs[0]))
        return run(self, tensors, inputs, training)

    monkeypatch.setattr(Program, "run", counted)
    return sizes


def fraction_correct(module: nn.Module, split: Split) -> float:
    with torch.no_grad():
        predicted = [int(module(image[None])[0].argmax()) for image in split.images]
    return sum(p == label for p, label in zip(predicted, split.labels.tolist(), strict=True)) / len(predicted)


def macs_of(module: nn.Module, image: Tensor) -> int:
    """Multiplications of one image, layer by layer: one per output and weight of its filter."""
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * layer.weight[0].numel()  # type: ignore[union-attr, operator, index]

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        module(image)
    return total


# ------------------------------------------------------------------------------------------------ accuracy


def test_accuracy_is_that_of_the_smaller_module(tiny_task: Task, tiny_architectures: list[Architecture], shrink: Shrink) -> None:
    scores = evaluator(tiny_task).scores(tiny_architectures)
    assert [s.accuracy for s in scores] == [fraction_correct(shrink(tiny_task, a), tiny_task.val) for a in tiny_architectures]
    assert scores[0].accuracy == fraction_correct(tiny_task.model, tiny_task.val) > 0.75
    assert len({s.accuracy for s in scores}) > 3  # else the comparison would mean little


def test_accuracy_is_that_of_the_masked_network(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    scorer = evaluator(tiny_task)
    for architecture in tiny_architectures:
        masked = prune_gym.mask(tiny_task.model, tiny_task.graph, architecture)
        assert scorer.accuracy(architecture) == training.accuracy(masked, tiny_task.val)


@pytest.mark.parametrize("batch_size", [1, 7, 60, 119, 120, 1000])
def test_the_batch_size_does_not_matter(
    batch_size: int, tiny_task: Task, tiny_architectures: list[Architecture], runs: list[int]
) -> None:
    expected = [evaluator(tiny_task).accuracy(a) for a in tiny_architectures[:4]]
    runs.clear()
    assert [evaluator(tiny_task, batch_size).accuracy(a) for a in tiny_architectures[:4]] == expected
    assert sum(runs) == 4 * 120
    assert max(runs) == min(batch_size, 120)


@pytest.mark.parametrize("fidelity", ["recalibrated", "compensated"])
def test_one_pass_for_calibration_and_split(
    fidelity: str, own_tiny_task: Task, tiny_architectures: list[Architecture], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where both fit one batch; otherwise the network is calibrated first. The original network needs no calibration."""
    task, architectures = own_tiny_task, [own_tiny_task.graph.architecture(a.kept) for a in tiny_architectures[:4]]
    candidates = Candidates(task.graph, named_tensors(task.model, task.graph), fidelity, task.train)
    together = candidates.calibration_images + len(task.val)
    one, several = (Evaluator(candidates, task.val, size) for size in (together, together - 1))
    for architecture in architectures:
        assert torch.equal(one.correct(architecture), several.correct(architecture))
    sizes: list[int] = []
    run = Program.run

    def counted(self: Program, tensors: dict[str, Tensor], inputs: list[Tensor], *others: Any, **more: Any) -> Tensor:
        sizes.append(len(inputs[0]))
        return run(self, tensors, inputs, *others, **more)

    monkeypatch.setattr(Program, "run", counted)
    pruned = next(a for a in architectures if not a.mask.all())
    for each, expected in ((one, [together]), (several, [candidates.calibration_images, len(task.val)])):
        sizes.clear()
        each.accuracy(pruned)
        assert sizes == expected
    sizes.clear()
    one.accuracy(task.graph.full())
    assert sizes == [len(task.val)]


def test_training_mode_and_dropout_do_not_matter(own_tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    masks = [own_tiny_task.graph.architecture(a.kept) for a in tiny_architectures]
    expected = [s.accuracy for s in evaluator(own_tiny_task).scores(masks)]
    own_tiny_task.model.train()
    assert [s.accuracy for s in evaluator(own_tiny_task).scores(masks)] == expected
    assert int(own_tiny_task.model.norm_stem.num_batches_tracked) == 1  # as it was made


def test_images_survive_a_network_that_works_in_place() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.conv(x.sub_(0.5).mul_(2)).relu_().flatten(1))

    split = Split(torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(20, dtype=torch.int64))
    model, images = InPlace(), split.images.clone()
    graph = prune_gym.trace(model, images[:1])
    scorer = Evaluator(Candidates(graph, named_tensors(model, graph)), split)
    assert scorer.accuracy(graph.full()) == scorer.accuracy(graph.full())
    assert torch.equal(split.images, images)


# ------------------------------------------------------------------------------------------------ costs


def test_costs_are_those_of_the_smaller_module(tiny_task: Task, tiny_architectures: list[Architecture], shrink: Shrink) -> None:
    scores = evaluator(tiny_task).scores(tiny_architectures)
    modules = [shrink(tiny_task, a) for a in tiny_architectures]
    macs = [macs_of(module, tiny_task.val.images[:1]) for module in modules]
    params = [sum(p.numel() for p in module.parameters()) for module in modules]
    assert [s.macs for s in scores] == macs
    assert [s.params for s in scores] == params
    assert [s.flops_reduction for s in scores] == pytest.approx([1 - m / macs[0] for m in macs], abs=1e-12)
    assert [s.params_reduction for s in scores] == pytest.approx([1 - p / params[0] for p in params], abs=1e-12)
    layers = [[m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)][:-1] for module in modules]
    filters = [sum(len(layer.weight) for layer in each) for each in layers]
    assert filters[0] == 64
    assert [s.channel_sparsity for s in scores] == pytest.approx([1 - f / 64 for f in filters], abs=1e-12)
    assert scores[0].flops_reduction == scores[0].params_reduction == scores[0].channel_sparsity == 0


# ------------------------------------------------------------------------------------------------ purity


def test_every_call_computes_anew(tiny_task: Task, tiny_architectures: list[Architecture], runs: list[int]) -> None:
    scorer = evaluator(tiny_task)
    a, b = tiny_architectures[:2]
    first = scorer.scores([a, b, a])
    assert runs == [120] * 3
    assert first == [scorer.score(a), scorer.score(b), scorer.score(a)]
    assert runs == [120] * 6
    assert scorer.scores([]) == scorer.accuracies([]) == []


def test_only_architectures_of_this_graph_are_scored(tiny_task: Task) -> None:
    scorer = evaluator(tiny_task)
    other = prune_gym.trace(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(400, 3)), torch.zeros(1, 1, 12, 12))
    for call in (scorer.accuracy, scorer.score, lambda a: scorer.scores([tiny_task.graph.full(), a])):
        with pytest.raises(ValueError, match="architecture: expected one of this graph, got one of another"):
            call(other.full())
        with pytest.raises(TypeError, match="architecture: expected an Architecture, got NoneType"):
            call(None)  # type: ignore[arg-type]


def test_a_split_goes_to_a_device_with_its_labels(tiny_task: Task) -> None:
    moved = tiny_task.val.to(torch.device("meta"))
    assert len(moved) == len(tiny_task.val) == 120
    assert moved.images.device.type == moved.labels.device.type == "meta"
