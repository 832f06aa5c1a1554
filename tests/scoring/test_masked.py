"""Masked networks: that zeroing scores as removing does, mask after mask, on whatever device there is."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import Net, conv, mean, random_architecture, relative_error

import prune_gym
from prune_gym import Architecture, ChannelGraph, compact, models, trace
from prune_gym.graph.program import Program, leaves
from prune_gym.scoring import evaluation, masked
from prune_gym.scoring.aliasing import writes_through_views
from prune_gym.scoring.candidates import Candidates
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.scoring.folding import Inference, fold
from prune_gym.scoring.masked import MaskedNetwork, captured
from prune_gym.surgery.slicing import named_tensors
from prune_gym.tasks import Task

MIXED = [name for name, entry in zoo.NETWORKS.items() if any(group[-1] for group in entry.groups)]
OTHERS = {  # they take several inputs, or give something else than one tensor
    "feature_pyramid", "cosine_head", "bound_to_the_image", "correlation", "correlation_of_bound_channels"
}  # fmt: skip
UNMIXED = [name for name in zoo.NETWORKS if name not in {*MIXED, *OTHERS}]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
IMAGES, BATCH = 5, 2  # the last batch is smaller


def masked_network(
    model: nn.Module, graph: ChannelGraph, images: Tensor, labels: Tensor | None = None, **options: Any
) -> MaskedNetwork:
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device) if labels is None else labels
    tensors = {name: tensor.to(images.device) for name, tensor in named_tensors(model, graph).items()}
    return MaskedNetwork(fold(graph, tensors), graph, images, labels, **{"batch_size": BATCH, **options})


def of_task(task: Task, device: str = "cpu", batch_size: int = 50) -> MaskedNetwork:
    split = task.val.to(torch.device(device))
    return masked_network(task.model, task.graph, split.images, split.labels, batch_size=batch_size)


def agrees(network: MaskedNetwork, model: nn.Module, graph: ChannelGraph, images: Tensor) -> None:
    """With the compact form, for masks that remove much, little, nothing and other things, one after the other."""
    for seed, fraction in ((0, 0.8), (1, 0.2), (2, 0.0), (3, 0.4)):
        architecture = random_architecture(graph, seed, fraction) if fraction else graph.full()
        small = compact(model, graph, architecture, form="program").to(images.device)
        with torch.no_grad():
            expected = torch.cat([small(batch) for batch in images.split(BATCH)])
        assert relative_error(network.logits(architecture.mask), expected) < 1e-9


# ------------------------------------------------------------------------------------------------ what it computes


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", UNMIXED)
def test_logits_are_those_of_the_compact_form(name: str, channels_last: bool, device: str) -> None:
    model, (images,) = zoo.built(name), zoo.inputs(zoo.NETWORKS[name].shapes, IMAGES)
    graph = trace(model, images)
    images = images.to(device)
    assert not writes_through_views(graph.program)
    agrees(masked_network(model, graph, images, channels_last=channels_last), model, graph, images)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(zoo.KINDS), st.integers(0, 4), st.integers(0, 3)), max_size=5),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_logits_of_random_networks(recipe: list[tuple[str, int, int]], flatten: bool, last: bool, seed: int) -> None:
    model, (images,) = zoo.prepare(zoo.random_network(recipe, flatten), seed), zoo.inputs(((3, 4, 4),), IMAGES)
    graph = trace(model, images)
    if not any(group.mixed for group in graph.groups):
        agrees(masked_network(model, graph, images, channels_last=last), model, graph, images)


@pytest.mark.parametrize("device", DEVICES)
def test_accuracies_are_those_of_modules_with_zeroed_channels(
    tiny_task: Task, tiny_architectures: list[Architecture], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network = of_task(tiny_task, device)
    expected = []
    for architecture in tiny_architectures:
        module = prune_gym.mask(tiny_task.model, tiny_task.graph, architecture)
        with torch.no_grad():
            correct = module(tiny_task.val.images).argmax(1) == tiny_task.val.labels
        expected.append(int(correct.sum()) / len(correct))
    masks = np.stack([a.mask for a in tiny_architectures])
    assert network.accuracies(masks) == expected
    assert network.accuracies(masks[::-1]) == expected[::-1]
    assert [network.accuracy(mask) for mask in masks] == expected
    assert len(set(expected)) > 3  # else the comparison would mean little
    assert network.accuracies(masks[:0]) == []


def test_no_zero_is_left_behind_after_many_masks(tiny_task: Task) -> None:
    """And the original tensors are as they were."""
    network, graph = of_task(tiny_task), tiny_task.graph
    before = {name: tensor.clone() for name, tensor in named_tensors(tiny_task.model, graph).items()}
    expected = network.logits(graph.full().mask)
    masks = [random_architecture(graph, seed, 0.1 * (seed % 10)).mask for seed in range(50)]
    once = network.accuracies(np.stack(masks))
    assert torch.equal(network.logits(graph.full().mask), expected)
    assert [network.accuracy(mask) for mask in masks] == once
    assert all(torch.equal(tensor, before[name]) for name, tensor in named_tensors(tiny_task.model, graph).items())


def test_removed_weights_need_not_be_numbers(own_tiny_task: Task) -> None:
    graph = own_tiny_task.graph
    kept = [np.arange(group.width) > 0 for group in graph.groups]
    mask = graph.architecture(kept).mask
    expected = of_task(own_tiny_task).logits(mask)
    with torch.no_grad():
        own_tiny_task.model.stem.weight[0] = torch.inf
        own_tiny_task.model.hidden.weight[0] = torch.nan
    assert torch.equal(of_task(own_tiny_task).logits(mask), expected)


def test_a_network_without_groups() -> None:
    model, images = zoo.prepare(nn.Sequential(nn.Flatten(), nn.Linear(12, 4))), torch.randn(3, 3, 2, 2).double()
    graph = trace(model, images)
    assert graph.n_units == 0
    network = masked_network(model, graph, images, model(images).argmax(1))
    assert network.accuracy(np.zeros(0, bool)) == 1


def test_copies_and_pickles_score_alike(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    network, masks = of_task(tiny_task), np.stack([a.mask for a in tiny_architectures])
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert twin.accuracies(masks) == network.accuracies(masks)


# ----------------------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize("name", ["group_norms", "convnext", "sums_over_channels"])
def test_mixed_groups_are_refused(name: str) -> None:
    model, (images,) = zoo.built(name), zoo.inputs(zoo.NETWORKS[name].shapes, IMAGES)
    graph = trace(model, images)
    network = masked_network(model, graph, images)
    architecture = random_architecture(graph, 0)
    first = next(group for group in graph.groups if group.mixed)
    for refused in (network.accuracy, network.logits):
        with pytest.raises(ValueError, match=rf"masks: group '{first.name}' is normalised or reduced across its channels"):
            refused(architecture.mask)
    without = graph.architecture(
        [np.ones_like(kept) if group.mixed else kept for group, kept in zip(graph.groups, architecture.kept, strict=True)]
    )
    assert network.exact_for(np.stack([architecture.mask, without.mask])).tolist() == [False, True]
    with torch.no_grad():
        expected = compact(model, graph, without, form="program")(images)
    assert relative_error(network.logits(without.mask), expected) < 1e-9


@pytest.mark.parametrize(
    ("masks", "got"),
    [
        (np.ones((2, 33), bool), r"bool of shape \(2, 33\)"),
        (np.ones((2, 34), np.int64), r"int64 of shape \(2, 34\)"),
        (np.ones(34, bool), r"bool of shape \(34,\)"),
        ([[True] * 34], "list"),
    ],
)
def test_bad_masks(tiny_task: Task, masks: Any, got: str) -> None:
    with pytest.raises(ValueError, match=rf"masks: expected a boolean array \(M, 34\), one column per unit .* got {got}"):
        of_task(tiny_task).accuracies(masks)


# ----------------------------------------------------------------------------------------------- the layout


def shared_memory(kind: str) -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        y = net.first(x)
        match kind:
            case "a view is written to":
                y.view(len(x), -1).relu_()
            case "it is written to after a view was taken":
                flat = y.flatten(1)
                y.relu_()
                return net.last(flat.unflatten(1, y.shape[1:]).mean((2, 3)))
            case "through two views":
                y.transpose(2, 3).transpose(2, 3).reshape(len(x), -1)[:, 3:].mul_(2)
            case "before":
                y.relu_()
                return net.last(y.flatten(1).unflatten(1, y.shape[1:]).mean((2, 3)))
            case "a part":
                y[:, :3].relu_()
        return net.last(mean(y))

    return zoo.prepare(Net(run, first=conv(3, 6), last=nn.Linear(6, 4)))


@pytest.mark.parametrize(
    ("kind", "writes"),
    [
        ("a view is written to", True),
        ("it is written to after a view was taken", True),
        ("through two views", True),
        ("before", False),
        ("a part", False),
    ],
)
def test_channels_come_last_only_where_views_stay_views(kind: str, writes: bool) -> None:
    model, images = shared_memory(kind), zoo.inputs(((3, 8, 6),), IMAGES)[0]
    graph = trace(model, images)
    assert writes_through_views(graph.program) is writes
    agrees(masked_network(model, graph, images), model, graph, images)
    last = masked_network(model, graph, images, channels_last=True)
    if not writes:
        agrees(last, model, graph, images)
    elif kind != "it is written to after a view was taken":
        with torch.no_grad():
            assert relative_error(last.logits(graph.full().mask), model(images)) > 1e-3  # the check is there for a reason


def test_both_layouts_are_what_they_say(tiny_task: Task) -> None:
    images = tiny_task.val.images
    strides = {}
    for last in (False, True, None):
        network = masked_network(tiny_task.model, tiny_task.graph, images, channels_last=last)
        strides[last] = [tensor.stride() for tensor in network._tensors.values() if tensor.ndim == 4]
        assert all(tensor.stride() == network._tensors[name].stride() for name, tensor in network._originals.items())
    assert strides[None] == strides[False] != strides[True]  # this is a CPU


# ----------------------------------------------------------------------------------------------- the capture


def test_what_is_captured_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of calls that CUDA graphs need, on a device that does nothing."""
    events: list[str] = []

    @contextmanager
    def entered(name: str) -> Iterator[None]:
        events.append(f"enter {name}")
        yield
        events.append(f"leave {name}")

    class Stream:
        def __init__(self, name: str = "side"):
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            events.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self) -> None:
            events.append("replay")

    monkeypatch.setattr(torch.cuda, "device", lambda device: entered(str(device)))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("present"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: entered(stream.name))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: entered("capture"))
    replay = captured(lambda: events.append(f"run, benchmark {torch.backends.cudnn.benchmark}"), torch.device("cuda:1"))
    runs = ["run, benchmark True"]
    assert events == [
        "enter cuda:1", "side waits for present", "enter side", *runs * masked.WARM_UPS, "leave side", "present waits for side",
        "enter capture", *runs, "leave capture", "leave cuda:1",
    ]  # fmt: skip
    assert not torch.backends.cudnn.benchmark
    events.clear()
    replay()
    assert events == ["replay"]
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    captured(lambda: events.append(f"benchmark {torch.backends.cudnn.benchmark}"), torch.device("cuda:1"))
    assert "benchmark False" in events
    assert "benchmark True" not in events


