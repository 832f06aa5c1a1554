"""The model form of a pruned network: the user's own class, which computes the pruned function, or is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from architectures import traced
from torch import Tensor, nn
from zoo import Net, conv, mean, random_architecture, relative_error

from prune_gym import FormError, PrunedNetwork, compact, mask, trace

# Networks of the zoo whose forward pass holds numbers of channels, and so works at the original widths only.
HARD_CODED = {
    "a_part_passes_through", "attention_gate", "attention_over_channels", "attention_over_positions", "blurred", "both_shuffles",
    "channels_sliced", "convolution_by_hand", "dual_path", "dynamic_convolution", "generator", "halves_to_different_layers",
    "hierarchical_split", "involution", "lenet_with_hard_coded_view", "maxout", "non_local", "one_channel_selected",
    "padded_shortcut", "scaled_standardisation", "shifted_in_time", "shifted_windows", "shortcut_with_new_zeros",
    "shortcut_with_zeros_behind", "slices_swapped", "sums_over_channels", "unregistered_tensors", "vision_transformer",
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", sorted(zoo.NETWORKS))
def test_it_computes_what_the_program_does(name: str, seed: int) -> None:
    model, images, graph = traced(name)
    architecture = random_architecture(graph, seed)
    program = compact(model, graph, architecture, form="program")
    try:
        small = compact(model, graph, architecture, form="model")
    except FormError:
        assert name in HARD_CODED
        return
    assert type(small) is type(model)
    assert relative_error(small(*(x.clone() for x in images)), program(*images)) < 1e-9
    assert small.state_dict().keys() == model.state_dict().keys()
    assert {key: t.shape for key, t in small.named_parameters()} == {key: t.shape for key, t in program.named_parameters()}
    again = trace(small, images)
    assert again.cost(again.full()) == graph.cost(architecture)
    if architecture.widths.min() > 1:  # of one unit it cannot be said what it went with
        assert again.widths.tolist() == architecture.widths.tolist()


@pytest.mark.parametrize("name", sorted(HARD_CODED))
def test_hard_coded_widths_are_refused_or_warned_about(name: str) -> None:
    model, _, graph = traced(name)
    architecture = random_architecture(graph, 1 if name in ("dynamic_convolution", "one_channel_selected") else 0)
    with pytest.raises(FormError, match="does not work at the widths of this architecture"):
        compact(model, graph, architecture, form="model")
    with pytest.warns(UserWarning, match=r"compact returns the program form, since .* does not work at the widths"):
        assert isinstance(compact(model, graph, architecture), PrunedNetwork)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(compact(model, graph, graph.full())) is type(model)  # at its own widths every model works
        compact(model, graph, random_architecture(graph, 0), form="program")


class Block(nn.Module):
    def __init__(self, shortcut: Callable[[Tensor], Tensor]):
        super().__init__()
        self.conv = conv(4, 8, stride=2)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + self.shortcut(x))


def test_the_module_at_fault_is_named() -> None:
    block = Block(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
    model = nn.Sequential(nn.Sequential(conv(3, 4), block), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    graph = trace(model, torch.empty(1, 3, 8, 8))
    expected = (
        r"module '0\.1' \(Block\) does not work at the widths .*: it raises RuntimeError \(The size of tensor.*form='program'"
    )
    with pytest.raises(FormError, match=expected):
        compact(model, graph, random_architecture(graph, 0), form="model")


class Bands(nn.Module):
    """Adds up four bands of rows, a number that is the width of its layer, too; then comes whatever is asked for."""

    def __init__(self, then: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.conv, self.multi, self.then = conv(3, 4), 4, then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(sum(self.conv(x).chunk(self.multi, 2)))


class FourChannels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 4, *x.shape[2:])


@pytest.mark.parametrize(
    ("parts", "at_fault"),
    [((Bands(FourChannels().forward),), r"module '0' \(Bands\)"), ((Bands(), FourChannels()), r"module '1' \(FourChannels\)")],
)
def test_the_obstacle_is_named_and_not_an_attribute_that_got_its_value_back(parts: tuple, at_fault: str) -> None:
    """The number of bands is first taken for a width, so the forward pass does not come as far as the obstacle."""
    model = zoo.prepare(nn.Sequential(*parts, conv(4, 2)))
    graph = trace(model, torch.empty(1, 3, 8, 8, dtype=torch.float64))
    with pytest.raises(FormError, match=rf"{at_fault} does not work .*raises RuntimeError \(shape '\[-1, 4, 2, 8\]' is invalid"):
        compact(model, graph, graph.architecture([np.arange(4) < 3]), form="model")


def test_a_silent_difference_is_found_where_it_is() -> None:
    """The forward pass runs at any width, but takes another channel than the one it took."""

    class Third(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x[:, 2:3].sigmoid()

    model = nn.Sequential(conv(3, 6), Third(), nn.ReLU(), conv(6, 2)).eval()
    graph = trace(model, torch.empty(1, 3, 8, 8))
    units = graph.prunable_layers[0].units
    kept = np.ones(graph.groups[0].width, bool)
    kept[units[0]] = False  # a channel before it
    with pytest.raises(FormError, match=r"module '1' \(Third\) .*what it gives differs by .* of the largest value"):
        compact(model, graph, graph.architecture([kept]), form="model")
    kept = np.ones(graph.groups[0].width, bool)
    kept[units[4]] = False  # one behind it
    compact(model, graph, graph.architecture([kept]), form="model")


def test_branches_that_weights_hide_are_compared_too() -> None:
    """The last norm of a block starts at zero, so the model's own weights would not show what its block computes."""

    class Quiet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = conv(3, 6), conv(6, 6), conv(6, 6)
            self.norm = nn.BatchNorm2d(6)
            self.head = nn.Linear(6, 2)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.a(x)
            return self.head(mean(x + self.norm(self.b(y * y[:, 2:3].sigmoid()))))

    model = Quiet().eval()
    graph = trace(model, torch.empty(1, 3, 8, 8))
    kept = [np.ones(group.width, bool) for group in graph.groups]
    (inner,) = (i for i, group in enumerate(graph.groups) if group.name == "a")
    kept[inner][0] = False
    with pytest.raises(FormError, match="differs"):
        compact(model, graph, graph.architecture(kept), form="model")


