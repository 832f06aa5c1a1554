"""Pruning step by step: budgets, targets, which units go, and what a state holds."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import prune_gym
from prune_gym.data.splits import Split
from prune_gym.simulation import scorer as scorer_module
from prune_gym.simulation.allocation import ROUNDINGS, allocate
from prune_gym.simulation.result_cache import ResultCache
from prune_gym.simulation.simulator import Simulator
from prune_gym.simulation.state import PruningState
from prune_gym.tasks import Task
from prune_gym.training import train as training


def chain(*widths: int) -> Task:
    """A task whose every unit is one filter: a chain of 1x1 convolutions with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((1, *widths), widths, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 1), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * widths[-1], 3)).eval()
        images = torch.randn(30, 1, 2, 2)
    split = Split(images, torch.arange(30) % 3)
    return Task("chain", model, split, split, split)


CHAIN = chain(6, 9, 5, 12)
HUNDRED = chain(40, 60)


def episode(simulator: Simulator, actions: np.ndarray) -> list[PruningState]:
    """From the original network to the target, with the rows of ``actions`` again and again."""
    states = [simulator.initial()]
    while not simulator.is_terminal(states[-1]):
        (state,) = simulator.successors(states[-1], [actions[(len(states) - 1) % len(actions)]])
        states.append(state)
        assert len(states) <= simulator.graph.n_units  # every step removes one at least
    return states


def steps_of(simulator: Simulator, states: list[PruningState]) -> list[int]:
    return np.diff([simulator.removed(state) for state in states]).tolist()


random_actions = st.integers(0, 10**6).map(lambda seed: np.random.default_rng(seed).dirichlet([0.3] * 4, 5))


# ------------------------------------------------------------------------------------------------ budget and target


@pytest.mark.parametrize("rounding", ["largest_remainder", "carry"])
@settings(max_examples=25)
@given(actions=random_actions, sparsity=st.floats(0.01, 0.87), step_ratio=st.floats(0.01, 1))
def test_single_filters_reach_the_target_exactly(rounding: str, actions: np.ndarray, sparsity: float, step_ratio: float) -> None:
    simulator = Simulator(CHAIN, sparsity, step_ratio, rounding, importance="l1")
    target, budget = ceil(sparsity * 32), max(1, int(step_ratio * 32))
    steps = steps_of(simulator, episode(simulator, actions))
    full, rest = divmod(target, budget)
    assert steps == [budget] * full + [rest] * (rest > 0)


@pytest.mark.parametrize("sparsity", [0.05, 0.3, 0.5, 0.6])
@pytest.mark.parametrize("rounding", ["largest_remainder", "carry"])
def test_shared_units_reach_the_target_exactly_while_single_ones_are_left(
    rounding: str, sparsity: float, tiny_task: Task
) -> None:
    simulator = Simulator(tiny_task, sparsity, 8 / 64, rounding, importance="l1")
    states = episode(simulator, np.zeros((1, 5)))
    assert simulator.removed(states[-1]) == ceil(sparsity * 64)
    assert len(states) - 1 == ceil(ceil(sparsity * 64) / 8)
    if rounding == "largest_remainder":
        assert all(step == 8 for step in steps_of(simulator, states)[:-1])


