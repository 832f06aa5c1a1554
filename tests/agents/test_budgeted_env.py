"""The environment as a search sees it: what is paid, what is kept back, and what ends a search."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from stable_baselines3.common.monitor import Monitor

from prune_gym.agents.budgeted_env import BudgetedEnv, OutOfBudget
from prune_gym.envs import PruningEnv
from prune_gym.training.distillation import PostTraining


@pytest.fixture
def env(tiny_task):
    """Four steps to an episode."""
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")
    env.reset()
    return env


def budgeted(env: gymnasium.Env, budget: int, noted: list | None = None, stop_after: int = 10**9) -> BudgetedEnv:
    notes = [] if noted is None else noted
    return BudgetedEnv(env, budget, lambda *arguments: (notes.append(arguments), len(notes) < stop_after)[1])


def actions(env: PruningEnv, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(len(env.graph.groups)), n).astype(np.float32)


def test_previews_leave_what_the_steps_to_the_end_take(env):
    search = budgeted(env, 10)
    assert search.evaluations_left == 6
    search.preview(actions(env, 6))
    assert (search.evaluations_left, env.evaluations) == (0, 6)
    with pytest.raises(OutOfBudget):
        search.preview(actions(env, 1))
    assert env.evaluations == 6  # nothing was scored
    for _ in range(4):
        search.step(env.uniform_action)
    assert search.finished
    assert env.evaluations == 10
    with pytest.raises(OutOfBudget):
        search.step(env.uniform_action)


def test_a_search_may_go_back_from_the_end_of_an_episode(env):
    """Though a monitor refuses steps after it."""
    search = budgeted(Monitor(env), 10)
    search.reset()
    search.step(env.uniform_action)
    after_one = search.snapshot()
    while not search.finished:
        search.step(env.uniform_action)
    search.restore(after_one)
    assert (search.finished, search.steps_left) == (False, 3)
    search.step(env.uniform_action)
    assert search.steps_left == 2


def test_a_batch_is_paid_as_a_whole_or_not_at_all(env):
    search = budgeted(env, 10)
    with pytest.raises(OutOfBudget):
        search.preview(actions(env, 7))
    assert (search.evaluations_left, env.evaluations) == (6, 0)


def test_after_a_step_one_less_is_kept_back(env):
    search = budgeted(env, 10)
    search.step(env.uniform_action)
    assert (search.steps_left, search.evaluations_left) == (3, 6)


def test_looking_ahead_does_not_free_what_is_kept_back(env):
    """In a state two steps ahead only two steps are missing, but the episode still needs all four."""
    search = budgeted(env, 10)
    here = search.snapshot()
    (ahead,) = search.preview(actions(env, 1))
    search.restore(ahead.snapshot)
    assert search.steps_left == 3
    assert search.evaluations_left == 5
    search.restore(here)
    assert search.evaluations_left == 5


def test_going_back_keeps_back_more(env):
    search = budgeted(env, 10)
    here = search.snapshot()
    search.step(env.uniform_action)
    search.step(env.uniform_action)
    search.restore(here)
    assert search.evaluations_left == 8 - 4


def test_an_episode_can_be_finished_again_from_within(env):
    """Through wrappers that refuse steps after the end."""
    wrapped = RecordEpisodeStatistics(TimeLimit(env, 9))
    wrapped.reset()
    search = budgeted(wrapped, 30)
    search.step(env.uniform_action)
    here = search.snapshot()
    while not search.finished:
        last = search.step(env.uniform_action)
    assert last.terminated
    search.restore(here)
    assert not search.finished
    for action in actions(env, 3):
        search.step(action)
    assert search.finished
    search.restore(last.snapshot)
    assert search.finished


@pytest.mark.parametrize(("budget", "expected"), [(3, 0), (4, 1), (7, 1), (8, 2), (42, 10)])
def test_episodes_begin_while_they_can_be_finished(env, budget, expected):
    search = budgeted(env, budget)
    numbers = []
    for number in search.episodes():
        numbers.append(number)
        assert not search.finished
        assert search.steps_left == 4
        while not search.finished:
            search.step(env.uniform_action)
    assert numbers == list(range(expected))


def test_episodes_in_which_nothing_happens_end(env):
    with pytest.raises(RuntimeError, match="episodes: nothing was evaluated in episode 0; the search would never end"):
        for _ in budgeted(env, 10).episodes():
            pass


def test_a_step_gives_what_a_preview_shows(env):
    search = budgeted(env, 50)
    chosen = actions(env, 3)
    previews = search.preview(chosen)
    step = search.step(chosen[1])
    assert (step.reward, step.terminated, step.score, step.yardstick) == (
        previews[1].reward,
        False,
        previews[1].score,
        previews[1].yardstick,
    )
    assert step.snapshot is env.snapshot()
    assert step.snapshot.architecture == previews[1].snapshot.architecture
    assert search.score() == step.score


def test_every_evaluation_is_told(env):
    noted = []
    search = budgeted(env, 50, noted)
    chosen = actions(env, 3)
    previews = search.preview(chosen)
    step = search.step(chosen[0])
    assert [kind for *_, kind in noted] == ["preview"] * 3 + ["step"]
    assert [preview for _, preview, *_ in noted] == [*previews, step]
    np.testing.assert_array_equal([action for action, *_ in noted], chosen[[0, 1, 2, 0]])
    assert noted[0][2] == {}
    assert noted[3][2]["accuracy"] == step.score.accuracy


def test_a_listener_ends_the_search_once_the_batch_is_told(env):
    noted = []
    search = budgeted(env, 50, noted, stop_after=2)
    with pytest.raises(OutOfBudget):
        search.preview(actions(env, 3))
    assert len(noted) == env.evaluations == 3
    with pytest.raises(OutOfBudget):
        search.step(env.uniform_action)
    assert len(noted) == env.evaluations == 4


def test_the_best_is_that_of_this_search_by_the_yardstick(tiny_task):
    """The first of equal ones; previews of the last step count, those before do not."""
    env = PruningEnv(
        tiny_task,
        sparsity=0.5,
        step_ratio=0.25,
        reward=lambda before, after, baseline: -after.accuracy,
        yardstick=lambda after, baseline: after.accuracy - after.params_reduction,
        device="cpu",
    )
    env.reset()
    for action in actions(env, 2, seed=5):  # of somebody else
        env.step(action)
    env.reset()
    search = budgeted(env, 50)
    search.preview(actions(env, 9))
    assert search.best is None
    search.step(env.uniform_action)
    assert search.best is None
    previews = search.preview(actions(env, 9, seed=1))
    found = [preview.score.accuracy - preview.score.params_reduction for preview in previews]
    assert search.best is previews[int(np.argmax(found))]
    assert search.best.yardstick == max(found)
    search.preview(previews[int(np.argmax(found))].snapshot.action[None])
    assert search.best is previews[int(np.argmax(found))]
    worse = previews[int(np.argmin(found))]
    search.step(worse.snapshot.action)
    assert search.best is previews[int(np.argmax(found))]
    search.reset()
    search.step(env.uniform_action)
    better = search.step(search.best.snapshot.action)
    assert search.best.yardstick == max(found)
    assert better.yardstick <= max(found)


def test_with_post_training_only_trained_networks_count(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.3, step_ratio=0.5, device="cpu", posttraining=PostTraining(epochs=1, batch_size=60))
    env.reset()
    search = budgeted(env, 9)
    assert search.preview(actions(env, 3))[0].terminated
    assert search.best is None
    step = search.step(env.uniform_action)
    assert search.best is step
    assert step.snapshot.weights.version


def test_an_episode_that_a_wrapper_cuts_short_is_finished(env):
    cut = TimeLimit(env, 2)
    cut.reset()
    search = budgeted(cut, 30)
    for _ in search.episodes():
        steps = 0
        while not search.finished:
            search.step(env.uniform_action)
            steps += 1
        assert steps == 2
    assert search.best is None


def test_a_reset_keeps_back_a_whole_episode_again(env):
    """Also while the search looks ahead from the original network."""
    search = budgeted(env, 30)
    ahead = search.step(env.uniform_action)
    search.reset()
    search.restore(ahead.snapshot)
    assert (search.steps_left, search.evaluations_left) == (3, 29 - 4)


def test_a_step_has_the_cost_that_its_preview_says(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu", cost="1 - accuracy")
    env.reset()
    search = budgeted(env, 50)
    (preview,) = search.preview(actions(env, 1))
    assert search.step(actions(env, 1)[0]).cost == preview.cost == 1 - preview.score.accuracy
