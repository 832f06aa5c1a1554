"""Images of either kind give the network the same input, everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import Compose, ToTensor
from torchvision.transforms import Normalize as TorchvisionNormalize

from prune_gym.data.splits import Normalization, Split
from prune_gym.data.splits import Split as SplitOfEvaluation
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.simulation.simulator import Simulator
from prune_gym.surgery.slicing import named_tensors
from prune_gym.tasks import Task
from prune_gym.training import train as training

COLOUR = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pixels(n: int = 5, channels: int = 3, size: tuple[int, int] = (4, 6)) -> Tensor:
    return torch.randint(0, 256, (n, channels, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_there_is_one_split() -> None:
    assert SplitOfEvaluation is Split


def test_pixels_become_what_torchvision_makes_of_them() -> None:
    split = Split(pixels(), torch.arange(5), COLOUR)
    reference = Compose([ToTensor(), TorchvisionNormalize(COLOUR.mean, COLOUR.std)])
    expected = torch.stack([reference(np.ascontiguousarray(image.permute(1, 2, 0).numpy())) for image in split.images])
    found = split.inputs()
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(split.inputs(slice(1, 3)), expected[1:3])
    assert torch.equal(split.inputs(torch.tensor([4, 0, 4])), expected[[4, 0, 4]])
    assert torch.equal(split.images, pixels())


def test_floats_are_handed_on_without_a_copy() -> None:
    images = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    split = Split(images, torch.arange(5))
    assert torch.equal(split.inputs(), images)
    assert split.inputs(slice(2)).data_ptr() == images.data_ptr()
    assert torch.equal(split.inputs(torch.tensor([3, 1])), images[[3, 1]])


def test_images_change_before_they_are_normalised() -> None:
    split = Split(pixels(), torch.arange(5), COLOUR)
    black = split.inputs(slice(2), augment=lambda images: images * 0)
    assert torch.equal(black, split.normalization(torch.zeros(2, 3, 4, 6, dtype=torch.uint8)))
    floats = Split(torch.ones(5, 1, 2, 2), torch.arange(5))
    assert torch.equal(floats.inputs(slice(2), augment=lambda images: images + 1), torch.full((2, 1, 2, 2), 2.0))


def test_inputs_may_be_made_in_inference_mode_first_and_trained_on_later() -> None:
    normalization = Normalization((0.25,), (0.125,))  # of its own, so that nothing is prepared yet
    split = Split(pixels(channels=1), torch.arange(5), normalization)
    with torch.inference_mode():
        split.inputs()
    weight = torch.ones(1, requires_grad=True)
    (split.inputs() * weight).sum().backward()
    assert weight.grad == split.inputs().sum()


def test_subsets_and_devices_keep_the_normalization() -> None:
    split = Split(pixels(), torch.arange(5), COLOUR)
    for rows in (slice(1, 3), torch.tensor([4, 2])):
        part = split.subset(rows)
        assert torch.equal(part.inputs(), split.inputs(rows))
        assert torch.equal(part.labels, split.labels[rows])
    moved = split.to(torch.device("meta"))
    assert moved.normalization is COLOUR
    assert moved.images.dtype == torch.uint8
    assert moved.inputs().shape == (5, 3, 4, 6)


def test_bad_splits_and_normalizations() -> None:
    labels = torch.arange(5)
    with pytest.raises(TypeError, match=r"images: expected a floating-point tensor .* with a normalization, got torch.uint8"):
        Split(pixels(), labels)
    with pytest.raises(TypeError, match=r"images: expected a uint8 tensor .* beside a normalization, got torch.float32"):
        Split(pixels().float(), labels, COLOUR)
    with pytest.raises(TypeError, match=r"images: expected a uint8 tensor .* got ndarray"):
        Split(pixels().numpy(), labels, COLOUR)
    for images in (pixels(channels=1), pixels()[:, :, 0]):
        with pytest.raises(ValueError, match=r"images: expected shape \(N, 3, H, W\), a channel for each mean .* got \(5, "):
            Split(images, labels, COLOUR)
    for mean, std in (((0.5, 0.5), (1.0,)), ((), ())):
        with pytest.raises(ValueError, match=r"std: expected a number for each mean"):
            Normalization(mean, std)
    for std in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"std: expected a number in \(0, inf\), got {std}"):
            Normalization((0.5,), (std,))
    with pytest.raises(ValueError, match=r"mean: expected a number in \(-inf, inf\), got nan"):
        Normalization((float("nan"),), (1.0,))
    with pytest.raises(TypeError, match=r"mean: expected a tuple of numbers, one for each channel, got \[0\.5\]"):
        Normalization([0.5], (1.0,))  # type: ignore[arg-type]


def test_pruning_and_training_take_either_kind(own_tiny_task: Task) -> None:
    """The whole way: the same images, once as pixels and once as floats, give the same numbers."""
    normalization = Normalization((0.5,), (0.25,))
    as_pixels = {
        part: Split(
            (getattr(own_tiny_task, part).images * 64 + 128).clamp(0, 255).to(torch.uint8),
            getattr(own_tiny_task, part).labels,
            normalization,
        )
        for part in ("train", "val", "test")
    }
    as_floats = {part: Split(split.inputs(), split.labels) for part, split in as_pixels.items()}
    tasks = [replace(own_tiny_task, **splits) for splits in (as_pixels, as_floats)]
    graph = tasks[0].graph
    assert [group.name for group in graph.groups] == [group.name for group in tasks[1].graph.groups]
    simulators = [Simulator(task, 0.5, 0.1) for task in tasks]
    action = np.ones(len(graph.groups))
    after = [simulator.successors(simulator.initial(), [action])[0] for simulator in simulators]
    assert after[0].architecture.digest == after[1].architecture.digest
    scores = [simulator.score(at) for simulator, at in zip(simulators, after, strict=True)]
    assert scores[0] == scores[1]
    tensors = named_tensors(own_tiny_task.model, graph)
    for size in (7, 120, 500):
        assert Evaluator(graph, tensors, as_pixels["val"], size).score(graph.full()).accuracy == training.accuracy(
            own_tiny_task.model, as_floats["val"]
        )
    weights = []
    for splits in (as_pixels, as_floats):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 5))
        torch.nn.init.zeros_(model[1].weight)
        torch.nn.init.zeros_(model[1].bias)
        training.train(model, splits["train"], training.Recipe(epochs=2))
        weights.append(model[1].weight.detach())
    assert torch.equal(*weights)