@torch.no_grad()
def test_a_network_that_converts_to_its_own_type() -> None:
    """It does not run in float64, in which the forms are compared otherwise."""

    def exact(net: Net, x: Tensor) -> Tensor:
        return net.head(mean(F.relu(net.a(x.to(torch.float32)))))

    def third(net: Net, x: Tensor) -> Tensor:
        x = net.a(x.to(torch.float32))
        return net.head(mean(F.relu(x * x[:, 2:3])))

    for run in (exact, third):
        model = zoo.prepare(Net(run, a=conv(3, 6), head=nn.Linear(6, 2))).float()
        images = torch.randn(2, 3, 8, 8)
        graph = trace(model, images)
        kept = np.ones(graph.groups[0].width, bool)
        kept[0] = False
        architecture = graph.architecture([kept])
        if run is third:
            with pytest.raises(FormError, match=r"the forward pass of Net does not work .*: what it gives differs"):
                compact(model, graph, architecture, form="model")
        else:
            small = compact(model, graph, architecture, form="model")
            assert relative_error(small(images), mask(model, graph, architecture)(images)) < 1e-4


@torch.no_grad()
def test_a_channel_that_an_attribute_names() -> None:
    """Its number is corrected, too: of the channels before it one is gone."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(mean(F.relu(x * x[:, net.channel : net.channel + 1])))

    model = zoo.prepare(Net(run, a=conv(3, 6), head=nn.Linear(6, 2), channel=2))
    images = zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    kept = np.ones(graph.groups[0].width, bool)
    kept[0] = False
    architecture = graph.architecture([kept])
    small = compact(model, graph, architecture, form="model")
    assert (small.channel, model.channel) == (1, 2)
    assert relative_error(small(*images), mask(model, graph, architecture)(*images)) < 1e-9


def test_the_form_is_checked() -> None:
    model = nn.Sequential(conv(3, 4), conv(4, 2))
    graph = trace(model, torch.empty(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"form: expected one of auto, model, program; got 'modle'. Did you mean 'model'\?"):
        compact(model, graph, graph.full(), form="modle")
    own = compact(model, graph, graph.full(), form="program")
    again = trace(own, torch.empty(1, 3, 8, 8))
    assert isinstance(compact(own, again, again.full(), form="model"), PrunedNetwork)  # that is its own class


@torch.no_grad()
def test_a_dataclass_as_output() -> None:
    @dataclass
    class Output:
        logits: Tensor
        features: list[Tensor]

    class Block(nn.Module):
        def __init__(self, wrong: bool):
            super().__init__()
            self.conv, self.wrong = conv(4, 4), wrong

        def forward(self, x: Tensor) -> Output:
            x = self.conv(x)
            return Output(x * x[:, 2:3] if self.wrong else x, [x.sum(1)])

    def run(net: Net, x: Tensor) -> Output:
        inner = net.block(net.stem(x))
        return Output(net.head(mean(inner.logits)), inner.features)

    for wrong in (False, True):
        model = zoo.prepare(Net(run, stem=conv(3, 4), block=Block(wrong), head=nn.Linear(4, 2)))
        graph = trace(model, torch.empty(1, 3, 4, 4, dtype=torch.float64))
        kept = [np.arange(group.width) != 0 for group in graph.groups]
        if wrong:
            with pytest.raises(FormError, match="module 'block'"):
                compact(model, graph, graph.architecture(kept), form="model")
        else:
            assert isinstance(
                compact(model, graph, graph.architecture(kept), form="model")(torch.ones(1, 3, 4, 4).double()), Output
            )