class OneDevice(TorchDispatchMode):
    """Fails where an operator, or one that it consists of, reads or makes a tensor on another device than ``meta``."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        with self:  # in inference mode composite operators arrive whole
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            result = func(*args, **kwargs)
        for leaf in leaves([args, kwargs, result]):
            assert not isinstance(leaf, Tensor) or leaf.device.type == "meta", func
        return result


@pytest.mark.parametrize("name", [*UNMIXED, "vgg19", "resnet20_a", "densenet121", "googlenet", "mobilenet_v3_large"])
def test_nothing_within_the_capture_waits_for_the_device(name: str) -> None:
    """On PyTorch's meta device, which has no values to give, it runs from end to end and touches no other device."""
    model = zoo.built(name) if name in zoo.NETWORKS else models.create(name).double().eval()
    (images,) = zoo.inputs(zoo.NETWORKS[name].shapes if name in zoo.NETWORKS else ((3, 32, 32),), IMAGES)
    graph = trace(model, images)
    with torch.no_grad():
        labels = model(images).argmax(1)  # of every image, or of its pixels
    network = masked_network(model, graph, images.to("meta"), labels.to("meta"))
    with torch.inference_mode(), OneDevice():
        network._score()
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        network.accuracy(graph.full().mask)


@pytest.mark.parametrize("device", DEVICES)
def test_an_accuracy_takes_one_pass_over_the_images(
    tiny_task: Task, tiny_architectures: list[Architecture], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = Program.run

    def counted(self: Program, tensors: dict[str, Tensor], inputs: list[Tensor], training: bool = False) -> Tensor:
        sizes.append(len(inputs[0]))
        return run(self, tensors, inputs, training)

    monkeypatch.setattr(Program, "run", counted)
    network = of_task(tiny_task, device)
    assert sizes == ([] if device == "cpu" else (masked.WARM_UPS + 1) * [50, 50, 20])
    sizes.clear()
    network.accuracies(np.stack([a.mask for a in tiny_architectures]))
    assert sizes == ([50, 50, 20] * len(tiny_architectures) if device == "cpu" else [])


# ----------------------------------------------------------------------------------------------- bfloat16


@pytest.mark.parametrize("name", [name for name in UNMIXED if name not in ("three_dimensional", "places")])
def test_bfloat16_all_the_way(name: str) -> None:
    """The same function but for rounding, and no operator gets another floating-point type by the way. For the two networks
    that are left out, PyTorch lacks an operator in bfloat16 on the CPU: pooling in three dimensions, Fourier transforms."""
    model, (images,) = zoo.built(name), zoo.inputs(zoo.NETWORKS[name].shapes, IMAGES)
    graph = trace(model, images)
    small = fold(graph, named_tensors(model, graph)).to(torch.bfloat16)
    labels = torch.zeros(IMAGES, dtype=torch.int64)
    network = MaskedNetwork(small, graph, images.bfloat16(), labels, BATCH)
    architecture = random_architecture(graph, 0)
    output = network.logits(architecture.mask)
    assert output.dtype == torch.bfloat16
    with torch.no_grad():
        expected = torch.cat([compact(model, graph, architecture, form="program")(batch) for batch in images.split(BATCH)])
    assert relative_error(output.double(), expected) < 0.15


def test_zeros_that_a_network_makes_take_its_type() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        y = net.first(x)
        zeros = torch.zeros(len(x), 2, *y.shape[2:], device=x.device)  # of the default type
        ones = torch.ones(2, dtype=torch.float32, device=x.device)[:, None, None]
        y = net.second(torch.cat([y, zeros + ones], 1))
        return net.last(mean(y))

    model = Net(run, first=conv(3, 6), second=conv(8, 6), last=nn.Linear(6, 4)).eval()
    images = torch.randn(IMAGES, 3, 8, 8)
    graph = trace(model, images)
    inference: Inference = fold(graph, named_tensors(model, graph)).to(torch.bfloat16)
    with torch.no_grad():
        output = inference.program.at(graph.full().mask).run(inference.tensors, [images.bfloat16()])
        assert output.dtype == torch.bfloat16
        assert relative_error(output.float(), model(images)) < 0.05


# ----------------------------------------------------------------------------------------------- the evaluator


@pytest.fixture
def masking_everywhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(evaluation, "MASKED_ON", ("cuda", "cpu"))


def test_both_ways_of_scoring_agree(
    tiny_task: Task, tiny_architectures: list[Architecture], masking_everywhere: Callable[[], None]
) -> None:
    def scorer() -> Evaluator:
        return Evaluator(Candidates(tiny_task.graph, named_tensors(tiny_task.model, tiny_task.graph)), tiny_task.val, 50)

    expected = scorer().scores(tiny_architectures)
    masking_everywhere()
    masking = scorer()
    assert masking.scores(tiny_architectures) == expected
    assert masking._masked is not None
    assert masking.accuracies([]) == []


def test_mixed_groups_are_scored_on_the_compact_form(masking_everywhere: Callable[[], None]) -> None:
    model, (images,) = zoo.built("group_norms"), zoo.inputs(zoo.NETWORKS["group_norms"].shapes, 40)
    graph = trace(model, images)
    architectures = [random_architecture(graph, seed) for seed in range(4)]
    architectures.insert(2, graph.full())
    with torch.no_grad():
        predictions = [compact(model, graph, a, form="program")(images).argmax(1) for a in architectures]
    split = evaluation.Split(images, predictions[0])
    masking_everywhere()
    scorer = Evaluator(Candidates(graph, named_tensors(model, graph)), split)
    assert scorer.accuracies(architectures) == [float((p == predictions[0]).double().mean()) for p in predictions]


@pytest.mark.parametrize("everywhere", [False, True])
def test_bfloat16_scores(
    tiny_task: Task, tiny_architectures: list[Architecture], everywhere: bool, masking_everywhere: Callable[[], None]
) -> None:
    """Nearly the same, and not quite: it is not float32 in secret."""
    if everywhere:
        masking_everywhere()
    tensors = named_tensors(tiny_task.model, tiny_task.graph)
    exact = Evaluator(Candidates(tiny_task.graph, tensors), tiny_task.val).accuracies(tiny_architectures)
    rounded = Evaluator(Candidates(tiny_task.graph, tensors), tiny_task.val, precision="bfloat16").accuracies(tiny_architectures)
    assert rounded == pytest.approx(exact, abs=0.05)
    assert rounded != exact


def test_unknown_precision(tiny_task: Task) -> None:
    with pytest.raises(ValueError, match=r"precision: expected one of float32, bfloat16; got 'bfloat'. Did you mean 'bfloat16'"):
        Evaluator(Candidates(tiny_task.graph, named_tensors(tiny_task.model, tiny_task.graph)), tiny_task.val, precision="bfloat")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_environment_on_a_gpu_says_what_one_on_a_cpu_says(tiny_task: Task) -> None:
    from prune_gym.envs import PruningEnv

    envs = [PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.1, importance="l1", device=device) for device in ("cpu", "cuda")]
    actions = np.random.default_rng(0).random((8, len(tiny_task.graph.groups)))
    for env in envs:
        env.reset()
    on_cpu, on_gpu = ([preview.score for preview in env.preview(actions)] for env in envs)
    for a, b in zip(on_cpu, on_gpu, strict=True):
        assert b.accuracy == pytest.approx(a.accuracy, abs=0.02)  # rounding, TF32
        assert (b.macs, b.params) == (a.macs, a.params)
    again = pickle.loads(pickle.dumps(envs[1]))
    accuracies = [preview.score.accuracy for preview in again.preview(actions)]
    assert accuracies == pytest.approx([score.accuracy for score in on_gpu], abs=0.02)  # it chose its algorithms again
