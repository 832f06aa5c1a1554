"""Images of either kind give the network the same input, everywhere."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import Compose, ToTensor
from torchvision.transforms import Normalize as TorchvisionNormalize

from prune_gym.data.augmentation import Augmentation
from prune_gym.data.sampling import stratified
from prune_gym.data.splits import Normalization, Split, Splits, check_finite, check_labels
from prune_gym.scoring.candidates import Candidates
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.simulation.simulator import Simulator
from prune_gym.surgery.slicing import named_tensors
from prune_gym.tasks import Task
from prune_gym.training import train as training

COLOUR = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pixels(n: int = 5, channels: int = 3, size: tuple[int, int] = (4, 6)) -> Tensor:
    return torch.randint(0, 256, (n, channels, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


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


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_batches_are_all_images_in_order(size: int) -> None:
    split = Split(pixels(), torch.arange(5), COLOUR)
    batches = list(split.batches(size))
    assert [len(labels) for _, labels in batches] == [size] * (5 // size) + [5 % size] * (5 % size > 0)
    assert torch.equal(torch.cat([images for images, _ in batches]), split.inputs())
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_batches_have_at_least_one_image(size: float) -> None:
    with pytest.raises(ValueError, match=rf"size: expected an integer >= 1, got {size}"):
        Split(pixels(), torch.arange(5), COLOUR).batches(size)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"size: expected an integer >= 1, got None"):
        Split(pixels(), torch.arange(5), COLOUR).batches(None)  # type: ignore[arg-type]


def test_samples_are_stratified_draws() -> None:
    labels = torch.arange(60) // 20
    split = Split(pixels(60), labels, COLOUR)
    for seed in (0, 1):
        rows = torch.from_numpy(stratified(labels.numpy(), 10, seed))
        sample = split.sample(10, seed)
        assert torch.equal(sample.images, split.images[rows])
        assert torch.equal(sample.labels, labels[rows])
        assert sample.normalization is COLOUR
    assert not torch.equal(split.sample(10).images, split.sample(10, 1).images)
    assert torch.equal(split.sample(10).images, split.sample(10, 0).images)
    for n in (60, 100):
        assert torch.equal(split.sample(n).images, split.images)
    with pytest.raises(ValueError, match="n: expected an integer >= 1, got 0"):
        split.sample(0)
    with pytest.raises(ValueError, match="seed: expected an integer >= 0, got -1"):
        split.sample(1, -1)


def test_shuffled_splits_keep_images_with_their_labels() -> None:
    split = Split(pixels(40), torch.arange(40), COLOUR)
    mixed = split.shuffled()
    assert mixed.labels.tolist() != list(range(40))
    assert torch.equal(mixed.labels.sort()[0], split.labels)
    assert torch.equal(mixed.images, split.images[mixed.labels])
    assert mixed.normalization is COLOUR
    assert torch.equal(split.shuffled(0).labels, mixed.labels)
    assert not torch.equal(split.shuffled(1).labels, mixed.labels)


def test_pixels_that_are_not_finite_are_found() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        images = torch.rand(4, 2, 3, 3).to(dtype)
        check_finite("train", images)
        for bad in (float("nan"), float("inf"), -float("inf")):
            broken = images.clone()
            broken[2, 1, 0, 2] = bad
            with pytest.raises(ValueError, match=r"^train: expected finite numbers as pixels, got nan or inf in image 2\.$"):
                check_finite("train", broken)
    check_finite("train", pixels())


def test_labels_are_classes_of_the_network() -> None:
    check_labels(torch.tensor([0, 2, 1]), torch.zeros(7, 3))
    for labels, got in (([0, 3], r"0 \.\. 3"), ([-1, 2], r"-1 \.\. 2"), ([-100, 0], r"-100 \.\. 0")):
        with pytest.raises(ValueError, match=rf"^labels: expected classes 0 \.\. 2, as many .*, got {got} in val\.$"):
            check_labels(torch.tensor(labels), torch.zeros(7, 3), " in val")
    for logits, kind in (((torch.zeros(7, 3),), "tuple"), (torch.zeros(3), r"a tensor of shape \(3,\)"), (None, "NoneType")):
        with pytest.raises(TypeError, match=rf"model: expected one tensor of logits \(N, classes\) as its output, got {kind}"):
            check_labels(torch.tensor([0]), logits)


def test_a_split_may_show_a_single_class() -> None:
    for label in (0, 2):
        labels = torch.full((5,), label)
        check_labels(labels, torch.zeros(1, 3))
        split = Split(pixels(), labels, COLOUR)
        assert Splits(split, split, split, 3).classes == 3


def test_data_cannot_be_reassigned() -> None:
    split = Split(pixels(), torch.arange(5), COLOUR)
    for value, name in ((split, "labels"), (Splits(split, split, split, 5), "train"), (COLOUR, "mean")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, None)


def test_bad_data_sets() -> None:
    split = Split(pixels(), torch.arange(5), COLOUR)
    assert Splits(split, split, split, 5).augmentation is None
    for part in ("train", "val", "test"):
        others = {"train": split, "val": split, "test": split} | {part: Split(pixels(), torch.arange(5) - 1, COLOUR)}
        with pytest.raises(ValueError, match=rf"^{part}: expected labels 0 \.\. 4, got -1 \.\. 3\.$"):
            Splits(**others, classes=5)
        with pytest.raises(TypeError, match=rf"^{part}: expected a Split, got Tensor\.$"):
            Splits(**others | {part: split.images}, classes=5)
    with pytest.raises(ValueError, match=r"train: expected labels 0 \.\. 3, got 0 \.\. 4"):
        Splits(split, split, split, 4)
    with pytest.raises(ValueError, match=r"classes: expected an integer >= 1, got 0"):
        Splits(split, split, split, 0)
    with pytest.raises(TypeError, match=r"augmentation: expected an Augmentation or None, got type"):
        Splits(split, split, split, 5, Augmentation)  # type: ignore[arg-type]


def test_bad_splits_and_normalizations() -> None:
    labels = torch.arange(5)
    with pytest.raises(TypeError, match=r"labels: expected an int64 tensor \(N,\), .* got torch.float32; convert integers with"):
        Split(pixels(), labels.float(), COLOUR)
    for shape in ((), (0, 3, 4, 6), (5, 3, 0, 6)):
        with pytest.raises(ValueError, match=r"images: expected at least one image of at least one pixel, got shape \("):
            Split(torch.zeros(shape), labels)
    for wrong in (labels[:4], labels[:, None], labels[0]):
        with pytest.raises(ValueError, match=r"labels: expected one for each of 5 images, got shape \("):
            Split(pixels(), wrong, COLOUR)
    with pytest.raises(ValueError, match=r"labels: expected them on the device of the images, cpu, got meta"):
        Split(pixels(), labels.to("meta"), COLOUR)
    with pytest.raises(TypeError, match=r"normalization: expected a Normalization or None, got str"):
        Split(pixels(), labels, "imagenet")  # type: ignore[arg-type]
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
        assert Evaluator(Candidates(graph, tensors), as_pixels["val"], size).score(graph.full()).accuracy == training.accuracy(
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
