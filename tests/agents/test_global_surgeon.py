"""A global ranking by the error that a removal leaves, over what it saves, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from prune_gym import importance
from prune_gym.agents import GlobalSurgeonAgent, RunConfig
from prune_gym.agents.registry import make_agent
from prune_gym.envs import PruningEnv
from prune_gym.tasks import Task


@pytest.mark.parametrize("target", [{"sparsity": 0.4}, {"macs_reduction": 0.4}, {"params_reduction": 0.4}], ids=str)
def test_errors_are_divided_by_what_a_unit_saves(tiny_task: Task, target: dict[str, float]) -> None:
    env = PruningEnv(tiny_task, **target, step_ratio=1.0, fidelity="original")
    agent = GlobalSurgeonAgent(env)
    env.reset()
    scores = agent.unit_scores(env.snapshot())
    graph, images = env.graph, tiny_task.train.sample(1024).inputs()
    errors = importance("obs")(tiny_task.model, graph, images, tiny_task.train.sample(1024).labels)
    full = graph.cost(graph.full())
    expected = []
    for number, values in enumerate(errors):
        kept = [np.ones(group.width, bool) for group in graph.groups]
        kept[number][0] = False
        without = graph.cost(graph.architecture(kept))
        saved = {
            "sparsity": graph.groups[number].filters_per_unit,
            "macs_reduction": full.macs - without.macs,
            "params_reduction": full.params - without.params,
        }[next(iter(target))]
        expected.append(values / saved)
    np.testing.assert_allclose(scores, np.concatenate(expected), rtol=1e-6)


def test_one_shot_prunes_the_cheapest_errors(tiny_task: Task) -> None:
    env = PruningEnv(tiny_task, sparsity=0.4, step_ratio=1.0, fidelity="original")
    agent = GlobalSurgeonAgent(env).learn(1)
    env.reset()
    scores, best = agent.unit_scores(env.snapshot()), agent.best
    assert best is not None
    left, widths = env.simulator.schedule.target, env.graph.widths.copy()
    groups = np.repeat(np.arange(len(widths)), widths)
    protected = {
        start + int(np.argmax(scores[start:end])) for start, end in zip(env.graph.starts, env.graph.starts[1:], strict=False)
    }
    for unit in sorted(range(len(scores)), key=lambda u: scores[u]):
        size = env.graph.filters_per_unit[groups[unit]]
        if unit not in protected and size <= left:
            widths[groups[unit]] -= 1
            left -= size
    assert best.snapshot.architecture.widths.tolist() == widths.tolist()


def test_it_has_a_name(tiny_task: Task) -> None:
    env = PruningEnv(tiny_task, macs_reduction=0.5, fidelity="compensated", step_ratio=0.25, min_width=2)
    agent = make_agent(RunConfig(agent="obs"), env)
    assert isinstance(agent, GlobalSurgeonAgent)
    agent.learn(10)
    assert env.best is not None
    assert env.best.score.flops_reduction >= 0.5
    assert (env.best.snapshot.architecture.widths >= 2).all()
