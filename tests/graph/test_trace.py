"""Tracing: what belongs together in odd networks, in all of torchvision's, and that the network itself is left alone."""

from __future__ import annotations

import copy
import math
import pickle
import threading
import time
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
import zoo
from torch import Tensor, nn
from zoo import Net, conv, mean

from prune_gym import ChannelGraph, UnknownOperatorError, compact, mask, trace
from prune_gym.graph.program import operator
from prune_gym.graph.verify import verify

TORCHVISION = [
    name
    for name in torchvision.models.list_models(module=torchvision.models)
    if not name.startswith(("vit", "swin", "maxvit"))
]  # fmt: skip


@pytest.fixture
def cheap_init(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks whose weights are whatever the memory holds: their initialisation takes far longer than their trace."""
    for name in dir(nn.init):
        if name.endswith("_") and not name.startswith("_"):
            monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)


def from_torchvision(name: str) -> nn.Module:
    options = {"googlenet": {"aux_logits": False, "init_weights": False}, "inception_v3": {"init_weights": False}}
    return torchvision.models.get_model(name, weights=None, **options.get(name, {}))


def image_size(name: str) -> int:
    return next(iter(torchvision.models.get_model_weights(name))).transforms().crop_size[0]


def image(size: int) -> Tensor:
    return torch.empty(1, 3, size, size)


# ------------------------------------------------------------------------------------------------ groups


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_groups_of_the_zoo(name: str) -> None:
    entry = zoo.NETWORKS[name]
    graph = trace(zoo.built(name), zoo.inputs(entry.shapes))
    assert zoo.groups_of(graph) == entry.groups


def test_there_are_68_classifiers_in_torchvision() -> None:
    assert len(TORCHVISION) == 68


@pytest.mark.usefixtures("cheap_init")
@pytest.mark.parametrize("name", TORCHVISION)
def test_every_layer_of_torchvisions_classifiers(name: str) -> None:
    """All convolutions and linear layers but the classifier (and the heads for training) are prunable, every filter of theirs
    is in exactly one group, and parameters and MACs are what torchvision's own tables say."""
    model = from_torchvision(name)
    graph = trace(model, image(image_size(name)))
    layers = {
        path: module.weight.shape[0]
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not path.startswith("AuxLogits.")
    }
    found = [layer for group in graph.groups for layer in group.layers]
    classifier = set(layers) - set(found)
    assert classifier == {list(layers)[-1]}
    assert set(found) < set(layers)
    assert graph.n_filters == sum(layers[layer] for layer in set(found))
    # a unit holds as many filters of each of its layers as of any other of the same width
    assert all(group.width > 0 and group.filters_per_unit >= len(group.layers) for group in graph.groups)

    facts = next(iter(torchvision.models.get_model_weights(name))).meta
    cost = graph.cost(graph.full())
    assert cost.params == sum(parameter.numel() for parameter in model.parameters()) == facts["num_params"]
    assert round(cost.macs / 1e9, 3) == facts["_ops"]


@pytest.mark.usefixtures("cheap_init")
def test_groups_of_resnet18() -> None:
    graph = trace(from_torchvision("resnet18"), image(64))
    streams = {
        "conv1": (64, ("conv1", "layer1.0.conv2", "layer1.1.conv2")),
        "layer2.0.conv2": (128, ("layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2")),
        "layer3.0.conv2": (256, ("layer3.0.conv2", "layer3.0.downsample.0", "layer3.1.conv2")),
        "layer4.0.conv2": (512, ("layer4.0.conv2", "layer4.0.downsample.0", "layer4.1.conv2")),
    }
    inner = {f"layer{i}.{j}.conv1": (2 ** (5 + i), (f"layer{i}.{j}.conv1",)) for i in range(1, 5) for j in range(2)}
    assert {group.name: (group.width, group.layers) for group in graph.groups} == streams | inner
    assert [group.name for group in graph.groups][:4] == ["conv1", "layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1"]
    # what a unit of the second stage owns: filters, norms behind them, and columns of everything that reads it
    (second,) = (group for group in graph.groups if group.name == "layer2.0.conv2")
    owned = {(piece.tensor, piece.dim): piece.indices.tolist()[7] for piece in second.slices}
    norms = ["layer2.0.bn2", "layer2.0.downsample.1", "layer2.1.bn2"]
    assert owned == {
        **{(f"{layer}.weight", 0): [7] for layer in second.layers},
        **{(f"{norm}.{leaf}", 0): [7] for norm in norms for leaf in ("weight", "bias", "running_mean", "running_var")},
        **{(f"{layer}.weight", 1): [7] for layer in ("layer2.1.conv1", "layer3.0.conv1", "layer3.0.downsample.0")},
    }


@pytest.mark.usefixtures("cheap_init")
def test_groups_of_vgg_flatten_49_places() -> None:
    graph = trace(from_torchvision("vgg11"), image(224))
    assert [(g.name, g.width) for g in graph.groups] == [
        ("features.0", 64), ("features.3", 128), ("features.6", 256), ("features.8", 256), ("features.11", 512),
        ("features.13", 512), ("features.16", 512), ("features.18", 512), ("classifier.0", 4096), ("classifier.3", 4096),
    ]  # fmt: skip
    (columns,) = (piece for piece in graph.groups[7].slices if piece.tensor == "classifier.0.weight")
    assert columns.dim == 1
    assert columns.indices.tolist() == np.arange(512 * 49).reshape(512, 49).tolist()


@pytest.mark.usefixtures("cheap_init")
def test_groups_of_mobilenet_shufflenet_and_resnext() -> None:
    mobile = {g.name: g for g in trace(from_torchvision("mobilenet_v2"), image(64)).groups}
    assert mobile["features.0.0"].layers == ("features.0.0", "features.1.conv.0.0")
    assert mobile["features.2.conv.2"].layers == ("features.2.conv.2", "features.3.conv.2")
    assert (mobile["features.2.conv.0.0"].width, mobile["features.2.conv.0.0"].filters_per_unit) == (96, 2)

    shuffle = trace(from_torchvision("shufflenet_v2_x0_5"), image(64))
    assert shuffle.groups[0].name == "conv1.0"
    assert shuffle.groups[0].layers == ("conv1.0", "stage2.0.branch1.0")

    (inner,) = (g for g in trace(from_torchvision("resnext50_32x4d"), image(64)).groups if g.name == "layer1.0.conv1")
    assert (inner.width, inner.filters_per_unit, inner.layers) == (4, 32, ("layer1.0.conv1",))


@pytest.mark.usefixtures("cheap_init")
def test_a_dense_block_reads_all_before_it() -> None:
    graph = trace(from_torchvision("densenet121"), image(64))
    (first,) = (g for g in graph.groups if g.name == "features.denseblock1.denselayer1.conv2")
    readers = {piece.tensor: piece.indices.ravel().tolist() for piece in first.slices if piece.dim == 1}
    assert readers == {
        **{f"features.denseblock1.denselayer{i}.conv1.weight": list(range(64, 96)) for i in range(2, 7)},
        "features.transition1.conv.weight": list(range(64, 96)),
    }


# ------------------------------------------------------------------------------------------------ speed


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_init", "one_thread")
@pytest.mark.parametrize("name", TORCHVISION)
def test_no_trace_takes_long(name: str) -> None:
    """The best of up to ten, as processor time. A quiet machine takes less than half of this (results/speed_cpu.json); others are
    slower, and so is one with neighbours."""
    model, x = from_torchvision(name), image(224)
    taken = []
    while len(taken) < 10 and min(taken, default=math.inf) >= 1:
        start = time.process_time()
        trace(model, x)
        taken.append(time.process_time() - start)
    assert min(taken) < 1


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------- the network is left alone


def fingerprint(module: nn.Module) -> dict[str, Any]:
    """Everything about a module that a trace might change; tensors by identity and content."""
    seen: dict[str, Any] = {}
    for path, part in module.named_modules():
        for key, value in part.__dict__.items():
            kind = (type(value), len(value)) if isinstance(value, dict | list | OrderedDict) else value
            seen[f"{path}.{key}"] = id(kind) if isinstance(kind, Tensor) else kind
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        seen[name] = (id(tensor), tensor._version, tensor.requires_grad, tensor.device, tensor.clone().tolist())
    return seen


class Remembers(nn.Module):
    """Keeps what it sees, counts its calls, and has hooks that do the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn, self.conv2, self.head = conv(3, 5), nn.BatchNorm2d(5), conv(5, 4), nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.feature: Tensor | None = None
        self.history: list[Tensor] = []
        self.seen: dict[str, Tensor] = {}
        self.free = torch.ones(5, 1, 1)
        self.bn.register_forward_hook(lambda module, args, output: self.seen.update(bn=output))
        self.conv2.register_forward_pre_hook(lambda module, args: self.history.append(args[0]))

    def forward(self, x: Tensor) -> Tensor:
        self.feature = F.relu(self.bn(self.conv1(x)))
        self.history.append(self.feature)
        self.calls += 1
        self.free += 1
        if "weight" not in self.seen:
            self.seen["weight"] = self.conv2.weight
        return self.head(mean(F.conv2d(self.feature, self.seen["weight"])))


def test_the_network_is_left_alone() -> None:
    model = Remembers().train()
    model.bn.eval()
    before = fingerprint(model)
    graph = trace(model, torch.randn(2, 3, 8, 8))
    assert [(g.name, g.width) for g in graph.groups] == [("conv1", 5), ("conv2", 4)]
    assert fingerprint(model) == before
    assert model.feature is None
    assert not model.history
    assert not model.seen
    assert model.free.tolist() == torch.ones(5, 1, 1).tolist()
    assert model.training
    assert not model.bn.training
    compact(model, graph, graph.full(), form="program")
    mask(model, graph, graph.full())
    assert fingerprint(model) == before


def test_a_network_that_still_holds_what_it_computed() -> None:
    """Tensors with a gradient history cannot be deep-copied; they are no part of the network."""
    model = Remembers().eval()
    expected = model(torch.ones(2, 3, 8, 8))
    assert model.feature is not None
    feature, history = model.feature, list(model.history)
    graph = trace(model, torch.randn(2, 3, 8, 8))
    masked = mask(model, graph, graph.full())
    assert model.feature is feature
    assert [id(x) for x in model.history] == [id(x) for x in history]
    assert masked.feature is not feature
    torch.testing.assert_close(masked(torch.ones(2, 3, 8, 8)), expected)


def test_a_second_trace_says_the_same() -> None:
    entry = zoo.NETWORKS["both_shuffles"]
    model, x = zoo.built("both_shuffles"), zoo.inputs(entry.shapes)
    a, b = trace(model, x), trace(model, x)
    assert zoo.groups_of(a) == zoo.groups_of(b)
    assert [str(node) for node in a.program.at(a.full().mask).nodes] == [str(node) for node in b.program.at(b.full().mask).nodes]


def test_attributes_of_any_kind() -> None:
    """Arrays, which are neither true nor false, and what there can be only one of."""
    net = nn.Sequential(conv(3, 4), nn.Flatten(), nn.Linear(256, 2))
    net.anchors = np.arange(6.0).reshape(2, 3)
    net.lock = threading.Lock()
    net.table = {"x": [np.ones(3), torch.ones(2)], 3: None}
    graph = trace(net, torch.randn(1, 3, 8, 8))
    assert [g.name for g in graph.groups] == ["0"]


def test_a_graph_pickles() -> None:
    entry = zoo.NETWORKS["shuffle_with_groups"]
    model, images = zoo.built("shuffle_with_groups"), zoo.inputs(entry.shapes)
    graph = trace(model, images)
    twin = pickle.loads(pickle.dumps(graph))
    assert same_structure(twin, graph)
    architecture = zoo.random_architecture(twin, 0)
    assert twin.cost(architecture) == graph.cost(graph.architecture(architecture.kept))
    assert (
        zoo.relative_error(
            compact(model, twin, architecture)(*images), compact(model, graph, architecture, form="program")(*images)
        )
        == 0
    )


# ------------------------------------------------------------------------------------- states a network may be in


def same_structure(a: ChannelGraph, b: ChannelGraph) -> bool:
    return zoo.groups_of(a) == zoo.groups_of(b) and a.shapes == b.shapes


@pytest.mark.parametrize("state", ["training", "frozen", "half", "channels_last", "meta", "inference", "grad"])
def test_the_state_of_the_network_does_not_matter(state: str) -> None:
    model = torchvision.models.resnet18(num_classes=7)
    x = torch.randn(2, 3, 32, 32)
    expected = trace(copy.deepcopy(model).eval(), x)
    match state:
        case "training":
            model.train()
        case "frozen":
            model.requires_grad_(False)
        case "half":
            model, x = model.half(), x.half()
        case "channels_last":
            model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        case "meta":
            model = model.to("meta")
    with torch.inference_mode(state == "inference"), torch.set_grad_enabled(state == "grad"):
        assert same_structure(trace(model, x), expected)


@pytest.mark.parametrize("batch", [1, 2, 5, 1009])
def test_the_batch_of_the_example_does_not_matter(batch: int) -> None:
    entry = zoo.NETWORKS["several_inputs"]
    graph = trace(zoo.built("several_inputs"), zoo.inputs(entry.shapes, batch))
    assert zoo.groups_of(graph) == entry.groups


def test_a_forward_under_inference_mode() -> None:
    """There, operators such as linear and conv2d arrive whole."""

    class Decorated(Net):
        forward = torch.inference_mode()(Net.forward)

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(net.bn(net.depthwise(net.conv1(x)))), 0.5, net.training)
        return net.head(F.adaptive_avg_pool2d(F.group_norm(x, 5), 1).flatten(1))

    members = {"conv1": conv(3, 5), "depthwise": conv(5, 5, groups=5), "bn": nn.BatchNorm2d(5), "head": nn.Linear(5, 3)}
    a, b = (trace(kind(run, **members), torch.randn(1, 3, 8, 8)) for kind in (Net, Decorated))
    assert zoo.groups_of(a) == zoo.groups_of(b) == (("conv1", 5, 2, ("conv1", "depthwise"), False),)
    assert (a.cost(a.full()).macs, a.cost(a.full()).params) == (b.cost(b.full()).macs, b.cost(b.full()).params)


def test_wrapped_networks() -> None:
    plain = zoo.built("plain")
    x = zoo.inputs(((3, 8, 8),))
    wrapped = trace(nn.Sequential(nn.Identity(), nn.DataParallel(plain, device_ids=[])), x)
    assert [(g.name, g.width) for g in wrapped.groups] == [
        (f"1.module.{name}", width) for name, width in (("conv1", 6), ("conv2", 7), ("fc1", 9))
    ]
    fx = torch.fx.symbolic_trace(torchvision.models.squeezenet1_1(num_classes=3))
    assert len(trace(fx, torch.randn(1, 3, 64, 64)).groups) == 25


def test_one_parameter_under_two_names() -> None:
    """Tied weights are one tensor; whichever name the forward pass reads, it is known by its first."""

    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(mean(F.conv2d(net.b(x), net.c.weight)))

    net = Net(run, a=conv(3, 3), b=conv(3, 3), c=conv(3, 4, 1), d=conv(3, 4, 1), head=nn.Linear(4, 2))
    net.b.weight, net.d.weight = net.a.weight, net.c.weight
    graph = trace(net, torch.randn(1, 3, 8, 8))
    assert [(g.name, g.width) for g in graph.groups] == [("a", 3), ("c", 4)]


# ------------------------------------------------------------------------------------------ what cannot be pruned


def bound(graph: ChannelGraph) -> set[str]:
    """Parameters none of whose entries can be removed."""
    return {name for name in graph.shapes if name not in graph.units}


def test_channels_of_the_image_and_of_the_output_stay() -> None:
    entry = zoo.NETWORKS["bound_to_the_image"]
    graph = trace(zoo.built("bound_to_the_image"), zoo.inputs(entry.shapes))
    assert bound(graph) == {"like_the_image.weight", "like_the_image.bias", "out.bias"}
    assert [units is None for units in graph.units["out.weight"]] == [True, False, True, True]


def test_nothing_to_prune() -> None:
    graph = trace(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.randn(1, 3, 2, 2))
    assert graph.groups == ()
    assert graph.n_units == graph.n_filters == 0
    assert graph.cost(graph.full()).params == 39
    assert graph.full().widths.tolist() == []


@pytest.mark.parametrize("kind", ["dict", "named tuple", "ordered dict", "list with None", "bare"])
def test_every_tensor_of_the_output_is_bound(kind: str) -> None:
    Pair = namedtuple("Pair", ["logits", "feature"])

    def run(net: Net, x: Tensor) -> Any:
        feature = net.conv1(x)
        if kind == "bare":
            return feature
        logits = net.head(mean(net.conv2(feature)))
        return {
            "dict": {"logits": logits, "feature": feature},
            "named tuple": Pair(logits, feature),
            "ordered dict": OrderedDict(logits=logits, inner=[feature]),
            "list with None": [logits, None, (feature,)],
        }[kind]

    net = Net(run, conv1=conv(3, 5), conv2=conv(5, 4), head=nn.Linear(4, 2))
    graph = trace(net, torch.randn(2, 3, 8, 8))
    assert [g.name for g in graph.groups] == (["conv2"] if kind != "bare" else [])
    output = compact(net.eval(), graph, graph.full(), form="program")(torch.ones(3, 3, 8, 8))
    assert zoo.relative_error(output, net(torch.ones(3, 3, 8, 8))) < 1e-6
    if kind == "named tuple":
        assert output._fields == ("logits", "feature")


# ------------------------------------------------------------------------------------------------ unknown operators


class Inner(nn.Module):
    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("operator", "function"),
    [
        ("aten.linalg_qr", lambda x: torch.linalg.qr(x)[0]),
        ("aten.nonzero", lambda x: x[x.nonzero()[0]]),
        ("aten._local_scalar_dense", lambda x: x * x.sum().item()),
        ("aten.as_strided", lambda x: x.as_strided((1, 1), (1, 1))),
        ("aten.multinomial", lambda x: torch.multinomial(x[:, 0, 0], 2)),
        ("aten.rand_like", torch.rand_like),
        ("aten.renorm", lambda x: torch.renorm(x, 2, 0, 1.0)),
    ],
)
def test_unknown_operators_are_named_with_their_module(operator: str, function: Any) -> None:
    net = nn.Sequential(conv(3, 4), nn.ModuleDict({"odd": Inner(function)})["odd"])
    with pytest.raises(UnknownOperatorError, match=rf"operator {operator}\.\S+ in module '1' ") as caught:
        trace(net, torch.randn(2, 3, 8, 8))
    assert isinstance(caught.value, NotImplementedError)
    nested = nn.Sequential(OrderedDict(body=nn.Sequential(conv(3, 4), Inner(function))))
    with pytest.raises(UnknownOperatorError, match=rf"{operator}.* in module 'body.1' "):
        trace(nested, torch.randn(2, 3, 8, 8))


def checked(x: Tensor) -> Tensor:
    assert not torch.isnan(x).any()
    return x


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (checked, "Python reads a tensor's value there"),
        (lambda x: x * x.sum().item(), "Python reads a tensor's value there"),
        (lambda x: x if x.max() > 0 else -x, "Python reads a tensor's value there"),
        (lambda x: x[x.nonzero()[0]], "the size of its result depends on values.*backbone and head"),
        (lambda x: x[x > 0], "the size of its result depends on values"),
        (lambda x: x[torchvision.ops.nms(x[0, :4, 0, :4].reshape(-1, 4), x[0, 0, 0, :4], 0.5)], "backbone and head"),
        (torch.rand_like, "draws random numbers"),
        (lambda x: x + torch.randn(x.shape), "draws random numbers"),
        (lambda x: x * torch.bernoulli(x.sigmoid()), "draws random numbers"),
        (
            lambda x: torchvision.ops.deform_conv2d(x, x.repeat(1, 5, 1, 1)[:, :18], x.new_ones(4, 4, 3, 3), padding=1),
            "deformable",
        ),
        (torch.ops._c10d_functional.wait_tensor, r"inside of DistributedDataParallel, model\.module"),
        (lambda x: x.view(torch.int32), "add one to prune_gym/graph/operators"),
        (lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255), "prepared for quantisation"),
    ],
)
def test_what_to_do_about_an_unknown_operator(function: Any, advice: str) -> None:
    with pytest.raises(UnknownOperatorError, match=rf"trace: operator \S+ in module '1' .*{advice}"):
        trace(nn.Sequential(conv(3, 4), Inner(function)), torch.randn(2, 3, 8, 8))


def test_unknown_operator_of_the_model_itself_and_of_a_library() -> None:
    with pytest.raises(UnknownOperatorError, match=r"in module '\(the model itself\)'"):
        trace(Inner(torch.linalg.svdvals), torch.randn(2, 3, 8, 8))
    deform = torchvision.ops.DeformConv2d(3, 4, 3, padding=1)
    net = Net(lambda net, x: net.deform(x, net.offset(x)), deform=deform, offset=conv(3, 18))
    with pytest.raises(UnknownOperatorError, match=r"torchvision.deform_conv2d.* in module 'deform'"):
        trace(net, torch.randn(1, 3, 8, 8))


def test_assigning_to_the_data_of_a_parameter_is_refused() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        net.conv1.weight.data = net.conv1.weight.data / 2
        return net.head(mean(net.conv1(x)))

    net = Net(run, conv1=conv(3, 5), head=nn.Linear(5, 2))
    before = net.conv1.weight.clone()
    with pytest.raises(UnknownOperatorError, match=r"assigns to conv1.weight.data"):
        trace(net, torch.randn(1, 3, 8, 8))
    assert torch.equal(net.conv1.weight, before)


def test_a_branch_on_data_is_refused() -> None:
    with pytest.raises(UnknownOperatorError, match="in module '1'"):
        trace(nn.Sequential(conv(3, 4), Inner(lambda x: x if x.max() > 0 else -x)), torch.randn(2, 3, 8, 8))


# ------------------------------------------------------------------------------------------------ kinds of input and output


@dataclass
class Result:
    logits: Tensor
    feature: Tensor | None = None


class ModelOutput(OrderedDict):
    """A dict with attributes, as libraries define."""


class Heads(nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.conv, self.head = kind, conv(3, 5), nn.Linear(5, 2)

    def run(self, image: Tensor, scale: Tensor | None = None) -> Any:
        logits = self.head(mean(self.conv(image)))
        logits = logits if scale is None else logits * scale
        return {"dataclass": Result(logits), "model output": ModelOutput(logits=logits)}.get(self.kind, logits)


class OneDict(Heads):
    def forward(self, batch: dict[str, Tensor]) -> Any:
        return self.run(batch["image"], batch.get("scale"))


class Keywords(Heads):
    def forward(self, image: Tensor, *, scale: Tensor | None = None, **_: Any) -> Any:
        return self.run(image, scale)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["tensor", "dataclass", "model output"])
@pytest.mark.parametrize("model_type", [OneDict, Keywords])
def test_dicts_and_dataclasses(model_type: Any, kind: str) -> None:
    model = zoo.prepare(model_type(kind))
    x = {"image": torch.randn(3, 3, 8, 8).double(), "scale": torch.randn(3, 1).double()}
    for example in (x, {"image": x["image"]}):
        graph = trace(model, example)
        assert zoo.groups_of(graph) == (("conv", 5, 1, ("conv",), False),)
        verify(model, graph, example)
        expected = model(example) if model_type is OneDict else model(**example)
        output = compact(model, graph, graph.full(), form="program")(*example.values())
        if kind != "tensor":
            assert type(output) is dict
            assert list(output) == ["logits", "feature"][: 2 if kind == "dataclass" else 1]
            expected, output = getattr(expected, "logits", None) if kind == "dataclass" else expected["logits"], output["logits"]
        assert zoo.relative_error(output, expected) < 1e-12


# ------------------------------------------------------------------------------------------------ recurrent layers


class Recurrent(nn.Module):
    """A convolution, whose rows a recurrent layer reads one after the other."""

    def __init__(self, kind: str):
        super().__init__()
        self.conv, self.head = conv(3, 6), nn.Linear(5, 3)
        options = {} if kind.endswith("Cell") else {"batch_first": True}
        self.layer = getattr(nn, kind)(6, 5, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).amax(3).transpose(1, 2)
        if isinstance(self.layer, nn.RNNBase):
            return self.head(self.layer(x)[0][:, -1])
        state = None
        for step in x.unbind(1):
            state = self.layer(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"])
def test_recurrent_layers(kind: str) -> None:
    model, x = zoo.prepare(Recurrent(kind)), torch.randn(3, 3, 4, 4).double()
    graph = trace(model, x)
    assert graph.groups[0].name == "conv"
    verify(model, graph, x)
    architecture = zoo.random_architecture(graph, 0)
    network = compact(model, graph, architecture, form="program")
    assert graph.cost(architecture).params == zoo.parameters(network)
    if not any(group.mixed for group in graph.groups):
        assert zoo.relative_error(network(x), mask(model, graph, architecture)(x)) < 1e-12


def written(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, [0, 2]] = 0.5
    return x


@torch.no_grad()
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, [3, 1, 2, 0]],
        lambda x: x[:, range(1, 4)],
        lambda x: x[..., (0, 2)],
        lambda x: x[:, :, [[0, 1], [2, 3]]],
        lambda x: x[:, :, [0, 1], [2, 3]],
        lambda x: x[:, [True, False, True, True]],
        lambda x: x[:, torch.tensor([True, False, True, True])],
        lambda x: x[:, []],
        lambda x: x[[1, 0]],
        written,
    ],
)
def test_indices_that_are_lists(function: Any) -> None:
    model, x = zoo.prepare(nn.Sequential(conv(3, 5), conv(5, 4), Inner(function))), torch.randn(3, 3, 4, 4).double()
    graph = trace(model, x)
    verify(model, graph, x)
    assert graph.widths.tolist() == [5]


@torch.no_grad()
def test_shapes_that_change_in_place() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.stem(x).flatten(2)
        x.transpose_(1, 2).unsqueeze_(1).squeeze_(1)
        return net.head(x.mean(1)) + net.matrix.clone().t_()[0]

    model = zoo.prepare(Net(run, stem=conv(3, 4), head=nn.Linear(4, 2), matrix=zoo.parameter(2, 3)))
    x = torch.randn(3, 3, 4, 4).double()
    graph = trace(model, x)
    verify(model, graph, x)
    assert graph.widths.tolist() == [4]
    architecture = zoo.random_architecture(graph, 0)
    network = compact(model, graph, architecture, form="program")
    assert zoo.relative_error(network(x), mask(model, graph, architecture)(x)) < 1e-12
    assert not any(torch.Tag.inplace_view in operator(node.op).tags for node in network.program.nodes)


@torch.no_grad()
def test_no_channels_at_all() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.stem(x)
        shifted = torch.zeros_like(x)
        shifted[:, :2], shifted[:, 2:] = x[:, :2], x[:, 2:]  # the second part of two channels
        return net.head(mean(shifted))

    model, x = zoo.prepare(Net(run, stem=conv(3, 2), head=nn.Linear(2, 2))), torch.randn(3, 3, 4, 4).double()
    graph = trace(model, x)
    verify(model, graph, x)
    architecture = graph.architecture([np.array([False, True])])
    network = compact(model, graph, architecture, form="program")
    assert zoo.relative_error(network(x), mask(model, graph, architecture)(x)) < 1e-12


# ------------------------------------------------------------------------------------------------ bad input


class Pair(nn.Module):
    def forward(self, a, b):  # type: ignore[no-untyped-def]
        return a + b


@pytest.mark.parametrize(
    ("model", "example", "error", "message"),
    [
        ("resnet", torch.ones(1), TypeError, r"model: expected a torch.nn.Module, got str"),
        (torchvision.models.resnet18, torch.ones(1), TypeError, r"model: expected a torch.nn.Module, got function"),
        (nn.Identity(), 3, TypeError, r"example_input: expected a tensor"),
        (nn.Identity(), np.ones((1, 3, 8, 8)), TypeError, r"example_input: expected a tensor"),
        (nn.Identity(), [], TypeError, r"example_input: expected a tensor"),
        (nn.Identity(), {}, TypeError, r"example_input: expected a tensor"),
        (nn.Identity(), {"x": 3}, TypeError, r"example_input: expected a tensor"),
        (nn.Identity(), [torch.ones(1), 2], TypeError, r"example_input: expected a tensor"),
        (nn.Identity(), torch.tensor(1.0), TypeError, r"example_input: expected a tensor"),
        (nn.LazyConv2d(3, 3), torch.ones(1, 3, 8, 8), ValueError, r"model: 'weight' is not initialised"),
        (Inner(lambda x: object()), torch.ones(1, 3), TypeError, r"model: expected tensors .* as its output, got object"),
        (
            nn.Conv2d(3, 4, 3),
            torch.ones(2, 1, 8, 8),
            ValueError,
            r"example_input: the forward pass fails on the shape \(2, 1, 8, 8\)",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3)),
            {"y": torch.ones(2, 3, 8, 8)},
            ValueError,
            r"fails on the shape \(2, 3, 8, 8\), in one dict with the keys 'y', in module '0', .*conv2d",
        ),
        (
            Inner(lambda x: x["image"]),
            {"y": torch.ones(2, 3)},
            ValueError,
            r"shape \(2, 3\), in one dict with the keys 'y', .*: 'image'",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 2)), torch.ones(2, 8), ValueError, r"shape \(2, 8\), in module '1'"),
        (nn.Conv2d(3, 4, 3), [torch.ones(2, 3, 8, 8)] * 2, TypeError, r"got 2 input\(s\), which Conv2d.forward\(input.*too many"),
        (
            Pair(),
            [torch.ones(2, 3)],
            TypeError,
            r"got 1 input\(s\), which Pair.forward\(a, b\).*missing a required argument: 'b'",
        ),
        (Pair(), {"a": torch.ones(2, 3), "c": torch.ones(2, 3)}, TypeError, r"a dict with the keys 'a', 'c', which Pair.forward"),
    ],
)
def test_bad_input(model: Any, example: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        trace(model, example)


def test_torchscript_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(conv(3, 4)))
    for model in (scripted, nn.Sequential(scripted)):
        with pytest.raises(TypeError, match=r"model: expected a network in Python, got one with TorchScript in it"):
            trace(model, torch.ones(1, 3, 8, 8))


@pytest.mark.parametrize("size", [1009, 1021, 2042])
def test_a_layer_may_be_of_any_width(size: int) -> None:
    """Also as wide as the batch of a trace."""
    net = nn.Sequential(nn.Conv1d(3, size, 3), nn.ReLU(), nn.Conv1d(size, 2, 3))
    graph = trace(net, torch.ones(1, 3, size))
    assert [(g.name, g.width) for g in graph.groups] == [("0", size)]


def test_a_tensor_from_nowhere_is_refused() -> None:
    """Such as one that an earlier forward pass left in a list that is no part of the model."""
    kept: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        kept.append(x.sum())
        return x * kept[0]

    with pytest.raises(ValueError, match="came from no operator"):
        trace(Inner(forward), torch.ones(2, 3))


def test_the_trace_runs_no_arithmetic_and_leaves_no_mode_behind() -> None:
    """Weights of this size would not fit into memory, were they ever touched."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 2**16, 3), nn.ReLU(), nn.Conv2d(2**16, 2**16, 3), nn.ReLU(), nn.Conv2d(2**16, 8, 1))
    graph = trace(model, torch.empty(1, 3, 512, 512, device="meta"))
    assert [g.width for g in graph.groups] == [2**16, 2**16]
    assert torch.ones(2).relu().tolist() == [1, 1]
    with pytest.raises(UnknownOperatorError):
        trace(Inner(torch.linalg.svdvals), torch.ones(2, 3))
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
