"""The best play under a reward: against all plays written out, and what shaping leaves as it was."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
import pytest
from chain_table import chain_table

from prune_gym import tables
from prune_gym.benchmark.rewards.episodes import random_episodes
from prune_gym.benchmark.rewards.optimum import Optimum, optimum, same_policy, without_shaping
from prune_gym.simulation.block_world import BlockGame, BlockWorld, world_of
from prune_gym.simulation.formula import formula
from prune_gym.simulation.rewards import REWARDS
from prune_gym.simulation.target import Target
from prune_gym.simulation.terms import Formula, Number, Transition
from prune_gym.simulation.yardsticks import accuracy


@pytest.fixture(scope="module")
def game() -> BlockGame:
    return BlockGame(world_of(tables.load("digits-mobilenet")), "macs_reduction", 0.75)


@pytest.fixture(scope="module")
def short() -> BlockGame:
    """Few moves, so that all plays can be written out."""
    return BlockGame(BlockWorld(chain_table()), "macs_reduction", 0.6)


def plays(game: BlockGame) -> Iterator[list[int]]:
    """All ways to the end."""
    pending = [[game.world.start]]
    while pending:
        way = pending.pop()
        if game.over[way[-1]]:
            yield way
        else:
            pending += [[*way, int(state)] for state in np.unique(game.world.following[way[-1]])]


def worth_of(game: BlockGame, way: list[int], reward: Formula, gamma: float) -> float:
    world, target = game.world, Target(game.target, game.reduction)
    steps = [
        reward(*Transition(world.score(a), world.score(b), world.baseline, target, bool(game.over[b]))) for a, b in pairwise(way)
    ]
    return sum(gamma**t * float(each) for t, each in enumerate(steps))


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("name", ["accuracy", "final", "distiller_budget", "huang", "improvement", "shaped"])
def test_the_best_of_all_plays(short: BlockGame, name: str, gamma: float) -> None:
    reward = REWARDS[name]
    found = optimum(short, reward, gamma, accuracy)
    ways = list(plays(short))
    returns = np.array([worth_of(short, way, reward, gamma) for way in ways])
    best = [way for way, value in zip(ways, returns, strict=True) if value >= returns.max() - 1e-9]
    assert len(ways) > 5
    assert found.values[short.world.start] == pytest.approx(returns.max())
    assert found.ends.tolist() == sorted({way[-1] for way in best})
    assert found.steps == (min(map(len, best)) - 1, max(map(len, best)) - 1)
    assert found.worth.tolist() == [short.world.score(end).accuracy for end in found.ends]
    assert found.regret == short.best(accuracy)[1] - min(found.worth)


def test_the_last_network_alone_leads_to_the_best_one(game: BlockGame) -> None:
    assert optimum(game, REWARDS["final"], 1.0, accuracy).regret == 0
    assert optimum(game, REWARDS["improvement"], 1.0, accuracy).regret == 0
    for text in ("0.0000000001 * terminal * accuracy", "terminal * accuracy + shaping(accuracy, 1, 1000)"):
        found = optimum(game, formula(text), 1.0, accuracy)
        assert found.ends.tolist() == optimum(game, REWARDS["final"], 1.0, accuracy).ends.tolist(), text


def test_the_papers_reward_on_every_step_pays_for_detours(game: BlockGame) -> None:
    """In a game whose steps differ in size, the sum of accuracies grows with the number of steps."""
    found = optimum(game, REWARDS["accuracy"], 1.0, accuracy)
    assert found.regret > 0.1
    assert found.steps[0] > optimum(game, REWARDS["final"], 1.0, accuracy).steps[1]


BASES = ("final", "accuracy", "distiller_budget", "n2n")
POTENTIALS = ("accuracy", "removed", "params_reduction", "accuracy + removed", "accuracy * removed", "log(baseline.macs / macs)")


@pytest.mark.parametrize(("potential", "base"), list(product(POTENTIALS, BASES)))
@pytest.mark.parametrize("gamma", [1.0, 0.99, 0.5])
def test_shaping_leaves_every_best_move_as_it_was(short: BlockGame, potential: str, base: str, gamma: float) -> None:
    plain = REWARDS[base]
    for shift in (0.0, 3.0):
        shaped = plain + formula(f"shaping({potential}, {gamma}, {shift})")
        assert without_shaping(shaped) == plain
        one, other = optimum(short, plain, gamma, accuracy), optimum(short, shaped, gamma, accuracy)
        assert same_policy(short, one, other)
        assert one.ends.tolist() == other.ends.tolist()
        _differ_by_the_potential(short, one, other, formula(potential), shift)


def _differ_by_the_potential(game: BlockGame, one: Optimum, other: Optimum, potential: Formula, shift: float) -> None:
    """Values with shaping are those without, less the potential (Wiewiora, 2003)."""
    running = np.flatnonzero(game.reachable & ~game.over)
    scores = game.world.scores_of(running)
    phi = np.broadcast_to(potential(scores, scores, game.world.baseline, Target(game.target, game.reduction)), len(running))
    np.testing.assert_allclose(other.values[running], one.values[running] - phi - shift, atol=1e-9)


@pytest.mark.parametrize("potential", POTENTIALS)
def test_shaping_of_random_plays_adds_the_same_to_all(game: BlockGame, potential: str) -> None:
    episodes = random_episodes(game, 200, seed=1)
    added = episodes.returns(formula(f"shaping({potential}, 0.9)"), 0.9)
    first = formula(potential)(*[game.world.baseline] * 3, Target(game.target, game.reduction))
    np.testing.assert_allclose(added, -float(first), atol=1e-9)


@pytest.mark.parametrize(
    ("shaping", "why"),
    [
        ("shaping(removed, 0.5)", "another discount than the learner's"),
        ("difference(removed, 0.99)", "a potential that is kept at the end"),
        ("removed - before.removed", "a difference where the learner discounts"),
    ],
)
def test_what_is_known_to_move_the_optimum_moves_it(game: BlockGame, shaping: str, why: str) -> None:
    plain = REWARDS["final"]
    one, other = optimum(game, plain, 0.99, accuracy), optimum(game, plain + formula(shaping), 0.99, accuracy)
    assert not same_policy(game, one, other), why


def test_a_reward_that_is_normalised_while_it_runs_moves_the_optimum(short: BlockGame) -> None:
    """Dividing rewards by a number that depends on when they come is no function of the transition: the same game is worth more
    late than early, so that no shaping by a potential makes up for it."""
    episodes = random_episodes(short, 300, seed=0)
    rewards = episodes.rewards(formula("terminal * accuracy + shaping(removed, 1)"))
    running = np.sqrt(np.cumsum((rewards**2).sum(0)) / np.arange(1, rewards.shape[1] + 1))
    returns = (rewards / running).sum(0)
    plain = episodes.returns(REWARDS["final"], 1.0)
    assert np.ptp(plain - episodes.returns(formula("terminal * accuracy + shaping(removed, 1)"), 1.0)) < 1e-9
    assert np.ptp(returns - plain) > 0.1


def test_shaping_is_taken_off_sums_alone() -> None:
    assert without_shaping(formula("accuracy")) == formula("accuracy")
    assert without_shaping(formula("mine: shaping(accuracy, 1) + accuracy")) == formula("accuracy")
    assert without_shaping(formula("accuracy - macs - shaping(accuracy, 1)")) == formula("accuracy - macs")
    assert without_shaping(formula("shaping(accuracy, 1)")) == Number(0)
    deep = "-" * 90 + "accuracy"
    assert without_shaping(formula(deep)) == formula(deep)
    for text, left in [
        ("accuracy + 2 * shaping(accuracy, 1)", "accuracy"),
        ("accuracy - shaping(accuracy, 1) / 2", "accuracy"),
        ("2 * (accuracy + shaping(accuracy, 1))", "2 * accuracy"),
        ("-(accuracy + shaping(accuracy, 1))", "-accuracy"),
        ("shaping(accuracy, 1) - accuracy", "-accuracy"),
        ("2 * shaping(accuracy, 1)", "0"),
        ("accuracy + difference(accuracy, 1)", "accuracy + difference(accuracy, 1)"),
        ("accuracy + terminal * shaping(accuracy, 1)", "accuracy + terminal * shaping(accuracy, 1)"),
    ]:
        assert without_shaping(formula(text)) == formula(left), text
