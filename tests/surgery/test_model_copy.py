"""The model form is a deep copy: types, memory, modes, shared and computed tensors, and names."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
import zoo
from architectures import Residual, small_residual
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from zoo import Net, conv, mean, random_architecture, relative_error

from prune_gym import compact, mask, trace


def test_types_memory_and_modes() -> None:
    model = zoo.prepare(torchvision.models.resnet18(num_classes=4)).float()
    model.layer1.requires_grad_(False)
    model.register_buffer("scratch", torch.zeros(3, dtype=torch.int32), persistent=False)
    model.fc.weight.no_decay = True
    model.train()
    model.layer2.eval()
    model.to(memory_format=torch.channels_last)
    before = copy.deepcopy(model.state_dict())
    graph = trace(model, torch.empty(1, 3, 32, 32))
    small = compact(model, graph, random_architecture(graph, 0), form="model")
    assert list(small.state_dict()) == list(model.state_dict())
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    assert "scratch" not in small.state_dict()
    assert small.fc.weight.no_decay
    originals = dict([*model.named_parameters(), *model.named_buffers()])
    tensors = dict([*small.named_parameters(), *small.named_buffers()])
    assert tensors.keys() == originals.keys()
    for key, tensor in tensors.items():
        assert type(tensor) is type(originals[key])
        assert (tensor.dtype, tensor.device) == (originals[key].dtype, originals[key].device)
        assert tensor.requires_grad == originals[key].requires_grad
        if tensor.ndim == 4:
            assert tensor.is_contiguous(memory_format=torch.channels_last)
        tensor.data.fill_(1)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@torch.no_grad()
def test_the_values_may_be_others() -> None:
    model, _, images, _ = small_residual()
    graph = trace(model, images)
    other = zoo.prepare(Residual(), seed=5)
    weights = dict([*other.named_parameters(), *other.named_buffers()])
    architecture = random_architecture(graph, 1)
    small = compact(model, graph, architecture, form="model", weights=weights)
    assert relative_error(small(images), compact(other, graph, architecture, form="program")(images)) < 1e-12
    with pytest.raises(ValueError, match=r"weights: expected a tensor of shape \(8, 3, 3, 3\) for 'stem.weight', got none"):
        compact(model, graph, architecture, weights={})
    weights["fc.bias"] = torch.zeros(3)
    for other in (3, [torch.ones(1)]):
        with pytest.raises(TypeError, match=rf"weights: expected tensors by name, .*, got {type(other).__name__}"):
            compact(model, graph, graph.full(), weights=other)
    with pytest.raises(ValueError, match=r"weights: expected a tensor of shape \(8, 3, 3, 3\) for 'stem.weight', got int"):
        compact(model, graph, graph.full(), weights={"stem.weight": 3})
    with pytest.raises(ValueError, match=r"weights: expected a tensor of shape \(4,\) for 'fc.bias', got \(3,\)"):
        compact(model, graph, architecture, weights=weights)


@torch.no_grad()
def test_shared_tensors_stay_shared() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.encoder(x))
        return net.head(mean(F.conv2d(F.conv_transpose2d(x, net.decoder.weight, padding=1), net.weights[0], padding=1)))

    net = Net(run, encoder=conv(3, 6), decoder=conv(3, 6, bias=False), head=nn.Linear(6, 2))
    net.decoder.weight = net.encoder.weight
    net.weights = [net.encoder.weight]  # not registered here, but there
    model, images = zoo.prepare(net), zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    small = compact(model, graph, random_architecture(graph, 0), form="model")
    assert small.decoder.weight is small.encoder.weight is small.weights[0]
    assert small.encoder.weight.shape[0] == 4
    assert relative_error(small(*images), mask(model, graph, random_architecture(graph, 0))(*images)) < 1e-9


@torch.no_grad()
def test_a_weight_and_its_transpose() -> None:
    """Tied like this one tensor has prunable channels in both dimensions."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.weight, self.head = conv(3, 7), nn.Parameter(torch.randn(6, 7)), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(F.linear(mean(F.relu(self.stem(x))), self.weight))
            return self.head(F.relu(F.linear(x, self.weight.t())))

    model, images = zoo.prepare(Tied()), zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    architecture = random_architecture(graph, 0)
    expected = mask(model, graph, architecture)(*images)
    for form in ("model", "program"):
        small = compact(model, graph, architecture, form=form)
        assert small.get_parameter("weight").shape == tuple(architecture.widths[::-1])
        assert relative_error(small(*images), expected) < 1e-9


@torch.no_grad()
def test_computed_weights() -> None:
    """Weight norm, spectral norm and pruning masks, in both of PyTorch's ways to write them, depthwise too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(
            parametrizations.weight_norm(conv(3, 6)), parametrizations.weight_norm(conv(6, 6, groups=6)),
            parametrizations.spectral_norm(conv(6, 8)), nn.utils.weight_norm(conv(8, 7)), nn.utils.spectral_norm(conv(7, 6)),
            nn.utils.prune.random_unstructured(conv(6, 5), "weight", 0.3), nn.Flatten(), nn.Linear(5 * 64, 2),
        )  # fmt: skip
    model, images = zoo.prepare(model), zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    architecture = random_architecture(graph, 0)
    small = compact(model, graph, architecture, form="model")
    assert relative_error(small(*images), compact(model, graph, architecture, form="program")(*images)) < 1e-9
    assert [type(module) for module in small] == [type(module) for module in model]
    assert small[1].groups == small[1].in_channels == small[0].out_channels == 4
    for module, layer in zip(small, model, strict=True):
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape == (module.out_channels, module.in_channels // module.groups, 3, 3)
            assert layer.weight.shape == (layer.out_channels, layer.in_channels // layer.groups, 3, 3)
    for index in (3, 4, 5):  # those of the older kind keep what they computed last
        model[index].weight.sum()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    with torch.enable_grad():
        small.train()(*images).sum().backward()
    optimizer.step()
    assert small(*images).isfinite().all()


@torch.no_grad()
def test_what_deepcopy_cannot_copy() -> None:
    """A lock, a tensor with a history, and functions that hold the model."""

    def scaled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: 2 * function(x)

    net = Net(
        lambda net, x: net.head(mean(net.middle(net.steps[0](x)))), conv1=conv(3, 6), conv2=conv(6, 5), head=nn.Linear(5, 2)
    )
    net.lock = threading.Lock()
    with torch.enable_grad():
        net.seen = net.conv1.weight * 2
    net.middle = scaled(lambda x: F.relu(net.conv2(x)))
    net.steps = [lambda x: F.relu(net.conv1(x))]
    net = net.double().eval()
    images = zoo.inputs(((3, 8, 8),))
    graph = trace(net, images)
    architecture = random_architecture(graph, 0)
    small = compact(net, graph, architecture, form="model")
    masked = mask(net, graph, architecture)
    assert small.lock is masked.lock is net.lock
    assert relative_error(small(*images), masked(*images)) < 1e-9
    assert relative_error(small(*images), net(*images)) > 1e-3
    for twin in (small, masked):
        expected = net(*images)
        for parameter in twin.parameters():
            parameter.zero_()
        assert relative_error(net(*images), expected) == 0
        assert twin(*images).abs().max() == 0
