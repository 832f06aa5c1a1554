"""What ``print`` shows of a graph and of a group."""

from __future__ import annotations

import pytest
import torch
import zoo
from torch import nn

from prune_gym import ChannelGraph, models, trace


def graph_of(name: str) -> ChannelGraph:
    return trace(zoo.built(name), zoo.inputs(zoo.NETWORKS[name].shapes))


def test_the_table_of_a_graph() -> None:
    """Numbers by hand: images of 8 x 8, and a filter of ``conv1`` is read by ``conv2``."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1), nn.Flatten(), nn.Linear(320, 2))
    net = nn.Sequential(net, nn.Identity())
    macs = 64 * 3 * 4 * 9, 64 * 4 * 5, 320 * 2
    parameters = 3 * 4 * 9 + 4, 4 + 4, 4 * 5 + 5, 320 * 2 + 2
    assert (sum(macs), sum(parameters)) == (8832, 787)
    shares = {
        "0.0": (f"{(macs[0] + macs[1]) / 8832:.1%}", f"{(112 + 8 + 20) / 787:.1%}"),
        "0.2": (f"{(macs[1] + macs[2]) / 8832:.1%}", f"{(25 + 640) / 787:.1%}"),
    }
    lines = str(trace(net, torch.zeros(1, 3, 8, 8))).splitlines()
    assert lines == [
        "2 groups, 9 units, 9 filters, 8,832 MACs, 787 parameters",
        "",
        "group  width  filters/unit  slices   MACs  params  mixed  layers",
        "-----  -----  ------------  ------  -----  ------  -----  ------",
        f"0.0        4             1       7  {shares['0.0'][0]}   {shares['0.0'][1]}         0.0",
        f"0.2        5             1       3  {shares['0.2'][0]}   {shares['0.2'][1]}         0.2",
        "",
        "stays  filters  because of",
        "-----  -------  --------------------------",
        "0.4     2 of 2  reaches the model's output",
    ]


def test_the_table_of_a_group() -> None:
    lines = str(graph_of("grouped").groups[0]).splitlines()
    assert lines == [
        "group conv1: 4 units of 2 filters",
        "layers: conv1",
        "",
        "tensor          dim  indices/unit",
        "--------------  ---  ------------",
        "conv1.weight      0             2",
        "conv1.bias        0             2",
        "grouped.weight    1             1",
    ]


def test_what_mixes_a_group_is_named() -> None:
    graph = trace(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.GroupNorm(1, 4)), nn.Conv2d(4, 1, 1)), torch.ones(1, 3, 8, 8)
    )
    assert "mixed: aten.native_group_norm in 1.0 computes across its channels" in str(graph.groups[0])
    assert " yes " in str(graph).splitlines()[4]
    assert "mixed" not in str(graph_of("plain").groups[0])


@pytest.mark.parametrize(
    ("name", "layer", "filters", "reason"),
    [
        ("bound_to_the_image", "like_the_image", "3 of 3", "aten.add.Tensor in the model itself"),
        ("bound_to_the_image", "out", "3 of 3", "aten.add.Tensor in the model itself"),
        ("outer_product", "head", "3 of 3", "reaches the model's output"),
        ("channels_that_stay", "conv1", "6 of 6", "aten.index.Tensor in the model itself"),
        ("one_channel_selected", "conv1", "1 of 6", "aten.sigmoid in the model itself"),
        ("three_sizes_in_one_product", "patches", "6 of 6", "a cost would be a product of three widths"),
    ],
)
def test_what_stays_and_why(name: str, layer: str, filters: str, reason: str) -> None:
    (bound,) = (bound for bound in graph_of(name).bound_layers if bound.layer == layer)
    found = f"{bound.filters} of {bound.width}", bound.reason
    assert found == (filters, reason)
    row = next(line for line in str(graph_of(name)).splitlines() if line.startswith(f"{layer} ") and " of " in line)
    assert row.split(maxsplit=4)[1:] == [*filters.split(), reason]


def test_wide_networks_fit_on_the_screen() -> None:
    for name in ("resnet20", "googlenet", "densenet121", "mobilenet_v3_large"):
        graph = trace(models.create(name).eval(), torch.zeros(1, 3, 32, 32))
        lines = str(graph).splitlines()
        assert max(map(len, lines)) <= 130
        assert len(lines) > len(graph.groups)
        for group in graph.groups[:3]:
            assert str(group).startswith(f"group {group.name}: ")


def test_many_layers_are_counted() -> None:
    graph = trace(models.create("resnet20").eval(), torch.zeros(1, 3, 32, 32))
    row = next(line for line in str(graph).splitlines() if line.startswith(graph.groups[0].name))
    shown, _, more = row.rpartition(", +")
    assert int(more) + len(shown.split("  ")[-1].split(", ")) == len(graph.groups[0].layers)


def test_nothing_to_prune_and_short_forms() -> None:
    graph = trace(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.randn(1, 3, 2, 2))
    assert str(graph).startswith("0 groups, 0 units, 0 filters, 36 MACs, 39 parameters\n")
    assert repr(graph) == "ChannelGraph(0 groups, 0 units, 0 filters)"
    assert repr(graph_of("plain").groups[0]) == "ChannelGroup('conv1', width=6, layers=1, filters_per_unit=1)"
