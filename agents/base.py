"""What the search agents share: the face of a Stable-Baselines3 algorithm, without its neural policy.

A timestep is one evaluation, a scored architecture,
whether it was previewed or stepped to; so SB3's callbacks, progress bar and logger count what agents are compared by.
"""

from __future__ import annotations

import io
import json
import zipfile
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from prune_gym.arguments import check_integer
from prune_gym.envs.pruning import Preview, PruningEnv
from prune_gym.files import write_atomically

Self = TypeVar("Self", bound="SearchAgent")


class OutOfBudget(Exception):  # noqa: N818  # a signal, not an error
    """The evaluations that ``learn`` was given are used up, or a callback asked to stop."""


class SearchAgent(BaseAlgorithm):
    """An agent that searches by previews and steps of one :class:`PruningEnv` whose actions are sparsity distributions.

    Subclasses say how to prune from the original network to the target once (:meth:`episode`), and what to save.
    """

    once: ClassVar[bool] = False  # whether all episodes are the same, so that one is enough

    def __init__(
        self,
        env: GymEnv | str | None,
        seed: int | None = None,
        tensorboard_log: str | None = None,
        verbose: int = 0,
    ):
        super().__init__(BasePolicy, env, 0.0, tensorboard_log=tensorboard_log, verbose=verbose, device="cpu", seed=seed)
        self.plan: dict[bytes, np.ndarray] = {}  # observation -> the action that leads on to the best network
        self._setup_model()

    def _setup_model(self) -> None:
        if self.env is None:
            return
        if not isinstance(self.env, DummyVecEnv):
            raise TypeError(f"env: expected a Gymnasium environment or a DummyVecEnv of one, got {type(self.env).__name__}.")
        inner = self.env.get_attr("unwrapped")[0]
        if not isinstance(inner, PruningEnv):
            raise TypeError(f"env: expected a PruningEnv, got {type(inner).__name__}.")
        if self.action_space != inner.action_space:
            raise ValueError(
                f"env: {type(self).__name__} acts with sparsity distributions, {inner.action_space}, but the wrapped environment "
                f"takes {self.action_space}; pass it without SoftmaxAction."
            )
        self.set_random_seed(self.seed)
        self.rng = np.random.default_rng(self.seed)

    @property
    def pruning_env(self) -> PruningEnv:
        if self.env is None:
            raise ValueError("env: this agent has no environment; load it with load(path, env).")
        return self.env.get_attr("unwrapped")[0]

    # ---------------------------------------------------------------------------------------------- learning

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Search until ``total_timesteps`` evaluations are used up, or a callback says so. An episode begins only if its
        steps can be paid for. Raises ValueError for a budget too small for one episode."""
        self.pruning_env.reset()
        shortest = self.pruning_env.steps_left
        check_integer("total_timesteps", total_timesteps, 0)
        if total_timesteps < shortest:
            raise ValueError(
                f"total_timesteps: expected at least {shortest} evaluations, one per pruning step, got {total_timesteps}."
            )
        name = tb_log_name or type(self).__name__
        total, self._callback = self._setup_learn(total_timesteps, callback, reset_num_timesteps, name, progress_bar)
        self._callback.on_training_start(locals(), globals())
        try:
            while total - self.num_timesteps >= shortest:
                self._last_obs = self.env.reset()  # type: ignore[union-attr,assignment]
                self.finished = False
                self._callback.on_rollout_start()
                self.episode()
                self._callback.on_rollout_end()
                if self.once:
                    break
        except OutOfBudget:
            self._callback.on_rollout_end()
        self.plan = {_key(observation): action for observation, action in self.pruning_env.best_plan()}
        self._callback.on_training_end()
        return self

    @abstractmethod
    def episode(self) -> None:
        """Prune from the original network to the target with :meth:`preview` and :meth:`act`, until ``finished``."""

    @property
    def evaluations_left(self) -> int:
        """Evaluations that may go into previews now, those for the remaining steps kept back."""
        return self._total_timesteps - self.num_timesteps - self.pruning_env.steps_left

    def preview(self, actions: np.ndarray) -> list[Preview]:
        """Score what ``actions`` (N, groups) would lead to; N timesteps. Ends the search if the budget does not pay for it."""
        actions = np.asarray(actions, np.float32)
        if self.num_timesteps + len(actions) > self._total_timesteps:
            raise OutOfBudget
        previews = self.pruning_env.preview(actions)
        for action, preview in zip(actions, previews, strict=True):
            self._count(action, preview.reward, done=False, info={"accuracy": preview.score.accuracy}, is_preview=True)
        return previews

    def act(self, action: np.ndarray) -> float:
        """Take a step; one timestep. Gives the reward, and sets ``finished`` at the end of the episode. Ends the search if the
        budget does not pay for it."""
        if self.num_timesteps >= self._total_timesteps:
            raise OutOfBudget
        assert self.env is not None  # checked by learn
        action = np.asarray(action, np.float32)
        observation, rewards, dones, infos = self.env.step(action[None])
        self._last_obs = observation  # type: ignore[assignment]
        reward, done, info = float(rewards[0]), bool(dones[0]), infos[0]
        self._update_info_buffer(infos, dones)
        for key in ("accuracy", "flops_reduction", "params_reduction", "channel_sparsity"):
            self.logger.record(f"pruning/{key}", info[key])
        self.logger.record("pruning/reward", reward)
        self.logger.dump(self.num_timesteps + 1)
        self.finished = done  # the vectorised environment has then been reset already
        self._episode_num += done
        self._count(action, reward, done, info, is_preview=False)
        return reward

    def _count(self, action: np.ndarray, reward: float, done: bool, info: dict[str, Any], is_preview: bool) -> None:
        self.num_timesteps += 1
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self._callback.update_locals(
            {
                "actions": action[None],
                "rewards": np.array([reward]),
                "dones": np.array([done]),
                "infos": [info],
                "preview": is_preview,
            }
        )
        if not self._callback.on_step():
            raise OutOfBudget

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
        rows = np.atleast_2d(observation)
        planned = [self.plan.get(_key(row)) for row in rows]
        actions = np.stack([self.default_action() if a is None else a for a in planned]).astype(np.float32)
        return (actions if np.ndim(observation) == 2 else actions[0]), state

    @abstractmethod
    def default_action(self) -> np.ndarray:
        """What the agent would do in a state that its best episode did not visit, (groups,)."""

    def get_data(self) -> dict[str, Any]:
        """What ``save`` writes, as JSON."""
        return {
            "agent": type(self).__name__,
            "num_timesteps": self.num_timesteps,
            "plan": [[key.hex(), action.tolist()] for key, action in self.plan.items()],
            "rng": self.rng.bit_generator.state,
        }

    def set_data(self, data: dict[str, Any]) -> None:
        self.num_timesteps = data["num_timesteps"]
        self.plan = {bytes.fromhex(key): np.array(action) for key, action in data["plan"]}
        self.rng = np.random.default_rng()
        self.rng.bit_generator.state = data["rng"]

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """Write the agent as JSON in a zip, as SB3 does for the part that needs no pickle. ``exclude`` and ``include`` are
        SB3's and have no meaning here."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as file:
            file.writestr(zipfile.ZipInfo("data.json"), json.dumps(self.get_data()))  # ZipInfo: no date in it
        write_atomically(_zip_path(path), content.getvalue())

    @classmethod
    def load(cls: type[Self], path: Any, env: GymEnv | None = None, device: Any = "auto", **kwargs: Any) -> Self:  # type: ignore[override]
        """An agent that :meth:`save` wrote; give it ``env`` to go on learning. Raises ValueError for another file."""
        path = _zip_path(path)
        try:
            with zipfile.ZipFile(path) as file:
                data = json.loads(file.read("data.json"))
            if data["agent"] != cls.__name__:
                raise ValueError(f"it holds a {data['agent']}")
            agent = cls(None, **kwargs)
            agent.set_data(data)
        except (zipfile.BadZipFile, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path}: expected a saved {cls.__name__}, but {error}.") from error
        if env is not None:
            made = cls(env, **kwargs)
            made.set_data(data)
            return made
        return agent


def _zip_path(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".zip" else path.with_name(f"{path.name}.zip")


def _key(observation: Any) -> bytes:
    return np.asarray(observation, np.float32).ravel().tobytes()


class EvaluationBudget(BaseCallback):
    """Stops any agent after exactly so many evaluations, whatever the length of its rollouts."""

    def __init__(self, evaluations: int):
        super().__init__()
        self.evaluations = evaluations

    def _on_step(self) -> bool:
        return self.num_timesteps < self.evaluations
