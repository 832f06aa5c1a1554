"""One play: its record against the game played by hand, and its network scored again."""

from __future__ import annotations

import numpy as np
import pytest

from prune_gym.agents.registry import AGENTS
from prune_gym.benchmark.games import BASES, SELF_COMPETITION, TASKS, Game, replay
from prune_gym.benchmark.harness import PLAYERS
from prune_gym.benchmark.play import DEFAULT, KINDS, Play, Record, play
from prune_gym.envs import TabularEnv
from prune_gym.simulation.schedule import target_budget

MOBILENET = Game("tabular-digits-mobilenet", 1, 0.6, 40)


def test_all_players_have_names() -> None:
    assert set(PLAYERS) <= set(AGENTS)
    assert set(AGENTS) - set(PLAYERS) == {"taylor", "obs", "lamp"}  # which rank the units of a network


def test_uniform_pruning_by_hand() -> None:
    record = play(Play(MOBILENET, "uniform", 100))
    env = TabularEnv("digits-mobilenet", base=1, macs_reduction=0.6, reward="accuracy")
    env.reset()
    macs, accuracies, compute, ended = [], [], [], False
    while not ended:
        _, accuracy, ended, _, info = env.step(env.uniform_action)
        macs.append(info["macs"])
        accuracies.append(accuracy)
        compute.append(info["compute"])
    state, baseline = env.snapshot(), env.simulator.baseline
    best = env.simulator.game.best(env.yardstick)[1]
    assert record.key == {
        "task": "tabular-digits-mobilenet", "base": 1, "macs_reduction": 0.6, "budget": 40,
        "agent": "uniform", "settings": DEFAULT, "reward": "accuracy", "seed": 100,
    }  # fmt: skip
    assert record.found == {
        "val_accuracy": accuracies[-1],
        "test_accuracy": env.simulator.test_accuracy(state),
        "macs": macs[-1],
        "architecture": " ".join(map(str, state.widths)),
        "full_macs": baseline.macs,
        "regret": pytest.approx(best - accuracies[-1]),
        "full_cost": env.simulator.scoring_cost(env.simulator.initial(), baseline).macs,
        "policy_accuracy": accuracies[-1],
        "policy_macs": macs[-1],
    }
    assert record.networks["macs"].tolist() == macs
    assert record.networks["accuracy"].tolist() == accuracies
    assert record.networks["compute"].tolist() == compute
    assert record.networks["widths"][-1].tolist() == state.widths.tolist()
    assert {KINDS[kind] for kind in record.networks["kind"]} == {"step"}
    assert record.made.keys() >= {"versions", "python", "machine", "began", "seconds"}


@pytest.mark.parametrize("agent", ["random", "eagle_eye", "uct", pytest.param("amc", marks=pytest.mark.slow), "ppo", "dqn"])
def test_the_same_play_again(agent: str) -> None:
    one, other = (play(Play(MOBILENET, agent, 5)) for _ in range(2))
    assert (one.key, one.found) == (other.key, other.found)
    assert one.networks.keys() == other.networks.keys()
    assert all(np.array_equal(one.networks[name], other.networks[name]) for name in one.networks)
    n = len(one.networks["macs"])
    assert 0 < n <= 40
    full = one.found["full_macs"]
    at_target = (one.networks["macs"] <= full - target_budget(full, 0.6)) & (one.networks["kind"] != KINDS.index("target"))
    assert one.found["val_accuracy"] == one.networks["accuracy"][at_target].max()
    assert replay(MOBILENET, one.found["architecture"]).items() <= one.found.items()
    assert one.found["policy_macs"] <= full - target_budget(full, 0.6)


def test_a_search_repeats_what_it_found_and_a_policy_does_what_it_learned() -> None:
    searched, learned = (play(Play(MOBILENET, agent, 3)) for agent in ("random", "ppo"))
    assert searched.found["policy_accuracy"] == searched.found["val_accuracy"]
    assert learned.found["policy_accuracy"] <= learned.found["val_accuracy"]


