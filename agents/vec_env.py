"""Gymnasium's vector environments for Stable-Baselines3, which takes only its own."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices


class SB3VecEnv(VecEnv):
    """A vector environment of Gymnasium as a ``VecEnv`` of Stable-Baselines3::

        env = gymnasium.make_vec("PruneGym/Digits-v0", num_envs=16, autoreset_mode="SameStep")
        PPO("MlpPolicy", SB3VecEnv(SoftmaxVectorAction(env)), n_steps=16).learn(1000)

    A rollout has ``n_steps`` steps of every copy, so choose less of them than for a single environment.

    Raises TypeError for another environment, ValueError for one that does not begin a new episode in the step that ends one.
    """

    def __init__(self, env: VectorEnv):
        if not isinstance(env, VectorEnv):
            raise TypeError(f"env: expected a vector environment of Gymnasium, got {type(env).__name__}.")
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            found = getattr(mode, "value", mode)
            raise ValueError(f"env: expected one with autoreset_mode='SameStep', as Stable-Baselines3 does it, got {found!r}.")
        self.env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> np.ndarray:
        """All copies begin anew, with the seeds of :meth:`seed`. Raises NotImplementedError for options."""
        if any(self._options):
            raise NotImplementedError("set_options: the copies are reset together, without options.")
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        observations, infos = self.env.reset(seed=seeds)  # type: ignore[arg-type]  # a seed for each copy, as SyncVectorEnv takes
        self.reset_infos = _by_copy(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Note the actions (copies, ...) that :meth:`step_wait` takes."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """What the step of :meth:`step_async` gave; for a copy whose episode ended, the observation of the next one, and the info
        of the last step with its observation as ``terminal_observation``."""
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        done = terminated | truncated
        final, ends = infos.pop("final_info", {}), infos.pop("final_obs", [None] * self.num_envs)
        infos.pop("_final_info", None)
        infos.pop("_final_obs", None)
        found = _by_copy(infos, self.num_envs)
        if done.any():
            last = _by_copy(final, self.num_envs)
            for copy in np.flatnonzero(done):
                self.reset_infos[copy], found[copy] = found[copy], last[copy] | {"terminal_observation": ends[copy]}
        for info, cut in zip(found, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = cut
        return observations, rewards.astype(np.float32), done, found

    def close(self) -> None:
        """Close the vector environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of every copy; of an environment on a table, whose copies are rows of arrays, what all have in common."""
        chosen, inner = list(self._get_indices(indices)), self.env.unwrapped
        if hasattr(inner, "get_attr"):
            values = inner.get_attr(attr_name)
            return [values[copy] for copy in chosen]
        if attr_name in ("evaluations", "best"):
            raise AttributeError(f"{attr_name}: the copies are counted together; ask the vector environment itself.")
        return [getattr(inner, attr_name)] * len(chosen)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Raises NotImplementedError: no copy has settings of its own."""
        raise NotImplementedError("set_attr: the copies share what they have; make the environment with other settings.")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call a method of every copy. Raises NotImplementedError where the copies are rows of arrays."""
        inner = self.env.unwrapped
        if not hasattr(inner, "call"):
            raise NotImplementedError("env_method: the copies are rows of arrays and have no methods.")
        values = inner.call(method_name, *args, **kwargs)
        return [values[copy] for copy in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """False for every copy: what wraps the vector environment is not asked for."""
        return [False for _ in self._get_indices(indices)]


def _by_copy(infos: dict[str, Any], copies: int) -> list[dict[str, Any]]:
    """The infos of all copies, arrays and dicts of them with masks, as an info for each copy, with numbers as those of Python."""
    found: list[dict[str, Any]] = [{} for _ in range(copies)]
    for name, values in infos.items():
        if name.startswith("_") and name[1:] in infos:  # a mask
            continue
        if isinstance(values, dict):
            rows: Any = _by_copy(values, copies)
        else:
            rows = values.tolist() if values.ndim == 1 else values
        for info, value, is_set in zip(found, rows, infos.get(f"_{name}", [True] * copies), strict=True):
            if is_set:
                info[name] = value
    return found
