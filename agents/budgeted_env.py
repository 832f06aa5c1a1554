"""What a search works with: a pruning environment in which every preview and every step is paid from a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Literal

import gymnasium
import numpy as np

from prune_gym.envs.pruning import Preview, PruningEnv
from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.simulator import PruningState

Kind = Literal["step", "preview", "target"]  # of an evaluation; "target": a preview of the network at the target

# Called after every evaluation with the action, what it led to, the info of the step (empty for a preview) and the kind; the
# search ends if it gives False.
OnEvaluation = Callable[[np.ndarray, Preview, dict[str, Any], Kind], bool]


class OutOfBudget(Exception):  # noqa: N818  # a signal, not an error
    """The evaluations of a search are used up, or a callback asked to stop. It ends the search; nobody needs to catch it."""


class BudgetedEnv:
    """A pruning environment as a search sees it.

    One evaluation, a scored architecture, is the unit of the budget, whether it was previewed or stepped to. Previews are paid
    from what the steps to the end of the episode leave over, so an episode that was begun can always be finished.

    Attributes:
        finished: whether the present episode has ended.
        best: the preview of the best network at the target that this search scored, by the environment's yardstick;
            with post-training, of those that were trained. None before any.

    Args:
        env: a :class:`PruningEnv` after a reset, in wrappers that change neither actions nor rewards.
        budget: evaluations that may be used.
        on_evaluation: see :data:`OnEvaluation`.
    """

    def __init__(self, env: gymnasium.Env, budget: int, on_evaluation: OnEvaluation):
        inner = env.unwrapped
        assert isinstance(inner, PruningEnv)  # checked by SearchAgent.set_env
        self._env, self._inner = env, inner
        self._on_evaluation = on_evaluation
        self._left = budget
        self._steps_per_episode = self._steps_reserved = inner.steps_left
        self.finished = False
        self.best: Preview | None = None

    # -------------------------------------------------------------------------------------------------- what is paid

    @property
    def evaluations_left(self) -> int:
        """Evaluations that may go into previews now: the rest of the budget, less the steps to the end of the episode."""
        return self._left - max(self._steps_reserved, self.steps_left)

    def preview(self, actions: np.ndarray, to_target: bool = False) -> list[Preview]:
        """What each of N actions (N, groups) would lead to from the present state, for N evaluations; see
        :meth:`PruningEnv.preview` for ``to_target``.

        Raises OutOfBudget, and scores nothing, if N is more than ``evaluations_left``.
        """
        actions = np.asarray(actions, np.float32)
        if len(actions) > self.evaluations_left:
            raise OutOfBudget
        previews = self._inner.preview(actions, to_target)
        self._left -= len(previews)
        for preview in previews:
            if not to_target and not self._inner.simulator.trains(preview.snapshot):  # else only a step shows what it is worth
                self._remember(preview)
        kind: Kind = "target" if to_target else "preview"
        go_on = [self._on_evaluation(action, p, {}, kind) for action, p in zip(actions, previews, strict=True)]
        if not all(go_on):
            raise OutOfBudget
        return previews

    def step(self, action: np.ndarray) -> Preview:
        """Take a step, for one evaluation; gives the state that it led to and what that is worth.

        Raises OutOfBudget if nothing is left.
        """
        if self._left < 1:
            raise OutOfBudget
        action = np.asarray(action, np.float32)
        inner = self._inner
        _, reward, terminated, truncated, info = self._env.step(action)  # by way of all wrappers
        score = inner.score()
        step = Preview(
            reward=float(reward),
            terminated=terminated,
            score=score,
            snapshot=inner.snapshot(),
            yardstick=inner.yardstick(score, inner.simulator.baseline),
            cost=info.get("cost"),
        )
        return self._arrive(action, step, info, terminated or truncated)

    def prune_to(self, widths: np.ndarray) -> Preview:
        """Go to the network of these widths in one step from the original one, for one evaluation; see
        :meth:`PruningEnv.prune_to`. Wrappers do not see it.

        Raises OutOfBudget if nothing is left.
        """
        if self._left < 1:
            raise OutOfBudget
        step = self._inner.prune_to(widths)
        assert step.snapshot.action is not None  # the proportions in which filters are gone
        return self._arrive(step.snapshot.action.astype(np.float32), step, self._inner.info(), step.terminated)

    def _arrive(self, action: np.ndarray, step: Preview, info: dict[str, Any], finished: bool) -> Preview:
        """Pay for a step that was taken, and tell of it."""
        self._left -= 1
        self.finished = finished
        self._steps_reserved = self.steps_left
        self._remember(step)
        if not self._on_evaluation(action, step, info, "step"):
            raise OutOfBudget
        return step

    # ---------------------------------------------------------------------------------------------------- what is free

    def episodes(self) -> Iterator[int]:
        """Go back to the original network and give the number of the episode, 0, 1, ..., again and again, as long as the budget
        pays for all steps of another episode. Raises RuntimeError if nothing was evaluated in the last one."""
        for number in count():
            if self._left < self._steps_per_episode:
                return
            before = self._left
            self.reset()
            yield number
            if self._left == before:
                raise RuntimeError(f"episodes: nothing was evaluated in episode {number}; the search would never end.")

    def reset(self) -> None:
        """Back to the original network."""
        self._env.reset()
        self.finished = False
        self._steps_reserved = self._steps_per_episode

    def snapshot(self) -> PruningState:
        """The present state, to hand to :meth:`restore`."""
        return self._inner.snapshot()

    def restore(self, snapshot: PruningState) -> None:
        """Go to a state of :meth:`snapshot` or of a preview."""
        if self.finished:
            self._env.reset()  # wrappers refuse steps after the end of an episode
        self._inner.restore(snapshot)
        self.finished = self._inner.steps_left == 0

    def score(self) -> Score:
        """Accuracy and costs of the present state."""
        return self._inner.score()

    @property
    def steps_left(self) -> int:
        """Steps from the present state to the target."""
        return self._inner.steps_left

    @property
    def graph(self) -> ChannelGraph:
        return self._inner.graph

    @property
    def uniform_action(self) -> np.ndarray:
        """The distribution that prunes every group by the same fraction, float64 (groups,), sum 1."""
        return self._inner.uniform_action

    def _remember(self, preview: Preview) -> None:
        if preview.terminated and (self.best is None or preview.yardstick > self.best.yardstick):
            self.best = preview
