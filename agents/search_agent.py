"""The adapter that gives every search the API of a Stable-Baselines3 algorithm.

A timestep is one evaluation, a scored architecture, whether it was previewed or stepped to; so SB3's callbacks, progress bar and
logger count what agents are compared by.
"""

from __future__ import annotations

import io
import json
import zipfile
from abc import abstractmethod
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import gymnasium
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from prune_gym.agents.budgeted_env import BudgetedEnv, Kind, OutOfBudget
from prune_gym.agents.search_log import log_step
from prune_gym.agents.work import Work, work_in_steps
from prune_gym.arguments import check_integer
from prune_gym.envs.pruning import Preview, PruningEnv
from prune_gym.envs.wrappers import reward_wrapper
from prune_gym.files import read_zipped_json, write_atomically

Self = TypeVar("Self", bound="SearchAgent")


def steps_to_the_target(agent: BaseAlgorithm, steps: int) -> int:
    """How many networks an agent scores on its way to the target: one if it prunes at once, else one in each of the steps."""
    return 1 if getattr(agent, "at_once", False) else steps


class SearchAgent(BaseAlgorithm):
    """An agent that searches by previews and steps of one :class:`PruningEnv`. A subclass says how, in :meth:`search`.

    Attributes:
        rng: the generator to draw from, seeded by ``seed``.
        best: the preview of the best network that this agent found in its present environment, by the yardstick, or None.
        plan: the action of every observation on the way to it, for :meth:`predict`.
        at_once: whether it prunes to networks at the target in one step, whatever the environment's steps are; of the class.
        reads_reward: whether it reads rewards, and not the yardstick alone; of the class.

    Args:
        env: a pruning environment, in wrappers that leave actions, observations and rewards as they are; None for an agent that
            gets one later, by :meth:`set_env`.
        seed: of ``rng``.
        tensorboard_log, verbose: as in Stable-Baselines3.
    """

    at_once: ClassVar[bool] = False
    reads_reward: ClassVar[bool] = False

    def __init__(
        self,
        env: GymEnv | str | None,
        seed: int | None = None,
        tensorboard_log: str | None = None,
        verbose: int = 0,
    ):
        super().__init__(BasePolicy, None, 0.0, tensorboard_log=tensorboard_log, verbose=verbose, device="cpu", seed=seed)
        self.rng = np.random.default_rng(seed)
        self.plan: dict[bytes, np.ndarray] = {}
        self.best: Preview | None = None
        self.group_filters: dict[str, int] = {}  # filters by group: what the agent knows the network by
        if env is not None:
            self.set_env(env)
            self.set_random_seed(seed)

    def _setup_model(self) -> None:
        """There is no neural network to set up."""

    @abstractmethod
    def search(self, env: BudgetedEnv) -> None:
        """Look for the best network by ``env.preview`` and ``env.step``, which keep to the budget and note what is found::

        for _ in env.episodes():
            while not env.finished:
                env.step(self.rng.uniform(size=len(env.graph.groups)))
        """

    def expected_work(self, evaluations: int, steps: int) -> Work:
        """What a search of so many evaluations is going to do, about; ``steps`` are in an episode, 1 if it prunes at once."""
        return work_in_steps(evaluations, steps)

    def set_env(self, env: GymEnv | str, force_reset: bool = True) -> None:
        """Search in this environment from now on; what ``predict`` knows stays, if the network is the same.

        Raises TypeError for anything but one :class:`PruningEnv`, ValueError for a wrapper that changes actions, observations
        or rewards.
        """
        vectorised = self._wrap_env(maybe_make_env(env, self.verbose), self.verbose)
        if not isinstance(vectorised, DummyVecEnv) or vectorised.num_envs != 1:
            raise TypeError(f"env: expected a Gymnasium environment or a DummyVecEnv of one, got {type(env).__name__}.")
        inner = _check_wrappers(vectorised.envs[0], type(self).__name__)
        self.env, self.n_envs = vectorised, 1
        self.observation_space, self.action_space = vectorised.observation_space, vectorised.action_space
        if force_reset:
            self._last_obs = None
        self.best = None  # networks of another environment cannot be compared with those to come
        known = self.group_filters
        groups, filters = inner.graph.groups, inner.graph.group_filters.tolist()
        self.group_filters = {group.name: count for group, count in zip(groups, filters, strict=True)}
        if self.group_filters != known:
            self.plan = {}

    @property
    def pruning_env(self) -> PruningEnv:
        """The environment inside all wrappers. Raises ValueError for an agent without one."""
        if self.env is None:
            raise ValueError("env: this agent has no environment; load it with load(path, env), or call set_env(env).")
        return self.env.get_attr("unwrapped")[0]

    # ---------------------------------------------------------------------------------------------------- learning

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Search until ``total_timesteps`` evaluations are used up, the search is done, or a callback says so.

        Afterwards ``predict`` leads to the best network that this agent found in its environment, in whichever call. Raises
        ValueError for a budget too small for one episode.
        """
        inner = self.pruning_env
        inner.reset()
        check_integer("total_timesteps", total_timesteps, 0)
        least = steps_to_the_target(self, inner.steps_left)
        if total_timesteps < least:
            raise ValueError(
                f"total_timesteps: expected at least {least} evaluations, one per pruning step, got {total_timesteps}."
            )
        self._last_obs = None  # so that SB3 resets the environment
        _, self._callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        assert isinstance(self.env, DummyVecEnv)  # checked by set_env
        env = BudgetedEnv(self.env.envs[0], total_timesteps, self._on_evaluation)
        self._callback.on_training_start(locals(), globals())
        self._callback.on_rollout_start()
        with suppress(OutOfBudget):  # the usual end
            self.search(env)
        found = env.best
        if found is not None and (self.best is None or found.yardstick > self.best.yardstick):
            self.best = found
            self.plan = _plan(inner, found)
        self._callback.on_rollout_end()
        self._callback.on_training_end()
        return self

    def _on_evaluation(self, action: np.ndarray, preview: Preview, info: dict[str, Any], kind: Kind) -> bool:
        """Count a timestep, log a step, and ask SB3's callbacks whether to go on."""
        self.num_timesteps += 1
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        done = preview.terminated and kind == "step"
        if kind == "step":
            self._episode_num += done
            self._update_info_buffer([info], np.array([done]))
            log_step(self.logger, self.pruning_env, preview.score, preview.reward, self.num_timesteps)
        self._callback.update_locals(
            {
                "actions": action[None],
                "rewards": np.array([preview.reward]),
                "dones": np.array([done]),
                "infos": [info],
                "evaluated": preview,
                "kind": kind,
            }
        )
        return self._callback.on_step()

    # ------------------------------------------------------------------------------------- predict, save, load

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """The action for one observation or a batch: the one that led on to the best network, elsewhere
        :meth:`default_action`. So ``evaluate_policy(agent, env)`` prunes to the best network again."""
        if isinstance(observation, dict):
            raise TypeError("observation: expected an array, got a dict.")
        planned = [self.plan.get(_key(row)) for row in np.atleast_2d(observation)]
        actions = np.stack([self.default_action() if action is None else action for action in planned]).astype(np.float32)
        return (actions if np.ndim(observation) == 2 else actions[0]), state

    def default_action(self) -> np.ndarray:
        """The action in a state that is not on the way to the best network, (groups,): as in its only step, for an agent that
        takes one; every group loses the same fraction for others."""
        if self.at_once and self.plan:
            return next(iter(self.plan.values()))
        filters = np.array(list(self.group_filters.values()), np.float64)
        return filters / filters.sum()

    def get_data(self) -> dict[str, Any]:
        """What ``save`` writes, as JSON."""
        return {
            "agent": type(self).__name__,
            "num_timesteps": self.num_timesteps,
            "group_filters": self.group_filters,
            "plan": [[key.hex(), action.tolist()] for key, action in self.plan.items()],
            "rng": self.rng.bit_generator.state,
        }

    def set_data(self, data: dict[str, Any]) -> None:
        """Take over what :meth:`get_data` gave. Raises ValueError, TypeError, KeyError or OverflowError for anything else."""
        check_integer("num_timesteps", data["num_timesteps"], 0)
        self.num_timesteps = data["num_timesteps"]
        for name, filters in data["group_filters"].items():
            check_integer(f"filters of {name}", filters, 1)
        self.group_filters = dict(data["group_filters"])
        self.plan = {bytes.fromhex(key): self._read_action(action) for key, action in data["plan"]}
        self.rng = np.random.default_rng()
        self.rng.bit_generator.state = data["rng"]

    def _read_action(self, numbers: Any) -> np.ndarray:
        action = np.array(numbers, np.float64)
        if action.shape != (len(self.group_filters),) or not np.isfinite(action).all():
            raise ValueError("an action in its plan does not fit the network")
        return action

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """Write the agent as JSON in a zip, as SB3 does for the part that needs no pickle. ``exclude`` and ``include`` are
        SB3's and have no meaning here."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as file:
            file.writestr(zipfile.ZipInfo("data.json"), json.dumps(self.get_data()))  # ZipInfo: no date in it
        write_atomically(_zip_path(path), content.getvalue())

    @classmethod
    def load(cls: type[Self], path: Any, env: GymEnv | None = None, device: Any = "auto", **kwargs: Any) -> Self:  # type: ignore[override]
        """An agent that :meth:`save` wrote; with ``env``, or ``set_env``, it goes on learning.

        Raises FileNotFoundError, and ValueError for a damaged or foreign file and for an environment with another network.
        """
        path = _zip_path(path)
        data = read_zipped_json(path, "data.json")
        agent = cls(None, **kwargs)
        try:
            if data["agent"] != cls.__name__:
                raise ValueError(f"it holds a {data['agent']}")
            agent.set_data(data)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{path}: expected a saved {cls.__name__}, but {reason}.") from error
        if env is not None:
            saved = agent.group_filters
            agent.set_env(env)
            if saved != agent.group_filters:
                raise ValueError("env: expected the network that the saved agent pruned; the layers of this one differ.")
        return agent


def _check_wrappers(env: gymnasium.Env, agent: str) -> PruningEnv:
    """The pruning environment inside ``env``, whose previews, observations and rewards must be those of ``env``."""
    inner = env.unwrapped
    if not isinstance(inner, PruningEnv):
        raise TypeError(f"env: expected a PruningEnv, got {type(inner).__name__}.")
    if hasattr(inner, "reward_space"):
        raise ValueError(f"env: {agent} learns from one number; make the environment with another reward than 'vector'.")
    reward = reward_wrapper(env)
    if reward is not None:
        raise ValueError(
            f"env: {agent} previews the rewards of the environment itself, and {type(reward).__name__} may change those of "
            "steps; pass the environment without it, and a function (before, after, baseline) as its argument reward=. A wrapper "
            "that only watches says so by the class attribute keeps_reward = True."
        )
    wrapper: Any = env
    while isinstance(wrapper, gymnasium.Wrapper):
        name = type(wrapper).__name__
        if isinstance(wrapper, gymnasium.ActionWrapper) or wrapper.action_space != wrapper.env.action_space:
            raise ValueError(
                f"env: {agent} acts with sparsity distributions, {inner.action_space}, but {name} takes other actions, "
                f"{wrapper.action_space}; pass the environment without {name}."
            )
        if isinstance(wrapper, gymnasium.ObservationWrapper) or wrapper.observation_space != wrapper.env.observation_space:
            raise ValueError(
                f"env: {agent} knows states by the observations of the environment itself, which {name} changes; pass the "
                f"environment without {name}."
            )
        wrapper = wrapper.env
    return inner


def _plan(env: PruningEnv, best: Preview) -> dict[bytes, np.ndarray]:
    """The action of every observation on the way to a network. The environment is left in the state that it was in."""
    here = env.snapshot()
    plan = {}
    for state, following in pairwise(best.snapshot.trajectory()):
        assert following.action is not None  # only the first state of a trajectory was not stepped to
        plan[_key(env.restore(state)[0])] = following.action
    env.restore(here)
    return plan


def _zip_path(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".zip" else path.with_name(f"{path.name}.zip")


def _key(observation: Any) -> bytes:
    return np.asarray(observation, np.float32).ravel().tobytes()
