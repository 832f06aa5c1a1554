"""Standings and verdicts by hand, on plays that are made up."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from prune_gym.benchmark import statistics
from prune_gym.benchmark.play import DEFAULT
from prune_gym.benchmark.report import standings
from prune_gym.benchmark.report.standings import Problem, fields_of, player_name, verdict
from prune_gym.benchmark.results import Played


def played(agent: str, accuracy: float, seed: int = 0, task: str = "tabular-digits", best: float = 0.9, **others: Any) -> Played:
    row = {
        "task": task, "base": 1, "macs_reduction": 0.7, "budget": 100, "agent": agent, "settings": DEFAULT,
        "reward": "accuracy", "seed": seed,
        "val_accuracy": accuracy, "test_accuracy": accuracy - 0.01, "policy_accuracy": accuracy - 0.1, "compute": 500,
        "policy_macs": 300, "hypervolume": 0.5, "full_cost": 10, "full_macs": 1000,
        "regret": best - accuracy if task.startswith("tabular") else float("nan"),
    } | others  # fmt: skip
    improvements = np.array([[1, 10, 300, accuracy / 2], [50, 100, 300, accuracy]])
    return Played(row, improvements, improvements[::-1])


def test_a_field_by_hand() -> None:
    plays = [played("a", accuracy, seed) for seed, accuracy in enumerate((0.88, 0.86, 0.90, 0.80))]
    plays += [played("random", accuracy, seed) for seed, accuracy in enumerate((0.5, 0.6))]
    (field,) = fields_of(plays)
    assert (field.world, field.budget, field.problems) == ("tabular", 100, (Problem("tabular-digits", 1, 0.7),))
    assert field.optimum == {field.problems[0]: pytest.approx(0.9)}
    first, second = field.standings
    assert (first.name, second.name) == ("a", "random")
    assert first.regret.value == pytest.approx(3.0)  # of 2, 4, 0 and 10 the middle two
    assert first.policy.value == pytest.approx(13.0)
    assert first.by_problem == (pytest.approx(4.0),)
    assert first.test == (pytest.approx(85.0),)
    assert (first.compute, first.seeds, second.seeds) == (50, 4, 2)
    assert first.over_floor is not None
    assert first.over_floor.value == 1
    assert second.over_floor is None
    assert str(field.problems[0]) == "digits-1, -70%"


def test_where_networks_run_the_best_that_is_known_is_the_measure() -> None:
    (field,) = fields_of([played("a", 0.7, task="digits"), played("b", 0.8, task="digits")])
    assert field.world == "live"
    assert [one.regret.value for one in field.standings] == pytest.approx([0.0, 10.0])


def test_worlds_and_budgets_are_apart() -> None:
    plays = [played("a", 0.7, task="digits"), played("a", 0.7), played("a", 0.7, budget=1000)]
    assert [(field.world, field.budget) for field in fields_of(plays)] == [("tabular", 100), ("tabular", 1000), ("live", 100)]


def test_who_lacks_a_problem_is_in_no_standing() -> None:
    other = "tabular-digits-resnet"
    plays = [played(name, 0.7, task=task) for name in ("a", "b") for task in ("tabular-digits", other)]
    (field,) = fields_of([*plays, played("c", 0.8)])
    assert [one.name for one in field.standings] == ["a", "b"]
    assert field.incomplete == ("c",)
    assert verdict(field)[-1] == "Not all of these problems were played by c, which is left out."


def test_a_problem_that_few_have_played_does_not_count() -> None:
    extra = played("a", 0.7, task="tabular-digits-resnet")
    (field,) = fields_of([played("a", 0.7), played("b", 0.8), played("c", 0.6), extra])
    assert [problem.task for problem in field.problems] == ["tabular-digits"]
    assert [one.name for one in field.standings] == ["b", "a", "c"]


def test_players_that_share_nothing() -> None:
    (field,) = fields_of([played("a", 0.7), played("b", 0.8, task="tabular-digits-resnet")])
    assert [one.name for one in field.standings] == ["a"]
    assert field.incomplete == ("b",)


def test_one_seed_separates_nobody() -> None:
    (field,) = fields_of([played("a", 0.9), played("b", 0.5), played("random", 0.4)])
    sentences = verdict(field)
    assert sentences[0].endswith("a is ahead: 0.0 points of regret (1 seed, 1 problem).")
    assert sentences[1].startswith("Nothing separates it from b (one seed does not tell) and random (")


def test_the_floor_may_be_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standings, "all_tuned", lambda: {"random": {"settings": {"scale": 2.0}}})
    tuned = [played("random", 0.7, seed, settings='{"scale": 2.0}') for seed in range(3)]
    (field,) = fields_of([*tuned, *(played("random", 0.6, seed) for seed in range(3)), *(played("a", 0.8, s) for s in range(3))])
    assert field.floor == "random, tuned"
    assert [one.over_floor is None for one in field.standings] == [False, True, False]


def several(agent: str, mean: float, spread: float, seeds: int = 8) -> list[Played]:
    rng = np.random.default_rng(len(agent))
    return [played(agent, mean + spread * rng.normal(), seed) for seed in range(seeds)]


def test_what_separates_nothing_is_said_to_separate_nothing() -> None:
    (field,) = fields_of([*several("a", 0.85, 0.01), *several("bb", 0.849, 0.01), *several("random", 0.6, 0.01)])
    first, second = verdict(field)[:2]
    assert first.startswith("On tables, after 100 evaluations, ")
    ahead, behind = field.standings[:2]
    assert f"{ahead.name} is ahead: {ahead.regret.value:.1f} points of regret" in first
    needed = max(9, np.ceil(statistics.runs_that_separate(field.scores(ahead.name), field.scores(behind.name))))
    assert second == f"Nothing separates it from {behind.name} ({int(needed):,}); in brackets, about how many seeds would."


def test_who_is_ahead_by_luck_is_seldom_separated_from_anyone() -> None:
    """Of players that do not differ, in at most about one field of twenty; comparing the best with each other one alone, without
    minding that the plays chose it, says so in one of seven."""
    rng, separated = np.random.default_rng(0), 0
    for _ in range(100):
        (field,) = fields_of([played(f"a{i}", rng.normal(0.7, 0.01), seed) for i in range(10) for seed in range(6)])
        best, *others = [one.name for one in field.standings]
        separated += any(one.clear for one in field.compared(best, others, chosen=True))
    assert separated <= 6


def test_if_random_search_wins_the_first_sentence_says_so() -> None:
    for name, called in (("random", "random search"), ("eagle_eye", "EagleEye's random search")):
        (field,) = fields_of([*several("a", 0.5, 0.01), *several(name, 0.8, 0.01)])
        assert verdict(field)[0] == f"On tables, {called} wins: no agent that learns is shown to be better."
        (field,) = fields_of([*several("a", 0.795, 0.01), *several(name, 0.8, 0.01)])
        assert field.standings[0].name == name
        assert verdict(field)[0] == f"On tables, {called} is ahead: no agent that learns is shown to be better."
    (field,) = fields_of([*several("a", 0.9, 0.01), *several("bb", 0.5, 0.01), *several("random", 0.8, 0.01)])
    assert verdict(field)[1:] == ["It is separated from all others.", "Worse than random: bb."]
    (field,) = fields_of([*several("best", 0.95, 0.01), *several("a", 0.85, 0.1), *several("random", 0.79, 0.1)])
    assert any(each.startswith("Nothing separates random from a (") for each in verdict(field))


def test_of_the_one_ahead_the_floor_is_said_once() -> None:
    """With the correction for all pairs; the weaker one for the floor could say the contrary."""
    rng = np.random.default_rng(0)
    means = {"random": 0.70, "a": 0.715} | {f"b{i}": 0.5 for i in range(6)}
    (field,) = fields_of([played(name, rng.normal(mean, 0.01), seed) for name, mean in means.items() for seed in range(6)])
    sentences = verdict(field)
    assert sentences[1].startswith("Nothing separates it from random (")
    assert not any(sentence.startswith("Better than random") for sentence in sentences)


def test_names_of_players(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standings, "all_tuned", lambda: {"a": {"settings": {"scale": 1.0}}})
    assert player_name("a", DEFAULT) == "a"
    assert player_name("a", json.dumps({"scale": 1.0})) == "a, tuned"
    assert player_name("a", '{"scale": 2.0}') == 'a, {"scale": 2.0}'
    assert player_name("b", '{"scale": 1.0}') == 'b, {"scale": 1.0}'
    assert player_name("a", DEFAULT, "final") == "a, final"
    assert player_name("a", json.dumps({"scale": 1.0}), "macs / params") == "a, tuned, macs / params"
