"""GNN-RL against its source: the game, the reward and PPO by hand; that its policy does not care how groups are numbered, and
that it goes from network to network."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch.distributions import Normal

from prune_gym.agents import RunConfig, run
from prune_gym.agents.budgeted_env import BudgetedEnv, OutOfBudget
from prune_gym.agents.gnn_rl import GNNRL, NODE_FEATURES, GNNRLConfig, GraphPolicy, RatioGame, Rollout, new_policy
from prune_gym.envs import PruningEnv, TabularEnv
from prune_gym.tasks import Task

NAMES = ("digits", "digits-resnet", "digits-mobilenet")


def tabular(name: str = "digits", macs_reduction: float = 0.75, step_ratio: float = 1.0) -> TabularEnv:
    return TabularEnv(name, macs_reduction=macs_reduction, step_ratio=step_ratio)


@pytest.fixture
def env(tiny_task: Task) -> PruningEnv:
    """Groups of 8, 6, 6, 4 and 10 units, of 2, 1, 4, 2 and 1 filters."""
    return PruningEnv(tiny_task, sparsity=0.5, step_ratio=1.0, device="cpu")


class Scripted(GNNRL):
    """Plays given episodes, each the same action for all groups in every step, and keeps what it learns from."""

    def __init__(self, env: Any, script: list[list[float]], config: GNNRLConfig):
        super().__init__(env, config, seed=0)
        self.script, self.rollouts = iter(script), list[Rollout]()

    def play(self, game: RatioGame, rollout: Rollout | None = None) -> np.ndarray:
        assert rollout is not None
        keep = np.ones(len(game.links))
        for action in next(self.script):
            actions = np.full(len(keep), action)
            rollout.nodes.append(game.nodes(keep))
            rollout.actions.append(torch.from_numpy(actions))
            keep = game.cut(keep, actions)
        return keep

    def update(self, rollout: Rollout, *others: Any) -> None:
        self.rollouts.append(rollout)


# ------------------------------------------------------------------------------------------------------- the policy


def chain(nodes: int) -> torch.Tensor:
    linked = torch.diag(torch.ones(nodes - 1), 1)
    linked = linked + linked.T
    return linked / linked.sum(1, keepdim=True)


def test_renumbered_groups_get_the_same_actions() -> None:
    policy, rng = new_policy(0), np.random.default_rng(0)
    nodes = torch.from_numpy(rng.random((3, 6, NODE_FEATURES), np.float32))
    order = torch.from_numpy(rng.permutation(6))
    means, values = policy(nodes, chain(6))
    moved, same = policy(nodes[:, order], chain(6)[order][:, order])
    torch.testing.assert_close(moved, means[:, order])
    torch.testing.assert_close(same, values)
    assert means.std() > 1e-3


def test_messages_go_three_links_far() -> None:
    policy = new_policy(1)
    nodes = torch.rand((6, NODE_FEATURES), generator=torch.Generator().manual_seed(0))
    others = nodes.clone()
    others[5] += 1
    change = (policy(nodes, chain(6))[0] - policy(others, chain(6))[0]).abs() > 1e-6
    assert change.tolist() == [False, False, True, True, True, True]


def test_the_layers_by_hand() -> None:
    policy = new_policy(2)
    nodes = torch.rand((4, NODE_FEATURES), generator=torch.Generator().manual_seed(0))
    alone = chain(4)
    alone[3] = 0  # a group that meets no other
    p = {name: values.detach().numpy() for name, values in policy.named_parameters()}
    states = np.maximum(nodes.numpy() @ p["embed.weight"].T + p["embed.bias"], 0)
    for i in range(3):
        messages = alone.numpy() @ states
        states = states @ p[f"own.{i}.weight"].T + p[f"own.{i}.bias"] + messages @ p[f"others.{i}.weight"].T
        states = np.maximum(states, 0)
    means, value = policy(nodes, alone)
    np.testing.assert_allclose(
        means.detach().numpy(), np.tanh(states @ p["actor.weight"][0] + p["actor.bias"]), rtol=1e-4, atol=1e-6
    )
    assert value.item() == pytest.approx(states.mean(0) @ p["critic.weight"][0] + p["critic.bias"][0], rel=1e-4)
    assert states.shape == (4, 64)


def test_a_new_policy_leaves_the_generator_of_the_process_alone() -> None:
    before = torch.random.get_rng_state()
    one, other = new_policy(3), new_policy(3)
    assert (torch.random.get_rng_state() == before).all()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


# --------------------------------------------------------------------------------------------------------- the game


def test_ratios() -> None:
    """k (1 - a), in [0.1, 1]; the nearest widths, of two the larger."""
    game = RatioGame(tabular(), 0.1)
    keep = np.array([1.0, 1.0, 1.0, 0.5, 0.5, 0.2, 0.1, 0.9])
    after = game.cut(keep, np.array([0.25, -0.5, 1.5, 0.5, -0.2, 0.9, 0.0, 0.0]))
    np.testing.assert_allclose(after, [0.75, 1.0, 0.1, 0.25, 0.6, 0.1, 0.1, 0.9])
    # widths 4 7 10 13 16; 7 13 20 26 32; 10 20 29 39 48, twice; 13 26 39 52 64, three times; 26 52 77 103 128
    assert game.widths(after).tolist() == [13, 32, 10, 10, 39, 13, 13, 103]  # wanted 12, 32, 4.8, 12, 38.4, 6.4, 6.4, 115.2
    between = np.array([8.5 / 16, 16.5 / 32, 1, 1, 1, 1, 1, 90 / 128])
    assert game.widths(between).tolist() == [10, 20, 48, 48, 64, 64, 64, 103]


def test_what_the_policy_sees(env: PruningEnv) -> None:
    game = RatioGame(env, 0.1)
    keep = np.array([0.5, 1.0, 1.0, 0.5, 1.0])  # gone are 4 units of 2 filters and 2 of 2, 12 of 64; 32 are to go
    nodes = game.nodes(keep).numpy()
    features = env.simulator.group_features
    assert nodes.shape == (5, NODE_FEATURES)
    for column, mine in zip(features.T, nodes.T, strict=False):
        low, high = min(column), max(column)
        np.testing.assert_allclose(mine, [(x - low) / (high - low) if high > low else 0 for x in column], rtol=1e-6)
    filters = np.array([16, 6, 24, 8, 10])
    assert env.simulator.schedule.target == 32
    np.testing.assert_allclose(nodes[:, -3], filters / 64)
    np.testing.assert_allclose(nodes[:, -2], keep)
    np.testing.assert_allclose(nodes[:, -1], 12 / 32)
    linked = env.simulator.group_links
    for row, mine in zip(game.links.numpy(), linked, strict=True):
        np.testing.assert_allclose(row, mine / mine.sum())


def test_scaled_ratios_meet_the_target_and_no_larger_ones_do(env: PruningEnv) -> None:
    for game in (RatioGame(env, 0.1), RatioGame(tabular("digits-mobilenet"), 0.1)):
        rng = np.random.default_rng(0)
        for _ in range(20):
            keep = rng.uniform(0.1, 1, len(game.links))
            scaled = game.scaled(keep)
            assert game.is_over(scaled)
            if game.is_over(keep):
                assert (scaled == keep).all()
            else:
                factor = (scaled / keep).min()
                np.testing.assert_allclose(scaled, np.maximum(factor * keep, 0.1))
                assert not game.is_over(np.maximum((factor + 1e-8) * keep, 0.1))


def test_a_target_out_of_reach(env: PruningEnv) -> None:
    with pytest.raises(ValueError, match=r"low: expected a ratio .* 0.5000 of the filters, .*where all groups keep 0.9, only"):
        GNNRL(env, GNNRLConfig(low=0.9)).learn(10)
    assert env.evaluations == 0


def test_the_live_network_and_its_table_are_the_same_game() -> None:
    live, agent = PruningEnv("digits", macs_reduction=0.75, levels=5, ranking="initial", device="cpu"), GNNRL(None, seed=3)
    assert agent.policy_widths(live).tolist() == agent.policy_widths(tabular()).tolist()
    assert live.evaluations == 0


# ------------------------------------------------------------------------------------------------- rewards, learning


def test_rewards_by_hand(env: PruningEnv) -> None:
    """Minus the error in percent at the end of an episode, -100 if it misses the target, discounted before."""
    script = [[0.3, 0.5], [0.1] * 5, [0.6], [0.6]]
    agent = Scripted(env, script, GNNRLConfig(update_steps=8, gamma=0.9))
    agent.learn(2)
    assert env.evaluations == agent.num_timesteps == 2
    accuracies = []
    for widths in ([3, 2, 2, 1, 4], [3, 2, 2, 2, 4]):  # of 0.35 and of 0.4: 2.8, 2.1, 2.1, 1.4, 3.5 and 3.2, 2.4, 2.4, 1.6, 4
        env.reset()
        accuracies.append(env.prune_to(np.array(widths)).score.accuracy)
    first = -100 * (1 - accuracies[0])
    (rollout,) = agent.rollouts
    expected = [0.9 * first, first, *(-100 * 0.9**left for left in (4, 3, 2, 1, 0)), -100 * (1 - accuracies[1])]
    assert rollout.returns == pytest.approx(expected)
    assert len(rollout.nodes) == len(rollout.actions) == 8


def test_of_twenty_misses_in_a_row_the_last_is_scaled_and_scored(env: PruningEnv) -> None:
    misses = [[0.01]] * 20
    agent = Scripted(env, [*misses[:19], [0.6], *misses, *misses, [0.6]], GNNRLConfig(update_steps=2))
    agent.learn(3)
    assert env.evaluations == 3
    returns = [value for rollout in agent.rollouts for value in rollout.returns]
    assert returns[:19] == [-100.0] * 19
    assert returns[19] > -100
    assert returns[20:40] == [-100.0] * 20


def test_one_update_by_hand() -> None:
    """Adam apart, everything is written out."""
    agent = GNNRL(tabular(), GNNRLConfig(clip=0.1, epochs=4), seed=0)
    game, rollout = RatioGame(tabular(), 0.1), Rollout()
    for reward in (-20.0, -60.0, -100.0):
        agent.play(game, rollout)
        rollout.end(reward, 0.99)
    policy = copy.deepcopy(agent.network)
    agent.update(rollout, game.links, torch.optim.Adam(agent.network.parameters(), 1e-3))

    nodes, actions = torch.stack(rollout.nodes), torch.stack(rollout.actions)
    returns = np.array(rollout.returns)
    targets = torch.tensor((returns - returns.mean()) / (returns.std(ddof=1) + 1e-5), dtype=torch.float32)
    old = Normal(policy(nodes, game.links)[0].detach(), 0.5).log_prob(actions).sum(1)
    optimizer = torch.optim.Adam(policy.parameters(), 1e-3)
    clipped = 0
    for _ in range(4):
        means, values = policy(nodes, game.links)
        ratios = (Normal(means, 0.5).log_prob(actions).sum(1) - old).exp()
        losses = []
        for ratio, value, target in zip(ratios, values, targets, strict=True):
            advantage = target - value.item()
            bounded = min(max(ratio, 0.9), 1.1)
            clipped += bounded is not ratio
            losses.append(0.5 * (value - target) ** 2 - min(ratio * advantage, bounded * advantage))
        optimizer.zero_grad()
        (sum(losses) / len(losses)).backward()
        optimizer.step()
    assert 0 < clipped < 4 * len(returns)
    for found, expected in zip(agent.network.parameters(), policy.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_actions_are_normal_around_those_of_the_policy() -> None:
    agent, game, rollout = GNNRL(tabular(), seed=0), RatioGame(tabular(), 0.1), Rollout()
    for _ in range(200):
        agent.play(game, rollout)
    with torch.no_grad():
        means, _ = agent.network(torch.stack(rollout.nodes), game.links)
    noise = torch.stack(rollout.actions) - means
    assert noise.mean().abs() < 0.03
    assert noise.std().item() == pytest.approx(0.5, abs=0.02)


def test_it_learns_at_the_ends_of_episodes() -> None:
    sizes = []

    class Watched(GNNRL):
        def update(self, rollout: Rollout, *others: Any) -> None:
            sizes.append((len(rollout.actions), len(rollout.returns), rollout.nodes[0][:, -2].min().item()))
            super().update(rollout, *others)

    Watched(tabular(), seed=0).learn(60)
    assert len(sizes) >= 2
    assert all(100 <= steps < 105 and steps == returns and first == 1 for steps, returns, first in sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_learns(name: str) -> None:
    """The networks that it draws are better at the end of 2000 evaluations than at their beginning, on average."""
    accuracies = []

    class Watched(GNNRL):
        def _on_evaluation(self, action: Any, preview: Any, *others: Any) -> bool:
            accuracies.append(preview.score.accuracy)
            return super()._on_evaluation(action, preview, *others)

    Watched(tabular(name), seed=0).learn(2000)
    assert np.mean(accuracies[-200:]) > np.mean(accuracies[:200]) + 0.08


# ------------------------------------------------------------------------------------------------ budgets and seeds


@pytest.mark.parametrize("budget", [1, 2, 20])
def test_every_budget_is_used_up(env: PruningEnv, budget: int) -> None:
    agent = GNNRL(env, seed=1).learn(budget)
    assert agent.num_timesteps == env.evaluations == budget
    assert env.best is not None
    assert env.best.score.channel_sparsity >= 0.5
    assert agent.best is not None
    assert agent.best.yardstick == env.best.yardstick


def test_also_where_every_episode_misses() -> None:
    env = tabular(macs_reduction=0.9)
    agent = GNNRL(env, GNNRLConfig(sigma=1e-3, steps=1), seed=0).learn(5)
    assert agent.num_timesteps == env.evaluations == 5
    assert env.best is not None
    assert env.best.score.flops_reduction >= 0.9


def test_seeds() -> None:
    def search(seed: int, disturb: int) -> tuple[list[int], bytes]:
        torch.manual_seed(disturb)
        env = tabular()
        agent = GNNRL(env, GNNRLConfig(update_steps=20), seed=seed).learn(20)
        assert env.best is not None
        return env.best.snapshot.widths.tolist(), agent.get_data()["policy"]

    first = search(0, 0)
    assert search(0, 1) == first
    assert search(1, 0) != first


def test_prediction_repeats_what_the_best_network_lost(env: PruningEnv) -> None:
    agent = GNNRL(env, seed=1).learn(20)
    assert agent.best is not None
    gone = (env.graph.widths - agent.best.snapshot.architecture.widths) * env.graph.filters_per_unit
    observation, _ = env.reset()
    action, _ = agent.predict(observation)
    np.testing.assert_allclose(action, gone / gone.sum(), rtol=1e-6)
    np.testing.assert_array_equal(agent.predict(np.zeros_like(observation))[0], action)
    assert GNNRL(env).predict(observation)[0].tolist() == pytest.approx(env.uniform_action.tolist())


def test_a_step_to_widths_is_paid(env: PruningEnv) -> None:
    noted: list[Any] = []

    def note(*arguments: Any) -> bool:
        noted.append(arguments)
        return True

    env.reset()
    search = BudgetedEnv(env, 2, note)
    widths = np.array([3, 2, 2, 1, 4])
    step = search.prune_to(widths)
    assert (search.finished, search.steps_left, env.evaluations) == (True, 0, 1)
    assert search.best is step
    ((action, told, info, kind),) = noted
    assert (told, kind) == (step, "step")
    assert info["widths"].tolist() == widths.tolist()
    gone = (env.graph.widths - widths) * env.graph.filters_per_unit
    np.testing.assert_allclose(action, gone / gone.sum(), rtol=1e-6)
    assert not search.prune_to(env.graph.widths).terminated
    assert not search.finished
    with pytest.raises(OutOfBudget):
        search.prune_to(widths)
    assert env.evaluations == 2


def test_a_run(tiny_task: Task, tmp_path: Path) -> None:
    """One row for every scored network, exactly as many as were allowed, and the same bytes again."""

    def make(config: RunConfig, env: gymnasium.Env) -> GNNRL:
        return GNNRL(env, seed=config.seed)

    settings: Any = {"sparsity": 0.4, "step_ratio": 0.1, "evaluations": 7, "device": "cpu", "seed": 3}
    one = run(RunConfig(**settings, out=tmp_path / "one"), agent=make, task=tiny_task)
    other = run(RunConfig(**settings, out=tmp_path / "other"), agent=make, task=tiny_task)
    assert one.summary["evaluations"] == 7
    rows = list(csv.DictReader((one.folder / "evaluations.csv").read_text().splitlines()))
    assert [int(row["evaluation"]) for row in rows] == list(range(1, 8))
    assert [int(row["episode"]) for row in rows] == list(range(7))
    for file in ("summary.json", "evaluations.csv", "pruned.safetensors", "agent.zip"):
        assert (one.folder / file).read_bytes() == (other.folder / file).read_bytes()


# --------------------------------------------------------------------------------------------- saving, and transfer


def test_it_is_saved_and_goes_on(tmp_path: Path) -> None:
    agent = GNNRL(tabular(), GNNRLConfig(update_steps=20), seed=0).learn(20)
    agent.save(tmp_path / "agent")
    loaded = GNNRL.load(tmp_path / "agent", tabular())
    assert loaded.config == agent.config
    assert loaded.policy_widths(tabular()).tolist() == agent.policy_widths(tabular()).tolist()
    assert loaded.learn(20).get_data()["policy"] == agent.learn(20).get_data()["policy"] != GNNRL(None).get_data()["policy"]


@pytest.mark.parametrize("change", [lambda text: text[:-8], lambda text: text[:-8] + "0000c07f", lambda text: "x" + text[1:]])
def test_a_damaged_policy(tmp_path: Path, change: Any) -> None:
    agent = GNNRL(None, seed=0)
    data = agent.get_data()
    with pytest.raises(ValueError, match=r"its policy is not one of this agent|non-hexadecimal"):
        agent.set_data(data | {"policy": change(data["policy"])})


def test_one_policy_prunes_all_networks(tmp_path: Path) -> None:
    """It learns on two and prunes a third, which it has not seen."""
    agent = GNNRL(None, GNNRLConfig(update_steps=20), seed=0)
    start, third = agent.get_data()["policy"], tabular(NAMES[2])
    for name in NAMES[:2]:
        before = agent.get_data()["policy"]
        agent.set_env(tabular(name))
        agent.learn(15)
        assert agent.get_data()["policy"] != before
    widths = agent.policy_widths(third)
    assert third.evaluations == 0
    third.reset()
    assert third.prune_to(widths).terminated
    agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match="the layers of this one differ"):
        GNNRL.load(tmp_path / "agent", third)
    loaded = GNNRL.load(tmp_path / "agent")
    loaded.set_env(third)
    assert loaded.policy_widths(third).tolist() == widths.tolist()
    assert loaded.plan == {}
    loaded.learn(5)
    assert len(loaded.plan) == 1
    assert loaded.get_data()["policy"] != start


def test_a_foreign_environment() -> None:
    with pytest.raises(TypeError, match="env: expected a PruningEnv inside, got CartPole"):
        GNNRL(None).policy_widths(gymnasium.make("CartPole-v1"))


@pytest.mark.parametrize(
    "settings", [{"low": 0.0}, {"steps": 0}, {"sigma": 0.0}, {"update_steps": 1}, {"gamma": 1.1}, {"clip": 1.0}], ids=str
)
def test_bad_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: expected"):
        GNNRLConfig(**settings)  # type: ignore[arg-type]


def test_policies_are_small() -> None:
    """So that a saved agent is, too."""
    assert sum(values.numel() for values in GraphPolicy().parameters()) < 30_000
