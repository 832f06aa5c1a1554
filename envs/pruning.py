"""The pruning environment: one step, one sparsity distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from prune_gym import tasks
from prune_gym.arguments import check_choice
from prune_gym.envs.observations import OBSERVATIONS, observe
from prune_gym.envs.rendering import describe, draw, write
from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.allocation import check_action
from prune_gym.simulation.result_cache import ResultCache
from prune_gym.simulation.rewards import Reward, make_reward
from prune_gym.simulation.simulator import PruningState, Simulator
from prune_gym.simulation.yardsticks import Yardstick, make_yardstick
from prune_gym.surgery.slicing import check_architecture
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining


@dataclass(frozen=True)
class Preview:
    """What an action would lead to: the reward it would give, whether the episode would end, and the state itself.

    ``env.unwrapped.restore(preview.snapshot)`` goes there, without the post-training that a step may end with.
    """

    reward: float
    terminated: bool
    score: Score
    snapshot: PruningState
    yardstick: float = 0.0


class PruningEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """An agent prunes a convolutional network, one step budget of filters at a time.

    **Action**: ``Box(0, 1, (groups,), float32)``, the sparsity distribution: the share of the step's filters that each
    group loses. It is normalised inside; all zeros mean "in proportion to the groups' filters". Within a group the least
    important units go.

    **Observation**: the architecture vector, ``Box(0, 1, (groups,), float32)``: kept width over original width. With
    ``observation="full"`` see :mod:`prune_gym.envs.observations`.

    **Reward**: of the network after the step; accuracies are those on the validation split.

    **Episode**: starts at the original network and terminates when the target sparsity is reached; never truncated.

    **Info**: ``accuracy``, ``flops_reduction``, ``params_reduction``, ``channel_sparsity``, ``widths`` (int64, groups) and
    ``evaluations``, the number of architectures scored in this episode, previews and repetitions included.

    Attributes:
        evaluations: architectures scored since this environment was made, over all episodes; the budget of agents.
        best: the preview of the best network at the target sparsity that was scored so far, by the yardstick; what agents
            are judged by. With post-training, of those that were trained. None before any.

    Args:
        task: the name of a task, or a :class:`prune_gym.tasks.Task` of your own.
        sparsity: channel sparsity to reach, in (0, 1).
        step_ratio: fraction of the original filters that one step removes, in (0, 1].
        reward: ``"paper"``, ``"accuracy"``, ``"flops"``, ``"params"``, or a function (before, after, baseline) of
            :class:`prune_gym.scoring.evaluation.Score` to float.
        reward_weights: (alpha, beta, gamma) of equation 17, for ``reward="paper"``.
        reward_split: ``"val"``, or ``"test"`` for the paper's protocol, which tunes on what it reports.
        yardstick: ``"accuracy"``, or a function (after, baseline) of scores to float, by which networks are judged.
        observation: ``"architecture"`` or ``"full"``.
        rounding: ``"largest_remainder"``, ``"paper"`` or ``"carry"``, see :func:`prune_gym.allocate`.
        importance: criterion by name, see :func:`prune_gym.importance`.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        render_mode: ``"rgb_array"`` (bars per group) or ``"ansi"``.
        precision: ``"float32"``, or ``"bfloat16"`` to score networks faster on a GPU.
        posttraining: how networks are trained after a pruning step, see :class:`prune_gym.training.distillation.PostTraining`; by
            default they are not. Previews show the network before it; the reward of a step is that after it.
        cache: where accuracies and importance rankings are kept, see :mod:`prune_gym.cache`.

    Raises ValueError or TypeError for any bad argument, by its name, when the environment is made.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}  # noqa: RUF012  # Gymnasium's name

    def __init__(
        self,
        task: str | Task = "digits",
        sparsity: float = 0.5,
        step_ratio: float = 0.05,
        reward: str | Reward = "paper",
        reward_weights: tuple[float, float, float] | None = None,
        reward_split: str = "val",
        yardstick: str | Yardstick = "accuracy",
        observation: str = "architecture",
        rounding: str = "largest_remainder",
        importance: str = "taylor",
        device: str | torch.device = "auto",
        render_mode: str | None = None,
        precision: str = "float32",
        posttraining: PostTraining | None = None,
        cache: ResultCache | None = None,
    ):
        if render_mode is not None:
            check_choice("render_mode", render_mode, self.metadata["render_modes"])
        check_choice("observation", observation, OBSERVATIONS)
        self.reward = make_reward(reward, reward_weights)
        self.yardstick = make_yardstick(yardstick)
        self.render_mode = render_mode
        self.observation = observation
        if not isinstance(task, str | Task):
            raise TypeError(f"task: expected a name or a prune_gym.tasks.Task, got {type(task).__name__}.")
        self.task = tasks.load(task) if isinstance(task, str) else task
        self.simulator = Simulator(
            self.task,
            sparsity,
            step_ratio,
            rounding=rounding,
            importance=importance,
            reward_split=reward_split,
            device=device,
            precision=precision,
            posttraining=posttraining,
            cache=cache,
        )
        groups = len(self.graph.groups)
        self.action_space = spaces.Box(0.0, 1.0, (groups,), np.float32)
        self.evaluations = self._evaluations_before = 0
        self.best: Preview | None = None
        self._state: PruningState | None = None
        self.observation_space = spaces.Box(0.0, 1.0, (len(self._observe(self.simulator.initial())),), np.float32)

    @property
    def graph(self) -> ChannelGraph:
        return self.simulator.graph

    @property
    def architecture(self) -> Architecture:
        """The architecture of the present state. Raises RuntimeError before the first reset."""
        return self._current("architecture").architecture

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Back to the original network. Nothing here is random; ``seed`` only seeds ``np_random`` for wrappers."""
        super().reset(seed=seed)
        self._state = self.simulator.initial()
        self._evaluations_before = self.evaluations
        return self._observe(self._state), self._info(self._state)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Remove one step budget of filters. Costs one evaluation.

        Raises RuntimeError before the first reset and after the end, ValueError for an action that is not a finite,
        non-negative array (groups,); the environment is then as it was.
        """
        now = self._check_running("step")
        (state,) = self.simulator.successors(now, [check_action(action, len(self.graph.groups))])
        if self.simulator.trains(state):
            state = self.simulator.posttrained(state)
        self.evaluations += 1
        (preview,) = self._previews(now, [state])
        self._remember(preview)
        self._state = preview.snapshot
        return self._observe(preview.snapshot), preview.reward, preview.terminated, False, self._info(preview.snapshot)

    # ------------------------------------------------------------------------------------ beyond Gymnasium's interface

    def preview(self, actions: Sequence[np.ndarray] | np.ndarray) -> list[Preview]:
        """What each of N actions (N, groups) would lead to from the present state, which stays as it is.

        Costs N evaluations; the architectures are scored in one batch. Raises like :meth:`step`.
        """
        now = self._check_running("preview")
        checked = [check_action(action, len(self.graph.groups)) for action in actions]
        states = self.simulator.successors(now, checked)
        self.evaluations += len(states)
        previews = self._previews(now, states)
        for preview in previews:
            if not self.simulator.trains(preview.snapshot):  # else only a step shows what the network is worth
                self._remember(preview)
        return previews

    def snapshot(self) -> PruningState:
        """The present state, to hand to :meth:`restore`: immutable, a mask of the channels and the way to it, no weights. Raises
        RuntimeError before reset."""
        return self._current("snapshot")

    def restore(self, snapshot: PruningState) -> tuple[np.ndarray, dict[str, Any]]:
        """Go back (or ahead) to a state; gives its observation and info. ``evaluations`` keeps counting."""
        if not isinstance(snapshot, PruningState):
            raise TypeError(f"snapshot: expected what snapshot() or a preview gave, got {type(snapshot).__name__}.")
        check_architecture(snapshot.architecture, self.graph)
        self._state = snapshot
        return self._observe(snapshot), self._info(snapshot)

    def score(self) -> Score:
        """Accuracy and costs of the present state; already known, so it costs no evaluation."""
        return self.simulator.score(self._current("score"))

    @property
    def uniform_action(self) -> np.ndarray:
        """The distribution that prunes every group by the same fraction, float64 (groups,), sum 1."""
        return self.graph.group_filters / self.graph.n_filters

    @property
    def steps_left(self) -> int:
        """Steps to the end of the episode."""
        now = self._current("steps_left")
        planned = -(-self.simulator.target_filters // self.simulator.step_budget)
        return 0 if self.simulator.is_terminal(now) else planned - now.steps

    def render(self) -> Any:
        """``rgb_array``: uint8 (height, width, 3); ``ansi``: a string; None without a render mode."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() was called without a render_mode; make the environment with 'rgb_array' or 'ansi'.")
            return None
        now = self._current("render")
        title = f"{self.task.name}: {describe(self.simulator.score(now))}"
        picture = draw if self.render_mode == "rgb_array" else write
        return picture(now.architecture, title)

    # ----------------------------------------------------------------------------------------------------- inside

    def _previews(self, now: PruningState, states: Sequence[PruningState]) -> list[Preview]:
        """What steps from ``now`` to each of ``states`` are worth. Raises ValueError for a reward that is no finite number."""
        before, baseline = self.simulator.score(now), self.simulator.baseline
        scores = self.simulator.scores(states)
        rewards = [float(self.reward(before, after, baseline)) for after in scores]
        for reward, score in zip(rewards, scores, strict=True):
            if not isfinite(reward):
                raise ValueError(f"reward: expected a finite number, got {reward} for {score}.")
        return [
            Preview(reward, self.simulator.is_terminal(state), score, state, self.yardstick(score, baseline))
            for reward, score, state in zip(rewards, scores, states, strict=True)
        ]

    def _remember(self, preview: Preview) -> None:
        if preview.terminated and (self.best is None or preview.yardstick > self.best.yardstick):
            self.best = preview
            self.simulator.pin(preview.snapshot)

    def _current(self, caller: str) -> PruningState:
        if self._state is None:
            raise RuntimeError(f"{caller}: call reset() first.")
        return self._state

    def _check_running(self, caller: str) -> PruningState:
        now = self._current(caller)
        if self.simulator.is_terminal(now):
            raise RuntimeError(f"{caller}: the episode has ended, the target sparsity is reached; call reset() first.")
        return now

    def _observe(self, at: PruningState) -> np.ndarray:
        return observe(self.observation, self.simulator, at)

    def _info(self, at: PruningState) -> dict[str, Any]:
        score = self.simulator.score(at)
        return {
            "accuracy": score.accuracy,
            "flops_reduction": score.flops_reduction,
            "params_reduction": score.params_reduction,
            "channel_sparsity": score.channel_sparsity,
            "widths": at.architecture.widths.copy(),
            "evaluations": self.evaluations - self._evaluations_before,
        }