@pytest.mark.parametrize("rounding", ROUNDINGS)
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), sparsity=st.floats(0.05, 0.84), budget=st.integers(1, 20))
def test_no_step_removes_more_than_its_budget_or_one_unit(
    rounding: str, tiny_task: Task, seed: int, sparsity: float, budget: int
) -> None:
    simulator = Simulator(tiny_task, sparsity, budget / 64, rounding, importance="l1")
    assert simulator.schedule.per_step == budget
    states = episode(simulator, np.random.default_rng(seed).dirichlet([0.3] * 5, 7))
    assert not any(simulator.is_terminal(state) for state in states[:-1])
    planned = -(-simulator.schedule.target // budget)
    assert len(states) - 1 <= planned
    for before, after, step in zip(states, states[1:], steps_of(simulator, states), strict=False):
        units = int((before.architecture.widths - after.architecture.widths).sum())
        assert units >= 1
        assert (after.architecture.widths >= 1).all()
        assert not (after.architecture.mask & ~before.architecture.mask).any()  # nothing comes back
        if rounding != "paper":
            goal = min(budget * (before.steps + 1), simulator.schedule.target)  # with what earlier steps fell short of
            allowed = max(1, goal - simulator.removed(before))
            assert step <= allowed or units == 1 or (after is states[-1] and step < allowed + 4)
    assert simulator.removed(states[-1]) < simulator.schedule.target + 4


@pytest.mark.parametrize(
    ("ratio", "step", "target"),
    [(0.29, 29, 29), (0.57, 57, 57), (0.07, 7, 7), (0.141, 14, 15), (0.001, 1, 1), (1e-12, 1, 1)],
)
def test_fractions_of_a_hundred_filters(ratio: float, step: int, target: int) -> None:
    assert Simulator(HUNDRED, 0.5, ratio).schedule.per_step == step
    assert Simulator(HUNDRED, ratio, 0.5).schedule.target == target


def test_one_step_for_everything(tiny_task: Task) -> None:
    simulator = Simulator(tiny_task, tiny_task.graph.max_sparsity, 1.0)
    states = episode(simulator, np.ones((1, 5)))
    assert len(states) == 2
    assert states[-1].architecture.widths.tolist() == [1, 1, 1, 1, 1]


def test_progress_and_terminal(tiny_task: Task) -> None:
    simulator = Simulator(tiny_task, 0.25, 6 / 64)
    states = episode(simulator, np.eye(5)[[1, 4]])
    assert simulator.schedule.target == 16
    assert [simulator.removed(state) for state in states] == [0, 6, 12, 16]
    assert [simulator.progress(state) for state in states] == [0, 6 / 16, 12 / 16, 1]
    assert [simulator.is_terminal(state) for state in states] == [False, False, False, True]


# ------------------------------------------------------------------------------------------------ which units go


@pytest.mark.parametrize("importance", ["taylor", "l1", "l2", "random"])
def test_the_least_important_of_a_group_go(importance: str, tiny_task: Task) -> None:
    simulator = Simulator(tiny_task, 0.7, 10 / 64, "largest_remainder", importance=importance, fidelity="original")
    calibration = tiny_task.calibration
    rng = np.random.default_rng(0)
    before = simulator.initial()
    for _ in range(3):
        actions = rng.random((4, 5))
        scores = prune_gym.importance(importance)(
            tiny_task.model, tiny_task.graph, calibration.images, calibration.labels, before.architecture
        )
        after = simulator.successors(before, actions)
        for action, state in zip(actions, after, strict=True):
            counts = allocate(action, before.architecture, 10)
            for group, n in enumerate(counts):
                was, left = before.architecture.kept[group], state.architecture.kept[group]
                ranked = sorted(np.flatnonzero(was), key=lambda u: scores[group][u])
                assert sorted(np.flatnonzero(was & ~left)) == sorted(ranked[:n])
        before = after[0]


@pytest.mark.parametrize("levels", [None, 3])
def test_with_the_initial_ranking_widths_say_which_units_are_kept(tiny_task: Task, levels: int | None) -> None:
    """Those that are most important in the original network, on whatever way they were reached."""
    settings = {"macs_reduction": 0.6, "step_ratio": 0.15, "importance": "taylor", "ranking": "initial", "levels": levels}
    simulator = Simulator(tiny_task, **settings)  # type: ignore[arg-type]
    calibration = tiny_task.calibration
    scores = prune_gym.importance("taylor")(tiny_task.model, tiny_task.graph, calibration.images, calibration.labels)
    for seed in range(4):
        for state in episode(simulator, np.random.default_rng(seed).random((5, 5)))[1:]:
            for kept, values, allowed in zip(state.architecture.kept, scores, simulator.space.allowed, strict=True):
                best = sorted(range(len(values)), key=lambda unit: -values[unit])[: kept.sum()]
                assert sorted(np.flatnonzero(kept)) == sorted(best)
                assert kept.sum() in allowed


def test_importance_is_computed_once_per_state(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = scorer_module.unit_scores

    def counted(*args: object) -> np.ndarray:
        calls.append(args)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(scorer_module, "unit_scores", counted)
    simulator = Simulator(tiny_task, 0.5, 0.1)
    start = simulator.initial()
    states = simulator.successors(start, list(np.random.default_rng(0).random((9, 5))))
    simulator.successors(start, [np.ones(5)])
    assert len(calls) == 1
    simulator.successors(states[3], [np.ones(5)] * 5)
    assert len(calls) == 2
    simulator.scores(states)
    assert len(calls) == 2


def test_scores_that_are_not_numbers_do_not_spare_a_unit(own_tiny_task: Task) -> None:
    """A diverged network has NaN for every importance; as many units go as for any other."""
    with torch.no_grad():
        own_tiny_task.model.classifier.weight.fill_(float("nan"))
    simulator = Simulator(own_tiny_task, 0.5, 8 / 64, "largest_remainder")
    assert steps_of(simulator, episode(simulator, np.zeros((1, 5)))) == [8, 8, 8, 8]


# ------------------------------------------------------------------------------------------------ states


def test_trajectory_is_the_way_from_the_original_network(tiny_task: Task) -> None:
    simulator = Simulator(tiny_task, 0.4, 0.1)
    states = episode(simulator, np.random.default_rng(1).random((3, 5)))
    assert [id(state) for state in states[-1].trajectory()] == [id(state) for state in states]
    assert states[-1].trajectory()[0].architecture == tiny_task.graph.full()
    assert simulator.initial().trajectory()[0].previous is None


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_successors_leave_the_state_alone(rounding: str, tiny_task: Task) -> None:
    simulator = Simulator(tiny_task, 0.5, 5 / 64, rounding)
    (state,) = simulator.successors(simulator.initial(), [np.array([1, 2, 3, 4, 5])])
    mask, carry = state.architecture.mask.copy(), state.carry.copy()
    actions = np.random.default_rng(0).random((3, 5))
    kept = actions.copy()
    first = simulator.successors(state, actions)
    simulator.successors(first[1], actions)
    again = Simulator(tiny_task, 0.5, 5 / 64, rounding).successors(state, actions)
    np.testing.assert_array_equal(state.architecture.mask, mask)
    np.testing.assert_array_equal(state.carry, carry)
    np.testing.assert_array_equal(actions, kept)
    for a, b in zip(first, again, strict=True):
        assert a.architecture == b.architecture
        np.testing.assert_array_equal(a.carry, b.carry)
    assert (rounding == "carry") == bool(carry.any())


def test_carry_gives_shared_units_their_turn(tiny_task: Task) -> None:
    """With 3 filters a step, a unit of 4 filters costs more than a step may remove, and most shares are below one."""
    simulator = Simulator(tiny_task, 39 / 64, 3 / 64, "carry")
    states = episode(simulator, np.zeros((1, 5)))
    removed = tiny_task.graph.widths - states[-1].architecture.widths
    assert (np.abs(removed - 39 / 64 * tiny_task.graph.widths) < 1.5).all()
    assert simulator.removed(states[-1]) == 39


def test_the_last_step_carries_nothing_over(tiny_task: Task) -> None:
    """All on a group of 4 filters per unit: 4, and 2 are owed; then 4, and single filters for the 3 that are missing."""
    simulator = Simulator(tiny_task, 11 / 64, 6 / 64, "carry")
    states = episode(simulator, np.eye(5)[2:3])
    assert steps_of(simulator, states) == [4, 7]
    assert (tiny_task.graph.widths - states[-1].architecture.widths)[2] == 2


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_last_step_goes_beyond_the_target_rather_than_short_of_it(rounding: str, tiny_task: Task) -> None:
    """When only units of 4 filters are left and 7 filters are missing, two units go."""
    simulator = Simulator(tiny_task, 41 / 64, 34 / 64, rounding, importance="l1")
    states = episode(simulator, np.array([[14.0, 5, 0, 6, 9], [1, 1, 1, 1, 1]]))
    assert [state.architecture.widths.tolist() for state in states[1:]] == [[1, 1, 6, 1, 1], [1, 1, 4, 1, 1]]
    assert [simulator.steps_left(state) for state in states] == [2, 1, 0]
    assert not states[-1].carry.any()


def test_a_step_is_a_successor_and_its_training(tiny_task: Task) -> None:
    simulator = Simulator(tiny_task, 0.5, 0.2)
    action = np.array([1.0, 2, 3, 4, 5])
    (expected,) = simulator.successors(simulator.initial(), [action])
    found = simulator.step(simulator.initial(), action)
    assert found.architecture == expected.architecture
    assert (found.steps, found.weights.version) == (1, "")
    action[:] = 0  # whoever owns the array may go on with it
    np.testing.assert_array_equal(found.action, [1, 2, 3, 4, 5])


def test_carry_is_what_is_owed(tiny_task: Task) -> None:
    simulator = Simulator(tiny_task, 0.5, 8 / 64, "carry")
    actions = np.random.default_rng(3).dirichlet([2] * 5, 3)
    states = episode(simulator, actions)[:4]
    exact = np.zeros(5)
    for action, state in zip(actions, states[1:], strict=True):
        exact += action * 8 / tiny_task.graph.filters_per_unit
        removed = tiny_task.graph.widths - state.architecture.widths
        np.testing.assert_allclose(state.carry, exact - removed, atol=1e-9)


def test_a_bad_action_changes_nothing(tiny_task: Task) -> None:
    simulator = Simulator(tiny_task, 0.5, 0.1)
    start = simulator.initial()
    with pytest.raises(ValueError, match=r"action: expected numbers >= 0, got -1.0 for group 2"):
        simulator.successors(start, [np.ones(5), np.array([1, 1, -1, 1, 1])])
    assert start.architecture == tiny_task.graph.full()
    assert simulator.successors(start, []) == []


# ------------------------------------------------------------------------------------------------ scores


@pytest.mark.parametrize("split", ["val", "test"])
def test_rewards_read_the_chosen_split(split: str, tiny_task: Task) -> None:
    simulator = Simulator(tiny_task, 0.3, 0.1, reward_split=split, fidelity="original")
    states = episode(simulator, np.zeros((1, 5)))
    networks = [prune_gym.compact(tiny_task.model, tiny_task.graph, state.architecture, form="program") for state in states]
    data = tiny_task.val if split == "val" else tiny_task.test
    expected = [training.accuracy(network, data) for network in networks]
    assert [score.accuracy for score in simulator.scores(states)] == expected
    assert simulator.baseline == simulator.score(states[0])
    assert simulator.baseline.accuracy == expected[0]
    other = tiny_task.test if split == "val" else tiny_task.val
    assert expected != [training.accuracy(network, other) for network in networks]


def test_the_model_is_not_modified(own_tiny_task: Task) -> None:
    before = {name: tensor.clone() for name, tensor in own_tiny_task.model.state_dict().items()}
    simulator = Simulator(own_tiny_task, 0.5, 0.2)
    simulator.scores(episode(simulator, np.ones((1, 5))))
    assert all(torch.equal(tensor, before[name]) for name, tensor in own_tiny_task.model.state_dict().items())
    assert all(parameter.grad is None for parameter in own_tiny_task.model.parameters())


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 0.0}, r"sparsity: expected a number in \(0, 1\), got 0\.0\."),
        ({"sparsity": 1.0}, r"sparsity: expected a number in \(0, 1\), got 1\.0\."),
        ({"sparsity": -0.2}, r"sparsity: expected a number in \(0, 1\), got -0\.2\."),
        ({"sparsity": float("nan")}, r"sparsity: expected a number in \(0, 1\), got nan\."),
        ({"step_ratio": 0.0}, r"step_ratio: expected a number in \(0, 1\], got 0\.0\."),
        ({"step_ratio": 1.01}, r"step_ratio: expected a number in \(0, 1\], got 1\.01\."),
        ({"step_ratio": float("nan")}, r"step_ratio: expected a number in \(0, 1\], got nan\."),
        ({"rounding": "carri"}, r"rounding: .* got 'carri'\. Did you mean 'carry'\?"),
        ({"importance": "taylr"}, r"importance: .* got 'taylr'\. Did you mean 'taylor'\?"),
        ({"ranking": "intial"}, r"ranking: .* got 'intial'\. Did you mean 'initial'\?"),
        ({"levels": 1}, r"sparsity: 0\.5 cannot be reached on task 'tiny' .* the largest that can is 0\.0000"),
        ({"reward_split": "tset"}, r"reward_split: expected one of val, test; got 'tset'\. Did you mean 'test'\?"),
        ({"reward_split": "train"}, r"reward_split: expected one of val, test; got 'train'\."),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str, tiny_task: Task) -> None:
    with pytest.raises(ValueError, match=message):
        Simulator(tiny_task, **{"sparsity": 0.5, "step_ratio": 0.1, **arguments})  # type: ignore[arg-type]


