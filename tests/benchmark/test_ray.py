"""A benchmark on a Ray cluster of two nodes, of which a worker is killed in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deadly_agents import install_deadly_agents

from prune_gym.benchmark.harness import BenchmarkConfig, run_benchmark
from prune_gym.benchmark.store import Store

ray = pytest.importorskip("ray")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    install_deadly_agents(tmp_path, monkeypatch)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_no_play_along(tmp_path: Path, cluster: Any) -> None:
    config = BenchmarkConfig(
        ("tabular-digits-mobilenet",), (0.6,), ("killed_once", "random", "killed", "uniform"), seeds=2, budget="Prune-100",
        ray=cluster.address, store=tmp_path / "store",
    )  # fmt: skip
    failures = run_benchmark(config)
    assert sorted((failure.play.agent, failure.play.seed) for failure in failures) == [("killed", 100), ("killed", 101)]
    found = {(record.key["agent"], record.key["seed"]) for record in Store(config.store)}
    assert found == {(agent, seed) for agent in ("killed_once", "random", "uniform") for seed in (100, 101)}
