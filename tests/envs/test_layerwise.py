"""The layerwise game: widths, bounds and observations against a slow restatement, tables against live networks."""

from __future__ import annotations

import copy
import pickle
from itertools import product
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_gym.envs import LayerwiseEnv, PruningEnv, TabularEnv
from prune_gym.simulation.table import Table
from prune_gym.tasks import Task
from prune_gym.testing import assert_same


def play(env: gymnasium.Env, ratios: Any, **reset: Any) -> list[tuple[Any, ...]]:
    """An episode: what reset and each step give."""
    return [env.reset(**reset), *(env.step(np.array([ratio], np.float32)) for ratio in ratios)]


def test_every_episode_ends_at_the_target_in_the_nearest_widths_within_reach(table: Table) -> None:
    """All ends of all ratios on a small table; the width is the largest but one above which the target is out of reach."""
    pruning = TabularEnv(table, macs_reduction=0.5)
    env, space = LayerwiseEnv(pruning), pruning.simulator.space
    goal, full = pruning.simulator.schedule.target, pruning.graph.widths
    for ratios in product((0.0, 0.4, 0.8, 1.0), repeat=len(full)):
        episode = play(env, ratios)
        widths: list[int] = []
        for g, ratio in enumerate(ratios):
            allowed = space.allowed[g].tolist()
            within = [w for w in allowed if space.removed(np.array([*widths, w, *space.lowest[g + 1 :]])) >= goal]
            nearest = min(allowed, key=lambda w: (abs(w - np.float32(ratio) * full[g]), -w))
            widths.append(min(nearest, max(within)))
            assert episode[g + 1][4]["widths"].tolist()[: g + 1] == widths
        assert space.removed(np.array(widths)) >= goal
        _, reward, terminated, truncated, info = episode[-1]
        assert (terminated, truncated, info["scored"]) == (True, False, True)
        assert reward == pruning.score().accuracy == info["accuracy"]
        assert [step[1:4] for step in episode[1:-1]] == [(0.0, False, False)] * (len(full) - 1)


def test_observations(table: Table) -> None:
    pruning = TabularEnv(table, macs_reduction=0.5)
    env, space = LayerwiseEnv(pruning), pruning.simulator.space
    features, total = pruning.simulator.group_features, space.total
    episode = play(env, [0.6, 0.3, 0.9, 0.5, 0.7])
    for g, (observation, info) in enumerate([(step[0], step[-1]) for step in episode]):
        widths, row = info["widths"], min(g, 4)
        lowest = np.array([*widths[: row + 1], *space.lowest[row + 1 :]])
        static = [(features[row, i] - features[:, i].min()) / max(1, np.ptp(features[:, i])) for i in range(6)]
        gone, later = space.removed(widths) / total, (space.removed(lowest) - space.removed(widths)) / total
        kept = widths[g - 1] / pruning.graph.widths[g - 1] if g else 1.0
        np.testing.assert_allclose(observation, [row / 4, *static, gone, later, kept], atol=1e-6)


@pytest.mark.parametrize(
    "settings", [{"exclude": ("inner",)}, {"min_width": 0.5}, {"round_to": 2}, {"levels": 3}, {"ranking": "current"}]
)
def test_limits_of_widths_hold(tiny_task: Task, settings: dict[str, Any]) -> None:
    pruning = PruningEnv(tiny_task, macs_reduction=0.3, device="cpu", **settings)
    env, space, rng = LayerwiseEnv(pruning), pruning.simulator.space, np.random.default_rng(0)
    for _ in range(5):
        widths = play(env, rng.random(5))[-1][4]["widths"]
        assert all(width in allowed for width, allowed in zip(widths, space.allowed, strict=True))
        assert space.removed(widths) >= pruning.simulator.schedule.target


def test_copies_go_on_alike(table: Table) -> None:
    env = LayerwiseEnv(TabularEnv(table, macs_reduction=0.5))
    play(env, [0.5, 0.2])
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert_same([env.step(np.array([0.7]))], [other.step(np.array([0.7]))])
        play(env, [0.5, 0.2])


def test_many_at_once_and_pictures() -> None:
    envs = gymnasium.make_vec("prune_gym:PruneGym/Tabular-Layerwise-Digits-v0", num_envs=2, macs_reduction=0.5)
    observations, _ = envs.reset(seed=0)
    assert observations.shape == (2, 10)
    env = gymnasium.make("prune_gym:PruneGym/Tabular-Layerwise-Digits-v0", render_mode="rgb_array_list")
    env.reset()
    env.step(np.array([0.5], np.float32))
    assert len(env.render()) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"macs_reduction": 0.7}, {"sparsity": 0.4}, {"params_reduction": 0.6}])
def test_tables_and_live_networks_play_the_same(settings: dict[str, float]) -> None:
    known = LayerwiseEnv(TabularEnv("digits", reward="flops", **settings))
    live = LayerwiseEnv(PruningEnv("digits", reward="flops", levels=5, ranking="initial", device="cpu", **settings))
    rng = np.random.default_rng(0)
    for _ in range(2):
        ratios = rng.random(8)
        assert_same(play(known, ratios), play(live, ratios))
    assert known.pruning.compute == live.pruning.compute
    assert known.pruning.best is not None
    assert live.pruning.best is not None
    assert known.pruning.best.score == live.pruning.best.score


