"""Labels: what rules say about them, and what becomes of those that a rule says nothing about."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn

from prune_gym import compact, mask, trace
from prune_gym.graph.labels import BOUND, LabelBook
from prune_gym.graph.operators.call import RULES


def together(book: LabelBook, *labels: int) -> bool:
    return len(set(book.components()[list(labels)])) == 1


# ------------------------------------------------------------------------------------------------ the book


def test_whole_arrays_and_parts_of_them_go_together() -> None:
    book = LabelBook(7)
    a, b, c, d = (book.fresh(3) for _ in range(4))
    book.unify(a, b)
    book.unify(b[:2], c[1:])
    assert together(book, a[0], b[0], c[1])
    assert together(book, a[1], b[1], c[2])
    assert together(book, a[2], b[2])
    assert not together(book, a[2], c[0])
    assert len(set(book.components())) == 1 + 3 + 1 + 3  # what stays, three units, one label of c, and d
    book.unify(d, a)
    book.bind(c[2:])
    assert together(book, BOUND, a[1], b[1], d[1])
    assert not together(book, BOUND, a[0])


def test_the_order_in_which_arrays_are_unified_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.integers(0, 12, 2)) for _ in range(7)]
    found = []
    for order in (pairs, pairs[::-1], [(b, a) for a, b in pairs]):
        book = LabelBook(7)
        arrays = [book.fresh(2) for _ in range(12)]
        for a, b in order:
            book.unify(arrays[a], arrays[b])
        component = book.components()
        found.append([[bool(component[x[0]] == component[y[0]]) for x in arrays] for y in arrays])
        assert all(component[x[0]] != component[x[1]] for x in arrays)
    assert found[0] == found[1] == found[2]


def test_labels_that_a_rule_says_nothing_about_stay() -> None:
    book = LabelBook(7)
    a, b, c, d, e, f = (book.fresh(2) for _ in range(6))
    book.begin_rule("a rule")
    book.unify(a, b)
    book.mix(c)
    book.release(d)
    book.end_rule([[a, b, c], [d, e], [f, None]], [[None, f[::-1]]])
    assert together(book, BOUND, *e)
    assert not any(together(book, BOUND, label) for label in (*a, *b, *c, *d, *f))
    assert book.bound[-1][1] == "a rule"


def test_a_part_that_a_rule_drops_stays() -> None:
    book = LabelBook(7)
    a = book.fresh(5)
    book.begin_rule("a rule")
    book.end_rule([[a]], [[a[1:3]]])
    assert [together(book, BOUND, label) for label in a] == [True, False, False, True, True]
    book.begin_rule("the next")
    book.end_rule([[a[1:3]]], [[None]])  # what the rule before it passed on counts no more
    assert together(book, BOUND, *a)


def test_reasons_are_the_first_of_all() -> None:
    book = LabelBook(7)
    a, b, c = (book.fresh(2) for _ in range(3))
    for labels, reason in ((c, "first"), (b[:1], "second"), (a, "third")):
        book.reason = reason
        book.bind(labels)
    book.unify(a, b)
    reason_of = book.reasons()
    assert (reason_of(a), reason_of(a[1:]), reason_of(c)) == ("second", "third", "first")
    assert reason_of(book.fresh(0)) is None


def test_images() -> None:
    book = LabelBook(7)
    a = book.fresh(3)
    assert book.one_image(np.tile(a, 7)).tolist() == a.tolist()
    assert book.one_image(np.repeat(a, 7)).tolist() == a.tolist()
    assert book.one_image(a) is a
    assert (book.per_image(21), book.per_image(20)) == (3, 20)


# ------------------------------------------------------------------------------------------------ channels laid out in space


class Space(nn.Module):
    """The outputs of a linear layer laid out as an image, and what a function makes of it."""

    def __init__(self, function: Any):
        super().__init__()
        self.function = function
        channels = function(torch.zeros(1, 1, 4, 4)).shape[1]
        self.fc, self.conv, self.head = nn.Linear(6, 16), nn.Conv2d(channels, 5, 1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.function(self.fc(x).view(-1, 1, 4, 4))).amax((2, 3)))


def lookup(x: Tensor) -> Tensor:
    return F.grid_sample(x, torch.zeros(len(x), 4, 4, 2, dtype=x.dtype), align_corners=False)


IN_SPACE = {
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x.expand(-1, 4, -1, -1), 2),
    "unfold": lambda x: F.unfold(x, 2, stride=2).view(-1, 4, 2, 2),
    "fold": lambda x: F.fold(x.flatten(2).expand(-1, 4, -1), (8, 8), 2, stride=2),
    "windows": lambda x: x.unfold(2, 2, 2).flatten(3),
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "avg_pool": lambda x: F.avg_pool2d(x, 2),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 2),
    "lp_pool": lambda x: F.lp_pool2d(x, 2, 2),
    "unpool": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "replicate": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "circular": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, size=(7, 7), mode="bicubic"),
    "roll": lambda x: torch.roll(x, 1, 2),
    "rot90": lambda x: x.rot90(1, (2, 3)),
    "sort": lambda x: x.sort(2)[0],
    "topk": lambda x: x.topk(2, 3)[0],
    "kthvalue": lambda x: x.kthvalue(2, 3, keepdim=True)[0],
    "cumprod": lambda x: x.cumprod(2),
    "index": lambda x: x[:, :, torch.tensor([3, 1])],
    "index_select": lambda x: x.index_select(3, torch.tensor([3, 1])),
    "gather": lambda x: x.gather(2, torch.zeros(len(x), 1, 2, 4, dtype=torch.long)),
    "grid_sample": lookup,
    "fft": lambda x: torch.fft.rfft2(x).abs(),
    "convolution": lambda x: F.conv2d(x, torch.ones(2, 1, 3, 3, dtype=x.dtype), padding=1),
    "transposed": lambda x: F.conv_transpose2d(x, torch.ones(1, 2, 2, 2, dtype=x.dtype), stride=2),
    "triangle": lambda x: x.tril(),
    "diagonal": lambda x: torch.diag_embed(x.diagonal(dim1=2, dim2=3)),
    "strided": lambda x: x[:, :, ::2],
    "cropped": lambda x: F.pad(x, (-1, 0, 0, 0)),
    "cropped at the end": lambda x: F.pad(x, (0, -1, 0, 0)),
    "argmax": lambda x: x.argmax(2, keepdim=True).to(x.dtype),
    "places of the largest": lambda x: x.max(3, keepdim=True)[1].to(x.dtype),
    "places of the median": lambda x: x.median(3, keepdim=True).indices.to(x.dtype),
}


ALONG_ONE_SIDE = (  # so that the other may be pruned
    "windows", "roll", "sort", "topk", "kthvalue", "cumprod", "index", "index_select", "convolution", "strided", "cropped",
    "cropped at the end", "argmax", "places of the largest", "places of the median",
)  # fmt: skip


def smaller(model: Space, graph: Any, architecture: Any) -> nn.Module:
    """The pruned network written by hand: fewer outputs of the linear layer, as an image of fewer rows or columns."""
    fc, conv, head = model.fc.weight, model.conv.weight, model.head.weight
    kept = dict(zip((group.name for group in graph.groups), architecture.kept, strict=True))
    shape = [-1, 1, 4, 4]
    places = torch.arange(16).view(4, 4)
    if "fc" in kept:
        units = graph.units["fc.weight"][0].reshape(4, 4)
        side = 0 if (units == units[:, :1]).all() else 1
        rows = torch.from_numpy(np.flatnonzero(kept["fc"]))
        places, shape[2 + side] = places.index_select(side, rows), len(rows)
    places, filters = places.flatten(), torch.from_numpy(np.flatnonzero(kept["conv"]))

    def run(_: Any, x: Tensor) -> Tensor:
        x = model.function(F.linear(x, fc[places], model.fc.bias[places]).view(shape))
        return F.linear(F.conv2d(x, conv[filters], model.conv.bias[filters]).amax((2, 3)), head[:, filters], model.head.bias)

    return zoo.Net(run)


@torch.no_grad()
@pytest.mark.parametrize("name", IN_SPACE)
def test_what_works_along_space_leaves_channels_laid_out_there(name: str) -> None:
    model = zoo.prepare(Space(IN_SPACE[name]))
    x = torch.randn(3, 6).double()
    graph = trace(model, x)
    if name not in ALONG_ONE_SIDE:
        assert [(group.name, group.width, group.layers) for group in graph.groups] == [("conv", 5, ("conv",))]
    for seed in range(3):
        architecture = zoo.random_architecture(graph, seed)
        assert (
            zoo.relative_error(compact(model, graph, architecture, form="program")(x), smaller(model, graph, architecture)(x))
            < 1e-12
        )


@torch.no_grad()
@pytest.mark.parametrize("name", ["pixel_unshuffle", "roll", "max_pool"])
def test_a_careless_rule_costs_prunable_channels_but_no_correctness(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(call: Any, book: Any) -> Any:
        return [[None] * len(shape) for shape in call.shapes]

    monkeypatch.setitem(RULES, {"max_pool": "max_pool2d_with_indices"}.get(name, name), careless)
    from prune_gym.graph.operators import find_rule

    find_rule.cache_clear()
    test_what_works_along_space_leaves_channels_laid_out_there(name)
    find_rule.cache_clear()


@torch.no_grad()
def test_channels_among_the_images() -> None:
    """A convolution of every channel on its own, by a view that makes images of them; it costs per channel."""

    def run(net: Any, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(net.b(x.view(-1, 1, 8, 8)).view(len(x), -1, 8, 8).mean((2, 3)))

    model = zoo.prepare(zoo.Net(run, a=zoo.conv(3, 6), b=zoo.conv(1, 1), head=nn.Linear(6, 3)))
    x = torch.randn(3, 3, 8, 8).double()
    graph = trace(model, x)
    assert zoo.groups_of(graph)[0] == ("a", 6, 1, ("a",), False)
    architecture = zoo.random_architecture(graph, 0)
    network = compact(model, graph, architecture, form="program")
    by_hand = zoo.prepare(zoo.Net(run, a=zoo.conv(3, 4), b=zoo.conv(1, 1), head=nn.Linear(4, 3)))
    kept = torch.from_numpy(np.flatnonzero(architecture.kept[0]))
    state = {name: tensor[kept] if name.startswith("a.") else tensor for name, tensor in model.state_dict().items()}
    by_hand.load_state_dict(state | {"head.weight": model.head.weight[:, kept]})
    assert zoo.relative_error(network(x), by_hand(x)) < 1e-12
    assert graph.cost(architecture).macs == zoo.macs(by_hand, [x])


@torch.no_grad()
def test_kernels_of_every_image_are_traced_in_bounded_memory() -> None:
    """As in CondConv, with as many labels as images times weights; so large a weight is not pruned through."""

    def run(net: Any, x: Tensor) -> Tensor:
        n = len(x)
        x = net.a(x)
        kernels = torch.softmax(net.route(zoo.mean(x)), 1) @ net.experts
        y = F.conv2d(x.view(1, n * 96, 4, 4), kernels.view(n * 96, 96, 3, 3), padding=1, groups=n).view(n, 96, 4, 4)
        return net.head(zoo.mean(net.last(y)))

    model = zoo.prepare(zoo.Net(
        run, a=zoo.conv(3, 96), route=nn.Linear(96, 2), experts=zoo.parameter(2, 96 * 96 * 9), last=zoo.conv(96, 5),
        head=nn.Linear(5, 3),
    ))  # fmt: skip
    x = torch.randn(3, 3, 4, 4).double()
    graph = trace(model, x)
    assert [group.name for group in graph.groups][-1] == "last"
    kept = [
        np.arange(group.width) % 2 == 0 if group.name in ("a", "last") else np.ones(group.width, bool) for group in graph.groups
    ]
    architecture = graph.architecture(kept)
    assert zoo.relative_error(compact(model, graph, architecture, form="program")(x), mask(model, graph, architecture)(x)) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("dim", [-1, 4, -5, 0])
def test_stacked_along_any_dimension(dim: int) -> None:
    """Dimensions are counted from either end; the new one carries no channels."""

    def run(net: zoo.Net, x: Tensor) -> Tensor:
        return net.head(torch.stack([net.a(x), net.b(x)], dim).amax(dim).mean((2, 3)))

    model = zoo.prepare(zoo.Net(run, a=zoo.conv(3, 6), b=zoo.conv(3, 6), head=nn.Linear(6, 5)))
    x = zoo.images((3, 8, 8), 2).double()
    graph = trace(model, x)
    assert [(group.layers, group.width) for group in graph.groups] == [(("a", "b"), 6)]
    architecture = graph.architecture([np.array([True, False, True, True, False, True])])
    network = compact(model, graph, architecture, form="program")
    assert network.get_parameter("b.weight").shape[0] == network.get_parameter("head.weight").shape[1] == 4
    assert zoo.relative_error(network(x), mask(model, graph, architecture)(x)) < 1e-12
