"""The pruning environment: one step, one sparsity distribution."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from prune_gym import tasks
from prune_gym.arguments import check_choice, check_integer, unknown
from prune_gym.envs.observations import OBSERVATIONS, observe
from prune_gym.envs.rendering import describe, draw, write
from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.scoring.candidates import FIDELITY
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.allocation import check_action
from prune_gym.simulation.base import BaseSimulator
from prune_gym.simulation.compute import NOTHING
from prune_gym.simulation.result_cache import ResultCache
from prune_gym.simulation.rewards import Reward, VectorReward, make_cost, make_reward
from prune_gym.simulation.score_functions import finite
from prune_gym.simulation.simulator import Simulator
from prune_gym.simulation.space import MinWidth
from prune_gym.simulation.state import PruningState
from prune_gym.simulation.target import Target
from prune_gym.simulation.terms import Formula, Function, Transition
from prune_gym.simulation.yardsticks import Yardstick, make_yardstick
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining

DEFAULT_SPARSITY = 0.5  # if no target is given
ROUNDING_ERROR = 1e-6  # by which an action may be above 1


@dataclass(frozen=True)
class Preview:
    """What an action would lead to.

    Attributes:
        reward: the reward that the step would give; with ``reward="vector"`` an array (3,).
        terminated: whether the episode would end.
        score: accuracy and costs of the network.
        snapshot: the state itself: ``env.unwrapped.restore(preview.snapshot)`` goes there, without the post-training that a
            step may end with.
        yardstick: what the network is worth by the environment's yardstick.
        cost: what the step would cost, in an environment with costs; else None.
    """

    reward: Any
    terminated: bool
    score: Score
    snapshot: PruningState
    yardstick: float
    cost: float | None = None


class PruningEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """An agent prunes a convolutional network, one step budget of filters at a time.

    **Action**: ``Box(0, 1, (groups,), float32)``, the sparsity distribution: the share of the step's filters that each
    group loses. It is normalised inside; all zeros mean "in proportion to the groups' filters". Within a group the least
    important units go. Where the target is in MACs or parameters, the step removes as many filters as it takes.

    **Observation**: the architecture vector, ``Box(0, 1, (groups,), float32)``: kept width over original width. With
    ``observation="full"`` see :mod:`prune_gym.envs.observations`.

    **Reward**: what the agent learns from, a function of the networks before and after the step; accuracies are those on the
    validation split. **Yardstick**: what the networks are judged by, apart from the reward.

    **Episode**: starts at the original network and terminates when the target is reached, from above and as closely as whole
    units allow (with ``levels``, whole blocks in the order in which they go); never truncated.

    **Info**: ``accuracy``, ``macs`` and ``params``, ``flops_reduction`` (of the MACs), ``params_reduction``,
    ``channel_sparsity``, ``widths`` (int64, groups), ``evaluations``, the number of architectures scored in this episode,
    previews and repetitions included, and ``compute``, the MACs that these took, importance, calibration and post-training
    included; see :mod:`prune_gym.simulation.compute`.

    Attributes:
        compute: what these evaluations took, images and MACs, over all episodes too, a
            :class:`prune_gym.simulation.compute.Compute`.
        evaluations: architectures scored since this environment was made, over all episodes; the budget of agents.
        best: the preview of the best network at the target that was scored so far, by the yardstick, the first of
            equal ones; what agents are judged by. With post-training, of those that were trained. None before any.
        reward_space: ``Box(0, 1, (3,), float32)`` with ``reward="vector"``, and ``reward_dim`` 3, as in MO-Gymnasium; neither
            exists otherwise.

    Args:
        task: the name of a task, or a :class:`prune_gym.tasks.Task` of your own.
        sparsity: channel sparsity to reach, in (0, 1), by default 0.5; or, instead of it,
        macs_reduction: the fraction of MACs to remove, in (0, 1), or
        params_reduction: the fraction of parameters to remove, in (0, 1).
        step_ratio: what one step removes, in (0, 1], as a fraction of the original filters, MACs or parameters, as the target.
        min_width: units that groups keep at least, a whole number or a fraction of their width in (0, 1); or a mapping of names
            or patterns of groups or layers to such numbers.
        exclude: names or patterns of groups or layers that are not pruned.
        round_to: groups that lose units keep a multiple of this many.
        levels: every group is cut into so many blocks of units and keeps some of them, at least one; by default any width.
        ranking: whose importance says which units of a group go: ``"current"``, that of the present network, or ``"initial"``,
            that of the original one, with which widths alone say which units are kept.
        reward: a name of :data:`prune_gym.simulation.rewards.REWARDS`, such as ``"accuracy"`` or ``"paper"``; the text of a
            :mod:`~prune_gym.simulation.formula`, such as ``"accuracy + 0.25 * flops_reduction"``; or a function (before, after,
            baseline) of :class:`prune_gym.scoring.evaluation.Score` to a finite number, which may take the target and whether the
            episode ends, too. ``"vector"`` gives multi-objective agents accuracy, MACs reduction and parameter reduction as
            float32 (3,).
        reward_weights: (alpha, beta, gamma) of equation 17, for ``reward="paper"``.
        yardstick: ``"accuracy"``, or a function (after, baseline) of Scores to a finite number, the higher the better; see
            :mod:`prune_gym.simulation.yardsticks`.
        reward_split: ``"val"``, or ``"test"`` for the paper's protocol, which tunes on what it reports.
        observation: ``"architecture"`` or ``"full"``.
        rounding: ``"largest_remainder"``, ``"paper"`` or ``"carry"``, see :func:`prune_gym.allocate`.
        importance: criterion by name, see :func:`prune_gym.importance`.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        render_mode: ``"rgb_array"`` (bars per group) or ``"ansi"``.
        fidelity: what a network that was not trained since it was pruned is scored with: ``"original"``, the tensors as they were
            cut; ``"recalibrated"``, new batch-norm statistics; ``"compensated"``, weights that make up for what is gone. See
            :mod:`prune_gym.scoring.candidates`.
        precision: ``"float32"``, or ``"bfloat16"`` to score networks faster on a GPU.
        posttraining: how networks are trained after a pruning step, a :class:`prune_gym.training.distillation.PostTraining` or
            a mapping of its settings such as ``{"epochs": 5}``; by default they are not. Previews show the network before it;
            the reward of a step is that after it.
        cache: where accuracies and importance rankings are kept, see :mod:`prune_gym.simulation.result_cache`.
        importance_seed: of the ranking that ``importance="random"`` draws.
        cost: what a step costs beside its reward, for agents with constraints: a formula or a function as for ``reward``. It is
            in the info of every step as ``cost``, as in Safety-Gymnasium; without it there is none.

    Raises ValueError or TypeError for any bad argument, by its name, when the environment is made.

    ``env.spec`` can be written as JSON unless an argument is an object of yours (a task, a device, a cache, a function as reward
    or yardstick): JSON cannot hold one, so ``spec.to_json()`` raises then; name what you can, and give the rest to
    ``gymnasium.make`` again.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}  # noqa: RUF012  # Gymnasium's name
    simulator: Simulator
    _spec: EnvSpec | None = None
    _number = 0  # among those on the same simulator

    def __init__(
        self,
        task: str | Task = "digits",
        sparsity: float | None = None,
        step_ratio: float = 0.05,
        reward: str | Reward = "paper",
        reward_weights: tuple[float, float, float] | None = None,
        yardstick: str | Yardstick = "accuracy",
        reward_split: str = "val",
        observation: str = "architecture",
        rounding: str = "carry",
        importance: str = "taylor",
        device: str | torch.device = "auto",
        render_mode: str | None = None,
        precision: str = "float32",
        posttraining: PostTraining | Mapping[str, Any] | None = None,
        cache: ResultCache | None = None,
        importance_seed: int = 0,
        fidelity: str = FIDELITY,
        macs_reduction: float | None = None,
        params_reduction: float | None = None,
        min_width: MinWidth = 1,
        exclude: Sequence[str] = (),
        round_to: int = 1,
        levels: int | None = None,
        ranking: str = "current",
        cost: Reward | None = None,
        **others: Any,
    ):
        if others:
            known = [name for name in inspect.signature(PruningEnv).parameters if name != "others"]
            name = next(iter(others))  # the words are Python's own, which tools look for (TorchRL tries a keyword of Gym's)
            raise TypeError(f"PruningEnv got an unexpected keyword argument {name!r}. {unknown('keyword', name, known)}")
        self._show(reward, reward_weights, yardstick, observation, render_mode, cost)
        if not isinstance(task, str | Task):
            raise TypeError(f"task: expected a name or a prune_gym.tasks.Task, got {type(task).__name__}.")
        if sparsity is macs_reduction is params_reduction is None:
            sparsity = DEFAULT_SPARSITY
        self._play(
            Simulator(
                tasks.load(task) if isinstance(task, str) else task,
                sparsity,
                step_ratio,
                macs_reduction=macs_reduction,
                params_reduction=params_reduction,
                min_width=min_width,
                exclude=exclude,
                round_to=round_to,
                levels=levels,
                ranking=ranking,
                rounding=rounding,
                importance=importance,
                reward_split=reward_split,
                device=device,
                precision=precision,
                posttraining=posttraining,
                cache=cache,
                importance_seed=importance_seed,
                fidelity=fidelity,
            )
        )

    def _show(
        self,
        reward: str | Reward,
        reward_weights: tuple[float, float, float] | None,
        yardstick: str | Yardstick,
        observation: str,
        render_mode: str | None,
        cost: Reward | None,
    ) -> None:
        """Set what agents and people see."""
        if render_mode is not None:
            check_choice("render_mode", render_mode, self.metadata["render_modes"])
        check_choice("observation", observation, OBSERVATIONS)
        self.reward = make_reward(reward, reward_weights)
        self.yardstick, self.cost = make_yardstick(yardstick), make_cost(cost)
        if isinstance(self.reward, VectorReward):
            self.reward_dim = len(self.reward.OBJECTIVES)
            self.reward_space = spaces.Box(0.0, 1.0, (self.reward_dim,), np.float32)
        self.render_mode = render_mode
        self.observation = observation

    def _play(self, simulator: BaseSimulator[Any]) -> None:
        """Set what happens: in a network, or, in a TabularEnv, on a table."""
        self.simulator = simulator  # type: ignore[assignment]
        for name, formula in (("reward", self.reward), ("cost", self.cost)):
            if isinstance(formula, Formula):
                formula.check_widths(name, self.graph.widths)
        self.action_space = spaces.Box(0.0, 1.0, (len(self.graph.groups),), np.float32)
        self.evaluations = self._evaluations_before = 0
        self.compute = self._compute_before = NOTHING
        self._ranked: set[str] = set()  # networks whose importance this episode has paid for
        self.best: Preview | None = None
        self._state: PruningState | None = None
        self._prepared: PruningState | None = None
        self.observation_space = spaces.Box(0.0, 1.0, (len(self._observe(self.simulator.initial())),), np.float32)

    def sibling(self, number: int) -> PruningEnv:
        """Another environment like this one, as it was when it was made, with the same weights, scores and rankings in memory;
        ``number`` tells it from others."""
        other = copy.copy(self)
        other._number = number
        other._play(self.simulator)
        other._np_random = None  # of its own, when it is asked for
        return other

    @property
    def task(self) -> Task:
        return self.simulator.task

    @property
    def spec(self) -> EnvSpec | None:
        """How :func:`gymnasium.make` made it, with settings as JSON can hold them; None if it was made without."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            spec = replace(spec, kwargs={name: _as_json(value) for name, value in spec.kwargs.items()})
        self._spec = spec

    def __setstate__(self, content: dict[str, Any]) -> None:
        """Put a pickled or copied environment together: states travel without the channel graph."""
        self.__dict__.update(content)
        self._prepared = None
        if self._state is not None:
            self._state = self.simulator.attach(self._state)
        if self.best is not None:
            self.best = replace(self.best, snapshot=self.simulator.attach(self.best.snapshot))

    @property
    def graph(self) -> ChannelGraph:
        return self.simulator.graph

    @property
    def architecture(self) -> Architecture:
        """The architecture of the present state. Raises RuntimeError before the first reset."""
        return self._current("architecture").architecture

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Back to the original network. Nothing here is random; ``seed``, an integer >= 0, only seeds ``np_random`` for wrappers.
        Raises ValueError or TypeError for another seed."""
        if seed is not None:
            check_integer("seed", seed, 0)
        super().reset(seed=None if seed is None else int(seed))
        self._state, self._prepared = self.simulator.initial(), None
        self._evaluations_before, self._compute_before = self.evaluations, self.compute
        self._ranked.clear()
        return self._observe(self._state), self._info(self._state)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Remove one step budget of filters. Costs one evaluation.

        Raises RuntimeError before the first reset and after the end, ValueError for an action that is not an array (groups,) of
        numbers in [0, 1]; the environment is then as it was.
        """
        now, action, state = self._current("step"), self.check_action(action), self._prepared
        if state is None or state.action is None or not np.array_equal(state.action, action):
            state = self.simulator.step(self.check_running("step"), action)
        preview = self._enter(now, state)
        reward = preview.reward.copy() if isinstance(preview.reward, np.ndarray) else preview.reward  # wrappers may write to it
        info = self._info(state)
        if preview.cost is not None:
            info["cost"] = preview.cost
        return self._observe(state), reward, preview.terminated, False, info

    def prepare(self, action: np.ndarray) -> PruningState:
        """Where a step leads, which need not be computed again if it comes next: for vector environments, which score the states
        of many steps together. Raises like :meth:`step`."""
        self._prepared = self.simulator.step(self.check_running("step"), self.check_action(action))
        return self._prepared

    def prune_to(self, widths: np.ndarray, target: Target | None = None) -> Preview:
        """Go to the network of these widths, int64 (groups,), whose groups keep the units that are most important in the original
        one. It is one step from there, with the post-training that the step ends with; costs one evaluation. Widths are not
        checked: those that the simulator's space allows.

        A ``target`` that they are at takes the place of the environment's own in what the step rewards and costs.
        """
        start, state = self.simulator.initial(), self.simulator.at(widths)
        preview = self._enter(start, self.simulator.posttrained(state) if self.simulator.trains(state) else state)
        if target is None:
            return preview
        worth = self._worth(Transition(self.simulator.baseline, preview.score, self.simulator.baseline, target, True))
        return replace(preview, reward=worth["reward"], cost=worth["cost"])

    # ------------------------------------------------------------------------------------ beyond Gymnasium's interface

    def preview(self, actions: Sequence[np.ndarray] | np.ndarray, to_target: bool = False) -> list[Preview]:
        """What each of N actions (N, groups) would lead to from the present state, which stays as it is.

        With ``to_target``, each is applied at once to all that is left to remove: a look ahead at the network at the target. It
        counts as an evaluation, not for ``best``, as no step leads there.

        Costs N evaluations; the architectures are scored in one batch. Raises like :meth:`step`.
        """
        now = self.check_running("preview")
        if not isinstance(actions, Sequence | np.ndarray):
            raise TypeError(f"actions: expected a sequence of actions or an array (N, groups), got {type(actions).__name__}.")
        checked = [self.check_action(action) for action in actions]
        states = self.simulator.successors(now, checked, to_target)
        self.evaluations += len(states)
        previews = self._previews(now, states)
        for preview in previews:
            if not to_target and not self.simulator.trains(preview.snapshot):  # else only a step shows what it is worth
                self._remember(preview)
        return previews

    def snapshot(self) -> PruningState:
        """The present state, to hand to :meth:`restore`: immutable, a mask of the channels and the way to it, no weights. Raises
        RuntimeError before reset."""
        return self._current("snapshot")

    def restore(self, snapshot: PruningState) -> tuple[np.ndarray, dict[str, Any]]:
        """Go back (or ahead) to a state; gives its observation and info. ``evaluations`` keeps counting.

        A snapshot may have been pickled, and may come from another environment of the same task, sparsity, step ratio, rounding
        and post-training. Raises TypeError for anything else than a snapshot, ValueError for one of another process.
        """
        self._state, self._prepared = self.simulator.attach(snapshot), None
        return self._observe(self._state), self._info(self._state)

    def score(self) -> Score:
        """Accuracy and costs of the present state; already known, so it costs no evaluation."""
        return self.simulator.score(self._current("score"))

    def info(self) -> dict[str, Any]:
        """What ``reset`` and ``step`` say of the present state."""
        return self._info(self._current("info"))

    @property
    def uniform_action(self) -> np.ndarray:
        """The distribution that prunes every group by the same fraction, float64 (groups,), sum 1."""
        return self.graph.group_filters / self.graph.n_filters

    @property
    def steps_left(self) -> int:
        """Steps to the end of the episode."""
        return self.simulator.steps_left(self._current("steps_left"))

    def best_plan(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The way to the best network: (observation, action) step by step; empty before any was found."""
        states = [] if self.best is None else self.best.snapshot.trajectory()
        return [(self._observe(a), b.action) for a, b in pairwise(states) if b.action is not None]

    def render(self) -> Any:
        """``rgb_array``: uint8 (height, width, 3); ``ansi``: a string; None without a render mode."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() was called without a render_mode; make the environment with 'rgb_array' or 'ansi'.")
            return None
        now = self._current("render")
        title = f"{self.simulator.name}: {describe(self.simulator.score(now))}"
        picture = draw if self.render_mode == "rgb_array" else write
        return picture(self.graph, now.widths, title)

    # ----------------------------------------------------------------------------------------------------- inside

    def check_action(self, action: np.ndarray) -> np.ndarray:
        """The action as float64 (groups,). Raises ValueError unless it is in the action space, but for rounding."""
        array = check_action(action, len(self.graph.groups))
        if array.max() > 1 + ROUNDING_ERROR:
            raise ValueError(
                f"action: expected numbers <= 1, got {array.max()} for group {array.argmax()}; only the ratios of an action "
                "count, so divide it by its largest number."
            )
        return array

    def _enter(self, now: PruningState, state: PruningState) -> Preview:
        """Score the state that a step from ``now`` leads to, and go there."""
        self._prepared = None
        self.evaluations += 1
        self.compute += self.simulator.training_cost(state)
        (preview,) = self._previews(now, [state])
        self._remember(preview)
        self._state = state
        return preview

    def _previews(self, now: PruningState, states: Sequence[PruningState]) -> list[Preview]:
        """What steps from ``now`` to each of ``states`` are worth."""
        before, scores = self.simulator.score(now), self.simulator.scores(states)
        self._pay(now, zip(states, scores, strict=True))
        baseline, target = self.simulator.baseline, self.simulator.target
        return [
            Preview(
                terminated=terminal,
                score=score,
                snapshot=state,
                yardstick=finite("yardstick", self.yardstick(score, baseline), score),
                **self._worth(Transition(before, score, baseline, target, terminal)),
            )
            for score, state, terminal in zip(scores, states, map(self.simulator.is_terminal, states), strict=True)
        ]

    def _pay(self, now: PruningState, scored: Iterable[tuple[PruningState, Score]]) -> None:
        """Count what it takes to rank the units that go from the present state, once in an episode, and to score others."""
        ranked = self.simulator.ranked(now)
        if ranked.key not in self._ranked:
            self._ranked.add(ranked.key)
            self.compute += self.simulator.ranking_cost(ranked)
        for state, its in scored:
            self.compute += self.simulator.scoring_cost(state, its)

    def _worth(self, transition: Transition) -> dict[str, Any]:
        """The reward of a step, and its cost or None. Raises TypeError or ValueError for one that is no finite number."""
        reward, after = self.reward(*transition), transition.after
        if not isinstance(self.reward, VectorReward):
            reward = finite("reward", reward, after)
        return {"reward": reward, "cost": None if self.cost is None else finite("cost", self.cost(*transition), after)}

    def _remember(self, preview: Preview) -> None:
        if preview.terminated and (self.best is None or preview.yardstick > self.best.yardstick):
            self.best = preview
            self.simulator.pin(preview.snapshot, self._number)

    def _current(self, caller: str) -> PruningState:
        if self._state is None:
            raise RuntimeError(f"{caller}: call reset() first.")
        return self._state

    def check_running(self, caller: str) -> PruningState:
        """The present state. Raises RuntimeError before the first reset and after the end."""
        now = self._current(caller)
        if self.simulator.is_terminal(now):
            raise RuntimeError(f"{caller}: the episode has ended, the target is reached; call reset() first.")
        return now

    def _observe(self, state: PruningState) -> np.ndarray:
        return observe(self.observation, self.simulator, state)

    def _info(self, state: PruningState) -> dict[str, Any]:
        score = self.simulator.score(state)
        return {
            "accuracy": score.accuracy,
            "macs": score.macs,
            "params": score.params,
            "flops_reduction": score.flops_reduction,
            "params_reduction": score.params_reduction,
            "channel_sparsity": score.channel_sparsity,
            "widths": state.widths.copy(),
            "evaluations": self.evaluations - self._evaluations_before,
            "compute": self.compute.macs - self._compute_before.macs,
        }


def _as_json(value: Any) -> Any:
    """A setting as JSON can hold it: post-training as a dict, a formula as its text unless a function of yours is in it."""
    match value:
        case PostTraining():
            return asdict(value)
        case Formula() if not any(isinstance(part, Function) for part in value.walk()):
            return str(value)
    return value