def test_the_largest_sparsity_that_is_named_can_be_reached(tiny_task: Task) -> None:
    with pytest.raises(
        ValueError, match=r"sparsity: 0\.85 cannot be reached on task 'tiny' .*; the largest that can is 0\.8437\."
    ):
        Simulator(tiny_task, 0.85, 0.1)
    for sparsity in (0.8437, tiny_task.graph.max_sparsity):
        simulator = Simulator(tiny_task, sparsity, 0.1, importance="l1")
        states = episode(simulator, np.ones((1, 5)))
        assert states[-1].architecture.channel_sparsity >= sparsity


# ------------------------------------------------------------------------------------------------ long episodes


def test_states_at_the_end_of_long_episodes_can_be_copied_and_printed() -> None:
    states = [Simulator(CHAIN, 0.5, 0.1, importance="random").initial()]
    for _ in range(600):  # each with weights of its own, that the one before was trained to
        state = states[-1].pruned(states[-1].architecture, states[-1].carry, np.ones(4))
        states.append(state.trained(teaches=True))
    for again in (copy.deepcopy(states[-1]), pickle.loads(pickle.dumps(states[-1]))):
        assert again.weights.version == states[-1].weights.version
        for a, b in zip(again.trajectory(), states, strict=True):
            assert (a.architecture.digest, a.weights.version, a.steps) == (b.architecture.digest, b.weights.version, b.steps)
    assert len(repr(states[-1])) < 1000


