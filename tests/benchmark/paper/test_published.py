"""The paper's own numbers."""

from __future__ import annotations

from typing import Any

import pytest

from prune_gym.benchmark.paper.published import paper_columns, paper_headings, published


@pytest.mark.parametrize(
    ("table", "key", "column", "value"),
    [
        ("table1", {"network": "vgg19", "reward": "accuracy", "sparsity": 0.6}, "top1", "73.00"),
        ("table1", {"network": "resnet56", "reward": "params", "sparsity": 0.8}, "params_reduction_pct", "97.69"),
        ("table1", {"network": "mobilenet_v3_large", "reward": "flops", "sparsity": 0.4}, "flops_reduction_pct", "61.63"),
        ("table1", {"network": "densenet121", "reward": "flops", "sparsity": 0.2}, "base_top1", "79.83"),
        ("table2", {"network": "resnet56", "method": "rl_pruner", "sparsity": 0.5}, "top1", "91.76"),
        ("table2", {"network": "resnet56", "method": "depgraph", "sparsity": 0.75}, "params_reduction_pct", "94.36"),
        ("table2", {"network": "vgg19", "method": "gnn_rl", "sparsity": 0.75}, "top1", ""),
        ("table3", {"epsilon": 0.4, "decay": "cosine", "sparsity": 0.25}, "top1", "73.46"),
        ("table3", {"epsilon": 0.0, "decay": "constant", "sparsity": 0.75}, "top1", "72.00"),
        ("table4", {"sparsity": 0.8}, "scratch_top1", "69.50"),
    ],
)
def test_the_copy_of_the_paper(table: str, key: dict[str, Any], column: str, value: str) -> None:
    (row,) = published(table, **key)
    assert row[column] == value


def test_the_copy_is_complete_and_consistent() -> None:
    lengths = {table: len(published(table)) for table in ("table1", "table2", "table3", "table4")}
    assert lengths == {"table1": 5 * 3 * 4, "table2": 2 * 4 * 3, "table3": 7 * 3, "table4": 3}
    for row in published("table4"):
        assert float(row["gain"]) == pytest.approx(float(row["pruned_top1"]) - float(row["scratch_top1"]))
        (same,) = published("table1", network="vgg19", reward="accuracy", sparsity=float(row["sparsity"]))
        assert same["top1"] == row["pruned_top1"]


def test_the_columns_of_a_row() -> None:
    rows = published("table4", sparsity=0.6)
    names = ("network", "gain", "top1")  # the table has no top1
    assert paper_columns(rows, names) == {"paper_network": "vgg19", "paper_gain": rows[0]["gain"]}
    assert paper_columns([], names) == {}
    assert paper_headings(names) == ("paper_network", "paper_gain", "paper_top1")
