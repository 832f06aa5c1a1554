"""The three fidelities: what a pruned network's tensors are, and that both ways to score agree on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from zoo import random_architecture, relative_error

from prune_gym import Architecture, importance, models, trace
from prune_gym.data.splits import Split
from prune_gym.scoring import calibration as module
from prune_gym.scoring import evaluation
from prune_gym.scoring.calibration import how_many
from prune_gym.scoring.candidates import FIDELITIES, Candidates
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.surgery.slicing import named_tensors, slice_tensors
from prune_gym.tasks import Task


def of_task(task: Task, fidelity: str, base: Architecture | None = None) -> Candidates:
    return Candidates(task.graph, named_tensors(task.model, task.graph), fidelity, task.train, base)


def test_original_cuts(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    tensors = named_tensors(tiny_task.model, tiny_task.graph)
    for architecture in tiny_architectures:
        cut = slice_tensors(tensors, tiny_task.graph.units, architecture)
        found = of_task(tiny_task, "original").tensors(architecture)
        assert all(torch.equal(found[name], tensor) for name, tensor in cut.items())


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_a_network_that_lost_nothing_keeps_its_tensors(
    tiny_task: Task, tiny_architectures: list[Architecture], fidelity: str
) -> None:
    tensors = named_tensors(tiny_task.model, tiny_task.graph)
    for base in (None, tiny_architectures[3]):
        architecture = base or tiny_task.graph.full()
        found = of_task(tiny_task, fidelity, base).tensors(architecture)
        expected = slice_tensors(tensors, tiny_task.graph.units, architecture)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("fidelity", ["recalibrated", "compensated"])
def test_the_others_need_images(tiny_task: Task, fidelity: str) -> None:
    with pytest.raises(ValueError, match=f"data: fidelity '{fidelity}' needs images to calibrate on, got none"):
        Candidates(tiny_task.graph, named_tensors(tiny_task.model, tiny_task.graph), fidelity)
    with pytest.raises(ValueError, match="fidelity: expected one of original, recalibrated, compensated"):
        Candidates(tiny_task.graph, named_tensors(tiny_task.model, tiny_task.graph), "recal")


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_masked_and_compact_scores_agree(
    tiny_task: Task, tiny_architectures: list[Architecture], fidelity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for base in (None, tiny_architectures[1]):
        kept = base.mask if base is not None else tiny_task.graph.full().mask
        found = [Architecture(tiny_task.graph, a.mask & kept) for a in tiny_architectures]
        found = [architecture for architecture in found if (architecture.widths > 0).all()]
        compact = Evaluator(of_task(tiny_task, fidelity, base), tiny_task.val).accuracies(found)
        monkeypatch.setattr(evaluation, "MASKED_ON", ("cpu",))
        masked = Evaluator(of_task(tiny_task, fidelity, base), tiny_task.val, batch_size=50).accuracies(found)
        monkeypatch.undo()
        assert masked == compact
        assert len(set(compact)) > 1  # else the comparison would mean little


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from(zoo.KINDS), st.integers(0, 4), st.integers(0, 3)), max_size=5),
    st.booleans(),
    st.integers(0, 99),
    st.sampled_from(["recalibrated", "compensated"]),
)
def test_masked_and_compact_logits_of_random_networks(
    recipe: list[tuple[str, int, int]], flatten: bool, seed: int, fidelity: str
) -> None:
    model, (images,) = zoo.prepare(zoo.random_network(recipe, flatten), seed), zoo.inputs(((3, 4, 4),), 8)
    graph = trace(model, images)
    if any(group.mixed for group in graph.groups):
        return
    data = Split(images, torch.arange(8) % 2)
    found = Candidates(graph, named_tensors(model, graph), fidelity, data)
    compact = Evaluator(found, data)
    architecture = random_architecture(graph, seed, 0.3)
    before, evaluation.MASKED_ON = evaluation.MASKED_ON, ("cpu",)
    try:
        masked = Evaluator(found, data)._masked
    finally:
        evaluation.MASKED_ON = before
    assert masked is not None
    with torch.inference_mode():
        expected = compact._network.program.at(architecture.mask).run(compact._tensors(architecture), [images])
    if not np.array_equal(architecture.mask, graph.full().mask):
        assert relative_error(masked.logits(architecture.mask), expected) < 1e-6


def test_fewer_images_where_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Split(torch.zeros(50, 1, 10, 10), torch.zeros(50, dtype=torch.int64))
    assert [how_many(n, data) for n in (20, 50, 256)] == [20, 50, 50]
    monkeypatch.setattr(module, "MAX_PIXELS", 1250)
    assert how_many(256, data) == 12
    monkeypatch.setattr(module, "MAX_PIXELS", 50)
    assert how_many(256, data) == 1


def test_compensation_is_worth_more_than_recalibration_and_that_more_than_cutting(tiny_task: Task) -> None:
    """As on every trained network so far; of this one with random weights, in the mean over architectures."""
    found = [random_architecture(tiny_task.graph, seed, 0.25) for seed in range(12)]
    means = [np.mean(Evaluator(of_task(tiny_task, fidelity), tiny_task.val).accuracies(found)) for fidelity in FIDELITIES]
    assert means[0] < means[2]
    assert means[1] < means[2]


# ------------------------------------------------------------------------------------------------ the criterion


def test_obs_by_name(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    images, labels = tiny_task.calibration.images, tiny_task.calibration.labels
    for architecture in (None, tiny_architectures[2]):
        scores = np.concatenate(importance("obs")(tiny_task.model, tiny_task.graph, images, labels, architecture))
        mask = (architecture or tiny_task.graph.full()).mask
        assert np.isnan(scores[~mask]).all()
        assert (scores[mask] > 0).all()


def test_obs_needs_a_reader_of_every_group() -> None:
    model = zoo.prepare(
        torch.nn.Sequential(zoo.conv(3, 4), torch.nn.ConvTranspose2d(4, 5, 3), zoo.conv(5, 4), torch.nn.Flatten())
    )
    model = zoo.prepare(torch.nn.Sequential(model, torch.nn.Linear(400, 3)))
    images = torch.randn(2, 3, 8, 8).double()
    with pytest.raises(ValueError, match=r"'obs' needs a convolution or linear layer that reads every group; none reads '0\.0'"):
        importance("obs")(model, trace(model, images[:1]), images, torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    "images", [None, torch.zeros(0, 1, 12, 12), torch.zeros(3, 2, 12, 12), torch.full((3, 1, 12, 12), torch.nan)]
)
def test_obs_checks_its_images(tiny_task: Task, images: torch.Tensor | None) -> None:
    with pytest.raises((TypeError, ValueError), match="images: "):
        importance("obs")(tiny_task.model, tiny_task.graph, images, torch.zeros(3, dtype=torch.int64))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet18", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "regnet_y_400mf",
     "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5"],
)  # fmt: skip
def test_compensated_networks_are_closest_to_the_original(name: str) -> None:
    """Networks of other people, with statistics of their own: the error of the logits on images that nothing was fitted to, an
    eighth of the channels gone."""
    torch.manual_seed(0)
    model = models.create(f"torchvision/{name}", 10).requires_grad_(False)
    images = smooth_images(160)
    model.train()
    for _ in range(4):  # they start with the statistics of nothing
        model(images[:64])
    model.eval()
    graph = trace(model, images[:1])
    tensors, data = named_tensors(model, graph), Split(images[:128], torch.zeros(128, dtype=torch.int64))
    scores = importance("l1")(model, graph, images[:1], torch.zeros(1, dtype=torch.int64))
    architecture = graph.architecture([each.argsort().argsort() >= len(each) // 8 for each in scores])
    expected = graph.program.at(graph.full().mask).run(dict(tensors), [images[128:]])
    errors = {}
    for fidelity in FIDELITIES:
        small = Candidates(graph, tensors, fidelity, data).tensors(architecture)
        errors[fidelity] = relative_error(graph.program.at(architecture.mask).run(small, [images[128:]]), expected)
    assert errors["compensated"] < errors["recalibrated"]


def smooth_images(n: int) -> Tensor:
    """Random images whose neighbouring pixels are alike, (n, 3, 64, 64)."""
    coarse = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=64, mode="bicubic")