# ------------------------------------------------------------------------------------------------ what is left alone


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.layers(x)


def test_a_model_that_writes_to_its_buffers_is_left_as_it_is() -> None:
    task = replace(CHAIN, model=Counting().eval())
    simulator = Simulator(task, 0.5, 0.2)
    simulator.scores(simulator.successors(simulator.initial(), [np.ones(1)]))
    assert task.model.calls.item() == 0


class Negated(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x


def test_models_of_equal_weights_do_not_share_accuracies() -> None:
    cache = ResultCache()
    val = Split(CHAIN.val.images, CHAIN.model(CHAIN.val.images).argmax(1))

    def accuracy(last: nn.Module) -> float:
        model = nn.Sequential(*CHAIN.model, last)
        return Simulator(replace(CHAIN, model=model, val=val), 0.5, 0.2, cache=cache).baseline.accuracy

    assert accuracy(nn.Identity()) == 1
    assert accuracy(Negated()) == 0


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize("label", [3, -1, -100])
def test_labels_of_every_split_are_classes(part: str, label: int) -> None:
    labels = CHAIN.val.labels.clone()
    labels[-1] = label
    with pytest.raises(ValueError, match=rf"labels: expected classes 0 \.\. 2, .* in the {part} images"):
        replace(CHAIN, **{part: Split(CHAIN.val.images, labels)})
