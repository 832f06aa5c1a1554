"""TPE over whole episodes, against Optuna's own loop; and that it says nothing."""

from __future__ import annotations

import logging
import sys

import gymnasium
import numpy as np
import optuna
import pytest

import prune_gym  # noqa: F401  # registers the environments
from prune_gym.agents import RandomAgent, UniformAgent
from prune_gym.agents.tpe import TPEAgent, TPEConfig
from prune_gym.envs import PruningEnv, TabularEnv
from prune_gym.envs.wrappers import pruning_env
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.score_functions import elementwise
from prune_gym.tasks import Task

STEPS = 4


@pytest.fixture
def env(tiny_task: Task) -> PruningEnv:
    return PruningEnv(tiny_task, sparsity=0.5, step_ratio=1 / 8, device="cpu")


class Noted(TPEAgent):
    """Keeps its study."""

    def study(self) -> optuna.Study:
        self.made = super().study()
        return self.made


def restated(env: PruningEnv, episodes: int, seed: int, bound: float) -> list[float]:
    """What Optuna's own loop finds, episode by episode."""
    seed = int(np.random.default_rng(seed).integers(2**32))
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))

    def objective(trial: optuna.Trial) -> float:
        logarithms = np.array([trial.suggest_float(group.name, -bound, bound) for group in env.graph.groups])
        weights = env.uniform_action * np.exp(logarithms)
        env.reset()
        while env.steps_left:
            *_, info = env.step((weights / weights.sum()).astype(np.float32))
        return info["accuracy"]

    study.optimize(objective, n_trials=episodes)
    return [trial.values[0] for trial in study.trials]


def against_optunas_loop(env: PruningEnv, episodes: int, bound: float) -> None:
    agent = Noted(env, TPEConfig(bound=bound), seed=3)
    env.reset()
    agent.learn(episodes * env.steps_left)
    values = [trial.values[0] for trial in agent.made.trials]
    assert values == restated(env, episodes, 3, bound)
    assert agent.best is not None
    assert agent.best.yardstick == max(values)
    logarithms = np.array([list(trial.params.values()) for trial in agent.made.trials])
    assert 0.9 * bound < np.abs(logarithms).max() <= bound


def test_against_optunas_loop(env: PruningEnv) -> None:
    against_optunas_loop(env, 11, 3.0)


@pytest.mark.parametrize("bound", [3.0, 0.5])
def test_against_optunas_loop_on_a_table(bound: float) -> None:
    against_optunas_loop(TabularEnv("digits", macs_reduction=0.6, step_ratio=0.2), 30, bound)


@pytest.mark.parametrize("budget", [4, 5, 7, 15])
def test_every_budget_is_kept_to(env: PruningEnv, budget: int) -> None:
    assert TPEAgent(env, seed=1).learn(budget).num_timesteps == budget // STEPS * STEPS == env.evaluations


def test_seeds() -> None:
    """Whatever state the generators of the process are in."""

    def search(seed: int) -> tuple[bytes, list[float]]:
        env = gymnasium.make("PruneGym/Tabular-Digits-v0")
        agent = Noted(env, seed=seed)
        agent.learn(20 * 14)
        best = pruning_env(env).best
        assert best is not None
        assert best.snapshot.action is not None
        return best.snapshot.action.tobytes(), [trial.values[0] for trial in agent.made.trials]

    first = search(0)
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]  # noqa: NPY002
    assert search(0) == first
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]  # noqa: NPY002
    assert search(1) != first


def test_it_learns() -> None:
    """A yardstick that knows what it wants, few MACs at the same number of filters gone."""

    @elementwise
    def few_macs(after: Score, baseline: Score) -> float:
        return -after.macs / baseline.macs

    def regret(make: type) -> float:
        env = TabularEnv("digits", sparsity=0.5, step_ratio=1 / 8, yardstick=few_macs)
        make(env, seed=0).learn(320)
        assert env.best is not None
        return env.regret(env.best.snapshot)

    assert regret(TPEAgent) < regret(RandomAgent) < regret(UniformAgent)


def test_it_says_nothing(env: PruningEnv, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    TPEAgent(env, seed=0).learn(2 * STEPS)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert optuna.logging.get_verbosity() == logging.INFO


def test_without_optuna(env: PruningEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r'TPE needs Optuna; pip install "prune_gym\[tuning\]"'):
        TPEAgent(env)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"bound: expected a number in \(0, inf\)"):
        TPEConfig(bound=0)