@pytest.mark.slow
def test_a_policy_for_many_targets_goes_to_that_of_the_game() -> None:
    for seed in range(3):
        record = play(Play(MOBILENET, "cacp", seed))
        limit = record.found["full_macs"] - target_budget(record.found["full_macs"], 0.6)
        assert 0.6 * limit < record.found["policy_macs"] <= limit


def test_gnn_rls_policy_is_not_the_best_network_that_it_found() -> None:
    found = play(Play(MOBILENET, "gnn_rl", 0)).found
    assert found["policy_accuracy"] <= found["val_accuracy"]


def test_settings_are_those_of_the_agent() -> None:
    default, calm = (play(Play(MOBILENET, "random", 5, settings)) for settings in (DEFAULT, '{"scale": 0.01}'))
    assert calm.key["settings"] == '{"scale": 0.01}'
    assert len(np.unique(calm.networks["widths"], axis=0)) < len(np.unique(default.networks["widths"], axis=0))


def test_a_live_play_and_its_network_again() -> None:
    game = Game("digits", 1, 0.3, 12)
    record = play(Play(game, "random", 100))
    assert "regret" not in record.found
    assert replay(game, record.found["architecture"]).items() <= record.found.items()
    assert len(record.networks["macs"]) == 12


def test_what_is_no_network_of_a_game() -> None:
    for game, text, message in (
        (MOBILENET, "1 2 3", "architecture: expected a width of the table for each of 10 groups"),
        (MOBILENET, " ".join(["-1"] * 10), "architecture: expected a width of the table"),
        (MOBILENET, "a b", "invalid literal"),
        (Game("digits", 1, 0.3, 12), "ff", "architecture: expected .* units as hexadecimal digits"),
        (Game("digits", 1, 0.3, 12), "00" * 41, "architecture: "),
        (Game("digits", 1, 0.3, 12), "xy", "non-hexadecimal"),
    ):
        with pytest.raises(ValueError, match=message):
            replay(game, text)
    table = MOBILENET.environment().simulator.table
    full = " ".join(str(widths[-1]) for widths in table.allowed)
    with pytest.raises(ValueError, match=r"architecture: expected 60% of the MACs to be gone, got 0.00%"):
        replay(MOBILENET, full)


def test_games() -> None:
    assert len(TASKS) == 6
    assert BASES == (0, 1)
    assert [Game(task, 0, 0.5, 1).tabular for task in TASKS] == [True] * 3 + [False] * 3


def test_a_budget_that_is_too_small() -> None:
    with pytest.raises(ValueError, match="expected at least"):
        play(Play(Game("tabular-digits", 1, 0.7, 3), "random", 0))


def test_agents_learn_from_the_reward_and_are_judged_by_the_accuracy() -> None:
    usual, other = (play(Play(MOBILENET, "ppo", 3, reward=reward)) for reward in ("accuracy", "0 - accuracy"))
    assert usual.found["val_accuracy"] > 0
    assert usual.networks["accuracy"].tolist() != other.networks["accuracy"].tolist()
    assert other.found["val_accuracy"] == max(_at_the_target(other))
    assert str(Play(MOBILENET, "ppo", 3, reward="final")) == "ppo under final on tabular-digits-mobilenet-1 at -60%, seed 3"


def _at_the_target(record: Record) -> list[float]:
    limit = 0.4 * record.found["full_macs"] + 1e-9
    return record.networks["accuracy"][record.networks["macs"] <= limit].tolist()


def test_competition_with_oneself_is_a_reward_of_the_benchmark_too() -> None:
    one = Play(MOBILENET, "dqn", 3, reward=SELF_COMPETITION)
    record = play(one)
    assert record.found["val_accuracy"] == max(_at_the_target(record))
    with pytest.raises(ValueError, match="SelfCompetition"):
        play(Play(MOBILENET, "rl_pruner", 3, reward=SELF_COMPETITION))
