"""A table as a problem of OptunaHub: what it says is what the table says, and Optuna's samplers take it as it is."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optunahub.benchmarks import BaseProblem

from prune_gym import tables
from prune_gym.benchmark.optuna_problem import PruningProblem


def test_values_are_those_of_the_table() -> None:
    problem, table = PruningProblem("digits", 0.6, base=1), tables.load("digits", 1)
    rng = np.random.default_rng(0)
    full = int(table.macs(np.array(table.shape) - 1))
    for _ in range(20):
        levels = np.array([rng.integers(0, n) for n in table.shape])
        params = dict(zip(table.groups, levels.tolist(), strict=True))
        assert problem.evaluate(params) == table.val_accuracy(levels)
        assert problem.test_accuracy(params) == table.test_accuracy(levels)
        assert (problem.evaluate_constraints(params)["macs"] <= 0) == (table.macs(levels) <= 0.4 * full)
    params, worth = problem.best()
    assert problem.evaluate(params) == worth
    assert problem.evaluate_constraints(params)["macs"] <= 0
    every = np.stack(np.unravel_index(np.arange(table.val_hits.size), table.shape), -1)
    assert worth == table.val_accuracy(every)[table.macs(every) <= 0.4 * full].max()


def test_a_sampler_of_optuna_takes_it() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = PruningProblem("digits")
    assert isinstance(problem, BaseProblem)
    study = optuna.create_study(directions=problem.directions, sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(problem, n_trials=60)
    assert study.best_value <= problem.best()[1]
    assert problem.evaluate_constraints(study.best_params)["macs"] <= 0  # the best of those within it
    assert problem.evaluate(study.best_params) == study.best_value


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match=r"macs_reduction: expected a number in \(0, 1\), got 1"):
        PruningProblem("digits", 1)
    with pytest.raises(ValueError, match=r"task: .*'digit'"):
        PruningProblem("digit")
    with pytest.raises(ValueError, match=r"macs_reduction: 0.999 cannot be reached on the table of 'digits'"):
        PruningProblem("digits", 0.999)
    with pytest.raises(TypeError, match="table: expected a Table or the name of a task, got int"):
        PruningProblem(3)  # type: ignore[arg-type]
