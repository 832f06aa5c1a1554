"""UCT against a re-statement that plays every path from the start, on tables where all ends are known, and with its budget."""

from __future__ import annotations

from itertools import product
from math import log, sqrt
from typing import Any

import numpy as np
import pytest

from prune_gym.agents import UCT, UCTConfig
from prune_gym.agents.uct import Node
from prune_gym.envs import PruningEnv, TabularEnv
from prune_gym.tasks import Task

SETTINGS: dict[str, Any] = {"sparsity": 0.5, "step_ratio": 0.125, "device": "cpu", "reward": "accuracy"}


@pytest.fixture
def env(tiny_task: Task) -> PruningEnv:
    return PruningEnv(tiny_task, **SETTINGS)


def at(env: PruningEnv, path: tuple[int, ...]) -> bool:
    """Go to the state that these groups lead to; gives whether it is the target."""
    env.reset()
    for group in path:
        env.step(np.eye(5)[group])
    return env.steps_left == 0


def restated(env: PruningEnv, count: int, exploration: float, seed: int) -> list[tuple[int, ...]]:
    """The first paths that UCT tries, in their order, none of which leads to the target: by values of paths."""
    rng = np.random.default_rng(seed)
    order, values, tried = {(): rng.permutation(5).tolist()}, {}, []  # type: ignore[var-annotated]
    while len(tried) < count:
        path: tuple[int, ...] = ()
        while not order[path]:
            n = len(values[path])
            bounds = {
                child: np.mean(values[child]) + exploration * sqrt(log(n) / len(values[child]))
                for child in (child for child in values if len(child) == len(path) + 1 and child[: len(path)] == path)
            }
            path = max(bounds, key=bounds.__getitem__)
        path = (*path, order[path].pop())
        tried.append(path)
        order[path] = rng.permutation(5).tolist()
        assert not at(env, path)
        value = float(env.preview([env.uniform_action], to_target=True)[0].reward)
        for length in range(len(path) + 1):
            values.setdefault(path[:length], []).append(value)
    return tried


def test_against_a_restatement(env: PruningEnv, tiny_task: Task) -> None:
    seen: list[tuple[int, ...]] = []

    class Watched(UCT):
        def iterate(self, env: Any, root: Node) -> None:
            before = {id(node) for node, _ in walk(root)}
            super().iterate(env, root)
            seen.extend(path for node, path in walk(root) if id(node) not in before)

    agent = Watched(env, UCTConfig(exploration=0.3), seed=2)
    agent.learn(4 + 4 * 40)  # a quarter of them for the first of four steps
    expected = restated(PruningEnv(tiny_task, **SETTINGS), 18, 0.3, 2)
    assert seen[:18] == expected
    assert {len(path) for path in expected} == {1, 2}


def walk(node: Node, path: tuple[int, ...] = ()) -> list[tuple[Node, tuple[int, ...]]]:
    below = [each for group, child in node.children.items() for each in walk(child, (*path, group))]
    return [(node, path), *below]


def test_a_tree_that_is_small_is_searched_whole(tiny_task: Task) -> None:
    env = PruningEnv(tiny_task, **SETTINGS | {"step_ratio": 0.25})  # two steps, 25 ends
    assert env.simulator.schedule.steps == 2
    UCT(env, seed=0).learn(60)  # 5 looks at states and at what completes them, 25 ends, and two steps
    assert env.best is not None
    ends = []
    for path in product(range(5), repeat=2):
        assert at(env, path)
        ends.append(env.score().accuracy)
    assert env.best.score.accuracy == max(ends)


def test_the_group_that_led_to_the_best_network_takes_the_step(env: PruningEnv) -> None:
    taken: list[tuple[int, int]] = []

    class Watched(UCT):
        def one_group(self, env: Any, group: int) -> np.ndarray:
            self.asked = group
            return super().one_group(env, group)

        def search(self, env: Any) -> None:
            step = env.step

            def watched(action: np.ndarray) -> Any:
                root = self.roots[-1]
                if root.snapshot.key == env.snapshot().key:  # it has just been searched
                    best = max(child.best for child in root.children.values())
                    taken.append((self.asked, next(group for group, child in root.children.items() if child.best == best)))
                return step(action)

            env.step = watched
            super().search(env)

        roots: list[Node] = []  # noqa: RUF012

        def iterate(self, env: Any, root: Node) -> None:
            self.roots.append(root)
            super().iterate(env, root)

    Watched(env, UCTConfig(exploration=0.3), seed=2).learn(4 + 4 * 40)
    assert len(taken) >= 3
    for asked, best in taken:
        assert asked == best


@pytest.mark.parametrize("budget", [4, 5, 6, 9, 23, 100])
def test_the_budget_is_kept(env: PruningEnv, budget: int) -> None:
    agent = UCT(env, seed=0).learn(budget)
    assert 4 <= agent.num_timesteps <= budget
    assert env.best is not None


def test_after_a_training_the_tree_begins_anew(tiny_task: Task) -> None:
    roots: list[Any] = []

    class Watched(UCT):
        def iterate(self, env: Any, root: Node) -> None:
            roots.append(root)
            assert root.snapshot.key == roots[-1].snapshot.key
            super().iterate(env, root)

    settings = SETTINGS | {"step_ratio": 0.25, "posttraining": {"epochs": 1, "batch_size": 60}}
    env = PruningEnv(tiny_task, **settings)
    Watched(env, seed=0).learn(22)
    assert [root.snapshot.steps for root in roots] == sorted(root.snapshot.steps for root in roots)
    assert {root.snapshot.steps for root in roots} == {0, 1}
    assert next(root for root in roots if root.snapshot.steps).snapshot.weights.version  # trained


def test_regret_on_tables_it_was_not_tuned_on() -> None:
    """Of 1,000 evaluations at 75% of the MACs; on five seeds. Tuned on the other base network."""
    regrets = []
    for seed in range(5):
        env = TabularEnv("digits", base=1, macs_reduction=0.75, reward="accuracy")
        UCT(env, seed=seed).learn(1000)
        assert env.best is not None
        regrets.append(env.regret(env.best.snapshot))
    assert np.mean(regrets) < 0.05
