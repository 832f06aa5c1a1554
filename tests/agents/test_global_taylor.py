"""Global pruning by one ranking of all units, against a slow version of it."""

from __future__ import annotations

from typing import Any

import pytest

from prune_gym import importance
from prune_gym.agents import GlobalTaylorAgent, RunConfig
from prune_gym.agents.registry import make_agent
from prune_gym.envs import PruningEnv


def slow_ranking(task: Any, filters: int) -> list[int]:
    """Widths after one-shot global pruning, unit by unit in plain Python."""
    graph = task.graph
    scores = importance("taylor")(task.model, graph, task.calibration.images, task.calibration.labels)
    units = []
    for g, values in enumerate(scores):
        norm = sum(value**2 for value in values) ** 0.5
        most = max(range(len(values)), key=lambda u, values=values: values[u])
        units += [(value / norm, g) for u, value in enumerate(values) if u != most]
    widths = [group.width for group in graph.groups]
    for _, g in sorted(units):
        if graph.groups[g].filters_per_unit <= filters:
            filters -= graph.groups[g].filters_per_unit
            widths[g] -= 1
    return widths


@pytest.mark.parametrize("sparsity", [0.1, 0.25, 0.5, 0.7])
def test_global_taylor_is_one_ranking_of_all_units(tiny_task, sparsity):
    env = PruningEnv(tiny_task, sparsity=sparsity, step_ratio=1.0, device="cpu")
    agent = GlobalTaylorAgent(env).learn(10)
    assert agent.num_timesteps == env.evaluations == 1
    architecture = env.best.snapshot.architecture
    assert architecture.widths.tolist() == slow_ranking(tiny_task, env.simulator.schedule.target)
    assert env.simulator.removed(env.best.snapshot) == env.simulator.schedule.target
    assert len({*(architecture.widths / env.graph.widths)}) > 1  # not the uniform one


def test_global_taylor_in_steps_ranks_anew(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.1, device="cpu")
    agent = make_agent(RunConfig(agent="taylor"), env).learn(10)
    steps = -(-env.simulator.schedule.target // env.simulator.schedule.per_step)
    assert agent.num_timesteps == steps > 1
    removed = [env.simulator.removed(state) for state in env.best.snapshot.trajectory()]
    assert removed == [min(env.simulator.schedule.per_step * i, env.simulator.schedule.target) for i in range(steps + 1)]


def test_global_taylor_prunes_a_dead_group_first(own_tiny_task):
    task = own_tiny_task
    task.model.inner.weight.data.zero_()
    env = PruningEnv(task, sparsity=0.1, step_ratio=1.0, device="cpu")
    GlobalTaylorAgent(env).learn(1)
    assert env.best.snapshot.architecture.widths[1] == 1