def test_an_episode_costs_one_evaluation_and_counts_as_found(tiny_task: Task) -> None:
    pruning = PruningEnv(tiny_task, sparsity=0.4, device="cpu", reward=lambda before, after, baseline: before.macs / after.macs)
    env = LayerwiseEnv(pruning)
    episodes = [play(env, ratios) for ratios in ([0.5] * 5, [1.0] * 5)]
    assert pruning.evaluations == 2
    ends = [episode[-1][4]["accuracy"] for episode in episodes]
    assert pruning.best is not None
    assert pruning.best.score.accuracy == max(ends)
    for episode in episodes:
        assert episode[-1][1] == pruning.simulator.baseline.macs / episode[-1][4]["macs"]
        assert episode[-1][4]["evaluations"] == 1
    network = pruning.simulator.network(pruning.best.snapshot)
    assert sum(p.numel() for p in network.parameters()) == pruning.best.score.params


def test_the_network_that_is_found_is_trained(own_tiny_task: Task) -> None:
    pruning = PruningEnv(own_tiny_task, sparsity=0.4, device="cpu", posttraining={"epochs": 1})
    play(LayerwiseEnv(pruning), [0.6] * 5)
    assert pruning.best is not None
    assert pruning.best.snapshot.weights.student is not None


# ---------------------------------------------------------------------------------------------------- many targets


@given(st.floats(0.2, 0.6), st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_targets_by_choice(small: LayerwiseEnv, target: float, ratios: list[float]) -> None:
    episode = play(small, ratios, options={"target": target})
    assert all(step[0][0] == np.float32(target) for step in episode)
    assert episode[-1][4]["flops_reduction"] >= target - 1e-9


@pytest.fixture(scope="module")
def small(table: Table) -> LayerwiseEnv:
    return LayerwiseEnv(TabularEnv(table, macs_reduction=0.5), targets=(0.2, 0.6))


def test_targets_are_drawn_by_the_seed(small: LayerwiseEnv) -> None:
    drawn = []
    for _ in range(2):
        small.reset(seed=3)
        drawn.append([small.target])
        for _ in range(100):
            small.reset()
            drawn[-1].append(small.target)
    assert drawn[0] == drawn[1]
    own = small.pruning.simulator.schedule.target / small.pruning.simulator.space.total
    assert 30 < drawn[0].count(own) < 70
    others = [target for target in drawn[0] if target != own]
    assert len(set(others)) == len(others)
    assert 0.2 <= min(others) < 0.3
    assert 0.5 < max(others) <= 0.6


def test_only_networks_at_the_target_of_the_environment_within_are_found(table: Table) -> None:
    env = LayerwiseEnv(TabularEnv(table, macs_reduction=0.5), targets=(0.2, 0.6))
    play(env, [1.0] * 5, options={"target": 0.2})
    assert env.pruning.best is None
    play(env, [1.0] * 5, options={"target": 0.6})
    assert env.pruning.best is not None


# ---------------------------------------------------------------------------------------------------- bad input


def test_bad_arguments(table: Table) -> None:
    pruning = TabularEnv(table, macs_reduction=0.5)
    with pytest.raises(TypeError, match="pruning: expected a PruningEnv, got str"):
        LayerwiseEnv("digits")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"targets: expected two numbers, the lowest and the highest, got 0\.5"):
        LayerwiseEnv(pruning, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reward: expected one that is a number, got 'vector'"):
        LayerwiseEnv(TabularEnv(table, macs_reduction=0.5, reward="vector"))
    for targets, message in (
        ((0.0, 0.5), r"targets: expected a number in \(0, 1\)"),
        ((0.5, 0.2), "targets: expected low <= high"),
        ((0.5, 0.999), r"targets: expected low <= high <= 0\.\d+, the largest in reach"),
    ):
        with pytest.raises(ValueError, match=message):
            LayerwiseEnv(pruning, targets)
    env = LayerwiseEnv(pruning)
    with pytest.raises(ValueError, match=r"options: this environment has one target, 0\.5"):
        env.reset(options={"target": 0.3})
    with pytest.raises(ValueError, match=r"target: expected a number in \[0\.2, 0\.6\], got 0\.7"):
        LayerwiseEnv(pruning, (0.2, 0.6)).reset(options={"target": 0.7})


@pytest.mark.parametrize("action", [0.5, [0.5, 0.5], [1.1], [-0.1], [np.nan], ["x"]])
def test_bad_actions(table: Table, action: Any) -> None:
    env = LayerwiseEnv(TabularEnv(table, macs_reduction=0.5))
    env.reset()
    with pytest.raises(ValueError, match="action: expected"):
        env.step(action)
    assert_same(env.step(np.array([0.5])), play(LayerwiseEnv(TabularEnv(table, macs_reduction=0.5)), [0.5])[1])
